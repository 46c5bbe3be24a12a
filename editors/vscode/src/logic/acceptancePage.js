'use strict';

const { rows } = require('./acceptance');
const { escaped, page } = require('./html');

const STYLE = `
table { border-collapse: collapse; }
th, td { padding: 4px 14px; text-align: right; border-bottom: 1px solid var(--vscode-widget-border, #8888); }
th:first-child, td:first-child { text-align: left; }
tbody tr:last-child { font-weight: 600; }`;

/**
 * A table of what was suggested and accepted.
 * @param {import('./acceptance').Counts} counts
 * @param {{title: string, said: string, heads: string[], sum: string, language: string, nonce: string}} words said: above
 *     the table
 */
function acceptancePage(counts, { title, said, heads, sum, language, nonce }) {
  /** @param {string} kind @param {string[]} cells */
  const row = (kind, cells) => `<tr>${cells.map((cell) => `<${kind}>${escaped(cell)}</${kind}>`).join('')}</tr>`;
  const table = `<table><thead>${row('th', heads)}</thead><tbody>${rows(counts, sum)
    .map((cells) => row('td', cells))
    .join('\n')}</tbody></table>`;
  const body = `<h1>${escaped(title)}</h1>\n<p>${escaped(said)}</p>\n${table}`;
  return page({ title, language, body, nonce, style: STYLE });
}

module.exports = { acceptancePage };
