'use strict';

const { parts } = require('./chat');
const { HIDDEN, escaped, page, visible } = require('./html');

const STYLE = `
body { display: flex; flex-direction: column; height: 100vh; padding-bottom: 0; box-sizing: border-box; }
#messages { flex: 1; overflow-y: auto; }
article { margin: 0 0 12px; padding: 8px 10px; border-radius: 4px; overflow-wrap: anywhere; }
article.user { background: var(--vscode-editor-inactiveSelectionBackground); }
article h2 { font-size: 0.85em; margin: 0 0 4px; opacity: 0.8; }
article p { white-space: pre-wrap; margin: 0 0 6px; }
figure { margin: 0 0 8px; border: 1px solid var(--vscode-widget-border, #8888); border-radius: 4px; }
figure pre { padding: 8px; border-radius: 4px; background: var(--vscode-editor-background); color: var(--vscode-editor-foreground); }
figcaption { display: flex; gap: 6px; padding: 4px 8px; }
figcaption button { padding: 2px 8px; border: 0; border-radius: 2px; }
form { padding: 8px 0; }
textarea { width: 100%; min-height: 64px; resize: vertical; }
form div { display: flex; gap: 8px; align-items: center; flex-wrap: wrap; }
#note { min-height: 1.2em; margin: 4px 0; }`;

// A model's text enters the page as text nodes only.
const SCRIPT = `
const editor = acquireVsCodeApi();
const words = JSON.parse(document.body.querySelector('#messages').dataset.words);
const byId = (id) => document.getElementById(id);
const made = (name, text, className) => {
  const node = document.createElement(name);
  if (text) node.textContent = text;
  if (className) node.className = className;
  return node;
};
function code(text, role) {
  const figure = made('figure');
  figure.append(made('pre', visible(text)));
  if (role === 'user') return figure;
  const caption = made('figcaption');
  for (const use of ['insert', 'replace', 'copy']) {
    const button = made('button', words[use], 'quiet');
    button.type = 'button';
    button.addEventListener('click', () => editor.postMessage({ use, text }));
    caption.append(button);
  }
  figure.append(caption);
  return figure;
}
const HIDDEN = ${HIDDEN};
${visible}
${parts}
function draw(article, role, text) {
  article.className = role;
  article.replaceChildren(made('h2', words[role]));
  for (const part of parts(text)) {
    if (part.text.trim()) article.append(part.code ? code(part.text, role) : made('p', visible(part.text.trim())));
  }
}
let last;
window.addEventListener('message', ({ data }) => {
  if (data.role) {
    last = made('article');
    byId('messages').append(last);
    draw(last, data.role, data.text);
  }
  if (data.grown !== undefined) draw(last, 'assistant', data.grown);
  if (data.forget) last?.remove();
  if (data.note !== undefined) byId('note').textContent = data.note;
  if (data.busy !== undefined) {
    byId('ask').disabled = data.busy;
    byId('stop').disabled = !data.busy;
  }
  if (data.unable) for (const id of ['ask', 'question']) byId(id).disabled = true;
  if (data.selection !== undefined) {
    byId('about').textContent = data.selection;
    byId('attach').disabled = !data.selection;
  }
  byId('messages').scrollTop = byId('messages').scrollHeight;
});
const ask = () => {
  const text = byId('question').value.trim();
  if (!text || byId('ask').disabled) return;
  editor.postMessage({ ask: text, attach: byId('attach').checked && !byId('attach').disabled });
  byId('question').value = '';
};
byId('form').addEventListener('submit', (event) => {
  event.preventDefault();
  ask();
});
byId('question').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask();
  }
});
byId('stop').addEventListener('click', () => editor.postMessage({ stop: true }));
byId('fresh').addEventListener('click', () => editor.postMessage({ fresh: true }));
byId('question').focus();
editor.postMessage({ ready: true });`;

/** @typedef {'title' | 'user' | 'assistant' | 'insert' | 'replace' | 'copy' | 'question' | 'ask' | 'stop' | 'fresh' | 'attach'} Word */

/**
 * The conversation's page.
 * @param {Record<Word, string>} words
 * @param {{language: string, nonce: string}} options
 */
function chatPage(words, { language, nonce }) {
  const body = `<h1>${escaped(words.title)}</h1>
<div id="messages" role="log" data-words="${escaped(JSON.stringify(words))}"></div>
<form id="form">
  <p id="note" role="status"></p>
  <textarea id="question" aria-label="${escaped(words.question)}" placeholder="${escaped(words.question)}"></textarea>
  <div>
    <button id="ask" type="submit" class="action">${escaped(words.ask)}</button>
    <button id="stop" type="button" class="action quiet" disabled>${escaped(words.stop)}</button>
    <button id="fresh" type="button" class="action quiet">${escaped(words.fresh)}</button>
    <label><input id="attach" type="checkbox" checked disabled> ${escaped(words.attach)}</label> <span id="about"></span>
  </div>
</form>`;
  return page({ title: words.title, language, body, nonce, style: STYLE, script: SCRIPT });
}

module.exports = { chatPage };
