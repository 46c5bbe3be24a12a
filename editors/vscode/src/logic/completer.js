'use strict';

const { setTimeout: pause } = require('node:timers/promises');
const { afterIndentation, fromWholeLine, indentation, onlyClosersFollow, restOfLine } = require('./around');
const { upToBlockEnd } = require('./block');
const { Cache } = require('./cache');
const { replaced } = require('./closers');
const { drawn } = require('./draw');

/**
 * @typedef {object} Cursor where a completion is wanted
 * @property {string} document what tells documents apart
 * @property {string} path its name for the model
 * @property {number} start of `before` in the document
 * @property {number} offset in the document
 * @property {string} before the last text before the cursor; lines end with `\n`
 * @property {boolean} cut whether there is more before that
 * @property {string} after the first text after the cursor
 * @property {string | undefined} language our name of it
 * @property {boolean} asked by a command or key, not by typing
 */

/**
 * @typedef {object} Preferences
 * @property {string} model
 * @property {number} delay in milliseconds
 * @property {'block' | 'line'} preference
 * @property {number} maxTokens
 * @property {number} suggestions drawn while typing
 * @property {number} candidates drawn when the user asks for them
 * @property {number} temperature of one suggestion
 * @property {number} candidateTemperature of several, which should differ
 * @property {number | null} minimumLogProbability mean of a suggestion's tokens; null: any
 * @property {number} topP
 * @property {number} topK
 */

/**
 * @typedef {object} Completion
 * @property {string} text
 * @property {number} replaced characters after the cursor that the text replaces
 */

/**
 * The request to /v1/completions, and how its answer continues the text before the cursor.
 * @param {Cursor} cursor
 * @param {Preferences} preferences
 * @param {string} [context] what is put in front of the text
 */
function requested(cursor, preferences, context = '') {
  const prefix = cursor.cut ? fromWholeLine(cursor.before) : cursor.before;
  const suffix = cursor.after;
  const present = indentation(prefix);
  const oneLine = preferences.preference === 'line';
  const body = {
    ...(preferences.model && { model: preferences.model }),
    ...(cursor.language && { language: cursor.language }),
    prompt: context + prefix.slice(0, prefix.length - present.length),
    suffix,
    max_tokens: preferences.maxTokens,
    temperature: preferences.temperature,
    top_p: preferences.topP,
    ...(preferences.topK > 0 && { top_k: preferences.topK }),
    truncate_prompt: true,
  };
  /**
   * @param {string} answer so far
   * @param {boolean} complete nothing follows
   */
  const continuation = (answer, complete) => {
    const rest = afterIndentation(answer, present);
    const { text, ended } = upToBlockEnd(prefix, rest, { complete, oneLine, suffix });
    return { text, ended, end: answer.length - rest.length + text.length }; // end: of the text in the answer
  };
  return { body, prefix, suffix, continuation };
}

/** Decides when the server is asked for a suggestion and what of its answer is shown. */
class Completer {
  /**
   * @param {import('./client').Client} client
   * @param {() => Preferences} preferences
   * @param {(cursor: Cursor) => string} [context] what is put in front of the text before a cursor
   */
  constructor(client, preferences, context = () => '') {
    this.client = client;
    this.preferences = preferences;
    this.context = context;
    this.cache = new Cache();
  }

  /**
   * The suggestions at the cursor, the best first. An aborted signal ends the request and rejects.
   * @param {Cursor} cursor
   * @param {AbortSignal} signal
   * @param {() => void} [started] called before the server is asked
   * @returns {Promise<Completion[]>}
   */
  async complete(cursor, signal, started) {
    const preferences = this.preferences();
    const { prefix, suffix } = requested(cursor, preferences);
    if (!cursor.asked && !onlyClosersFollow(suffix)) return [];
    if (prefix.trim() === '') return [];
    const place = { document: cursor.document, offset: cursor.offset, prefix, suffix };
    let texts = this.cache.find(place);
    if (!texts || cursor.asked) {
      if (!cursor.asked) await pause(preferences.delay, undefined, { signal });
      started?.();
      const fresh = await this._draw(cursor, preferences, signal);
      texts = [...new Set([...(texts ?? []), ...fresh])]; // those that are shown stay in front
      this.cache.add(place, texts);
    }
    const rest = restOfLine(suffix);
    return texts.map((text) => ({ text, replaced: replaced(text, rest) }));
  }

  /**
   * @param {Cursor} cursor
   * @param {Preferences} preferences
   * @param {AbortSignal} signal
   */
  async _draw(cursor, preferences, signal) {
    const count = cursor.asked ? preferences.candidates : preferences.suggestions;
    const temperature = count > 1 ? preferences.candidateTemperature : preferences.temperature;
    const minimum = cursor.asked ? null : preferences.minimumLogProbability;
    const scored = count > 1 || minimum !== null;
    const request = requested(cursor, { ...preferences, temperature }, this.context(cursor));
    const found = await drawn(this.client, request, signal, { count, scored });
    return found
      .filter(({ text, score }) => text !== '' && (minimum === null || score >= minimum))
      .sort((one, other) => other.score - one.score)
      .map(({ text }) => text);
  }
}

module.exports = { Completer, requested };
