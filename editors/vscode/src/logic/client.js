'use strict';

const { addressOf } = require('./address');

/** What went wrong with a request, in one line for the user. `kind` says what can be done about it. */
class ServerError extends Error {
  /**
   * @param {string} template the line, with `{0}`, `{1}` for its parts; it can be translated
   * @param {'unreachable' | 'key' | 'busy' | 'other'} kind
   * @param {(string | number)[]} [parts]
   */
  constructor(template, kind, parts = []) {
    super(template.replace(/\{(\d)\}/g, (mark, place) => String(parts[place] ?? mark)));
    this.template = template;
    this.kind = kind;
    this.parts = parts;
  }
}

/** @type {Record<string, string>} our own lines; the others are the server's */
const LINES = {
  empty: '{0} gave no answer',
  paused: '{0} stopped in its answer for {1} s',
  broken: '{0} ended its answer early',
  silent: '{0} did not answer within {1} s',
  unreachable: 'no server answers at {0}: start `ms-codegeex serve`, or change the address',
  address: '{0} is not an address: it must begin with http:// or https://',
  foreign: '{0} does not answer as `ms-codegeex serve` does',
};

/**
 * @typedef {object} Piece a part of an answer
 * @property {number} index which of the answers
 * @property {string} text
 * @property {string | null} finish why the answer ended, with its last piece
 * @property {Scored[]} tokens those of its text, if their log-probabilities were asked for
 *
 * @typedef {object} Scored a token
 * @property {number} offset where it begins in the answer, in characters
 * @property {number} score its log-probability
 */

/**
 * @typedef {object} Connection
 * @property {string} server address, as the user wrote it
 * @property {string | undefined} key
 * @property {number} timeout seconds that the server may be silent, before its answer or within it
 */

/** Requests to `ms-codegeex serve`. Nothing is kept between them. */
class Client {
  /**
   * @param {() => Promise<Connection>} connection asked for before each request
   * @param {typeof fetch} [send]
   */
  constructor(connection, send = fetch) {
    this.connection = connection;
    this.send = send;
  }

  /**
   * The pieces of an answer as they come. Aborting the signal closes the connection, and the server stops computing.
   * @param {string} path
   * @param {object} body
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<Piece>}
   */
  async *stream(path, body, signal) {
    const connection = await this._connected();
    const silence = new Silence(connection.timeout);
    try {
      const response = await this._request(connection, path, { ...body, stream: true }, signal, silence);
      if (!response.body) throw new ServerError(LINES.empty, 'other', [connection.server]);
      for await (const event of events(response.body, silence)) {
        if (event.error) throw new ServerError(event.error.message, 'other');
        for (const choice of event.choices ?? []) {
          yield pieceOf(choice);
        }
      }
    } catch (error) {
      if (signal.aborted || error instanceof ServerError) throw error;
      if (silence.signal.aborted) {
        throw new ServerError(LINES.paused, 'unreachable', [connection.server, connection.timeout]);
      }
      throw new ServerError(LINES.broken, 'busy', [connection.server]);
    } finally {
      silence.end();
    }
  }

  /**
   * What the server has.
   * @param {AbortSignal} signal
   * @returns {Promise<Model[]>}
   */
  async models(signal) {
    const connection = await this._connected();
    const silence = new Silence(connection.timeout);
    try {
      const response = await this._request(connection, '/v1/models', undefined, signal, silence);
      const { data } = /** @type {any} */ (await response.json());
      return data.map(modelOf);
    } catch (error) {
      if (signal.aborted || error instanceof ServerError) throw error;
      throw new ServerError(LINES.foreign, 'other', [connection.server]);
    } finally {
      silence.end();
    }
  }

  /** The connection with its address as the requests need it. */
  async _connected() {
    const connection = await this.connection();
    const server = addressOf(connection.server);
    if (!server) throw noAddress(connection.server);
    return { ...connection, server };
  }

  /**
   * @param {Connection} connection
   * @param {string} path
   * @param {object | undefined} body none: the request has no effect
   * @param {AbortSignal} signal
   * @param {Silence} silence
   */
  async _request({ server, key, timeout }, path, body, signal, silence) {
    /** @type {Response} */
    let response;
    try {
      response = await this.send(server + path, {
        ...(body && { method: 'POST', body: JSON.stringify(body) }),
        headers: { ...(body && { 'Content-Type': 'application/json' }), ...(key && { Authorization: `Bearer ${key}` }) },
        signal: AbortSignal.any([signal, silence.signal]),
      });
    } catch (error) {
      if (signal.aborted) throw error;
      if (silence.signal.aborted) throw new ServerError(LINES.silent, 'unreachable', [server, timeout]);
      throw new ServerError(LINES.unreachable, 'unreachable', [server]);
    }
    if (response.ok) return response;
    const message = await complaint(response);
    if (response.status === 401 || response.status === 403) throw new ServerError(message, 'key');
    throw new ServerError(message, response.status === 429 || response.status === 503 ? 'busy' : 'other');
  }
}

/**
 * The error of a text that is not a server's address.
 * @param {string} text
 */
function noAddress(text) {
  return new ServerError(LINES.address, 'unreachable', [text]);
}

/**
 * @typedef {object} Model
 * @property {string} id its name
 * @property {number} context tokens of a text and its continuation
 * @property {boolean} infill whether it was trained to fill gaps
 * @property {boolean} chat whether it was trained for conversations
 *
 * @param {any} entry of `/v1/models`
 * @returns {Model}
 */
function modelOf({ id, context_length: context, infill, chat }) {
  return { id: String(id), context: Number(context), infill: infill === 'trained', chat: chat === true };
}

/**
 * @param {any} choice of an event
 * @returns {Piece}
 */
function pieceOf({ index, text, delta, finish_reason: finish, logprobs }) {
  /** @type {number[]} */
  const scores = logprobs?.token_logprobs ?? [];
  const tokens = scores.map((score, place) => ({ offset: logprobs.text_offset[place], score }));
  return { index, text: text ?? delta?.content ?? '', finish: finish ?? null, tokens };
}

/** A limit for the time without data from the server: `signal` aborts when it is reached. */
class Silence {
  /** @param {number} seconds */
  constructor(seconds) {
    this._controller = new AbortController();
    this._timer = setTimeout(() => this._controller.abort(), seconds * 1000);
  }

  get signal() {
    return this._controller.signal;
  }

  /** The server has sent something: the time begins again. */
  broken() {
    this._timer.refresh();
  }

  /** Nothing more is expected. */
  end() {
    clearTimeout(this._timer);
  }
}

/** @param {Response} response */
async function complaint(response) {
  try {
    return /** @type {any} */ (await response.json()).error.message;
  } catch {
    return `${response.url} answered ${response.status} ${response.statusText}`;
  }
}

/**
 * The JSON values of server-sent events, up to `[DONE]`.
 * @param {AsyncIterable<Uint8Array>} body
 * @param {Silence} silence broken by each part of the body
 * @returns {AsyncGenerator<any>}
 */
async function* events(body, silence) {
  const decoder = new TextDecoder(); // keeps a character that is split between two chunks
  let rest = '';
  for await (const bytes of body) {
    silence.broken();
    const lines = (rest + decoder.decode(bytes, { stream: true })).split(/\r?\n/);
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (!line.startsWith('data:')) continue;
      const data = line.slice('data:'.length).trim();
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
  throw new Error('no [DONE]');
}

module.exports = { Client, ServerError, noAddress };
