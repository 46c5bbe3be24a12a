'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { Context, LINES, MOST, Ring, pieceAround } = require('../src/logic/ring');
const { holdsSecret, isSecretFile } = require('../src/logic/secrets');

/** @param {string} name @param {number} [count] of lines */
const text = (name, count = 5) => Array.from({ length: count }, (_, line) => `${name}_${line} = function_of_it(${line})`).join('\n');

/** @param {string} path */
const piece = (path, language = 'Python') => ({ path, language, text: text(path) });

test('pieces of other files come before the text, the newest last, each under its name', () => {
  const ring = new Ring();
  for (const path of ['old.py', 'new.py', 'own.py']) ring.add(piece(path));
  const expected = `# old.py\n${text('old.py')}\n\n# new.py\n${text('new.py')}\n\n# own.py\n`;
  assert.equal(ring.before('own.py', 'Python', 2000), expected);
});

test('a file in another language is a comment', () => {
  const ring = new Ring();
  ring.add({ path: 'a.sql', language: 'SQL', text: `${text('a')}\n\n${text('b')}` });
  const lines = ring.before('b.js', 'JavaScript', 2000).split('\n').filter(Boolean);
  assert.ok(lines.length > 10 && lines.every((line) => line.startsWith('//')), lines.join('\n'));
});

test('the newest pieces take the room there is, and never more', () => {
  const ring = new Ring();
  for (const path of ['a.py', 'b.py', 'c.py']) ring.add(piece(path));
  for (let most = 0; most < 700; most++) {
    const found = ring.before('own.py', 'Python', most);
    assert.ok(found.length <= most, `${found.length} > ${most}`);
    if (found) assert.ok(found.includes('# c.py\n'));
  }
  const [all] = [ring.before('own.py', 'Python', 600)];
  assert.ok(all.includes('# a.py') && all.includes('# b.py'));
  assert.ok(!ring.before('own.py', 'Python', 300).includes('# a.py'));
});

test('of pieces that are alike the newest is kept, and of all a limited number', () => {
  const ring = new Ring();
  ring.add({ path: 'a.py', language: 'Python', text: text('x', 20) });
  ring.add({ path: 'a.py', language: 'Python', text: `${text('x', 20)}\nlast = 1` });
  assert.equal(ring.pieces.length, 1);
  assert.ok(ring.pieces[0].text.endsWith('last = 1'));
  for (let number = 0; number < 2 * MOST; number++) ring.add(piece(`${number}.py`));
  assert.equal(ring.pieces.length, MOST);
  assert.equal(ring.pieces[0].path, `${MOST}.py`);
});

test('a piece is the lines around the cursor', () => {
  const lines = text('x', 200).split('\n');
  const file = { path: 'a.py', language: 'Python', lines };
  assert.equal(pieceAround(file, 100)?.text, lines.slice(100 - LINES / 2, 100 + LINES / 2).join('\n'));
  assert.equal(pieceAround(file, 0)?.text, lines.slice(0, LINES).join('\n'));
  assert.equal(pieceAround(file, 199)?.text, lines.slice(-LINES).join('\n'));
  assert.equal(pieceAround({ ...file, lines: ['x = 1'] }, 0), undefined);
});

test('the text in front stays while the window starts at the same place', () => {
  const ring = new Ring();
  const context = new Context(ring);
  const cursor = { document: 'd', path: 'own.py', start: 0, language: 'Python' };
  assert.equal(context.of(cursor, 1000), '');
  ring.add(piece('a.py'));
  assert.equal(context.of(cursor, 1000), '');
  const moved = context.of({ ...cursor, start: 1000 }, 1000);
  assert.ok(moved.includes('a.py_0'));
  ring.add(piece('b.py'));
  assert.equal(context.of({ ...cursor, start: 1000 }, 1000), moved);
  assert.ok(context.of({ ...cursor, document: 'e' }, 1000).includes('b.py_0'));
  assert.equal(context.of({ ...cursor, start: 2000 }, 0), '');
});

const SECRET_FILES = ['.env', 'a/.env.local', 'prod.env', '.npmrc', 'home/.ssh/config', 'id_rsa', 'a/server.key', 'x.pem'];
const MORE_SECRET_FILES = ['Secrets.yaml', 'config/credentials.json', 'db-secrets.yml', 'main.tfvars', 'client_secret_1.json'];
const PLAIN_FILES = ['env.py', 'environment.ts', 'src/key.py', 'keys.js', 'tokenizer.py', 'secret_santa.py', 'a/README.md'];

test('files that hold secrets are known by their names', () => {
  for (const path of [...SECRET_FILES, ...MORE_SECRET_FILES]) assert.ok(isSecretFile(path), path);
  for (const path of PLAIN_FILES) assert.ok(!isSecretFile(path), path);
  assert.equal(pieceAround({ path: '.env', language: undefined, lines: text('x').split('\n') }, 0), undefined);
});

const word = 'a1B2'.repeat(10); // no test may look like a real key to those who search for them
const SECRET_TEXTS = [
  `${'-'.repeat(5)}BEGIN RSA PRIVATE${' '}KEY`,
  `key = AKIA${'ABCD'.repeat(4)}`,
  `token: gh${'p_'}${word}`,
  `x = "sk-${word}"`,
  `DATABASE = postgres://user:${'pass'}word@host/db`,
  `"password": "${'correct'}-horse"`,
  `API_KEY = '${word}'`,
];
const PLAIN_TEXTS = [
  'def password(self):',
  'password = input()',
  'key = row["key"]',
  'secret = os.environ["SECRET"]',
  'https://example.org/a:b@c',
  'password: "${PASSWORD}"',
];

test('a piece with something like a key or a password is not used', () => {
  for (const secret of SECRET_TEXTS) {
    assert.ok(holdsSecret(secret), secret);
    assert.equal(pieceAround({ path: 'a.py', language: 'Python', lines: [...text('x').split('\n'), secret] }, 0), undefined);
  }
  for (const plain of PLAIN_TEXTS) assert.ok(!holdsSecret(plain), plain);
});
