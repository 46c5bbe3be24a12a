'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { candidatesPage } = require('../src/logic/candidatesPage');
const { chatPage } = require('../src/logic/chatPage');
const { connectPage } = require('../src/logic/connectPage');
const { plain, visible } = require('../src/logic/html');
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

const drawing = { nonce: 'n0', language: 'en' };
const HOSTILE = '</pre><script>bad()</script><img src=x onerror=bad()> \u202eevil\u0007 & "quoted"';

/** @param {string[]} candidates */
function drawnCandidates(candidates) {
  const labels = candidates.map((_, place) => `Insert ${place}`);
  return candidatesPage(candidates, { title: 'Candidates', said: '2 <found>', labels, ...drawing });
}

const state = { server: HOSTILE, busy: false, steps: [{ passed: true, said: HOSTILE, code: HOSTILE }], models: [HOSTILE, 'b'], model: 'b' };
const words = /** @type {any} */ (new Proxy({}, { get: (_, name) => (name === 'toJSON' ? undefined : HOSTILE) }));

/** @type {[string, string][]} what, a page with the texts of a hostile server */
const PAGES = [
  ['candidates', drawnCandidates([HOSTILE, 'a < b'])],
  ['the first page', connectPage(state, words, drawing)],
  ['the conversation', chatPage(words, drawing)],
];

for (const [what, html] of PAGES) {
  test(`${what}: texts are never markup, and nothing is loaded or run but the page's own`, () => {
    assert.ok(!html.includes('<script>bad') && !html.includes('<img'));
    assert.ok(html.includes(`content="default-src 'none'; style-src 'nonce-n0'; script-src 'nonce-n0'"`));
    assert.deepEqual(html.match(/<script[^>]*>/g), ['<script nonce="n0">']);
    assert.ok(!/<[^>]*\s(?:src|href|style|on\w+)=/.test(html.replaceAll(/"[^"]*"/g, '""')), 'an attribute that loads or runs');
    assert.ok(!/https?:/.test(html));
  });
}

test('candidates are buttons', () => {
  const html = drawnCandidates(['a < b && "c"', 'd']);
  assert.equal(html.match(/<button aria-label="Insert \d">/g)?.length, 2);
  assert.ok(html.includes('a &lt; b &amp;&amp; &quot;c&quot;') && html.includes('2 &lt;found&gt;'));
});

test('the first page says what works, and when all does', () => {
  const said = /** @type {any} */ ({ next: 'all is ready' });
  const named = /** @type {any} */ (new Proxy(said, { get: (target, name) => target[name] ?? 'word' }));
  /** @param {boolean[]} passed @param {boolean} [busy] */
  const html = (passed, busy = false) =>
    connectPage({ ...state, busy, steps: passed.map((each) => ({ passed: each, said: 'step' })) }, named, drawing);
  assert.ok(html([true, true]).includes('all is ready'));
  for (const open of [html([]), html([true, false]), html([true], true)]) assert.ok(!open.includes('all is ready'));
  assert.equal(html([true, false]).match(/class="failed"/g)?.length, 1);
});

test('characters that deceive are shown by their numbers', () => {
  assert.equal(visible('a\u202eb\u0007\tc\n漢é😀'), 'a[U+202E]b[U+0007]\tc\n漢é😀');
  assert.equal(visible('a\u{E0041}\u00ad\u3164\ufe0f\u206a'), 'a[U+E0041][U+00AD][U+3164][U+FE0F][U+206A]');
});

test("the conversation's page shows characters and blocks as the rest of the extension does", () => {
  const script = /<script[^>]*>([^]*)<\/script>/.exec(chatPage(words, drawing))?.[1] ?? '';
  const taken = /const HIDDEN[^]*?(?=\nfunction draw)/.exec(script)?.[0];
  const own = new Function(`${taken}\nreturn { visible, parts };`)();
  assert.equal(own.visible('a\u{E0041}\u00ad\n'), visible('a\u{E0041}\u00ad\n'));
  assert.deepEqual(own.parts('a\n```\nb\n```x'), [{ code: false, text: 'a' }, { code: true, text: 'b\n```x' }]);
});

test("a server's words in a message make no link, no line and no end", () => {
  assert.equal(plain('see [this](command:workbench.action.quit)\nnow'), 'see [this] (command:workbench.action.quit) now');
  assert.equal(plain('[a] \n (https://x)'), '[a] (https://x)');
  assert.ok(plain('x'.repeat(1e5)).length < 600);
});

test('the answer to a task grows', async (context) => {
  const server = await serve(context, () => [['It ', 'adds.']]);
  const client = new Client(async () => ({ server: /** @type {string} */ (server.url), key: undefined, timeout: 60 }));
  const seen = [];
  for await (const whole of answer(client, TASKS.explain.route, { code: 'c' }, new AbortController().signal)) seen.push(whole);
  assert.deepEqual(seen, ['It ', 'It adds.']);
  assert.deepEqual(server.requests[0], { path: '/v1/code/explain', body: { code: 'c', stream: true }, key: undefined });
});
