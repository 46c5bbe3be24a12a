'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { page } = require('../src/logic/candidatesPage');
const { Client } = require('../src/logic/client');
const { Once } = require('../src/logic/once');
const { TASKS, answer } = require('../src/logic/tasks');
const { serve } = require('./server');

test('an error is shown once, until something has worked', () => {
  const once = new Once();
  assert.deepEqual(['a', 'a', 'b', 'b', 'a'].map((message) => once.fresh(message)), [true, false, true, false, true]);
  once.worked();
  assert.ok(once.fresh('a'));
});

test('candidates are buttons, and code is never markup', () => {
  const html = page(['a < b && "c"', '</pre><script>bad()</script>'], { title: '2 <found>', nonce: 'n0' });
  assert.equal(html.match(/<button /g)?.length, 2);
  assert.ok(html.includes('a &lt; b &amp;&amp; &quot;c&quot;'));
  assert.ok(html.includes('2 &lt;found&gt;') && !html.includes('<script>bad'));
});

test('the page runs its own script only and loads nothing', () => {
  const html = page([], { title: '', nonce: 'n0' });
  assert.ok(html.includes("default-src 'none'"));
  assert.deepEqual(html.match(/<script[^>]*>/g), ['<script nonce="n0">']);
  assert.ok(!/https?:/.test(html));
});

test('the answer to a task grows', async (context) => {
  const server = await serve(context, () => [['It ', 'adds.']]);
  const client = new Client(async () => ({ server: /** @type {string} */ (server.url), key: undefined, timeout: 60 }));
  const seen = [];
  for await (const whole of answer(client, TASKS.explain.route, { code: 'c' }, new AbortController().signal)) seen.push(whole);
  assert.deepEqual(seen, ['It ', 'It adds.']);
  assert.deepEqual(server.requests[0], { path: '/v1/code/explain', body: { code: 'c', stream: true }, key: undefined });
});
