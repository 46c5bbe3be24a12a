'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { afterIndentation, fromWholeLine, indentation, onlyClosersFollow, wholeEnds, windowStart } = require('../src/logic/around');

test('text that was cut off begins with a whole line', () => {
  assert.equal(fromWholeLine('rst\nsecond\nth'), 'second\nth');
  assert.equal(fromWholeLine('long line'), 'long line');
});

test('a character that was cut in two at an end is left out, and others stay', () => {
  const smile = '\u{1F600}';
  assert.equal(wholeEnds(`${smile.slice(1)}\n${smile}\n${smile.slice(0, 1)}`), `\n${smile}\n`);
  for (const text of ['', 'x', smile, `${smile}x${smile}`]) assert.equal(wholeEnds(text), text);
});

test('the window before the cursor starts at the same place for 1,000 characters', () => {
  const starts = new Map();
  for (let offset = 0; offset < 10000; offset++) {
    const start = windowStart(offset, 4000);
    assert.ok(start === 0 ? offset <= 4000 : offset - start > 3000 && offset - start <= 4000, `${offset}`);
    starts.set(start, (starts.get(start) ?? 0) + 1);
  }
  assert.deepEqual([...starts.keys()], [0, 1000, 2000, 3000, 4000, 5000, 6000]);
  assert.equal(starts.get(3000), 1000);
  for (const most of [0, 1, 3, 10]) assert.ok(windowStart(100, most) >= 100 - most && windowStart(100, most) <= 100);
});

test('nothing is suggested before other text in a line', () => {
  for (const rest of ['', ')', '")', ' }', '"],', '});', '`>', ')\nmore']) assert.ok(onlyClosersFollow(rest), rest);
  for (const rest of ['x', ') x', ' + 1', '(', '.a()']) assert.ok(!onlyClosersFollow(rest), rest);
});

test('indentation is white space that is alone before the cursor', () => {
  assert.equal(indentation('def f():\n    '), '    ');
  assert.equal(indentation('\t'), '\t');
  assert.equal(indentation('x = '), '');
  assert.equal(indentation('x\n'), '');
});

test('an answer from the beginning of the line fits behind the white space that is there, or is none', () => {
  assert.equal(afterIndentation('    return 1', '    '), 'return 1');
  assert.equal(afterIndentation('        return 1', '    '), '    return 1');
  assert.equal(afterIndentation('\n    return 1', '    '), '\n    return 1');
  assert.equal(afterIndentation('  return 1', '    '), '');
  assert.equal(afterIndentation('print()', '    '), '');
  assert.equal(afterIndentation('  ', '    '), '');
});
