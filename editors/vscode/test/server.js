'use strict';

const { once } = require('node:events');
const http = require('node:http');

/**
 * A server with the routes of `ms-codegeex serve`, which streams the texts that a function answers. It remembers the
 * requests and counts those that were broken off.
 */
class Server {
  /** @param {(body: any, path: string) => string[][] | {status: number, message: string} | 'hang' | 'break'} answer
   *     pieces of each choice; an error; no end; or an end without `[DONE]`
   * @param {number[][]} [scores] log-probability of each piece, which is one token then */
  constructor(answer, scores) {
    /** @type {{path: string | undefined, body: any, key: string | undefined}[]} */
    this.requests = [];
    this.brokenOff = 0;
    this.server = http.createServer(async (request, response) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const body = JSON.parse(Buffer.concat(chunks).toString());
      this.requests.push({ path: request.url, body, key: request.headers.authorization });
      response.on('close', () => {
        if (!response.writableFinished) this.brokenOff++;
        this.server.emit('closed');
      });
      const answered = answer(body, request.url ?? '');
      if (typeof answered === 'object' && 'status' in answered) {
        response.writeHead(answered.status, { 'Content-Type': 'application/json' });
        response.end(JSON.stringify({ error: { message: answered.message, type: 'e', param: null, code: null } }));
        return;
      }
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.flushHeaders();
      if (answered === 'hang') return;
      const texts = answered === 'break' ? [['x']] : answered;
      const longest = Math.max(...texts.map((pieces) => pieces.length));
      for (let place = 0; place < longest && !response.destroyed; place++) {
        for (const [index, pieces] of texts.entries()) {
          if (place >= pieces.length) continue;
          const finish = place === pieces.length - 1 ? 'stop' : null;
          const choice = { index, text: pieces[place], finish_reason: finish, logprobs: null };
          if (scores) {
            const offset = [...pieces.slice(0, place).join('')].length;
            Object.assign(choice, { logprobs: { token_logprobs: [scores[index][place]], text_offset: [offset] } });
          }
          response.write(`data: ${JSON.stringify({ object: 'text_completion', choices: [choice] })}\n\n`);
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
      response.end(answered === 'break' ? undefined : 'data: [DONE]\n\n');
    });
  }

  async start() {
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    this.url = `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (this.server.address()).port}`;
    return this;
  }

  /** Resolves when the next request has ended. */
  async ended() {
    await once(this.server, 'closed');
  }

  stop() {
    this.server.closeAllConnections();
    this.server.close();
  }
}

/**
 * @param {import('node:test').TestContext} context
 * @param {ConstructorParameters<typeof Server>[0]} answer
 * @param {number[][]} [scores]
 */
async function serve(context, answer, scores) {
  const server = await new Server(answer, scores).start();
  context.after(() => server.stop());
  return server;
}

module.exports = { serve };
