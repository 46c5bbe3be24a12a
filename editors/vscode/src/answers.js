'use strict';

const vscode = require('vscode');
const { Conversation, codeOf } = require('./logic/chat');
const { plain } = require('./logic/html');
const { CHAT, TASKS, answer, continued } = require('./logic/tasks');
const { TemplateError, filled, wished } = require('./logic/template');
const { LANGUAGES, chosenModel, preferences, signalOf } = require('./settings');
const { read, templates } = require('./templates');

const { t } = vscode.l10n;
const SCHEME = 'ms-codegeex';
const ANSWER = 4; // times as long as a suggestion
const PROSE = 'msCodegeexAnswer'; // the manifest's language for text: lines are wrapped, and nothing becomes a link

/** @typedef {{title: string, pieces: (signal: AbortSignal) => AsyncIterable<string>}} Question an answer as it grows */

/** What a task is called where the user chooses one, and what its answer. */
const NAMES = {
  explain: () => ({ label: t('Explain'), title: t('Explanation') }),
  comment: () => ({ label: t('Comment line by line'), title: t('Commented') }),
  document: () => ({ label: t('Document'), title: t('Documented') }),
  fix: () => ({ label: t('Fix'), title: t('Fixed') }),
  translate: () => ({ label: t('Translate'), title: t('Translation') }),
};

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
    const shownAs = !task.code ? PROSE : target === language ? document.languageId : editorId(target);
    const { title } = NAMES[name]();
    const text = await this._show({ title, pieces: (signal) => answer(this.client, task.route, body, signal) }, shownAs);
    if (text && task.code && target === language) await this._offer(editor, text);
  }

  /** Lets the user choose a task or one of the user's templates for the selection. */
  async choose() {
    if (!vscode.window.activeTextEditor || vscode.window.activeTextEditor.selection.isEmpty) return;
    const tasks = /** @type {(keyof typeof TASKS)[]} */ (Object.keys(NAMES));
    const separator = { label: t('Templates'), kind: vscode.QuickPickItemKind.Separator };
    const own = templates().map(({ name, path }) => ({ label: name, description: path, path }));
    /** @type {(vscode.QuickPickItem & {task?: keyof typeof TASKS, path?: string})[]} */
    const items = [...tasks.map((task) => ({ label: NAMES[task]().label, task })), separator, ...own];
    const chosen = await vscode.window.showQuickPick(items, { title: t('What is to be done with the selection?') });
    if (chosen?.task) await this.run(chosen.task);
    else if (chosen?.path) await this._fill(chosen.label, chosen.path);
  }

  /**
   * Asks for the continuation of a template.
   * @param {string} name
   * @param {string} path of its file
   */
  async _fill(name, path) {
    const editor = vscode.window.activeTextEditor;
    if (!editor) return;
    const { document, selections } = editor;
    const text = await this._template(path, selections.map((selection) => document.getText(selection)).join(''));
    if (!text) return;
    const { model, maxTokens, temperature, topP } = preferences();
    const language = text.tagged ? undefined : LANGUAGES[document.languageId];
    const body = {
      ...(model && { model }),
      ...(language && { language }),
      prompt: text.prompt,
      max_tokens: ANSWER * maxTokens,
      temperature,
      top_p: topP,
      truncate_prompt: true,
    };
    const title = name.replaceAll(/[\\/]/g, '-');
    const question = { title, pieces: (/** @type {AbortSignal} */ signal) => continued(this.client, body, text.head, signal) };
    const found = await this._show(question, document.languageId);
    if (found) await this._offer(editor, found);
  }

  /** Asks what to change in the selection, and shows it changed. */
  async edit() {
    const editor = vscode.window.activeTextEditor;
    if (!editor || editor.selection.isEmpty) return;
    const wish = await vscode.window.showInputBox({ title: t('What is to be changed in the selection?') });
    if (!wish) return;
    const { document, selection } = editor;
    const code = document.getText(selection);
    const language = LANGUAGES[document.languageId];
    const { model, maxTokens, temperature, topP } = preferences();
    const sampling = { ...(model && { model }), max_tokens: ANSWER * maxTokens, temperature, top_p: topP };
    /** @param {AbortSignal} signal */
    const pieces = async function* (/** @type {import('./logic/client').Client} */ client, signal) {
      if ((await chosenModel(client, signal))?.chat) {
        const conversation = new Conversation();
        conversation.ask(wish, { text: code, language: language?.toLowerCase() ?? '' });
        const body = { ...sampling, messages: conversation.sent };
        for await (const whole of answer(client, CHAT, body, signal)) yield codeOf(whole);
      } else {
        const { prompt, head } = wished(code, wish, language);
        const body = { ...sampling, ...(language && { language }), prompt, truncate_prompt: true };
        yield* continued(client, body, head, signal);
      }
    };
    const question = { title: t('Changed'), pieces: (/** @type {AbortSignal} */ signal) => pieces(this.client, signal) };
    const text = await this._show(question, document.languageId);
    if (text) await this._offer(editor, text);
  }

  /**
   * A template of the user's with the selection in it, undefined if it cannot be used.
   * @param {string} path
   * @param {string} selection
   */
  async _template(path, selection) {
    try {
      return filled(await read(path), selection);
    } catch (error) {
      const message =
        error instanceof TemplateError
          ? t('{0} is not a template mark: write <INPUT>, <INPUT:0,1> or <INPUT:1>', error.mark)
          : t('the template cannot be read: {0}', path);
      vscode.window.showWarningMessage(`CodeGeeX: ${plain(message)}`);
      return undefined;
    }
  }

  /**
   * Asks for both languages of a translation. The published extension translates into the file's language; so does this
   * when another source is chosen.
   * @param {string | undefined} own language of the file
   */
  async _languages(own) {
    const all = [...new Set(Object.values(LANGUAGES))].sort();
    const first = own ? [own, ...all.filter((name) => name !== own)] : all;
    const source = await vscode.window.showQuickPick(first, { title: t('Translate from') });
    if (!source) return undefined;
    const targets = first.filter((name) => name !== source);
    const target = await vscode.window.showQuickPick(targets, { title: t('Translate from {0} to', source) });
    return target && { source_language: source, target_language: target };
  }

  /**
   * Shows the answer as it comes; its whole text, undefined if it failed or was cancelled.
   * @param {Question} question
   * @param {string} languageId of the document
   */
  async _show({ title, pieces }, languageId) {
    const uri = vscode.Uri.from({ scheme: SCHEME, path: `/${title} ${++this.count}` });
    const options = { location: vscode.ProgressLocation.Notification, title: `CodeGeeX: ${title}`, cancellable: true };
    return vscode.window.withProgress(options, async (_, token) => {
      const signal = signalOf(token);
      return this.status.during(signal, async (started) => {
        started();
        let whole = '';
        let opened = false;
        for await (whole of pieces(signal)) {
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
    const replace = t('Replace Selection');
    const below = t('Insert Below');
    const commentOut = t('Comment Out and Insert');
    const chosen = await vscode.window.showInformationMessage(t('CodeGeeX: use this code?'), replace, below, commentOut);
    if (!chosen) return;
    if (document.version !== version) {
      vscode.window.showWarningMessage(t('CodeGeeX: the file has changed since then, so the code was not inserted.'));
      return;
    }
    const editor = await vscode.window.showTextDocument(document, { viewColumn });
    editor.selection = selection;
    const code = text.replace(/^\n+|\s+$/g, '');
    if (chosen === replace) await editor.edit((edit) => edit.replace(selection, code));
    else await editor.edit((edit) => edit.insert(lineEnd(document, selection), `\n${code}`));
    if (chosen === commentOut) {
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
  await vscode.languages.setTextDocumentLanguage(document, languageId === 'markdown' ? PROSE : languageId);
  await vscode.window.showTextDocument(document, {
    viewColumn: vscode.ViewColumn.Beside,
    preserveFocus: true,
    preview: false,
  });
}

module.exports = { Answers, SCHEME };
