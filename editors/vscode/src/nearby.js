'use strict';

const vscode = require('vscode');
const { Context, Ring, pieceAround } = require('./logic/ring');
const { LANGUAGES, preferences } = require('./settings');

const LARGEST = 1e6; // characters of a file that is looked at

/**
 * Pieces of the files that the user leaves or saves, and of those that are visible beside the active one. Only files in
 * open folders count, never those that git ignores.
 */
class Nearby {
  constructor() {
    this._ring = new Ring();
    this._context = new Context(this._ring);
    this._active = vscode.window.activeTextEditor;
    for (const editor of vscode.window.visibleTextEditors) this._note(editor);
    this._subscriptions = [
      vscode.window.onDidChangeActiveTextEditor((editor) => {
        if (this._active) this._note(this._active);
        if (editor) this._active = editor; // undefined while a panel has the focus
      }),
      vscode.window.onDidChangeVisibleTextEditors((editors) => editors.forEach((editor) => this._note(editor))),
      vscode.workspace.onDidSaveTextDocument((document) => {
        const editor = vscode.window.visibleTextEditors.find((visible) => visible.document === document);
        if (editor) this._note(editor);
      }),
    ];
  }

  /** @param {import('./logic/completer').Cursor} cursor */
  before(cursor) {
    return this._context.of(cursor, preferences().contextCharacters);
  }

  /** @param {vscode.TextEditor} editor */
  async _note({ document, selection }) {
    const { contextCharacters, disabledFor } = preferences();
    const { uri, languageId } = document;
    if (contextCharacters === 0 || disabledFor.includes(languageId)) return;
    if (!vscode.workspace.getWorkspaceFolder(uri) || document.isUntitled) return;
    if (document.offsetAt(document.lineAt(document.lineCount - 1).range.end) > LARGEST) return;
    const path = vscode.workspace.asRelativePath(uri, false);
    const lines = document.getText().split(/\r?\n/);
    const piece = pieceAround({ path, language: LANGUAGES[languageId], lines }, selection.active.line);
    if (piece && !(await ignored(uri))) this._ring.add(piece);
  }

  dispose() {
    for (const subscription of this._subscriptions) subscription.dispose();
  }
}

/**
 * Whether git ignores a file. Yes if it may, because there is a repository or there are rules, and git cannot be asked.
 * @param {vscode.Uri} uri
 */
async function ignored(uri) {
  try {
    const extension = vscode.extensions.getExtension('vscode.git');
    const git = extension && (await extension.activate()).getAPI(1);
    const repository = git?.getRepository(uri);
    if (repository) return (await repository.checkIgnore([uri.fsPath])).size > 0;
  } catch {
    // git is turned off, or fails: the rules remain unknown
  }
  let folder = vscode.Uri.joinPath(uri, '..');
  for (;;) {
    for (const name of ['.git', '.gitignore']) if (await exists(vscode.Uri.joinPath(folder, name))) return true;
    const parent = vscode.Uri.joinPath(folder, '..');
    if (parent.path === folder.path) return false;
    folder = parent; // a repository may begin above the open folder
  }
}

/** @param {vscode.Uri} uri */
async function exists(uri) {
  try {
    await vscode.workspace.fs.stat(uri);
    return true;
  } catch {
    return false;
  }
}

module.exports = { Nearby };
