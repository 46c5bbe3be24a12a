'use strict';

/**
 * @typedef {object} Count of one language
 * @property {number} shown suggestions that the server made while the user typed
 * @property {number} accepted of them
 * @property {number} characters inserted by accepting
 *
 * @typedef {object} Counts
 * @property {string} since day on which counting began, as YYYY-MM-DD
 * @property {Record<string, Count>} languages by VS Code's identifiers
 */

/** How many suggestions are accepted, by language. Texts are counted, never kept. */
class Acceptance {
  /**
   * @param {{read: () => Counts | undefined, write: (counts: Counts | undefined) => unknown}} store
   * @param {() => boolean} wanted whether the user wants to count
   * @param {() => Date} [now]
   */
  constructor(store, wanted, now = () => new Date()) {
    this._store = store;
    this._wanted = wanted;
    this._now = now;
  }

  get counts() {
    return this._store.read() ?? { since: this._now().toISOString().slice(0, 10), languages: {} };
  }

  /** @param {string} language */
  shown(language) {
    this._add(language, { shown: 1, accepted: 0, characters: 0 });
  }

  /**
   * @param {string} language
   * @param {number} characters
   */
  accepted(language, characters) {
    this._add(language, { shown: 0, accepted: 1, characters });
  }

  reset() {
    this._store.write(undefined);
  }

  /**
   * @param {string} language
   * @param {Count} more
   */
  _add(language, more) {
    if (!this._wanted()) return;
    const { since, languages } = this.counts;
    const sum = total([languages[language], more].filter(Boolean));
    this._store.write({ since, languages: { ...languages, [language]: sum } });
  }
}

/** @param {Count[]} counts */
function total(counts) {
  return counts.reduce(
    (sum, { shown, accepted, characters }) => ({
      shown: sum.shown + shown,
      accepted: sum.accepted + accepted,
      characters: sum.characters + characters,
    }),
    { shown: 0, accepted: 0, characters: 0 },
  );
}

/**
 * The rows of the table, the language with the most suggestions first, then the sum: name, shown, accepted, share,
 * characters.
 * @param {Counts} counts
 * @param {string} sum what the last row is called
 */
function rows({ languages }, sum) {
  const sorted = Object.entries(languages).sort(([, one], [, other]) => other.shown - one.shown);
  return [...sorted, /** @type {[string, Count]} */ ([sum, total(Object.values(languages))])].map(
    ([name, { shown, accepted, characters }]) => [
      name,
      String(shown),
      String(accepted),
      shown ? `${((100 * accepted) / shown).toFixed(1)} %` : '–',
      String(characters),
    ],
  );
}

module.exports = { Acceptance, rows };
