'use strict';

/**
 * @typedef {object} Task a command on the selection
 * @property {string} title of the document that shows the answer
 * @property {string} route
 * @property {boolean} code whether the answer is code that can take the selection's place
 */

/** @type {Record<'translate' | 'explain' | 'comment' | 'document' | 'fix', Task>} */
const TASKS = {
  translate: { title: 'Translation', route: '/v1/code/translate', code: true },
  explain: { title: 'Explanation', route: '/v1/code/explain', code: false },
  comment: { title: 'Commented', route: '/v1/code/comment', code: true },
  document: { title: 'Documented', route: '/v1/code/document', code: true },
  fix: { title: 'Fixed', route: '/v1/code/fix', code: true },
};

/**
 * The answer to a task as it grows.
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

module.exports = { TASKS, answer };
