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
const OTHER_SECRET_FILES = ['.envrc', '.env-production', '.env_local', 'terraform.tfstate.backup', 'prod.tfvars.json', '.dev.vars'];
const LAST_SECRET_FILES = ['.vault_pass', '.vault_pass.txt', 'kubeconfig', 'kubeconfig-prod.yaml', 'prod.kubeconfig', 'C:\\a\\.ssh\\config'];
const PLAIN_FILES = ['env.py', 'environment.ts', 'src/key.py', 'keys.js', 'tokenizer.py', 'secret_santa.py', 'a/README.md'];

test('files that hold secrets are known by their names', () => {
  for (const path of [...SECRET_FILES, ...MORE_SECRET_FILES, ...OTHER_SECRET_FILES, ...LAST_SECRET_FILES]) assert.ok(isSecretFile(path), path);
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
  `password: ${'hunter2'.repeat(2)}`,
  `AWS_SECRET_ACCESS_KEY=${'wJalr/7'}${word}`,
  `export DB_PASSWORD=s3cr${'3t-word'}`,
  `token = "${'abcdef0123'.repeat(3)}"`,
  `GITHUB_TOKEN: "${word}"`,
  `Authorization: Bearer ${word}`,
  `AccountKey=${word}==;EndpointSuffix=x`,
  `password = "hun$${'ter2xyz'}"`,
  `API_TOKEN: str = "${word}"`,
  `tokenString := "${word}"`,
];
const PLAIN_TEXTS = [
  'def password(self):',
  'password = input()',
  'key = row["key"]',
  'secret = os.environ["SECRET"]',
  'https://example.org/a:b@c',
  'password: "${PASSWORD}"',
  'token_ids = batch.input_ids[0]',
  'tokens = tokenizer.encode2(text)',
  'tokenizer = load_tokenizer_2',
  'max_tokens = 1000000000',
  'token = next_token1(state)',
  'pwd = os.getcwd()',
  'secret = secrets.token_hex(16)',
  'Authorization: Bearer ${token}',
  `${'/'.repeat(80)}\n${'/'.repeat(80)}\n${'/'.repeat(80)}`,
  `sha = "${'a1'.repeat(32)}"\nother = 1\nthird = 2`,
];

test('a piece with something like a key or a password is not used', () => {
  for (const secret of SECRET_TEXTS) {
    assert.ok(holdsSecret(secret), secret);
    assert.equal(pieceAround({ path: 'a.py', language: 'Python', lines: [...text('x').split('\n'), secret] }, 0), undefined);
  }
  for (const plain of PLAIN_TEXTS) assert.ok(!holdsSecret(plain), plain);
});

/** The lines of a private key that was never one. @param {number} count */
const base64 = (count) => Array.from({ length: count }, () => 'Ab+/7'.repeat(13).slice(0, 64));

test('no piece of a file with a private key is used, nor one out of the middle of a key', () => {
  const begin = `${'-'.repeat(5)}BEGIN PRIVATE${' '}KEY${'-'.repeat(5)}`;
  const file = { path: 'a.py', language: 'Python', lines: [begin, ...base64(3), ...text('x', 100).split('\n')] };
  assert.equal(pieceAround(file, 80), undefined);
  assert.ok(pieceAround({ ...file, lines: file.lines.slice(4) }, 80));
  for (const lines of [base64(100), base64(9).map((line) => `    "${line}\\n" +`), base64(9).map((line) => `// ${line}`)]) {
    assert.equal(pieceAround({ ...file, lines }, lines.length / 2), undefined, lines[0]);
  }
});

// each begins a form of a secret again and again: what searches from every beginning to the end never comes to an end here
const LONG = ['token', 'secret_', 'token=', 'token: str', '-eyJ', '-eyJ0123456789.eyJ', 'a://b', 'Bearer ', 'A1', 'password="', 'token = a1', ' '];

test('very long lines are searched as fast as many short ones', () => {
  for (const part of LONG) assert.equal(typeof holdsSecret(part.repeat(1e6 / part.length)), 'boolean', part);
});
