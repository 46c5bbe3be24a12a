'use strict';

const { requested } = require('./completer');
const { drawn } = require('./draw');

/**
 * Several answers to one request, each up to where its block ends.
 * @param {import('./client').Client} client
 * @param {import('./completer').Cursor} cursor
 * @param {import('./completer').Preferences} preferences
 * @param {AbortSignal} signal
 * @param {string} [context] what is put in front of the text
 */
async function candidates(client, cursor, preferences, signal, context) {
  const request = requested(cursor, { ...preferences, temperature: preferences.candidateTemperature }, context);
  const found = await drawn(client, request, signal, { count: preferences.candidates });
  return ranked(found.map(({ text }) => text));
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
