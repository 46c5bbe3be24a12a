'use strict';

const { setTimeout: pause } = require('node:timers/promises');
const { afterIndentation, fromWholeLine, indentation, onlyClosersFollow, restOfLine } = require('./around');
const { upToBlockEnd } = require('./block');
const { Cache } = require('./cache');
const { replaced } = require('./closers');

/**
 * @typedef {object} Cursor where a completion is wanted
 * @property {string} document what tells documents apart
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
 * @property {number} temperature
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
 */
function requested(cursor, preferences) {
  const prefix = cursor.cut ? fromWholeLine(cursor.before) : cursor.before;
  const suffix = cursor.after;
  const present = indentation(prefix);
  const oneLine = preferences.preference === 'line';
  const body = {
    ...(preferences.model && { model: preferences.model }),
    ...(cursor.language && { language: cursor.language }),
    prompt: prefix.slice(0, prefix.length - present.length),
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
  const continuation = (answer, complete) =>
    upToBlockEnd(prefix, afterIndentation(answer, present), { complete, oneLine });
  return { body, prefix, suffix, continuation };
}

/** Decides when the server is asked for a suggestion and what of its answer is shown. */
class Completer {
  /**
   * @param {import('./client').Client} client
   * @param {() => Preferences} preferences
   */
  constructor(client, preferences) {
    this.client = client;
    this.preferences = preferences;
    this.cache = new Cache();
  }

  /**
   * The suggestion at the cursor, undefined if there is none. An aborted signal ends the request and rejects.
   * @param {Cursor} cursor
   * @param {AbortSignal} signal
   * @param {() => void} [started] called before the server is asked
   * @returns {Promise<Completion | undefined>}
   */
  async complete(cursor, signal, started) {
    const preferences = this.preferences();
    const request = requested(cursor, preferences);
    const { prefix, suffix } = request;
    if (!cursor.asked && !onlyClosersFollow(suffix)) return undefined;
    if (prefix.trim() === '') return undefined;
    const place = { document: cursor.document, offset: cursor.offset, prefix, suffix };
    let text = cursor.asked ? undefined : this.cache.find(place);
    if (text === undefined) {
      if (!cursor.asked) await pause(preferences.delay, undefined, { signal });
      started?.();
      text = await this._ask(request, signal);
      this.cache.add(place, text);
    }
    return text === '' ? undefined : { text, replaced: replaced(text, restOfLine(suffix)) };
  }

  /**
   * @param {ReturnType<typeof requested>} request
   * @param {AbortSignal} signal
   */
  async _ask({ body, continuation }, signal) {
    let answer = '';
    for await (const piece of this.client.stream('/v1/completions', body, signal)) {
      answer += piece.text;
      const { text, ended } = continuation(answer, false);
      if (ended) return text; // leaving the loop closes the connection
    }
    return continuation(answer, true).text;
  }
}

module.exports = { Completer, requested };
