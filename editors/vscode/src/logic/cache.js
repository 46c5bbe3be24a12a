'use strict';

/**
 * @typedef {object} Place where a completion was asked for
 * @property {string} document
 * @property {number} offset of the cursor
 * @property {string} prefix
 * @property {string} suffix
 */

/**
 * The newest completions. Typing on along one of them finds the rest of it, and so does going back.
 */
class Cache {
  /** @param {number} most completions */
  constructor(most = 100) {
    this.most = most;
    /** @type {(Place & {texts: string[]})[]} newest first */
    this.entries = [];
  }

  /**
   * @param {Place} place
   * @param {string[]} texts the best first; none if there is no suggestion here
   */
  add(place, texts) {
    this.entries.unshift({ ...place, texts });
    this.entries.length = Math.min(this.entries.length, this.most);
  }

  /**
   * The rests of known completions at this place. Undefined: the server has to be asked.
   * @param {Place} place
   * @returns {string[] | undefined}
   */
  find(place) {
    for (const entry of this.entries) {
      const typed = place.offset - entry.offset;
      if (entry.document !== place.document || typed < 0 || typed > place.prefix.length) continue;
      const border = place.prefix.length - typed;
      if (!sameEnd(entry.prefix, place.prefix.slice(0, border))) continue;
      if (nextLines(entry.suffix) !== nextLines(place.suffix)) continue;
      if (typed === 0) return entry.texts;
      const along = place.prefix.slice(border);
      const rests = entry.texts.filter((text) => typed < text.length && text.startsWith(along));
      if (rests.length) return rests.map((text) => text.slice(typed));
    }
    return undefined;
  }

  clear() {
    this.entries = [];
  }
}

/**
 * Two windows onto the text before one place, which may begin at different places.
 * @param {string} one
 * @param {string} other
 */
function sameEnd(one, other) {
  return one.length < other.length ? other.endsWith(one) : one.endsWith(other);
}

/**
 * Without the rest of the cursor's line: editors close brackets there while one types. The window's last characters
 * change with the cursor's place and do not matter.
 * @param {string} suffix
 */
function nextLines(suffix) {
  const line = suffix.indexOf('\n');
  return line < 0 ? '' : suffix.slice(line, line + 200);
}

module.exports = { Cache };
