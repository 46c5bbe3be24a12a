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
 * The code of an answer: its first fenced block, as far as it has come, or all of it if it has none.
 * @param {string} answer
 */
function codeOf(answer) {
  const lines = answer.split('\n');
  const start = lines.findIndex((line) => /^\s*`{3,}/.test(line));
  if (start < 0) return answer.trim();
  const fence = /`+/.exec(lines[start])?.[0] ?? '';
  const end = lines.findIndex((line, place) => place > start && line.trim().startsWith(fence));
  return lines.slice(start + 1, end < 0 ? undefined : end).join('\n');
}

/**
 * The answer to a conversation as it grows.
 * @param {import('./client').Client} client
 * @param {{messages: Message[]} & Record<string, unknown>} body
 * @param {AbortSignal} signal
 */
async function* chatted(client, body, signal) {
  let whole = '';
  for await (const { text } of client.stream('/v1/chat/completions', body, signal)) {
    whole += text;
    yield whole;
  }
}

module.exports = { Conversation, chatted, codeOf, fenced };
