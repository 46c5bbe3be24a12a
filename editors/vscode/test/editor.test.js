'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { setImmediate: turn } = require('node:timers/promises');
const { Editor } = require('./editor');

const TEXT = Array.from({ length: 9 }, (_, line) => `value_${line} = function_of_it(${line})`).join('\n');

/**
 * Whether a piece of a file is kept where there are these files.
 * @param {string[]} files
 * @param {object} [git] of VS Code
 */
async function kept(files, git) {
  const editor = new Editor();
  editor.files = new Set(files);
  editor.settings = { contextCharacters: 1500, disabledFor: [] };
  if (git) editor.vscode.extensions.getExtension = () => ({ activate: async () => ({ getAPI: () => git }) });
  const { Nearby } = editor.load('nearby.js');
  editor.opened('/srv/project/part/a.py', TEXT);
  const nearby = new Nearby();
  for (let count = 0; count < 50; count++) await turn();
  return nearby._ring.pieces.length === 1;
}

test('a file is left out if git cannot be asked and a repository or its rules may be about it', async () => {
  assert.ok(await kept([]));
  for (const folder of ['/srv/project/part/', '/srv/project/', '/srv/', '/']) {
    assert.ok(!(await kept([`${folder}.git`])), folder);
    assert.ok(!(await kept([`${folder}.gitignore`])), folder);
  }
  assert.ok(await kept(['/other/.git', '/srv/project/other/.gitignore']));
  assert.ok(!(await kept(['/srv/project/.git'], { getRepository: () => null })));
});

test('git is asked where it has opened the repository', async () => {
  const git = (/** @type {string[]} */ ...ignored) => ({ getRepository: () => ({ checkIgnore: async () => new Set(ignored) }) });
  assert.ok(await kept(['/srv/project/.git'], git()));
  assert.ok(!(await kept(['/srv/project/.git'], git('/srv/project/part/a.py'))));
});

test('in a file that holds keys nothing is suggested unless it is asked for', async () => {
  const editor = new Editor();
  editor.settings = { enable: true, disabledFor: [], prefixCharacters: 1, suffixCharacters: 1 };
  const { inlineProvider } = editor.load('inline.js');
  /** @param {string} file @param {number} triggerKind */
  const asked = async (file, triggerKind) => {
    let reached = false;
    const status = { during: async () => void (reached = true) };
    const { document } = editor.opened(file, TEXT);
    Object.assign(document, { positionAt: () => 0 });
    const provider = inlineProvider({}, status, {});
    await provider.provideInlineCompletionItems(document, 0, { triggerKind }, { onCancellationRequested() {} });
    return reached;
  };
  const { Invoke, Automatic } = editor.vscode.InlineCompletionTriggerKind;
  editor.vscode.Range = class {};
  assert.ok(!(await asked('/srv/project/.env', Automatic)));
  assert.ok(await asked('/srv/project/.env', Invoke));
  assert.ok(await asked('/srv/project/a.py', Automatic));
});

test('a key belongs to an address, and text that is not an address has none', async () => {
  const editor = new Editor();
  const { Keys } = editor.load('keys.js');
  /** @type {Map<string, string>} */
  const store = new Map();
  const keys = new Keys({
    get: async (/** @type {string} */ name) => store.get(name),
    store: async (/** @type {string} */ name, /** @type {string} */ key) => store.set(name, key),
    delete: async (/** @type {string} */ name) => store.delete(name),
  });
  await keys.set('http://localhost:8000/v1', 'k');
  assert.deepEqual([...store.keys()], ['key of http://localhost:8000']);
  assert.equal(await keys.get('http://localhost:8000'), 'k');
  for (const text of ['localhost:8000', '127.0.0.1:8000', '']) {
    assert.equal(await keys.get(text), undefined);
    await assert.rejects(keys.set(text, 'k'), /is not an address/);
    assert.equal(await keys.ask(text), false);
    assert.equal(editor.shown.pop(), `CodeGeeX: ${text} is not an address: it must begin with http:// or https://`);
  }
  assert.equal(store.size, 1);
});

test('a mark of a template is not a link in the message about it', async () => {
  const editor = new Editor();
  editor.settings = { template: '<INPUT:[Fix it](command:workbench.action.quit)>' };
  editor.vscode.EventEmitter = class {};
  editor.vscode.Uri.file = (/** @type {string} */ path) => ({ path });
  const { Answers } = editor.load('answers.js');
  assert.equal(await new Answers({}, {})._template('/t.txt', 'x'), undefined);
  assert.match(editor.shown[0], /^CodeGeeX: <INPUT:\[Fix it\] \(command:workbench\.action\.quit\)> is not a template mark/);
});
