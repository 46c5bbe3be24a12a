'use strict';

const vscode = require('vscode');
const { ServerError } = require('./logic/client');
const { plain } = require('./logic/html');
const { Once } = require('./logic/once');
const { preferences } = require('./settings');

const { t } = vscode.l10n;

/**
 * An error in the user's language, as far as it is not the server's own line.
 * @param {unknown} error
 */
function inWords(error) {
  if (error instanceof ServerError) return plain(t(error.template, ...error.parts));
  return plain(error instanceof Error ? error.message : String(error));
}

/** The status bar item, and the one place that tells the user of errors. */
class Status {
  constructor() {
    this.item = vscode.window.createStatusBarItem('msCodegeex.status', vscode.StatusBarAlignment.Right, 100);
    this.item.name = 'CodeGeeX';
    this.item.command = 'msCodegeex.toggle';
    this.once = new Once();
    this.busy = 0;
    this.draw();
    this.item.show();
  }

  draw() {
    const { enable, server } = preferences();
    const icon = this.busy > 0 ? '$(loading~spin)' : this.once.last ? '$(warning)' : enable ? '$(sparkle)' : '$(circle-slash)';
    this.item.text = `${icon} CodeGeeX`;
    this.item.tooltip = [
      enable ? t('Suggestions are on; click to turn them off.') : t('Suggestions are off; click to turn them on.'),
      t('Server: {0}', server),
      ...(this.once.last ? [this.once.last] : []),
    ].join('\n');
    const state = this.once.last ? t('error') : enable ? t('on') : t('off');
    this.item.accessibilityInformation = { label: `CodeGeeX: ${state}`, role: 'button' };
    this.item.backgroundColor = this.once.last ? new vscode.ThemeColor('statusBarItem.warningBackground') : undefined;
  }

  /**
   * Runs a request. What goes wrong is shown, once, and undefined is returned; so it is when the request was aborted.
   * @template T
   * @param {AbortSignal} signal
   * @param {(started: () => void) => Promise<T>} request calls `started` when the server is asked
   * @returns {Promise<T | undefined>}
   */
  async during(signal, request) {
    let asked = false;
    try {
      const result = await request(() => {
        asked = true;
        this.busy++;
        this.draw();
      });
      if (asked) this.once.worked();
      return result;
    } catch (error) {
      if (!signal.aborted) this.report(error);
      return undefined;
    } finally {
      if (asked) this.busy--;
      this.draw();
    }
  }

  /** @param {unknown} error */
  async report(error) {
    const message = inWords(error);
    if (!this.once.fresh(message)) return;
    const kind = error instanceof ServerError ? error.kind : 'other';
    const setKey = t('Set API Key');
    const connect = t('Connect to a Server');
    const actions = kind === 'key' ? [setKey] : kind === 'unreachable' ? [connect] : [];
    const chosen = await vscode.window.showWarningMessage(`CodeGeeX: ${message}`, ...actions);
    if (chosen === connect) vscode.commands.executeCommand('msCodegeex.connect');
    if (chosen === setKey) vscode.commands.executeCommand('msCodegeex.setKey');
  }

  /** After a change of settings or keys an error may be shown again. */
  changed() {
    this.once.worked();
    this.draw();
  }

  dispose() {
    this.item.dispose();
  }
}

module.exports = { Status, inWords };
