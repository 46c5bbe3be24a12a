'use strict';

const MOST = 6000; // characters of a conversation that are sent; a model's context is often 2,048 tokens

/** @typedef {{role: 'user' | 'assistant', content: string}} Message */

/** Questions and answers in turn. */
class Conversation {
  constructor() {
    /** @type {Message[]} */
    this.messages = [];
  }

  /**
   * @param {string} text
   * @param {{text: string, language: string} | undefined} [code] that the question is about
   */
  ask(text, code) {
    this.messages.push({ role: 'user', content: code ? `${text}\n\n${fenced(code)}` : text });
  }

  /** @param {string} text of the last question's answer; empty: there was none, and the question is forgotten too */
  answer(text) {
    if (text.trim() === '') this.messages.pop();
    else this.messages.push({ role: 'assistant', content: text });
  }

  /** The newest messages that there is room for, at least the last one; the first of them is a question. */
  get sent() {
    let start = this.messages.length - 1;
    let length = this.messages[start]?.content.length ?? 0;
    for (let place = start - 2; place >= 0; place -= 2) {
      length += this.messages[place].content.length + this.messages[place + 1].content.length;
      if (length > MOST) break;
      start = place;
    }
    return this.messages.slice(start);
  }
}

/**
 * Code between fences that it does not hold itself.
 * @param {{text: string, language: string}} code
 */
function fenced({ text, language }) {
  const runs = text.match(/`{3,}/g) ?? [];
  const fence = '`'.repeat(Math.max(3, ...runs.map((run) => run.length + 1)));
  return `${fence}${language}\n${text}\n${fence}`;
}

/**
 * A text in turn of prose and of fenced blocks, the last of which may be open still. A block ends with a line of at least
 * as many backticks as began it, and nothing else. It is part of the conversation's page too: it must stand alone.
 * @param {string} text
 * @returns {{code: boolean, text: string}[]}
 */
function parts(text) {
  const found = [{ code: false, lines: /** @type {string[]} */ ([]) }];
  let fence = '';
  for (const line of text.split('\n')) {
    const [, ticks = ''] = /^\s*(`{3,})[^`]*$/.exec(line) ?? [];
    if (fence ? ticks.length >= fence.length && line.trim() === ticks : ticks) {
      fence = fence ? '' : ticks;
      found.push({ code: fence !== '', lines: [] });
    } else found[found.length - 1].lines.push(line);
  }
  return found.map(({ code, lines }) => ({ code, text: lines.join('\n') }));
}

/**
 * The code of an answer: its first fenced block, as far as it has come, or all of it if it has none.
 * @param {string} answer
 */
function codeOf(answer) {
  return parts(answer).find(({ code }) => code)?.text ?? answer.trim();
}

module.exports = { Conversation, codeOf, fenced, parts };
