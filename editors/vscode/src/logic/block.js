'use strict';

const TAB = 4;
const OPENS = /(?:[:{([]|\b(?:do|then)|=>)\s*(?:(?:#|\/\/).*)?$/;
const OPENS_BRACE = /\{\s*(?:(?:#|\/\/).*)?$/;
const OPENS_BRACKET = /([{([])\s*(?:(?:#|\/\/).*)?$/;
const CLOSES = /^(?:[)\]}]|<\/|(?:end|fi|done|esac)\b)/;
const GOES_ON = /^(?:else|elif|elsif|elseif|except|finally|catch|rescue|ensure)\b/;
const MAY_GO_ON = /^(?:\}\s*)?(?:if|else|try|catch)\b/;
// what follows deeper is its body, whatever its first line ends with: `def f(self,`, `def f` of Ruby, `if (a)`
const HEAD = /^(?:(?:local|public|private|protected|static|async|export)\s+)*(?:def|class|module|function|func|fn|if|unless|while|until|for|begin)\b/;
const LABEL = /^(?:case\b[^{]*|default\s*|public\s*|private\s*|protected\s*):/;
const PREAMBLE = /^(?:@|#|\/\/|\/\*|\*)/; // comments and decorators, which belong to what follows
/** @type {Record<string, string>} */
const CLOSERS = { '(': ')', '[': ']', '{': '}' };

/** @param {string} line */
function indentation(line) {
  const space = /^[ \t]*/.exec(line)?.[0] ?? '';
  return [...space].reduce((columns, character) => columns + (character === '\t' ? TAB : 1), 0);
}

/** @param {string} line */
const blank = (line) => line.trim() === '';

/**
 * @typedef {object} Around the brackets around a block
 * @property {string} closer the bracket that ends them
 * @property {number} depth indentation of the line that opens them
 */

/**
 * How many of the lines belong to the block that the first of them begins or lies in.
 * @param {string[]} lines the first one from its first column on
 * @param {boolean} complete no line follows
 * @param {Around} [around] brackets in which the first line stands and which nothing closes after the cursor
 * @returns {number | undefined} undefined: as far as is known, all
 */
function linesOfBlock(lines, complete, around) {
  const own = indentation(lines[0]);
  const start = lines.findIndex((line) => !PREAMBLE.test(line.trim()));
  const head = start > 0 && !blank(lines[start]) && indentation(lines[start]) === own ? start : 0;
  const first = lines[head].trim();
  let open = OPENS.test(first);
  let opened = open;
  let brace = OPENS_BRACE.test(first);
  for (let place = head + 1; place < lines.length; place++) {
    const line = lines[place];
    if (blank(line)) continue;
    const word = line.trim();
    const depth = indentation(line);
    if (depth < own) {
      if (!around || depth !== around.depth || !word.startsWith(around.closer)) return place;
      if (!OPENS.test(word)) return place + 1;
      const body = linesOfBlock(lines.slice(place), complete); // `):`, `) {`
      return body === undefined ? undefined : place + body;
    }
    if (depth > own) {
      if (!opened && place === head + 1 && HEAD.test(first)) opened = open = true;
      continue;
    }
    if (opened) {
      const closes = CLOSES.test(word);
      if (brace && open && LABEL.test(word) && !LABEL.test(first)) continue;
      if (!open && word.startsWith('{')) {
        open = brace = true; // `else` and then a brace
        continue;
      }
      if (!open && !GOES_ON.test(word)) return place;
      if (open && !closes && !GOES_ON.test(word)) return place;
      open = OPENS.test(word); // `} else {`, `):`
      brace = OPENS_BRACE.test(word);
      if (closes && !open && !goesOn(lines, place, complete, first)) return place + 1;
    } else if (word.startsWith('{') && place === head + 1) {
      opened = open = brace = true; // a brace in its own line
    } else if (own === 0 && blank(lines[place - 1])) {
      return place; // outside of any block, a paragraph
    }
  }
  return undefined;
}

/**
 * Whether the block goes on after the closing bracket of a line: an `else` in the next one. Unknown is yes.
 * @param {string[]} lines
 * @param {number} place
 * @param {boolean} complete
 * @param {string} first line of the block
 */
function goesOn(lines, place, complete, first) {
  if (!MAY_GO_ON.test(first)) return false;
  const next = lines.slice(place + 1).find((line) => !blank(line));
  return next === undefined ? !complete : GOES_ON.test(next.trim()) && indentation(next) === indentation(lines[place]);
}

/**
 * The brackets that a line stands in, by indentation, unless the text after the cursor closes them.
 * @param {string[]} above the lines before it
 * @param {number} own its indentation
 * @param {string} suffix
 * @returns {Around | undefined}
 */
function brackets(above, own, suffix) {
  const header = above.findLast((line) => !blank(line) && indentation(line) < own);
  const bracket = header && OPENS_BRACKET.exec(header)?.[1];
  if (!header || !bracket) return undefined;
  const closer = CLOSERS[bracket];
  const [rest, ...below] = suffix.split(/\r?\n/);
  const next = rest.trim() || below.find((line) => !blank(line) && indentation(line) < own)?.trim();
  return next?.startsWith(closer) ? undefined : { closer, depth: indentation(header) };
}

/**
 * A completion up to where the block ends that the cursor's line begins or lies in, by indentation.
 * @param {string} prefix the text before the cursor
 * @param {string} text the completion so far
 * @param {{complete: boolean, oneLine: boolean, suffix?: string}} options complete: nothing follows; until then the last
 *     line of `text` is not judged. oneLine: the first line that is not blank is the whole completion. suffix: the text
 *     after the cursor.
 * @returns {{text: string, ended: boolean}} ended: whatever follows does not belong to it
 */
function upToBlockEnd(prefix, text, { complete, oneLine, suffix = '' }) {
  const above = prefix.split('\n');
  const before = above.pop() ?? '';
  const lines = (before + text).split(/\r?\n/);
  const first = lines.findIndex((line, place) => !blank(line) && (place > 0 || !blank(text) || !blank(before)));
  const known = complete ? lines : lines.slice(0, -1);
  let end;
  if (oneLine) {
    const said = lines.findIndex((line, place) => !blank(place === 0 ? line.slice(before.length) : line));
    if (said >= 0 && said + 1 < lines.length) end = said + 1;
  } else if (first >= 0 && first < known.length) {
    const around = brackets([...above, ...lines.slice(0, first)], indentation(lines[first]), suffix);
    const count = linesOfBlock(known.slice(first), complete, around);
    if (count !== undefined) end = first + count;
  }
  const kept = lines.slice(0, end).join('\n').slice(before.length);
  return { text: kept.trimEnd(), ended: end !== undefined };
}

module.exports = { upToBlockEnd };
