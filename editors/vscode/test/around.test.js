'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { afterIndentation, fromWholeLine, indentation, onlyClosersFollow } = require('../src/logic/around');

test('text that was cut off begins with a whole line', () => {
  assert.equal(fromWholeLine('rst\nsecond\nth'), 'second\nth');
  assert.equal(fromWholeLine('long line'), 'long line');
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
