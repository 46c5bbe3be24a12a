'use strict';

const vscode = require('vscode');
const { Answers, SCHEME } = require('./answers');
const { ChatPanel } = require('./chat');
const { ConnectPage } = require('./connect');
const { counting, showAcceptance } = require('./counting');
const { COUNT, inlineProvider } = require('./inline');
const { Keys } = require('./keys');
const { Client } = require('./logic/client');
const { Completer } = require('./logic/completer');
const { Nearby } = require('./nearby');
const { showCandidates } = require('./panel');
const { SECTION, preferences } = require('./settings');
const { Status } = require('./status');

/** @param {vscode.ExtensionContext} context */
function activate(context) {
  const keys = new Keys(context.secrets);
  const client = new Client(async () => {
    const { server, timeout } = preferences();
    return { server, timeout, key: await keys.get(server) };
  });
  const status = new Status();
  const nearby = new Nearby();
  const completer = new Completer(client, preferences, (cursor) => nearby.before(cursor));
  const answers = new Answers(client, status);
  const changed = () => {
    completer.cache.clear();
    status.changed();
  };

  const connect = new ConnectPage(client, keys, changed);
  const chat = new ChatPanel(client, status);
  const acceptance = counting(context.globalState);

  /** @type {Record<string, () => unknown>} */
  const commands = {
    connect: () => connect.show(),
    toggle: () => {
      const section = vscode.workspace.getConfiguration(SECTION);
      return section.update('enable', !preferences().enable, vscode.ConfigurationTarget.Global);
    },
    setKey: async () => {
      if (await keys.ask(preferences().server)) changed();
    },
    candidates: () => showCandidates(client, status, nearby),
    prompt: () => answers.choose(),
    translate: () => answers.run('translate'),
    explain: () => answers.run('explain'),
    comment: () => answers.run('comment'),
    document: () => answers.run('document'),
    fix: () => answers.run('fix'),
    edit: () => answers.edit(),
    chat: () => chat.show(),
    acceptance: () => showAcceptance(acceptance),
    resetAcceptance: () => acceptance.reset(),
  };
  context.subscriptions.push(
    status,
    nearby,
    connect,
    chat,
    ...Object.entries(commands).map(([name, run]) => vscode.commands.registerCommand(`${SECTION}.${name}`, run)),
    vscode.languages.registerInlineCompletionItemProvider({ pattern: '**' }, inlineProvider(completer, status, acceptance)),
    vscode.commands.registerCommand(COUNT, (language, characters) => acceptance.accepted(language, characters)),
    vscode.workspace.registerTextDocumentContentProvider(SCHEME, answers),
    vscode.workspace.onDidCloseTextDocument((document) => answers.closed(document)),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration(SECTION)) changed();
    }),
  );
  if (!context.globalState.get(WELCOMED)) welcome(context, connect);
}

const WELCOMED = 'welcomed';

/**
 * Shows the first page once, except to users who want no page at the start.
 * @param {vscode.ExtensionContext} context
 * @param {ConnectPage} connect
 */
function welcome(context, connect) {
  context.globalState.update(WELCOMED, true);
  if (vscode.workspace.getConfiguration().get('workbench.startupEditor') !== 'none') connect.show();
}

module.exports = { activate };
