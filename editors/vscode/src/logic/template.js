'use strict';

const { commentOf } = require('./ring');

// `<INPUT>`: the selection; `<INPUT:a,b>`: its lines a to b-1, counted from 0, as JavaScript's slice; `<INPUT:a>`: those
// from a on. The text that describes them writes `<INPUT0:1>` for `<INPUT:0,1>`.
const MARK = /<INPUT(?:(?<first>-?\d+):(?<last>-?\d+)|:(?<lines>[^<>\n]*))?>/g;
const LINES = /^\s*(?<first>-?\d+)\s*(?:,\s*(?<last>-?\d+)\s*)?$/;
const TAG = /^\W*language:/i; // of the model's training data; the server need not add one

/** A template with a mark that means nothing. */
class TemplateError extends Error {
  /** @param {string} mark */
  constructor(mark) {
    super(`${mark} is not a template mark: write <INPUT>, <INPUT:0,1> or <INPUT:1>`);
    this.mark = mark;
  }
}

/**
 * The prompt that a template makes of a selection, in the format of the published extension's template files.
 * @param {string} template
 * @param {string} selection
 * @returns {{prompt: string, head: string, tagged: boolean}} head: if the template ends with the first lines of the
 *     selection, these, with which the answer begins. tagged: the prompt names its language itself.
 */
function filled(template, selection) {
  const text = template.replaceAll('\r\n', '\n').replace(/^\ufeff/, '');
  const lines = selection.replaceAll('\r\n', '\n').split('\n');
  let head = '';
  const prompt = text.replace(MARK, (mark, ...rest) => {
    const range = rangeOf(mark, /** @type {Record<string, string | undefined>} */ (rest.at(-1)));
    const inserted = lines.slice(range.first, range.last).join('\n');
    const after = text.slice(/** @type {number} */ (rest.at(-3)) + mark.length);
    if (range.first === 0 && range.last !== undefined && inserted && after.trim() === '') head = inserted + after;
    return inserted;
  });
  return { prompt, head, tagged: TAG.test(prompt.trimStart()) };
}

/**
 * A wish for other code, as a model sees it that continues text: the code, the wish as a comment, the code's first line.
 * @param {string} code
 * @param {string} wish
 * @param {string | undefined} language our name of it
 */
function wished(code, wish, language) {
  const comment = commentOf(language);
  const [first] = code.replaceAll('\r\n', '\n').split('\n');
  const prompt = `${code}\n\n${comment} ${wish.replace(/\s+/g, ' ')}\n${first}\n`;
  return { prompt, head: `${first}\n` };
}

/**
 * @param {string} mark
 * @param {Record<string, string | undefined>} groups of `MARK`
 */
function rangeOf(mark, { first, last, lines }) {
  const found = lines === undefined ? { first: first ?? '0', last } : LINES.exec(lines)?.groups;
  if (!found) throw new TemplateError(mark);
  return { first: Number(found.first), last: found.last === undefined ? undefined : Number(found.last) };
}

module.exports = { TemplateError, filled, wished };
