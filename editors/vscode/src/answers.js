'use strict';

const vscode = require('vscode');
const { TASKS, answer } = require('./logic/tasks');
const { LANGUAGES, preferences, signalOf } = require('./settings');

const SCHEME = 'ms-codegeex';
const REPLACE = 'Replace Selection';
const BELOW = 'Insert Below';
const ANSWER = 4; // times as long as a suggestion
const COMMENT_OUT = 'Comment Out and Insert';

/**
 * Answers about a selection. Each is a read-only document next to the code, which grows as the answer comes.
 * @implements {vscode.TextDocumentContentProvider}
 */
class Answers {
  /**
   * @param {import('./logic/client').Client} client
   * @param {import('./status').Status} status
   */
  constructor(client, status) {
    this.client = client;
    this.status = status;
    /** @type {Map<string, string>} */
    this.texts = new Map();
    this.changed = new vscode.EventEmitter();
    this.onDidChange = this.changed.event;
    this.count = 0;
  }

  /** @param {vscode.Uri} uri */
  provideTextDocumentContent(uri) {
    return this.texts.get(uri.toString()) ?? '';
  }

  /**
   * A change of its language closes a document, too, but it is there still.
   * @param {vscode.TextDocument} document
   */
  closed(document) {
    const key = document.uri.toString();
    if (!vscode.workspace.textDocuments.some(({ uri }) => uri.toString() === key)) this.texts.delete(key);
  }

  /**
   * Runs a task on the selection of the active editor.
   * @param {keyof typeof TASKS} name
   */
  async run(name) {
    const editor = vscode.window.activeTextEditor;
    if (!editor || editor.selection.isEmpty) return;
    const task = TASKS[name];
    const { document, selection } = editor;
    const { model, maxTokens, explanationLanguage } = preferences();
    const language = LANGUAGES[document.languageId];
    const languages = name === 'translate' ? await this._languages(language) : { language };
    if (!languages) return;
    const automatic = vscode.env.language.startsWith('zh') ? 'zh' : 'en';
    const body = {
      ...(model && { model }),
      ...languages,
      code: document.getText(selection),
      locale: explanationLanguage === 'auto' ? automatic : explanationLanguage,
      max_tokens: ANSWER * maxTokens,
    };
    const target = 'target_language' in languages ? languages.target_language : language;
    const shownAs = !task.code ? 'markdown' : target === language ? document.languageId : editorId(target);
    const text = await this._show(task, body, shownAs);
    if (text && task.code && target === language) await this._offer(editor, text);
  }

  /**
   * Asks for both languages of a translation. The published extension translates into the file's language; so does this
   * when another source is chosen.
   * @param {string | undefined} own language of the file
   */
  async _languages(own) {
    const all = [...new Set(Object.values(LANGUAGES))].sort();
    const first = own ? [own, ...all.filter((name) => name !== own)] : all;
    const source = await vscode.window.showQuickPick(first, { title: 'Translate from' });
    if (!source) return undefined;
    const targets = first.filter((name) => name !== source);
    const target = await vscode.window.showQuickPick(targets, { title: `Translate from ${source} to` });
    return target && { source_language: source, target_language: target };
  }

  /**
   * Shows the answer as it comes; its whole text, undefined if it failed or was cancelled.
   * @param {import('./logic/tasks').Task} task
   * @param {object} body
   * @param {string} languageId of the document
   */
  async _show({ title, route }, body, languageId) {
    const uri = vscode.Uri.from({ scheme: SCHEME, path: `/${title} ${++this.count}` });
    const options = { location: vscode.ProgressLocation.Notification, title: `CodeGeeX: ${title}`, cancellable: true };
    return vscode.window.withProgress(options, async (_, token) => {
      const signal = signalOf(token);
      return this.status.during(signal, async (started) => {
        started();
        let whole = '';
        let opened = false;
        for await (whole of answer(this.client, route, body, signal)) {
          if (opened && !this.texts.has(uri.toString())) return undefined; // closed: so is the connection
          this.texts.set(uri.toString(), whole);
          if (opened) this.changed.fire(uri);
          else await open(uri, languageId);
          opened = true;
        }
        return whole;
      });
    });
  }

  /**
   * Offers to put code into the file.
   * @param {vscode.TextEditor} before the editor as it was when the task was asked for
   * @param {string} text
   */
  async _offer({ document, selection, viewColumn }, text) {
    const version = document.version;
    const chosen = await vscode.window.showInformationMessage('CodeGeeX: use this code?', REPLACE, BELOW, COMMENT_OUT);
    if (!chosen) return;
    if (document.version !== version) {
      vscode.window.showWarningMessage('CodeGeeX: the file has changed since then, so the code was not inserted.');
      return;
    }
    const editor = await vscode.window.showTextDocument(document, { viewColumn });
    editor.selection = selection;
    const code = text.replace(/^\n+|\s+$/g, '');
    if (chosen === REPLACE) await editor.edit((edit) => edit.replace(selection, code));
    else await editor.edit((edit) => edit.insert(lineEnd(document, selection), `\n${code}`));
    if (chosen === COMMENT_OUT) {
      editor.selection = selection;
      await vscode.commands.executeCommand('editor.action.addCommentLine');
    }
  }
}

/**
 * @param {vscode.TextDocument} document
 * @param {vscode.Selection} selection
 */
function lineEnd(document, selection) {
  const atStart = selection.end.character === 0 && !selection.isSingleLine; // whole lines are selected
  return document.lineAt(selection.end.line - (atStart ? 1 : 0)).range.end;
}

/** @param {string | undefined} language our name of it */
function editorId(language) {
  return Object.keys(LANGUAGES).find((id) => LANGUAGES[id] === language) ?? 'plaintext';
}

/**
 * @param {vscode.Uri} uri
 * @param {string} languageId
 */
async function open(uri, languageId) {
  const document = await vscode.workspace.openTextDocument(uri);
  await vscode.languages.setTextDocumentLanguage(document, languageId);
  await vscode.window.showTextDocument(document, {
    viewColumn: vscode.ViewColumn.Beside,
    preserveFocus: true,
    preview: false,
  });
}

module.exports = { Answers, SCHEME };
