'use strict';

const { escaped, page, visible } = require('./html');

const STYLE = `
ol { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 12px; list-style: none; padding: 0; }
li button {
  width: 100%; height: 100%; display: flex; align-items: flex-start; text-align: left; padding: 10px;
  color: var(--vscode-editor-foreground); background: var(--vscode-editor-background);
  border: 1px solid var(--vscode-widget-border, var(--vscode-contrastBorder, #8888)); border-radius: 4px;
}
li button:hover { background: var(--vscode-list-hoverBackground); }`;

const SCRIPT = `
const editor = acquireVsCodeApi();
const buttons = [...document.querySelectorAll('button')];
buttons.forEach((button, index) => button.addEventListener('click', () => editor.postMessage({ insert: index })));
const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
document.addEventListener('keydown', (event) => {
  const step = steps[event.key];
  if (!step || !buttons.length) return;
  event.preventDefault();
  const place = buttons.indexOf(document.activeElement);
  buttons[(place + step + buttons.length) % buttons.length].focus();
});
buttons[0]?.focus();`;

/**
 * The panel's page: a button per candidate. Enter and a click insert, arrow keys and Tab move.
 * @param {string[]} candidates
 * @param {{title: string, said: string, labels: string[], language: string, nonce: string}} options said: above the
 *     candidates. labels: what each button is called
 */
function candidatesPage(candidates, { title, said, labels, language, nonce }) {
  const items = candidates.map(
    (text, place) => `<li><button aria-label="${escaped(labels[place])}"><pre>${escaped(visible(text))}</pre></button></li>`,
  );
  const body = `<h1 role="status">${escaped(said)}</h1>\n<ol>${items.join('\n')}</ol>`;
  return page({ title, language, body, nonce, style: STYLE, script: SCRIPT });
}

module.exports = { candidatesPage };
