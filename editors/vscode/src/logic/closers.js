'use strict';

/** @type {Record<string, string>} */
const PAIRS = { '(': ')', '[': ']', '{': '}' };
const CLOSERS = new Set(Object.values(PAIRS));
const QUOTES = new Set(['"', "'", '`']);

/**
 * How much of the rest of the line a completion replaces: the closing brackets and quotes that it closes itself.
 *
 * Editors close brackets as they are opened. In `f(|)` the completion `a, b)` closes the one that is there, so it
 * replaces one character; `a, g(b)` closes only its own and replaces nothing.
 * @param {string} text the completion
 * @param {string} after the rest of the cursor's line
 */
function replaced(text, after) {
  /** @type {string[]} */
  const expected = [];
  let end = 0;
  for (const character of text) {
    if (character === expected.at(-1)) {
      expected.pop();
      continue;
    }
    const inString = QUOTES.has(expected.at(-1) ?? '');
    if (!inString && character in PAIRS) {
      expected.push(PAIRS[character]);
    } else if (QUOTES.has(character) || (!inString && CLOSERS.has(character))) {
      const next = after.slice(end).search(/\S/);
      if (expected.length === 0 && next >= 0 && after[end + next] === character) end += next + 1;
      else if (QUOTES.has(character) && !inString) expected.push(character);
      else if (!QUOTES.has(character)) break;
    }
  }
  return end;
}

module.exports = { replaced };
