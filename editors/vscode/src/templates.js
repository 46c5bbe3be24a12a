'use strict';

const { homedir } = require('node:os');
const vscode = require('vscode');
const { preferences } = require('./settings');

/** The published extension's setting, which its users may have still. */
const ORIGINAL = { section: 'Codegeex', name: 'PromptTemplates(Experimental)' };

/** The user's templates: paths of their files by name. A folder's settings have none: a path may be any file's. */
function templates() {
  const original = vscode.workspace.getConfiguration(ORIGINAL.section).inspect(ORIGINAL.name)?.globalValue;
  const all = { .../** @type {object} */ (original ?? {}), ...preferences().promptTemplates };
  return Object.entries(all).flatMap(([name, path]) => (typeof path === 'string' && path !== '' ? [{ name, path }] : []));
}

/**
 * A template's text.
 * @param {string} path a file's path, one from `~`, or an address of VS Code's
 */
async function read(path) {
  const home = /^~(?=[\\/])/;
  const uri = /^[\w+-]{2,}:\/\//.test(path) ? vscode.Uri.parse(path) : vscode.Uri.file(path.replace(home, () => homedir()));
  return new TextDecoder().decode(await vscode.workspace.fs.readFile(uri));
}

module.exports = { read, templates };
