'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { Conversation, codeOf, fenced, parts } = require('../src/logic/chat');
const { Client } = require('../src/logic/client');
const { CHAT, answer } = require('../src/logic/tasks');
const { wished } = require('../src/logic/template');
const { serve } = require('./server');

/** @param {{url?: string}} server */
const clientOf = (server) =>
  new Client(async () => ({ server: /** @type {string} */ (server.url), key: undefined, timeout: 60 }));
const never = new AbortController().signal;

test('a question is sent with its code and with what was said before', () => {
  const conversation = new Conversation();
  conversation.ask('What is this?', { text: 'x = 1', language: 'python' });
  conversation.answer('A variable.');
  conversation.ask('And its value?');
  assert.deepEqual(conversation.sent, [
    { role: 'user', content: 'What is this?\n\n```python\nx = 1\n```' },
    { role: 'assistant', content: 'A variable.' },
    { role: 'user', content: 'And its value?' },
  ]);
});

test('a long conversation loses its oldest questions with their answers, but never the last question', () => {
  const conversation = new Conversation();
  for (let turn = 0; turn < 5; turn++) {
    conversation.ask(`${turn}${'q'.repeat(999)}`);
    conversation.answer('a'.repeat(1000));
  }
  conversation.ask('l'.repeat(1500));
  assert.deepEqual(conversation.sent.map(({ content }) => content[0]), ['3', 'a', '4', 'a', 'l']);
  conversation.answer('x');
  conversation.ask('z'.repeat(1e5));
  assert.deepEqual(conversation.sent.map(({ content }) => content[0]), ['z']);
});

test('a question without an answer is forgotten', () => {
  const conversation = new Conversation();
  conversation.ask('first');
  conversation.answer(' \n');
  conversation.ask('second');
  assert.deepEqual(conversation.sent, [{ role: 'user', content: 'second' }]);
});

test('code with fences is put between longer ones', () => {
  assert.equal(fenced({ text: 'a\n````\nb', language: 'md' }), '`````md\na\n````\nb\n`````');
});

test('the code of an answer is its first block, as far as it has come', () => {
  assert.equal(codeOf('Here:\n```python\nx = 1\n```\nDone.\n```\ny\n```'), 'x = 1');
  assert.equal(codeOf('Here:\n```python\nx = 1\ny'), 'x = 1\ny');
  assert.equal(codeOf('x = 1\n'), 'x = 1');
  assert.equal(codeOf('````md\n```\nx\n```\n```` not the end\n````\nDone.'), '```\nx\n```\n```` not the end');
});

test('an answer is prose and blocks in turn; a block ends with a line of as many backticks and nothing else', () => {
  const [, block, rest] = parts('Here:\n```python\ns = \'\'\'\n```x\n  ```  \nDone: ```x``` too.\n```y```\n');
  assert.deepEqual(block, { code: true, text: "s = '''\n```x" });
  assert.deepEqual(rest, { code: false, text: 'Done: ```x``` too.\n```y```\n' });
});

test('the answer of a conversation grows', async (context) => {
  const server = await serve(context, () => [['It ', 'is.']]);
  const seen = [];
  const body = { messages: [{ role: /** @type {'user'} */ ('user'), content: 'q' }], max_tokens: 5 };
  for await (const whole of answer(clientOf(server), CHAT, body, never)) seen.push(whole);
  assert.deepEqual(seen, ['It ', 'It is.']);
  assert.deepEqual(server.requests[0], { path: '/v1/chat/completions', body: { ...body, stream: true }, key: undefined });
});

test('a model that continues text gets a wish as a comment, then the first line of the code', () => {
  const { prompt, head } = wished('def f(x):\r\n    return x', 'double\nit', 'Python');
  assert.equal(prompt, 'def f(x):\r\n    return x\n\n# double it\ndef f(x):\n');
  assert.equal(head, 'def f(x):\n');
  assert.ok(wished('f()', 'w', 'Go').prompt.includes('\n// w\n'));
});
