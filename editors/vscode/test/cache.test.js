'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { Cache } = require('../src/logic/cache');

/** @param {string} prefix */
const at = (prefix, suffix = '', document = 'a.py') => ({ document, offset: prefix.length, prefix, suffix });

test('typing along a completion leaves its rest, and going back gives it whole', () => {
  const cache = new Cache();
  cache.add(at('import '), ['numpy as np']);
  assert.deepEqual(cache.find(at('import nu')), ['mpy as np']);
  assert.deepEqual(cache.find(at('import ')), ['numpy as np']);
  assert.equal(cache.find(at('import np')), undefined);
  assert.equal(cache.find(at('import numpy as np')), undefined); // used up: what follows is not known
  assert.equal(cache.find(at('import nu', '', 'b.py')), undefined);
});

test('an empty answer is remembered where it was given, and nowhere else', () => {
  const cache = new Cache();
  cache.add(at('x'), []);
  assert.deepEqual(cache.find(at('x')), []);
  assert.equal(cache.find(at('xy')), undefined);
});

test('typing along several completions leaves those that fit, in their order', () => {
  const cache = new Cache();
  cache.add(at('x = '), ['first(1)', 'second', 'first(2)', 'f']);
  assert.deepEqual(cache.find(at('x = f')), ['irst(1)', 'irst(2)']);
  assert.deepEqual(cache.find(at('x = first(2')), [')']);
});

test('text before the cursor that has changed is another place', () => {
  const cache = new Cache();
  cache.add(at('a = 1\nb = '), ['a + 1']);
  assert.equal(cache.find(at('a = 2\nb = ')), undefined);
});

test('brackets that the editor closes while one types make no difference, other text after the cursor does', () => {
  const cache = new Cache();
  cache.add(at('f', '\nnext line'), ['(a, b)']);
  assert.deepEqual(cache.find(at('f(', ')\nnext line')), ['a, b)']);
  assert.equal(cache.find(at('f(', ')\nother line')), undefined);
});

test('windows onto the same text that begin at different places are the same place', () => {
  const cache = new Cache();
  cache.add({ document: 'a', offset: 100, prefix: '0123456789', suffix: '' }, ['abc']);
  assert.deepEqual(cache.find({ document: 'a', offset: 101, prefix: '3456789a', suffix: '' }), ['bc']);
  assert.equal(cache.find({ document: 'a', offset: 101, prefix: '345x789a', suffix: '' }), undefined);
});

test('the newest completion counts, and the oldest are forgotten', () => {
  const cache = new Cache(2);
  cache.add(at('a'), ['old']);
  cache.add(at('b'), ['x']);
  cache.add(at('b'), ['y']);
  assert.deepEqual(cache.find(at('b')), ['y']);
  assert.equal(cache.find(at('a')), undefined);
});
