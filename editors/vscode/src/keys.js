'use strict';

const vscode = require('vscode');
const { addressOf } = require('./logic/address');
const { noAddress } = require('./logic/client');
const { inWords } = require('./status');

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
  async get(server) {
    const place = name(server);
    return place && this.secrets.get(place);
  }

  /**
   * Asks the user for the key of a server; an empty one forgets it.
   * @param {string} server
   */
  async ask(server) {
    if (!name(server)) {
      vscode.window.showWarningMessage(`CodeGeeX: ${inWords(noAddress(server))}`);
      return false;
    }
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
    const place = name(server);
    if (!place) throw noAddress(server);
    if (key) await this.secrets.store(place, key);
    else await this.secrets.delete(place);
  }
}

/**
 * What the key is called in the store; undefined if the text is not an address.
 * @param {string} server
 */
function name(server) {
  const address = addressOf(server);
  return address && `key of ${new URL(address).origin}`;
}

module.exports = { Keys };
