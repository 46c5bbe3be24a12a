'use strict';

const vscode = require('vscode');
const { indentation } = require('./logic/around');
const { candidates } = require('./logic/candidates');
const { candidatesPage } = require('./logic/candidatesPage');
const { replaced } = require('./logic/closers');
const { cursor, preferences } = require('./settings');
const { openPanel, pageOptions } = require('./webview');

const { t } = vscode.l10n;

/**
 * Asks for candidates at the cursor and shows them side by side; the chosen one is inserted.
 * @param {import('./logic/client').Client} client
 * @param {import('./status').Status} status
 * @param {import('./nearby').Nearby} nearby
 */
async function showCandidates(client, status, nearby) {
  const editor = vscode.window.activeTextEditor;
  if (!editor) return;
  const position = editor.selection.active;
  const line = editor.document.lineAt(position.line).text;
  const indent = indentation(line.slice(0, position.character)); // shown, so that the lines stand as in the file
  const version = editor.document.version;
  const panel = openPanel('candidates', t('Candidates'));
  const closed = new AbortController(); // closing the panel ends the request
  panel.onDidDispose(() => closed.abort());
  /** @type {string[]} */
  let found = [];
  /** @param {string} said */
  const draw = (said) => {
    if (closed.signal.aborted) return;
    const labels = found.map((_, place) => t('Insert candidate {0}', place + 1));
    const options = { title: t('Candidates'), said, labels, ...pageOptions() };
    panel.webview.html = candidatesPage(found.map((text) => indent + text), options);
  };
  panel.webview.onDidReceiveMessage(({ insert }) => {
    panel.dispose();
    if (found[insert] !== undefined) return insertCandidate(editor, position, version, found[insert]);
  });

  draw(t('Asking the server …'));
  const answer = await status.during(closed.signal, (started) => {
    started();
    const here = cursor(editor.document, position, true);
    return candidates(client, here, preferences(), closed.signal, nearby.before(here));
  });
  found = answer ?? [];
  const count = t('{0} candidates: Enter inserts, arrow keys move', found.length);
  draw(found.length ? count : t('The server had no candidate.'));
}

/**
 * @param {vscode.TextEditor} before the editor as it was when the candidates were asked for
 * @param {vscode.Position} position
 * @param {number} version of the document at that time
 * @param {string} text
 */
async function insertCandidate({ document, viewColumn }, position, version, text) {
  if (document.version !== version) {
    vscode.window.showWarningMessage(t('CodeGeeX: the file has changed since then, so the code was not inserted.'));
    return;
  }
  const rest = document.lineAt(position.line).text.slice(position.character);
  const editor = await vscode.window.showTextDocument(document, { viewColumn });
  const range = new vscode.Range(position, position.translate(0, replaced(text, rest)));
  await editor.edit((edit) => edit.replace(range, text));
  const end = document.positionAt(document.offsetAt(position) + text.length);
  editor.selection = new vscode.Selection(end, end);
}

module.exports = { showCandidates };
