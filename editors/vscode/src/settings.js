'use strict';

const vscode = require('vscode');
const { wholeEnds, windowStart } = require('./logic/around');
/** @type {Record<string, string>} */
const LANGUAGES = require('./logic/languages.json');

/** The section of VS Code's settings that is ours. */
const SECTION = 'msCodegeex';

/** Our settings as they are now; package.json has the defaults. */
function preferences() {
  const section = vscode.workspace.getConfiguration(SECTION);
  /** @template T @param {string} name @returns {T} */
  const get = (name) => /** @type {T} */ (section.get(name));
  return {
    server: /** @type {string} */ (get('server')),
    model: /** @type {string} */ (get('model')),
    enable: /** @type {boolean} */ (get('enable')),
    disabledFor: /** @type {string[]} */ (get('disabledFor')),
    delay: /** @type {number} */ (get('delay')),
    preference: /** @type {'block' | 'line'} */ (get('preference')),
    maxTokens: /** @type {number} */ (get('maxTokens')),
    suggestions: /** @type {number} */ (get('suggestions')),
    minimumLogProbability: /** @type {number | null} */ (get('minimumLogProbability')),
    temperature: /** @type {number} */ (get('temperature')),
    candidates: /** @type {number} */ (get('candidates')),
    candidateTemperature: /** @type {number} */ (get('candidateTemperature')),
    topP: /** @type {number} */ (get('topP')),
    topK: /** @type {number} */ (get('topK')),
    prefixCharacters: /** @type {number} */ (get('prefixCharacters')),
    contextCharacters: /** @type {number} */ (get('contextCharacters')),
    suffixCharacters: /** @type {number} */ (get('suffixCharacters')),
    promptTemplates: /** @type {Record<string, string>} */ (get('promptTemplates')),
    explanationLanguage: /** @type {'auto' | 'en' | 'zh'} */ (get('explanationLanguage')),
    countAcceptance: /** @type {boolean} */ (get('countAcceptance')),
    timeout: /** @type {number} */ (get('timeout')),
  };
}

/**
 * The parts of a document that a request needs.
 * @param {vscode.TextDocument} document
 * @param {vscode.Position} position
 * @param {boolean} asked by a command or key, not by typing
 * @returns {import('./logic/completer').Cursor}
 */
function cursor(document, position, asked) {
  const { prefixCharacters, suffixCharacters } = preferences();
  const offset = document.offsetAt(position);
  const start = document.positionAt(windowStart(offset, prefixCharacters));
  const end = document.positionAt(offset + suffixCharacters);
  /** @param {vscode.Range} range */
  const text = (range) => wholeEnds(document.getText(range)).replaceAll('\r\n', '\n');
  return {
    document: document.uri.toString(),
    path: vscode.workspace.asRelativePath(document.uri, false),
    start: document.offsetAt(start),
    offset,
    before: text(new vscode.Range(start, position)),
    cut: document.offsetAt(start) > 0,
    after: text(new vscode.Range(position, end)),
    language: LANGUAGES[document.languageId],
    asked,
  };
}

/**
 * The model that requests go to; undefined if the server does not have it.
 * @param {import('./logic/client').Client} client
 * @param {AbortSignal} signal
 */
async function chosenModel(client, signal) {
  const models = await client.models(signal);
  const { model } = preferences();
  return model ? models.find(({ id }) => id === model) : models[0];
}

/**
 * A signal that aborts when a token is cancelled.
 * @param {vscode.CancellationToken} token
 */
function signalOf(token) {
  const controller = new AbortController();
  if (token.isCancellationRequested) controller.abort();
  else token.onCancellationRequested(() => controller.abort());
  return controller.signal;
}

module.exports = { LANGUAGES, SECTION, chosenModel, cursor, preferences, signalOf };
