'use strict';

const { requested } = require('./completer');

/**
 * Several answers to one request, each up to where its block ends.
 * @param {import('./client').Client} client
 * @param {import('./completer').Cursor} cursor
 * @param {import('./completer').Preferences & {candidates: number, candidateTemperature: number}} preferences
 * @param {AbortSignal} signal
 */
async function candidates(client, cursor, preferences, signal) {
  const count = preferences.candidates;
  const sampling = { ...preferences, temperature: preferences.candidateTemperature };
  const { body, continuation } = requested(cursor, sampling);
  /** @type {string[]} */
  const whole = Array(count).fill('');
  /** @type {string[]} */
  const shown = Array(count).fill('');
  const ended = new Set();
  for await (const { index, text, finish } of client.stream('/v1/completions', { ...body, n: count }, signal)) {
    if (ended.has(index)) continue;
    whole[index] += text;
    const complete = finish !== null;
    const block = continuation(whole[index], complete);
    shown[index] = block.text;
    if (block.ended || complete) ended.add(index);
    if (ended.size === count) break; // leaving the loop closes the connection
  }
  return ranked(shown);
}

/**
 * Those that differ, the longest first, as the published extension shows them.
 * @param {string[]} texts
 */
function ranked(texts) {
  const distinct = new Set(texts.filter((text) => text.trim() !== ''));
  return [...distinct].sort((one, other) => other.length - one.length);
}

module.exports = { candidates, ranked };
