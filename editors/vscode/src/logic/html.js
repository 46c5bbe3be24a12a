'use strict';

// control characters but line break and tab, those that change the direction of writing, and those that are not drawn
const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2028\u2029]/gu;
const LONGEST = 500; // characters of a message

/**
 * A model's text for the eye: characters that would not be seen, or would change others, are their numbers.
 * @param {string} text
 */
function visible(text) {
  return text.replace(HIDDEN, (character) => {
    const number = /** @type {number} */ (character.codePointAt(0)).toString(16).toUpperCase();
    return `[U+${number.padStart(4, '0')}]`;
  });
}

/**
 * A server's text in a message of VS Code, which would make links, and commands, of `[…](…)`.
 * @param {string} text
 */
function plain(text) {
  const whole = visible(text.replace(/\s+/g, ' ')).replace(/\]\s*\(/g, '] (');
  return whole.length > LONGEST ? `${whole.slice(0, LONGEST)} …` : whole;
}

/** @param {string} text */
function escaped(text) {
  const names = /** @type {Record<string, string>} */ ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' });
  return text.replace(/[&<>"]/g, (character) => names[character]);
}

const BASE = `
body { padding: 0 12px 12px; color: var(--vscode-foreground); }
h1 { font-size: 1.1em; font-weight: 600; }
button { font: inherit; cursor: pointer; }
button.action {
  padding: 4px 10px; border: 1px solid var(--vscode-button-border, transparent); border-radius: 2px;
  color: var(--vscode-button-foreground); background: var(--vscode-button-background);
}
button.action:hover { background: var(--vscode-button-hoverBackground); }
button.quiet:hover { background: var(--vscode-button-secondaryHoverBackground); }
button.quiet { color: var(--vscode-button-secondaryForeground); background: var(--vscode-button-secondaryBackground); }
button:disabled { opacity: 0.5; cursor: default; }
:focus-visible { outline: 2px solid var(--vscode-focusBorder); outline-offset: 2px; }
input, select, textarea {
  font: inherit; padding: 4px 6px; border: 1px solid var(--vscode-input-border, var(--vscode-widget-border, #8888));
  color: var(--vscode-input-foreground); background: var(--vscode-input-background); border-radius: 2px; box-sizing: border-box;
}
pre {
  margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font-family: var(--vscode-editor-font-family); font-size: var(--vscode-editor-font-size);
}`;

/**
 * A panel's page. It runs its own script only and loads nothing.
 * @param {object} parts
 * @param {string} parts.title
 * @param {string} parts.language of its words
 * @param {string} parts.body finished HTML
 * @param {string} parts.nonce new for each page
 * @param {string} [parts.style]
 * @param {string} [parts.script]
 */
function page({ title, language, body, nonce, style = '', script = '' }) {
  const scripts = script && `script-src 'nonce-${nonce}'`;
  return `<!DOCTYPE html>
<html lang="${escaped(language)}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'nonce-${nonce}'; ${scripts}">
<title>${escaped(title)}</title>
<style nonce="${nonce}">${BASE}${style}</style>
</head>
<body>
${body}
${script && `<script nonce="${nonce}">${script}</script>`}
</body>
</html>`;
}

module.exports = { HIDDEN, escaped, page, plain, visible };
