'use strict';

const { randomBytes } = require('node:crypto');
const vscode = require('vscode');

/** What differs between two drawings of a page. */
function pageOptions() {
  return { nonce: randomBytes(16).toString('hex'), language: vscode.env.language };
}

/**
 * A panel next to the code.
 * @param {string} name
 * @param {string} title
 * @param {{scripts?: boolean, keep?: boolean, column?: vscode.ViewColumn}} [options] keep: its page lives on while it is
 *     covered
 */
function openPanel(name, title, { scripts = true, keep = false, column = vscode.ViewColumn.Beside } = {}) {
  const options = { enableScripts: scripts, retainContextWhenHidden: keep, localResourceRoots: [] };
  return vscode.window.createWebviewPanel(`msCodegeex.${name}`, title, column, options);
}

module.exports = { openPanel, pageOptions };
