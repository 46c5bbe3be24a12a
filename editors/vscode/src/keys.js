'use strict';

const vscode = require('vscode');

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
      title: `API key for ${server}`,
      prompt: 'Your key in the file of ms-codegeex serve --api-key-file. Empty: no key.',
      password: true,
      ignoreFocusOut: true,
    });
    if (key === undefined) return false;
    if (key) await this.secrets.store(name(server), key.trim());
    else await this.secrets.delete(name(server));
    return true;
  }
}

/** @param {string} server */
function name(server) {
  return `key of ${new URL(server).origin}`;
}

module.exports = { Keys };
