'use strict';

const CLOSERS_ONLY = /^[\s)\]}>"'`;,]*$/;

/**
 * Text that was cut off somewhere, from the first whole line on, if one begins in it.
 * @param {string} text
 */
function fromWholeLine(text) {
  return text.slice(text.indexOf('\n') + 1);
}

/**
 * Text of a window, which may have cut a character at an end in two: without such a half.
 * @param {string} text
 */
function wholeEnds(text) {
  return text.replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, '');
}

const STEP = 1000;

/**
 * Where the window of up to `most` characters before the cursor starts. It moves in steps, not with every character: the
 * server computes a text again from the first difference on.
 * @param {number} offset of the cursor
 * @param {number} most
 */
function windowStart(offset, most) {
  const step = Math.max(1, Math.min(STEP, Math.floor(most / 4)));
  return offset <= most ? 0 : Math.ceil((offset - most) / step) * step;
}

/**
 * White space before the cursor, if there is nothing else in the line. A model is asked from the beginning of such a line:
 * its tokens hold a word together with the space in front of it, so after space it continues badly.
 * @param {string} prefix
 */
function indentation(prefix) {
  return /(?<=^|\n)[ \t]*$/.exec(prefix)?.[0] ?? '';
}

/**
 * A continuation of the beginning of a line, where this white space is there already. Empty if it does not fit.
 * @param {string} text
 * @param {string} present
 */
function afterIndentation(text, present) {
  if (text.startsWith(present)) return text.slice(present.length);
  const first = restOfLine(text);
  return first.trim() === '' ? text.slice(first.length) : '';
}

/**
 * The rest of the cursor's line.
 * @param {string} suffix
 */
function restOfLine(suffix) {
  return /^[^\r\n]*/.exec(suffix)?.[0] ?? '';
}

/**
 * Whether nothing but closing brackets, quotes and separators follows on the cursor's line. Anywhere else in a line a
 * suggestion would push the user's own text away.
 * @param {string} suffix
 */
function onlyClosersFollow(suffix) {
  return CLOSERS_ONLY.test(restOfLine(suffix));
}

module.exports = { afterIndentation, fromWholeLine, indentation, onlyClosersFollow, restOfLine, wholeEnds, windowStart };
