'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { Acceptance, rows } = require('../src/logic/acceptance');
const { acceptancePage } = require('../src/logic/acceptancePage');

/** @param {() => boolean} [wanted] */
function counter(wanted = () => true) {
  /** @type {any} */
  let kept;
  const store = { read: () => kept, write: (/** @type {any} */ counts) => (kept = counts && structuredClone(counts)) };
  return new Acceptance(store, wanted, () => new Date('2026-01-02T03:04:05Z'));
}

test('suggestions and acceptances are counted by language', () => {
  const acceptance = counter();
  for (const language of ['python', 'python', 'go', 'python']) acceptance.shown(language);
  acceptance.accepted('python', 12);
  acceptance.accepted('python', 30);
  assert.deepEqual(acceptance.counts, {
    since: '2026-01-02',
    languages: { python: { shown: 3, accepted: 2, characters: 42 }, go: { shown: 1, accepted: 0, characters: 0 } },
  });
  assert.deepEqual(rows(acceptance.counts, 'All'), [
    ['python', '3', '2', '66.7 %', '42'],
    ['go', '1', '0', '0.0 %', '0'],
    ['All', '4', '2', '50.0 %', '42'],
  ]);
  acceptance.reset();
  assert.deepEqual(acceptance.counts.languages, {});
});

test('nothing is counted unless the user wants it', () => {
  const acceptance = counter(() => false);
  acceptance.shown('python');
  acceptance.accepted('python', 1);
  assert.deepEqual(acceptance.counts.languages, {});
  assert.deepEqual(rows(acceptance.counts, 'All'), [['All', '0', '0', '–', '0']]);
});

test('the table is a page without a script', () => {
  const acceptance = counter();
  acceptance.shown('<b>');
  const words = { title: 'T', said: 'S', heads: ['a', 'b', 'c', 'd', 'e'], sum: 'All', nonce: 'n0', language: 'en' };
  const html = acceptancePage(acceptance.counts, words);
  assert.ok(html.includes('<td>&lt;b&gt;</td><td>1</td><td>0</td><td>0.0 %</td><td>0</td>') && !html.includes('<script'));
});
