'use strict';

const vscode = require('vscode');
const { isSecretFile } = require('./logic/secrets');
const { cursor, preferences, signalOf } = require('./settings');

/** The command that VS Code runs when a suggestion is accepted. */
const COUNT = 'msCodegeex.suggestionAccepted';

/**
 * Ghost text from a completer.
 * @param {import('./logic/completer').Completer} completer
 * @param {import('./status').Status} status
 * @param {import('./logic/acceptance').Acceptance} acceptance
 * @returns {vscode.InlineCompletionItemProvider}
 */
function inlineProvider(completer, status, acceptance) {
  return {
    async provideInlineCompletionItems(document, position, context, token) {
      const { enable, disabledFor } = preferences();
      const asked = context.triggerKind === vscode.InlineCompletionTriggerKind.Invoke;
      if (!asked && (!enable || disabledFor.includes(document.languageId))) return [];
      if (!asked && isSecretFile(vscode.workspace.asRelativePath(document.uri, false))) return [];
      const chosen = context.selectedCompletionInfo;
      const here = cursor(document, position, asked);
      const signal = signalOf(token);
      let fresh = false;
      /** @type {import('./logic/completer').Completion[] | undefined} */
      const found = await status.during(signal, (started) =>
        completer.complete(chosen ? accepted(here, chosen, position) : here, signal, () => {
          fresh = true;
          started();
        }),
      );
      if (fresh && !asked && found?.length && !signal.aborted) acceptance.shown(document.languageId);
      const start = chosen?.range.start ?? position;
      const end = chosen && chosen.range.end.isAfter(position) ? chosen.range.end : position;
      return (found ?? []).map(({ text, replaced }) => {
        const range = new vscode.Range(start, end.translate(0, replaced));
        const counted = { command: COUNT, title: '', arguments: [document.languageId, text.length] };
        return new vscode.InlineCompletionItem((chosen?.text ?? '') + text, range, counted);
      });
    },
  };
}

/**
 * The cursor as it will be when the chosen entry of VS Code's own list of words is accepted. While that list is open, a
 * suggestion is shown only if it continues the entry.
 * @param {import('./logic/completer').Cursor} cursor
 * @param {vscode.SelectedCompletionInfo} chosen
 * @param {vscode.Position} position
 */
function accepted(cursor, { range, text }, position) {
  const typed = position.character - range.start.character;
  const before = cursor.before.slice(0, cursor.before.length - typed) + text;
  return { ...cursor, before, offset: cursor.offset - typed + text.length };
}

module.exports = { COUNT, inlineProvider };
