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
  suggestions: 1,
  minimumLogProbability: /** @type {number | null} */ (null),
};
const never = new AbortController().signal;

/** @param {string} text with `|` at the cursor */
function cursor(text, { language = 'Python', asked = false, cut = false } = {}) {
  const [before, after] = text.split('|');
  return { document: 'a.py', path: 'a.py', start: 0, offset: before.length, before, cut, after, language, asked };
}

/** @param {{url?: string}} server */
const clientOf = (server) =>
  new Client(async () => ({ server: /** @type {string} */ (server.url), key: undefined, timeout: 60 }));

/** @param {{url?: string}} server @param {Partial<typeof PREFERENCES>} [changes] */
const completerOf = (server, changes) => new Completer(clientOf(server), () => ({ ...PREFERENCES, ...changes }));

/** @param {Completer} completer @param {ReturnType<typeof cursor>} place */
const texts = async (completer, place) => (await completer.complete(place, never)).map(({ text }) => text);

test('a request says what lies around the cursor, and how to choose', async (context) => {
  const server = await serve(context, () => [[' 1']]);
  const completer = completerOf(server, { model: 'm', topK: 5 });
  assert.deepEqual(await completer.complete(cursor('x =|\nprint(x)'), never), [{ text: ' 1', replaced: 0 }]);
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

test('pieces of other files come first, and are not part of what the answer continues', async (context) => {
  const server = await serve(context, () => [['\n    return 1\nx = 2\n']]);
  const completer = new Completer(clientOf(server), () => PREFERENCES, ({ path }) => `# b.py\n\n# ${path}\n`);
  assert.deepEqual(await texts(completer, cursor('def f():|')), ['\n    return 1']);
  assert.equal(server.requests[0].body.prompt, '# b.py\n\n# a.py\ndef f():');
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
  assert.deepEqual(await texts(completerOf(server), cursor('def f():|')), ['\n    return 1']);
  await ended;
  assert.equal(server.brokenOff, 1);
});

test('typing along the suggestion asks nobody', async (context) => {
  const server = await serve(context, () => [['port os']]);
  const completer = completerOf(server);
  assert.deepEqual(await texts(completer, cursor('im|')), ['port os']);
  assert.deepEqual(await texts(completer, cursor('impo|')), ['rt os']);
  assert.equal(server.requests.length, 1);
  await completer.complete(cursor('imx|'), never);
  assert.equal(server.requests.length, 2);
});

test('in the middle of a line there is a suggestion only when it was asked for', async (context) => {
  const server = await serve(context, () => [['x']]);
  const completer = completerOf(server);
  assert.deepEqual(await texts(completer, cursor('a = | + 1')), []);
  assert.equal(server.requests.length, 0);
  assert.deepEqual(await texts(completer, cursor('a = | + 1', { asked: true })), ['x']);
});

test('an empty document has no suggestion', async (context) => {
  const server = await serve(context, () => [['x']]);
  assert.deepEqual(await texts(completerOf(server), cursor('\n|', { asked: true })), []);
  assert.equal(server.requests.length, 0);
});

test('a bracket that the editor has closed is replaced, not doubled', async (context) => {
  const server = await serve(context, () => [['a, b)']]);
  assert.deepEqual(await completerOf(server).complete(cursor('f(|)'), never), [{ text: 'a, b)', replaced: 1 }]);
});

test('one line is asked for and given where the user wants one', async (context) => {
  const server = await serve(context, () => [['\n    a = 1', '\n    b = 2']]);
  assert.deepEqual(await texts(completerOf(server, { preference: 'line' }), cursor('def f():|')), ['\n    a = 1']);
});

test('in an indented line the model is asked from its beginning', async (context) => {
  const server = await serve(context, () => [['  ', '  return', ' 1\n\nf()\n']]);
  const completer = completerOf(server);
  assert.deepEqual(await texts(completer, cursor('def f():\n    |')), ['return 1']);
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

test('a key asks for candidates: those that are shown stay in front, and each is there once', async (context) => {
  const answers = [[[' 1\n\nb']], [[' 2'], [' 1'], [' 2'], [' 3']]];
  const server = await serve(context, () => answers.shift() ?? []);
  const completer = completerOf(server, { candidates: 4 });
  assert.deepEqual(await texts(completer, cursor('x =|')), [' 1']);
  assert.deepEqual(await texts(completer, cursor('x =|', { asked: true })), [' 1', ' 2', ' 3']);
  assert.equal(server.requests[1].body.n, 4);
  assert.equal(server.requests[1].body.temperature, 0.8);
  assert.deepEqual(await texts(completer, cursor('x = |')), ['1', '2', '3']); // typing along all of them
  assert.equal(server.requests.length, 2);
});

test('thirty candidates are thirty suggestions', async (context) => {
  const server = await serve(context, (body) => Array.from({ length: body.n }, (_, place) => [` ${place}`, '\n\nrest\n', ...Array(1e3).fill('more\n')]));
  const ended = server.ended();
  const found = await texts(completerOf(server, { candidates: 30 }), cursor('x =|', { asked: true }));
  assert.deepEqual(found, Array.from({ length: 30 }, (_, place) => ` ${place}`));
  await ended;
  assert.equal(server.brokenOff, 1); // at the end of the last block
});

test('several suggestions come while typing where the user wants them, the likeliest first', async (context) => {
  const server = await serve(context, () => [[' a', '1\n\n'], [' b'], [' c']], [[-2, -1], [-0.1], [-1]]);
  assert.deepEqual(await texts(completerOf(server, { suggestions: 3 }), cursor('x =|')), [' b', ' c', ' a1']);
  const { n, logprobs, temperature } = server.requests[0].body;
  assert.deepEqual({ n, logprobs, temperature }, { n: 3, logprobs: 0, temperature: 0.8 });
});

test('a suggestion of which the model is not sure is withheld, but not from a user who asks', async (context) => {
  const server = await serve(context, () => [[' a', '😀b', '\nno\n\n']], [[-1, -3, -90]]);
  const place = cursor('x =|');
  assert.deepEqual(await texts(completerOf(server, { minimumLogProbability: -1.5, preference: 'line' }), place), []);
  assert.deepEqual(await texts(completerOf(server, { minimumLogProbability: -2, preference: 'line' }), place), [' a😀b']);
  const completer = completerOf(server, { minimumLogProbability: -0.1, candidates: 1, preference: 'line' });
  assert.deepEqual(await texts(completer, place), []);
  assert.deepEqual(await texts(completer, { ...place, asked: true }), [' a😀b']);
  assert.ok(!('logprobs' in server.requests.at(-1)?.body));
});

test('without a limit the server need not say how likely its tokens are', async (context) => {
  const server = await serve(context, () => [['x']]);
  await texts(completerOf(server), cursor('a|'));
  assert.ok(!('logprobs' in server.requests[0].body) && !('n' in server.requests[0].body));
});
