'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { Client } = require('../src/logic/client');
const { continued } = require('../src/logic/tasks');
const { TemplateError, filled } = require('../src/logic/template');
const { serve } = require('./server');

const SELECTION = 'def f(x):\n    y = x\n    return y';

/** @type {[string, string][]} a template, and the prompt that it makes of the selection */
const MARKS = [
  ['a <INPUT> b', `a ${SELECTION} b`],
  ['<INPUT:0,1>', 'def f(x):'],
  ['<INPUT:1>', '    y = x\n    return y'],
  ['<INPUT:-1>', '    return y'],
  ['<INPUT:0,-1>', 'def f(x):\n    y = x'],
  ['<INPUT: 1, 2 >', '    y = x'],
  ['<INPUT0:1>', 'def f(x):'],
  ['<INPUT:7,9>|', '|'],
  ['<INPUT:0,1> and <INPUT:1,2> in one line', 'def f(x): and     y = x in one line'],
  ['<input> <INPUTS> < INPUT> <OUTPUT>', '<input> <INPUTS> < INPUT> <OUTPUT>'],
  ['no mark\n', 'no mark\n'],
  ['first\r\n<INPUT:0,1>\r\n', 'first\ndef f(x):\n'],
];

for (const [template, prompt] of MARKS) {
  test(`the template ${JSON.stringify(template)} is filled`, () => assert.equal(filled(template, SELECTION).prompt, prompt));
}

test('what is inserted is not looked at again', () => {
  assert.equal(filled('<INPUT>|<INPUT:0,1>', '<INPUT> $& $1 $$').prompt, '<INPUT> $& $1 $$|<INPUT> $& $1 $$');
});

test('a mark that means nothing is an error', () => {
  for (const mark of ['<INPUT:>', '<INPUT:a>', '<INPUT:1,2,3>', '<INPUT:1,>', '<INPUT:1.5>']) {
    assert.throws(() => filled(`x ${mark}`, SELECTION), (error) => error instanceof TemplateError && error.mark === mark);
  }
});

test('an answer to a template that ends with the first lines begins with them', () => {
  assert.equal(filled('# why\n<INPUT:0,1>\n', SELECTION).head, 'def f(x):\n');
  assert.equal(filled('# why\n<INPUT:0,1>', SELECTION).head, 'def f(x):');
  for (const template of ['<INPUT>\n', '<INPUT:0,1> x', '<INPUT:1>', '<INPUT:1,2>']) assert.equal(filled(template, SELECTION).head, '');
});

test('a template that names its language is told from one that does not', () => {
  assert.ok(filled('\n# language: Python\n<INPUT>', SELECTION).tagged);
  assert.ok(filled('// language: C++\n', SELECTION).tagged);
  assert.ok(!filled('# the language: any\n', SELECTION).tagged);
});

test('the answer to a template grows to the end of its block, where the connection is closed', async (context) => {
  const server = await serve(context, () => [['\n    # copies', '\n    y = x\n', '\nx = 1\n', ...Array(1e3).fill('more\n')]]);
  const client = new Client(async () => ({ server: /** @type {string} */ (server.url), key: undefined, timeout: 60 }));
  const ended = server.ended();
  const { prompt, head } = filled('# why\n<INPUT:0,1>', SELECTION);
  const seen = [];
  for await (const whole of continued(client, { prompt, max_tokens: 9 }, head, new AbortController().signal)) seen.push(whole);
  await ended;
  assert.equal(seen.at(-1), 'def f(x):\n    # copies\n    y = x');
  assert.ok(seen.every((whole) => whole.startsWith('def f(x):')));
  assert.equal(server.brokenOff, 1);
  assert.equal(server.requests[0].body.prompt, '# why\ndef f(x):');
});
