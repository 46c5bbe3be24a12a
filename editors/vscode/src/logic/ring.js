'use strict';

const { holdsPrivateKey, holdsSecret, isSecretFile } = require('./secrets');

const LINES = 40; // of a piece
const MOST = 16; // pieces
const ALIKE = 0.9; // shared lines of two pieces that count as one
const LEAST = 80; // characters of a piece that is worth its place

/** @type {Record<string, string>} what begins a comment; `//` in other languages */
const COMMENTS = {
  ...Object.fromEntries(
    ['Python', 'Shell', 'Ruby', 'Perl', 'R', 'Julia', 'Elixir', 'PowerShell'].map((language) => [language, '#']),
  ),
  ...Object.fromEntries(['SQL', 'Haskell', 'Lua'].map((language) => [language, '--'])),
  TeX: '%',
  Erlang: '%',
  Clojure: ';',
  Fortran: '!',
  'Visual Basic': "'",
};

/**
 * What begins a comment.
 * @param {string | undefined} language our name of it
 */
function commentOf(language) {
  return COMMENTS[language ?? ''] ?? '//';
}

/**
 * @typedef {object} Piece a part of a file
 * @property {string} path from the folder that is open
 * @property {string | undefined} language our name of it
 * @property {string} text
 */

/**
 * The piece of a file around a line; undefined if it must not or need not be used.
 * @param {{path: string, language: string | undefined, lines: string[]}} file
 * @param {number} line
 * @returns {Piece | undefined}
 */
function pieceAround({ path, language, lines }, line) {
  if (isSecretFile(path) || holdsPrivateKey(lines)) return undefined;
  const start = Math.max(0, Math.min(line - LINES / 2, lines.length - LINES));
  const text = lines.slice(start, start + LINES).join('\n').trim();
  return text.length < LEAST || holdsSecret(text) ? undefined : { path, language, text };
}

/** The newest pieces of files that the user has looked at or changed: of each that are alike, the newest. */
class Ring {
  constructor() {
    /** @type {Piece[]} the oldest first */
    this.pieces = [];
  }

  /** @param {Piece} piece */
  add(piece) {
    const others = this.pieces.filter((other) => likeness(other.text, piece.text) < ALIKE);
    this.pieces = [...others, piece].slice(-MOST);
  }

  /**
   * What is put in front of a file's text: pieces of other files, the newest last, then the file's own name. Files in
   * another language are comments. Empty if there is none.
   * @param {string} path
   * @param {string | undefined} language
   * @param {number} most characters
   */
  before(path, language, most) {
    const comment = commentOf(language);
    const end = `${comment} ${path}\n`;
    /** @type {string[]} */
    const shown = [];
    let left = most - end.length;
    for (const piece of this.pieces.toReversed()) {
      if (piece.path === path) continue;
      const head = `${comment} ${piece.path}\n`;
      const lines = piece.text.split('\n');
      const body = piece.language === language ? lines : lines.map((line) => `${comment} ${line}`.trimEnd());
      const text = `${head}${fitting(body, left - head.length - 2)}\n\n`;
      if (text.length < Math.min(LEAST, head.length + piece.text.length)) break; // no room is left
      shown.unshift(text);
      left -= text.length;
    }
    return shown.length ? shown.join('') + end : '';
  }
}

/**
 * As many of the first lines as there is room for.
 * @param {string[]} lines
 * @param {number} most characters
 */
function fitting(lines, most) {
  let length = -1;
  const end = lines.findIndex((line) => (length += line.length + 1) > most);
  return (end < 0 ? lines : lines.slice(0, end)).join('\n').trimEnd();
}

/**
 * How alike two texts are, from 0 to 1: the share of lines that both have.
 * @param {string} one
 * @param {string} other
 */
function likeness(one, other) {
  const [first, second] = [one, other].map((text) => new Set(text.split('\n').map((line) => line.trim())));
  const both = [...first].filter((line) => second.has(line)).length;
  return (2 * both) / (first.size + second.size);
}

/**
 * What a file's text is preceded by. It stays the same while the window onto the file starts at the same place: the
 * server computes a text again from the first difference on.
 */
class Context {
  /** @param {Ring} ring */
  constructor(ring) {
    this._ring = ring;
    this._key = '';
    this._text = '';
  }

  /**
   * @param {{document: string, path: string, start: number, language: string | undefined}} cursor
   * @param {number} most characters; 0: nothing
   */
  of({ document, path, start, language }, most) {
    if (most === 0) return '';
    const key = JSON.stringify([document, start, language, most]);
    if (key !== this._key) {
      this._key = key;
      this._text = this._ring.before(path, language, most);
    }
    return this._text;
  }
}

module.exports = { Context, LINES, MOST, Ring, commentOf, pieceAround };
