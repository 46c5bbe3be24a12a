'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { replaced } = require('../src/logic/closers');

/** @type {[string, string, number, string][]} completion, rest of the line, characters replaced, the line's end then */
const CASES = [
  ['a, b)', ')', 1, 'a, b)'],
  ['a, g(b)', ')', 0, 'a, g(b))'],
  ['a, g(b))', ')', 1, 'a, g(b))'],
  ['a)', '))', 1, 'a))'],
  ['hi")', '")', 2, 'hi")'],
  ['"hi")', ')', 1, '"hi")'],
  ['")"', ')', 0, '")")'],
  ["it's)", ')', 0, "it's))"],
  ['a]', ')', 0, 'a])'],
  ['a)', '', 0, 'a)'],
  ['1) + f(2)', ' ) ;', 2, '1) + f(2) ;'],
  ['\n  return 1;\n}', '}', 1, '\n  return 1;\n}'],
  ['\n  if (a) {\n  }\n}', '}', 1, '\n  if (a) {\n  }\n}'],
  ['', ')', 0, ')'],
];

for (const [text, after, count, result] of CASES) {
  test(`${JSON.stringify(text)} before ${JSON.stringify(after)} replaces ${count}`, () => {
    assert.equal(replaced(text, after), count);
    assert.equal(text + after.slice(count), result);
  });
}
