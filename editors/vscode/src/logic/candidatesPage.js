'use strict';

/** @param {string} text */
function escaped(text) {
  const names = /** @type {Record<string, string>} */ ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' });
  return text.replace(/[&<>"]/g, (character) => names[character]);
}

const STYLE = `
body { padding: 0 12px 12px; color: var(--vscode-foreground); }
h1 { font-size: 1.1em; font-weight: 600; }
ol { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: 12px; list-style: none; padding: 0; }
button {
  width: 100%; height: 100%; display: flex; align-items: flex-start; text-align: left; cursor: pointer; padding: 10px;
  color: var(--vscode-editor-foreground); background: var(--vscode-editor-background);
  border: 1px solid var(--vscode-widget-border, var(--vscode-contrastBorder, #8888)); border-radius: 4px;
}
button:hover { background: var(--vscode-list-hoverBackground); }
button:focus-visible { outline: 2px solid var(--vscode-focusBorder); outline-offset: 2px; }
pre {
  margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font-family: var(--vscode-editor-font-family); font-size: var(--vscode-editor-font-size);
}`;

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
 * @param {{title: string, nonce: string}} options title: said above them
 */
function page(candidates, { title, nonce }) {
  const items = candidates.map(
    (text, place) => `<li><button aria-label="Insert candidate ${place + 1}"><pre>${escaped(text)}</pre></button></li>`,
  );
  return `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'nonce-${nonce}'; script-src 'nonce-${nonce}'">
<title>Candidates</title>
<style nonce="${nonce}">${STYLE}</style>
</head>
<body>
<h1 role="status">${escaped(title)}</h1>
<ol>${items.join('\n')}</ol>
<script nonce="${nonce}">${SCRIPT}</script>
</body>
</html>`;
}

module.exports = { page };
