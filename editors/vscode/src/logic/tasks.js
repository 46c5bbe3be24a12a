'use strict';

const { upToBlockEnd } = require('./block');

/**
 * @typedef {object} Task a command on the selection
 * @property {string} route
 * @property {boolean} code whether the answer is code that can take the selection's place
 */

/** @type {Record<'translate' | 'explain' | 'comment' | 'document' | 'fix', Task>} */
const TASKS = {
  translate: { route: '/v1/code/translate', code: true },
  explain: { route: '/v1/code/explain', code: false },
  comment: { route: '/v1/code/comment', code: true },
  document: { route: '/v1/code/document', code: true },
  fix: { route: '/v1/code/fix', code: true },
};

/** The route of a conversation. */
const CHAT = '/v1/chat/completions';

/**
 * The answer to a task or conversation as it grows.
 * @param {import('./client').Client} client
 * @param {string} route
 * @param {object} body
 * @param {AbortSignal} signal
 */
async function* answer(client, route, body, signal) {
  let whole = '';
  for await (const { text } of client.stream(route, body, signal)) {
    whole += text;
    yield whole;
  }
}

/**
 * The continuation of a prompt as it grows, up to where its block ends. Then the connection is closed.
 * @param {import('./client').Client} client
 * @param {{prompt: string} & Record<string, unknown>} body
 * @param {string} head put in front of it
 * @param {AbortSignal} signal
 */
async function* continued(client, body, head, signal) {
  let whole = '';
  for await (const { text, finish } of client.stream('/v1/completions', body, signal)) {
    whole += text;
    const block = upToBlockEnd(body.prompt, whole, { complete: finish !== null, oneLine: false });
    yield head + block.text;
    if (block.ended) return;
  }
}

module.exports = { CHAT, TASKS, answer, continued };
