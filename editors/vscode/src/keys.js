'use strict';

const vscode = require('vscode');

const { t } = vscode.l10n;

/**
 * API keys in VS Code's secret store. A key belongs to the address for which it was entered and is sent nowhere else.
 */
class Keys {
  /** @param {vscode.SecretStorage} secrets */
  constructor(secrets) {
    this.secrets = secrets;
  }

  /** @param {string} server */
  get(server) {
    return Promise.resolve(this.secrets.get(name(server)));
  }

  /**
   * Asks the user for the key of a server; an empty one forgets it.
   * @param {string} server
   */
  async ask(server) {
    const key = await vscode.window.showInputBox({
      title: t('API key for {0}', server),
      prompt: t("The key that the server's owner gave you. Empty: no key."),
      password: true,
      ignoreFocusOut: true,
    });
    if (key === undefined) return false;
    await this.set(server, key.trim());
    return true;
  }

  /**
   * @param {string} server
   * @param {string} key an empty one forgets it
   */
  async set(server, key) {
    if (key) await this.secrets.store(name(server), key);
    else await this.secrets.delete(name(server));
  }
}

/** @param {string} server */
function name(server) {
  return `key of ${new URL(server).origin}`;
}

module.exports = { Keys };
