'use strict';

const TAB = 4;
const OPENS = /(?:[:{([]|\b(?:do|then)|=>)\s*(?:(?:#|\/\/).*)?$/;
const CLOSES = /^(?:[)\]}]|<\/|(?:end|fi|done|esac)\b)/;
const GOES_ON = /^(?:else|elif|elsif|elseif|except|finally|catch|rescue|ensure)\b/;

/** @param {string} line */
function indentation(line) {
  const space = /^[ \t]*/.exec(line)?.[0] ?? '';
  return [...space].reduce((columns, character) => columns + (character === '\t' ? TAB : 1), 0);
}

/** @param {string} line */
const blank = (line) => line.trim() === '';

/**
 * How many of the lines belong to the block that the first of them begins or lies in.
 * @param {string[]} lines the first one from its first column on; complete, the last one perhaps not
 */
function linesOfBlock(lines) {
  const own = indentation(lines[0]);
  let open = OPENS.test(lines[0]);
  const opened = open;
  for (let place = 1; place < lines.length; place++) {
    const line = lines[place];
    if (blank(line)) continue;
    const depth = indentation(line);
    if (depth < own) return place;
    if (depth > own) continue;
    const word = line.trim();
    if (opened) {
      const closes = CLOSES.test(word);
      if (!open || !(closes || GOES_ON.test(word))) return place;
      open = OPENS.test(word); // `} else {`, `):`
      if (closes && !open) return place + 1;
    } else if (own === 0 && blank(lines[place - 1])) {
      return place; // outside of any block, a paragraph
    }
  }
  return undefined;
}

/**
 * A completion up to where the block ends that the cursor's line begins or lies in, by indentation.
 * @param {string} prefix the text before the cursor
 * @param {string} text the completion so far
 * @param {{complete: boolean, oneLine: boolean}} options complete: nothing follows; until then the last line of `text`
 *     is not judged. oneLine: the first line that is not blank is the whole completion.
 * @returns {{text: string, ended: boolean}} ended: whatever follows does not belong to it
 */
function upToBlockEnd(prefix, text, { complete, oneLine }) {
  const before = prefix.slice(prefix.lastIndexOf('\n') + 1);
  const lines = (before + text).split(/\r?\n/);
  const first = lines.findIndex((line, place) => !blank(line) && (place > 0 || !blank(text) || !blank(before)));
  const known = complete ? lines : lines.slice(0, -1);
  let end;
  if (oneLine) {
    const said = lines.findIndex((line, place) => !blank(place === 0 ? line.slice(before.length) : line));
    if (said >= 0 && said + 1 < lines.length) end = said + 1;
  } else if (first >= 0 && first < known.length) {
    const count = linesOfBlock(known.slice(first));
    if (count !== undefined) end = first + count;
  }
  const kept = lines.slice(0, end).join('\n').slice(before.length);
  return { text: kept.trimEnd(), ended: end !== undefined };
}

module.exports = { upToBlockEnd };
