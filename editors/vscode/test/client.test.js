'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { Client } = require('../src/logic/client');
const { serve } = require('./server');

/** @param {string} server @param {string} [key] @param {number} [timeout] */
const clientOf = (server, key, timeout = 60) => new Client(async () => ({ server, key, timeout }));
const never = new AbortController().signal;

/** @param {Client} client */
async function all(client, body = {}, signal = never) {
  const pieces = [];
  for await (const piece of client.stream('/v1/completions', body, signal)) pieces.push(piece);
  return pieces;
}

test('an answer comes in pieces, and the request has the key', async (context) => {
  const server = await serve(context, () => [['im', 'port'], ['x']]);
  assert.deepEqual(await all(clientOf(`${server.url}/`, 'secret'), { prompt: 'p' }), [
    { index: 0, text: 'im', finish: null, tokens: [] },
    { index: 1, text: 'x', finish: 'stop', tokens: [] },
    { index: 0, text: 'port', finish: 'stop', tokens: [] },
  ]);
  assert.deepEqual(server.requests, [
    { path: '/v1/completions', body: { prompt: 'p', stream: true }, key: 'Bearer secret' },
  ]);
});

test('without a key there is no header for it', async (context) => {
  const server = await serve(context, () => [['x']]);
  await all(clientOf(/** @type {string} */ (server.url)));
  assert.equal(server.requests[0].key, undefined);
});

test('characters and events that are split between chunks are put together', async () => {
  const bytes = new TextEncoder().encode('data: {"choices":[{"index":0,"text":"é漢😀"}]}\r\n\r\ndata: [DONE]\n\n');
  const send = async () =>
    new Response(
      new ReadableStream({
        start(controller) {
          for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
          controller.close();
        },
      }),
    );
  const client = new Client(async () => ({ server: 'http://x', key: undefined, timeout: 1 }), send);
  assert.deepEqual(await all(client), [{ index: 0, text: 'é漢😀', finish: null, tokens: [] }]);
});

for (const [status, kind] of /** @type {[number, string][]} */ ([
  [400, 'other'],
  [401, 'key'],
  [403, 'key'],
  [429, 'busy'],
  [503, 'busy'],
])) {
  test(`the server's own words for status ${status} reach the user`, async (context) => {
    const server = await serve(context, () => ({ status, message: 'what is wrong' }));
    await assert.rejects(all(clientOf(/** @type {string} */ (server.url))), { message: 'what is wrong', kind });
  });
}

test('an answer that is not an answer of ours is reported with its status', async () => {
  const send = async () => new Response('<html>', { status: 404, statusText: 'Not Found' });
  const client = new Client(async () => ({ server: 'http://x', key: undefined, timeout: 1 }), send);
  await assert.rejects(all(client), /404 Not Found/);
});

test('a server that does not answer is reported with its address and the remedy', async (context) => {
  const server = await serve(context, () => [['x']]);
  server.stop();
  const kind = 'unreachable';
  await assert.rejects(all(clientOf(/** @type {string} */ (server.url))), { kind, message: /no server answers at http/ });
});

test('a server that does not answer in time is given up', async (context) => {
  const server = await serve(context, () => 'hang');
  const client = new Client(async () => ({ server: 'http://x', key: undefined, timeout: 0.05 }), async (_, options) => {
    return new Promise((_, reject) => {
      options?.signal?.addEventListener('abort', () => reject(/** @type {AbortSignal} */ (options.signal).reason));
    });
  });
  await assert.rejects(all(client), { kind: 'unreachable', message: /did not answer within 0.05 s/ });
  assert.equal(server.requests.length, 0);
});

test('an answer that goes on takes longer than the limit for silence', async () => {
  const pieces = Array.from({ length: 40 }, (_, place) => `data: {"choices":[{"index":0,"text":"${place} "}]}\n\n`);
  const client = slow([...pieces, 'data: [DONE]\n\n'], 0.5);
  const texts = (await all(client)).map(({ text }) => text);
  assert.deepEqual(texts, Array.from({ length: 40 }, (_, place) => `${place} `));
});

