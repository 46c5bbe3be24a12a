'use strict';

/**
 * @typedef {object} Drawn one answer
 * @property {string} text how it continues the text before the cursor
 * @property {number} score mean log-probability of the text's tokens; 0 if that was not asked for
 */

/**
 * Several answers to one request, each up to where its block ends. Then the connection is closed.
 * @param {import('./client').Client} client
 * @param {ReturnType<import('./completer').requested>} request
 * @param {AbortSignal} signal
 * @param {{count?: number, scored?: boolean}} [options]
 * @returns {Promise<Drawn[]>} in the server's order
 */
async function drawn(client, { body, continuation }, signal, { count = 1, scored = false } = {}) {
  const answers = Array.from({ length: count }, () => new Growing(continuation));
  const asked = { ...body, ...(count > 1 && { n: count }), ...(scored && { logprobs: 0 }) };
  let open = count;
  for await (const piece of client.stream('/v1/completions', asked, signal)) {
    const answer = answers[piece.index];
    if (!answer || answer.ended) continue;
    answer.add(piece);
    if (answer.ended) open--;
    if (open === 0) break; // leaving the loop closes the connection
  }
  for (const answer of answers) answer.finish();
  return answers.map(({ text, score }) => ({ text, score }));
}

/** An answer that comes in pieces. */
class Growing {
  /** @param {ReturnType<import('./completer').requested>['continuation']} continuation */
  constructor(continuation) {
    this._continuation = continuation;
    this._answer = '';
    /** @type {import('./client').Scored[]} */
    this._tokens = [];
    this._end = 0; // of the text in the answer
    this.text = '';
    this.ended = false;
  }

  /** @param {import('./client').Piece} piece */
  add({ text, finish, tokens }) {
    this._answer += text;
    this._tokens.push(...tokens);
    this._judge(finish !== null);
  }

  /** Nothing follows. */
  finish() {
    if (!this.ended) this._judge(true);
  }

  /** @param {boolean} complete */
  _judge(complete) {
    const found = this._continuation(this._answer, complete);
    this.text = found.text;
    this._end = found.end;
    this.ended = found.ended || complete;
  }

  get score() {
    const end = [...this._answer.slice(0, this._end)].length; // the server counts characters, JavaScript halves of some
    const scores = this._tokens.filter(({ offset }) => offset < end).map(({ score }) => score);
    return scores.length ? scores.reduce((sum, score) => sum + score, 0) / scores.length : 0;
  }
}

module.exports = { drawn };
