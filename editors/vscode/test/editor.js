'use strict';

const Module = require('node:module');
const path = require('node:path');

/**
 * As much of VS Code's interface as the modules need that are tested without it. Answers to questions and the files that
 * there are can be set; what is shown is kept.
 */
class Uri {
  /** @param {string} text */
  constructor(text) {
    this.path = text;
    this.fsPath = text;
  }

  /** @param {Uri} uri @param {...string} parts */
  static joinPath(uri, ...parts) {
    return new Uri(path.posix.join(uri.path, ...parts));
  }

  toString() {
    return `file://${this.path}`;
  }
}

class Editor {
  constructor() {
    /** @type {Set<string>} */
    this.files = new Set();
    /** @type {string[]} */
    this.shown = [];
    /** @type {Record<string, unknown>} */
    this.settings = {};
    /** @type {((editor: any) => void)[]} */
    this.saved = [];
    /** @type {any[]} */
    this.visible = [];
    const nothing = () => ({ dispose() {} });
    /** @param {string} text @param {...unknown} parts */
    const t = (text, ...parts) => text.replace(/\{(\d)\}/g, (_, place) => String(parts[place]));
    /** @type {any} */
    this.vscode = {
      Uri,
      l10n: { t },
      InlineCompletionTriggerKind: { Invoke: 0, Automatic: 1 },
      extensions: { getExtension: () => undefined },
      window: {
        activeTextEditor: undefined,
        visibleTextEditors: this.visible,
        onDidChangeActiveTextEditor: nothing,
        onDidChangeVisibleTextEditors: nothing,
        showWarningMessage: async (/** @type {string} */ text) => void this.shown.push(text),
      },
      workspace: {
        asRelativePath: (/** @type {Uri} */ uri) => uri.path.replace(/^\/home\/project\//, ''),
        getConfiguration: () => ({ get: (/** @type {string} */ name) => this.settings[name] }),
        getWorkspaceFolder: () => ({ uri: new Uri('/srv/project') }),
        onDidSaveTextDocument: (/** @type {(document: any) => void} */ call) => {
          this.saved.push(call);
          return nothing();
        },
        fs: {
          stat: async (/** @type {Uri} */ uri) => {
            if (!this.files.has(uri.path)) throw new Error('FileNotFound');
          },
          readFile: async () => new TextEncoder().encode(String(this.settings.template)),
        },
      },
    };
  }

  /**
   * A module of the extension, which gets this editor.
   * @param {string} name of its file in src/
   */
  load(name) {
    const loader = /** @type {any} */ (Module);
    const before = loader._load;
    loader._load = (/** @type {string} */ request, /** @type {any[]} */ ...rest) =>
      request === 'vscode' ? this.vscode : before(request, ...rest);
    const source = path.join(__dirname, '..', 'src');
    for (const file of Object.keys(require.cache)) {
      if (path.dirname(file) === source) delete require.cache[file]; // those that have another test's editor
    }
    try {
      return require(path.join(source, name));
    } finally {
      loader._load = before;
    }
  }

  /**
   * A file in an editor.
   * @param {string} file
   * @param {string} text
   */
  opened(file, text) {
    const document = {
      uri: new Uri(file),
      languageId: 'python',
      isUntitled: false,
      lineCount: text.split('\n').length,
      lineAt: () => ({ range: { end: 0 } }),
      offsetAt: () => text.length,
      getText: () => text,
    };
    const editor = { document, selection: { active: { line: 0 } } };
    this.visible.push(editor);
    return editor;
  }
}

module.exports = { Editor };