test('an answer in which the server falls silent is given up with that reason', async () => {
  const client = slow(['data: {"choices":[{"index":0,"text":"x"}]}\n\n', null], 0.1);
  await assert.rejects(all(client), { kind: 'unreachable', message: 'http://x stopped in its answer for 0.1 s' });
});

/**
 * A client whose server sends a part every 20 ms; null: nothing more, until the connection is closed.
 * @param {(string | null)[]} parts @param {number} timeout
 */
function slow(parts, timeout) {
  /** @type {typeof fetch} */
  const send = async (_, options) =>
    new Response(
      new ReadableStream({
        async pull(controller) {
          const part = parts.shift();
          const signal = /** @type {AbortSignal} */ (options?.signal);
          if (part) {
            await new Promise((resolve) => setTimeout(resolve, 20));
            controller.enqueue(new TextEncoder().encode(part));
          } else if (part === null) {
            await new Promise((resolve) => signal.addEventListener('abort', resolve));
          }
          if (signal.aborted) controller.error(signal.reason);
          else if (!parts.length) controller.close();
        },
      }),
    );
  return new Client(async () => ({ server: 'http://x', key: undefined, timeout }), send);
}

test('an answer that breaks off is an error, not a short answer', async (context) => {
  const server = await serve(context, () => 'break');
  await assert.rejects(all(clientOf(/** @type {string} */ (server.url))), /ended its answer early/);
});

test('aborting closes the connection', async (context) => {
  const server = await serve(context, () => 'hang');
  const controller = new AbortController();
  const ended = server.ended();
  const asked = all(clientOf(/** @type {string} */ (server.url)), {}, controller.signal);
  server.server.once('request', () => setImmediate(() => controller.abort()));
  await assert.rejects(asked, { name: 'AbortError' });
  await ended;
  assert.equal(server.brokenOff, 1);
});

/** @param {unknown} body @param {number} [status] */
const answering = (body, status = 200) =>
  new Client(
    async () => ({ server: 'http://x', key: 'k', timeout: 1 }),
    async (url, options) => {
      assert.equal(url, 'http://x/v1/models');
      assert.deepEqual(options?.headers, { Authorization: 'Bearer k' });
      assert.equal(options?.method, undefined);
      return new Response(JSON.stringify(body), { status });
    },
  );

test('the models are read with what they can do', async () => {
  const data = [
    { id: 'base', context_length: 2048, infill: 'prefix-only', chat: false, more: 1 },
    { id: 'talk', context_length: 8192, infill: 'trained', chat: true },
  ];
  assert.deepEqual(await answering({ data }).models(never), [
    { id: 'base', context: 2048, infill: false, chat: false },
    { id: 'talk', context: 8192, infill: true, chat: true },
  ]);
});

test('a server of another kind is told from ours, and a wrong key from both', async () => {
  for (const body of [{}, [], { data: 5 }, null]) {
    await assert.rejects(answering(body).models(never), { kind: 'other', message: /does not answer as `ms-codegeex serve`/ });
  }
  await assert.rejects(answering({ error: { message: 'wrong key' } }, 401).models(never), { kind: 'key', message: 'wrong key' });
});

test('the address is taken as people write it, and text that is none is told before anything is asked', async (context) => {
  const server = await serve(context, () => [['x']]);
  await all(clientOf(`${server.url}/v1/`));
  assert.equal(server.requests[0].path, '/v1/completions');
  for (const text of ['127.0.0.1:8000', 'localhost:8000', '']) {
    const expected = { kind: 'unreachable', message: `${text} is not an address: it must begin with http:// or https://` };
    const refused = new Client(async () => ({ server: text, key: 'k', timeout: 1 }), () => assert.fail('asked'));
    await assert.rejects(refused.models(never), expected);
    await assert.rejects(all(refused), expected);
  }
});
