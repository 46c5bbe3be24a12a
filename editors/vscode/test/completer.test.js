'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { Client } = require('../src/logic/client');
const { Completer } = require('../src/logic/completer');
const { candidates, ranked } = require('../src/logic/candidates');
const { serve } = require('./server');

const PREFERENCES = {
  model: '',
  delay: 1,
  preference: /** @type {'block' | 'line'} */ ('block'),
  maxTokens: 50,
  temperature: 0.2,
  topP: 0.95,
  topK: 0,
  candidates: 3,
  candidateTemperature: 0.8,
};
const never = new AbortController().signal;

/** @param {string} text with `|` at the cursor */
function cursor(text, { language = 'Python', asked = false, cut = false } = {}) {
  const [before, after] = text.split('|');
  return { document: 'a.py', offset: before.length, before, cut, after, language, asked };
}

/** @param {{url?: string}} server */
const clientOf = (server) =>
  new Client(async () => ({ server: /** @type {string} */ (server.url), key: undefined, timeout: 60 }));

/** @param {{url?: string}} server @param {Partial<typeof PREFERENCES>} [changes] */
const completerOf = (server, changes) => new Completer(clientOf(server), () => ({ ...PREFERENCES, ...changes }));

test('a request says what lies around the cursor, and how to choose', async (context) => {
  const server = await serve(context, () => [[' 1']]);
  const completer = completerOf(server, { model: 'm', topK: 5 });
  assert.deepEqual(await completer.complete(cursor('x =|\nprint(x)'), never), { text: ' 1', replaced: 0 });
  assert.deepEqual(server.requests[0].body, {
    model: 'm',
    language: 'Python',
    prompt: 'x =',
    suffix: '\nprint(x)',
    max_tokens: 50,
    temperature: 0.2,
    top_p: 0.95,
    top_k: 5,
    truncate_prompt: true,
    stream: true,
  });
});

test('a prompt that does not begin with the file begins with a line', async (context) => {
  const server = await serve(context, () => [['x']]);
  await completerOf(server).complete(cursor('rt os\nimport |', { cut: true }), never);
  assert.equal(server.requests[0].body.prompt, 'import ');
});

test('what is not chosen is left to the server', async (context) => {
  const server = await serve(context, () => [['x']]);
  await completerOf(server).complete({ ...cursor('a|'), language: undefined }, never);
  for (const name of ['model', 'language', 'top_k']) assert.ok(!(name in server.requests[0].body), name);
});

test('the server is asked only when nothing was typed for a while', async (context) => {
  const server = await serve(context, () => [['x']]);
  const completer = completerOf(server, { delay: 1e6 });
  const typing = new AbortController();
  let asked = false;
  const waiting = completer.complete(cursor('a|'), typing.signal, () => (asked = true));
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
  assert.ok(!asked);
  typing.abort();
  await assert.rejects(waiting, { name: 'AbortError' });
  assert.equal(server.requests.length, 0);
  await completer.complete(cursor('a|', { asked: true }), never); // a key asks at once
  await completer.complete(cursor('a|', { asked: true }), never); // and each time anew
  assert.equal(server.requests.length, 2);
});

test('typing on closes the connection', async (context) => {
  const server = await serve(context, () => 'hang');
  const typing = new AbortController();
  const ended = server.ended();
  const waiting = completerOf(server).complete(cursor('a|'), typing.signal);
  server.server.once('request', () => setImmediate(() => typing.abort()));
  await assert.rejects(waiting, { name: 'AbortError' });
  await ended;
  assert.equal(server.brokenOff, 1);
});

test('where the block ends, the connection is closed', async (context) => {
  const pieces = ['\n    return 1\n', 'print()\n', ...Array(1e5).fill('more\n')];
  const server = await serve(context, () => [pieces]);
  const ended = server.ended();
  const found = await completerOf(server).complete(cursor('def f():|'), never);
  assert.equal(found?.text, '\n    return 1');
  await ended;
  assert.equal(server.brokenOff, 1);
});

test('typing along the suggestion asks nobody', async (context) => {
  const server = await serve(context, () => [['port os']]);
  const completer = completerOf(server);
  assert.equal((await completer.complete(cursor('im|'), never))?.text, 'port os');
  assert.equal((await completer.complete(cursor('impo|'), never))?.text, 'rt os');
  assert.equal(server.requests.length, 1);
  await completer.complete(cursor('imx|'), never);
  assert.equal(server.requests.length, 2);
});

test('in the middle of a line there is a suggestion only when it was asked for', async (context) => {
  const server = await serve(context, () => [['x']]);
  const completer = completerOf(server);
  assert.equal(await completer.complete(cursor('a = | + 1'), never), undefined);
  assert.equal(server.requests.length, 0);
  assert.equal((await completer.complete(cursor('a = | + 1', { asked: true }), never))?.text, 'x');
});

test('an empty document has no suggestion', async (context) => {
  const server = await serve(context, () => [['x']]);
  assert.equal(await completerOf(server).complete(cursor('\n|', { asked: true }), never), undefined);
  assert.equal(server.requests.length, 0);
});

test('a bracket that the editor has closed is replaced, not doubled', async (context) => {
  const server = await serve(context, () => [['a, b)']]);
  assert.deepEqual(await completerOf(server).complete(cursor('f(|)'), never), { text: 'a, b)', replaced: 1 });
});

test('one line is asked for and given where the user wants one', async (context) => {
  const server = await serve(context, () => [['\n    a = 1', '\n    b = 2']]);
  const found = await completerOf(server, { preference: 'line' }).complete(cursor('def f():|'), never);
  assert.equal(found?.text, '\n    a = 1');
});

test('in an indented line the model is asked from its beginning', async (context) => {
  const server = await serve(context, () => [['  ', '  return', ' 1\n\nf()\n']]);
  const completer = completerOf(server);
  assert.equal((await completer.complete(cursor('def f():\n    |'), never))?.text, 'return 1');
  assert.equal(server.requests[0].body.prompt, 'def f():\n');
  assert.deepEqual(await candidates(clientOf(server), cursor('def f():\n  |'), PREFERENCES, never), ['  return 1']);
});

test('candidates are those that differ, the longest first, each up to where its block ends', async (context) => {
  const server = await serve(context, () => [['a\n\n', 'b()\n'], ['a'], ['long', 'er']]);
  assert.deepEqual(await candidates(clientOf(server), cursor('x|'), PREFERENCES, never), ['longer', 'a']);
  assert.equal(server.requests[0].body.n, 3);
  assert.equal(server.requests[0].body.temperature, 0.8);
});

test('candidates of nothing but space are none', () => assert.deepEqual(ranked(['', ' \n', '']), []));
