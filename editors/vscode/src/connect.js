'use strict';

const vscode = require('vscode');
const { addressOf } = require('./logic/address');
const { noAddress } = require('./logic/client');
const { connectPage } = require('./logic/connectPage');
const { visible } = require('./logic/html');
const { SECTION, preferences } = require('./settings');
const { inWords } = require('./status');
const { openPanel, pageOptions } = require('./webview');

const { t } = vscode.l10n;
const SAMPLE = 'def add(first, second):\n    return';

/** The first page: asks where the server is, and checks all that suggestions need. */
class ConnectPage {
  /**
   * @param {import('./logic/client').Client} client
   * @param {import('./keys').Keys} keys
   * @param {() => void} changed called when an address or key has changed
   */
  constructor(client, keys, changed) {
    this.client = client;
    this.keys = keys;
    this.changed = changed;
    /** @type {vscode.WebviewPanel | undefined} */
    this.panel = undefined;
    /** @type {AbortController} of the check under way */
    this.running = new AbortController();
    /** @type {import('./logic/connectPage').State} */
    this.state = { server: '', busy: false, steps: [], models: [], model: '' };
  }

  show() {
    if (this.panel) return this.panel.reveal();
    this.state = { server: preferences().server, busy: false, steps: [], models: [], model: preferences().model };
    this.panel = openPanel('connect', t('Connect to a Server'), { column: vscode.ViewColumn.Active });
    this.panel.onDidDispose(() => {
      this.panel = undefined;
      this.running.abort();
    });
    this.panel.webview.onDidReceiveMessage(async ({ server, key, model }) => {
      if (typeof model === 'string') await this._choose(model);
      else if (typeof server === 'string') await this._connect(server, typeof key === 'string' ? key : '');
    });
    return this._draw({});
  }

  /** @param {Partial<import('./logic/connectPage').State>} changes */
  _draw(changes) {
    Object.assign(this.state, changes);
    if (!this.panel) return;
    const words = {
      title: t('Connect to a Server'),
      about: t('Start a server with "ms-codegeex serve --model DIR". Your code is sent there and nowhere else.'),
      server: t('Address'),
      key: t('Key'),
      keyHint: t('Only if the server asks for one'),
      connect: t('Connect and Check'),
      model: t('Model'),
      next: t('All is ready: type in a file, and a suggestion appears in grey. Tab accepts it.'),
    };
    this.panel.webview.html = connectPage(this.state, words, pageOptions());
  }

  /** @param {string} model */
  async _choose(model) {
    await vscode.workspace.getConfiguration(SECTION).update('model', model, vscode.ConfigurationTarget.Global);
    await this._check();
  }

  /**
   * @param {string} text the address as the user wrote it
   * @param {string} key
   */
  async _connect(text, key) {
    const server = addressOf(text);
    if (!server) {
      return this._draw({ server: text, models: [], steps: [{ passed: false, said: inWords(noAddress(text)) }] });
    }
    const section = vscode.workspace.getConfiguration(SECTION);
    await section.update('server', server, vscode.ConfigurationTarget.Global);
    if (key) await this.keys.set(server, key);
    this.changed();
    await this._check();
  }

  async _check() {
    this.running.abort();
    const { signal } = (this.running = new AbortController());
    /** @type {import('./logic/connectPage').State['steps']} */
    const steps = [];
    /** @param {Partial<import('./logic/connectPage').State>} changes */
    const draw = (changes) => signal.aborted || this._draw({ ...changes, steps });
    draw({ server: preferences().server, busy: true });
    try {
      const models = await this.client.models(signal);
      steps.push({ passed: true, said: t('The server answers.') });
      const named = models.find(({ id }) => id === preferences().model);
      const model = named ?? models[0];
      draw({ models: models.map(({ id }) => id), model: model?.id ?? '' });
      if (preferences().model && !named) {
        steps.push({ passed: false, said: t('It has no model {0}: choose another.', visible(preferences().model)) });
        return draw({ busy: false });
      }
      if (model) steps.push({ passed: true, said: described(model) });
      draw({});
      const began = Date.now();
      let answer = '';
      const body = { ...(model && { model: model.id }), prompt: SAMPLE, language: 'Python', max_tokens: 8, temperature: 0 };
      for await (const { text } of this.client.stream('/v1/completions', body, signal)) answer += text;
      const seconds = ((Date.now() - began) / 1000).toFixed(1);
      steps.push({ passed: true, said: t('It completed this in {0} s:', seconds), code: visible(SAMPLE + answer) });
    } catch (error) {
      if (!signal.aborted) steps.push({ passed: false, said: inWords(error) });
    }
    draw({ busy: false });
  }

  dispose() {
    this.panel?.dispose();
  }
}

/** @param {import('./logic/client').Model} model */
function described({ id, context, infill, chat }) {
  const fills = infill ? t('it fills gaps') : t('it continues the text before the cursor');
  const talks = chat ? t('it answers questions') : t('it does not answer questions');
  return t('Model {0}: {1} tokens of context, {2}, {3}.', visible(id), context, fills, talks);
}

module.exports = { ConnectPage };
