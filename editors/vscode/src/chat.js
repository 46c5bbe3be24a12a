'use strict';

const vscode = require('vscode');
const { Conversation } = require('./logic/chat');
const { chatPage } = require('./logic/chatPage');
const { CHAT, answer } = require('./logic/tasks');
const { LANGUAGES, chosenModel, preferences } = require('./settings');
const { openPanel, pageOptions } = require('./webview');

const { t } = vscode.l10n;
const ANSWER = 4; // times as long as a suggestion

/** A conversation about the code, in a panel. Code of an answer enters a file only when the user clicks. */
class ChatPanel {
  /**
   * @param {import('./logic/client').Client} client
   * @param {import('./status').Status} status
   */
  constructor(client, status) {
    this.client = client;
    this.status = status;
    /** @type {vscode.WebviewPanel | undefined} */
    this.panel = undefined;
    this.editor = vscode.window.activeTextEditor; // the last one: the panel takes the focus from it
    this.conversation = new Conversation();
    this.running = new AbortController();
    this._subscriptions = [
      vscode.window.onDidChangeActiveTextEditor((editor) => {
        if (editor) this.editor = editor;
        this._showSelection();
      }),
      vscode.window.onDidChangeTextEditorSelection(() => this._showSelection()),
    ];
  }

  show() {
    this.editor = vscode.window.activeTextEditor ?? this.editor;
    if (this.panel) return this.panel.reveal();
    this.panel = openPanel('chat', t('Chat'), { keep: true });
    this.panel.onDidDispose(() => {
      this.panel = undefined;
      this.running.abort();
    });
    this.panel.webview.onDidReceiveMessage((message) => this._received(message));
    return this._draw();
  }

  _draw() {
    if (!this.panel) return;
    this.running.abort();
    this.conversation = new Conversation();
    const words = {
      title: t('Chat'),
      user: t('You'),
      assistant: t('Model'),
      insert: t('Insert at Cursor'),
      replace: t('Replace Selection'),
      copy: t('Copy'),
      question: t('A question, or what to change in the selection'),
      ask: t('Ask'),
      stop: t('Stop'),
      fresh: t('New Conversation'),
      attach: t('With the selection'),
    };
    this.panel.webview.html = chatPage(words, pageOptions());
  }

  /** @param {{ready?: boolean, ask?: string, attach?: boolean, stop?: boolean, fresh?: boolean, use?: string, text?: string}} message */
  async _received({ ready, ask, attach, stop, fresh, use, text }) {
    if (ready) return this._begin();
    if (fresh) return this._draw();
    if (stop) return this.running.abort();
    if (typeof ask === 'string') return this._ask(ask, attach === true);
    if (typeof text === 'string') return this._use(use, text);
  }

  /** Says at once if the model was not trained for this. */
  async _begin() {
    this._showSelection();
    const controller = new AbortController();
    const model = await this.status.during(controller.signal, () => chosenModel(this.client, controller.signal));
    if (!model || model.chat) return;
    const note = t('{0} continues code and does not answer questions. Use the tasks and templates for a selection.', model.id);
    this._post({ unable: true, note });
  }

  /**
   * @param {string} question
   * @param {boolean} attach the selection
   */
  async _ask(question, attach) {
    const code = attach ? this._selection() : undefined;
    this.conversation.ask(question, code);
    this._post({ role: 'user', text: this.conversation.messages.at(-1)?.content });
    this._post({ role: 'assistant', text: '', busy: true, note: '' });
    const { signal } = (this.running = new AbortController());
    const { conversation } = this;
    const { model, maxTokens, temperature, topP } = preferences();
    const body = {
      ...(model && { model }),
      messages: conversation.sent,
      max_tokens: ANSWER * maxTokens,
      temperature,
      top_p: topP,
    };
    let whole = '';
    await this.status.during(signal, async (started) => {
      started();
      for await (whole of answer(this.client, CHAT, body, signal)) if (!signal.aborted) this._post({ grown: whole });
    });
    conversation.answer(whole);
    if (conversation !== this.conversation) return; // a new one has begun
    this._post({ busy: false, ...(whole === '' && { forget: true, note: t('There was no answer.') }) });
  }

  /**
   * @param {string | undefined} use
   * @param {string} text
   */
  async _use(use, text) {
    if (use === 'copy') return vscode.env.clipboard.writeText(text);
    const { editor } = this;
    if (!editor || editor.document.isClosed) return;
    const shown = await vscode.window.showTextDocument(editor.document, { viewColumn: editor.viewColumn });
    const { selection } = editor;
    await shown.edit((edit) => {
      if (use === 'replace') edit.replace(selection, text);
      else edit.insert(selection.active, text);
    });
  }

  _selection() {
    const { editor } = this;
    if (!editor || editor.selection.isEmpty) return undefined;
    const { document, selection } = editor;
    return { text: document.getText(selection), language: LANGUAGES[document.languageId]?.toLowerCase() ?? '' };
  }

  _showSelection() {
    const { editor } = this;
    const { selection } = editor ?? {};
    const count = selection && !selection.isEmpty ? selection.end.line - selection.start.line + 1 : 0;
    const name = editor && vscode.workspace.asRelativePath(editor.document.uri, false);
    this._post({ selection: count && name ? t('{0}, {1} lines', name, count) : '' });
  }

  /** @param {object} message */
  _post(message) {
    return this.panel?.webview.postMessage(message);
  }

  dispose() {
    for (const subscription of this._subscriptions) subscription.dispose();
    this.panel?.dispose();
  }
}

module.exports = { ChatPanel };
