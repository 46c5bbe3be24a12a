'use strict';

const { escaped, page } = require('./html');

const STYLE = `
form { display: grid; grid-template-columns: max-content minmax(200px, 480px); gap: 8px 12px; align-items: center; }
form button { grid-column: 2; justify-self: start; }
ul { list-style: none; padding: 0; }
li { margin: 6px 0; }
li::before { content: '✓ '; color: var(--vscode-testing-iconPassed, currentColor); font-weight: 700; }
li.failed::before { content: '✗ '; color: var(--vscode-errorForeground); }
pre { padding: 8px; background: var(--vscode-textCodeBlock-background); }`;

const SCRIPT = `
const editor = acquireVsCodeApi();
const byId = (id) => document.getElementById(id);
byId('form').addEventListener('submit', (event) => {
  event.preventDefault();
  editor.postMessage({ server: byId('server').value.trim(), key: byId('key').value.trim() });
});
byId('model')?.addEventListener('change', (event) => editor.postMessage({ model: event.target.value }));
if (!document.querySelector('li')) byId('server').focus();`;

/**
 * @typedef {object} State what the page shows
 * @property {string} server
 * @property {boolean} busy
 * @property {{passed: boolean, said: string, code?: string}[]} steps what was checked
 * @property {string[]} models
 * @property {string} model the chosen one
 *
 * @typedef {'title' | 'about' | 'server' | 'key' | 'keyHint' | 'connect' | 'model' | 'next'} Word
 */

/**
 * The first page: where the server is, and whether all that suggestions need works.
 * @param {State} state
 * @param {Record<Word, string>} words
 * @param {{language: string, nonce: string}} options
 */
function connectPage({ server, busy, steps, models, model }, words, { language, nonce }) {
  const checked = steps.map(
    ({ passed, said, code }) =>
      `<li class="${passed ? 'passed' : 'failed'}">${escaped(said)}${code ? `<pre>${escaped(code)}</pre>` : ''}</li>`,
  );
  const options = models.map(
    (name) => `<option${name === model ? ' selected' : ''}>${escaped(name)}</option>`,
  );
  const choice = `<label for="model">${escaped(words.model)}</label> <select id="model">${options.join('')}</select>`;
  const complete = steps.length > 0 && !busy && steps.every(({ passed }) => passed);
  const body = `<h1>${escaped(words.title)}</h1>
<p>${escaped(words.about)}</p>
<form id="form">
  <label for="server">${escaped(words.server)}</label>
  <input id="server" type="url" required spellcheck="false" value="${escaped(server)}">
  <label for="key">${escaped(words.key)}</label>
  <input id="key" type="password" autocomplete="off" placeholder="${escaped(words.keyHint)}">
  <button type="submit" class="action"${busy ? ' disabled' : ''}>${escaped(words.connect)}</button>
</form>
<ul role="status">${checked.join('\n')}</ul>
${models.length > 1 ? `<p>${choice}</p>` : ''}
${complete ? `<p id="next">${escaped(words.next)}</p>` : ''}`;
  return page({ title: words.title, language, body, nonce, style: STYLE, script: SCRIPT });
}

module.exports = { connectPage };
