'use strict';

const assert = require('node:assert/strict');
const test = require('node:test');
const { upToBlockEnd } = require('../src/logic/block');

const whole = { complete: true, oneLine: false };

/** @type {[string, string, string, string][]} what, prefix, completion, its block */
const BLOCKS = [
  ['a Python function', 'def f(x):', '\n    y = x\n\n    return y\n\nprint(f(1))\n', '\n    y = x\n\n    return y'],
  ['the branches of an if', 'if x:', '\n    a()\nelif y:\n    b()\nelse:\n    c()\nd()', '\n    a()\nelif y:\n    b()\nelse:\n    c()'],
  ['an if with a colon and a comment', 'if x:  # why', '\n    a()\nb()', '\n    a()'],
  ['arguments over several lines', 'def f(', '\n    a,\n    b,\n):\n    return a\nf()', '\n    a,\n    b,\n):\n    return a'],
  ['a function in braces', 'int f() {', '\n  return 1;\n}\n\nint g() {\n}', '\n  return 1;\n}'],
  ['braces that go on', 'if (a) {', '\n  b();\n} else {\n  c();\n}\nd();', '\n  b();\n} else {\n  c();\n}'],
  ['a brace in the block', 'for (;;) {', '\n\tif (a) {\n\t\tb();\n\t}\n}\nc();', '\n\tif (a) {\n\t\tb();\n\t}\n}'],
  ['a block that ends with a word', 'while true do', '\n  x()\nend\ny()', '\n  x()\nend'],
  ['the rest of the block around the cursor', 'def f():\n    a = 1', '\n    b = 2\n    return b\n\ndef g():', '\n    b = 2\n    return b'],
  ['a fresh indented line', 'def f():\n    ', 'return 1\n\nf()', 'return 1'],
  ['a fresh line in the first column', 'def f():\n', '    return 1\n\nf()', '    return 1'],
  ['a paragraph outside of any block', 'import os', '\nimport sys\n\ndef f():\n    pass', '\nimport sys'],
  ['a function after a comment', '# doubles x\n', 'def f(x):\n    return 2 * x\n\ndef g(): pass', 'def f(x):\n    return 2 * x'],
  ['a function after blank lines', '# doubles x', '\n\ndef f(x):\n    return 2', ''],
  ['lines with carriage returns', 'def f():', '\r\n    return 1\r\nf()', '\n    return 1'],
  ['the rest of a line', 'x = ', '1', '1'],
  ['nothing', 'x = 1', '\n  \n', ''],
  ['a switch with labels in its column', 'switch (a) {', '\ncase 1:\n  b();\ndefault:\n  c();\n}\nd();', '\ncase 1:\n  b();\ndefault:\n  c();\n}'],
  ['a switch of Go', '\tswitch x {', '\n\tcase 1, 2:\n\t\ta()\n\tdefault:\n\t}\n\tb()', '\n\tcase 1, 2:\n\t\ta()\n\tdefault:\n\t}'],
  ['one case of a switch', '  case 1:', '\n    a();\n    break;\n  case 2:\n    b();', '\n    a();\n    break;'],
  ['a class with labels', 'class A {', '\npublic:\n  int a;\nprivate:\n  int b;\n};\nint c;', '\npublic:\n  int a;\nprivate:\n  int b;\n};'],
  ['a method whose parameters take several lines', '    def f(', 'self,\n          a):\n        return a\n\n    def g(self):\n', 'self,\n          a):\n        return a'],
  ['a method of Ruby', '  def f(a)', '\n    a\n  end\n\n  def g\n  end\nend', '\n    a\n  end'],
  ['a brace in its own line', 'int f()', '\n{\n  return 1;\n}\n\nint g()\n{\n}', '\n{\n  return 1;\n}'],
  ['else in the line after the brace', 'if (a) {', '\n  b();\n}\nelse {\n  c();\n}\nd();', '\n  b();\n}\nelse {\n  c();\n}'],
  ['else with a brace in its own line', 'if (a)', '\n{\n  b();\n}\nelse\n{\n  c();\n}\nd();', '\n{\n  b();\n}\nelse\n{\n  c();\n}'],
  ['one statement without braces', '  if (a)', '\n    b();\n  else\n    c();\n  d();', '\n    b();\n  else\n    c();'],
  ['a decorated method', '    @property\n', '    def f(self):\n        return 1\n\n    def g(self):\n', '    def f(self):\n        return 1'],
  ['the parameters up to the closing bracket, and the body', 'def f(\n    a,\n    ', 'b,\n):\n    return a\n\ng()', 'b,\n):\n    return a'],
  ['the arguments up to the closing bracket', 'x = f(\n    a,\n    ', 'b,\n)\ny = 1', 'b,\n)'],
  ['the rest of a body up to its brace', 'int f() {\n  a();\n', '  b();\n}\n\nint g() {\n}', '  b();\n}'],
];

test('a bracket that the text after the cursor closes is not closed twice', () => {
  for (const suffix of ['\n)\nz = 1', '\n    c,\n)\nz = 1', ')']) {
    const { text } = upToBlockEnd('x = f(\n    a,\n    ', 'b,\n)\ny = 1', { ...whole, suffix });
    assert.equal(text, 'b,', JSON.stringify(suffix));
  }
});

for (const [what, prefix, completion, block] of BLOCKS) {
  test(`the block is ${what}`, () => assert.equal(upToBlockEnd(prefix, completion, whole).text, block));
}

test('however the completion comes, it ends at the same place', () => {
  for (const [, prefix, completion, block] of BLOCKS) {
    for (let length = 0; length <= completion.length; length++) {
      const { text, ended } = upToBlockEnd(prefix, completion.slice(0, length), { complete: false, oneLine: false });
      if (ended) assert.equal(text, block);
    }
  }
});

test('the end is known as soon as the line after the block is', () => {
  const options = { complete: false, oneLine: false };
  assert.ok(!upToBlockEnd('def f():', '\n    return 1\nprin', options).ended);
  assert.ok(upToBlockEnd('def f():', '\n    return 1\nprint()\n', options).ended);
});

test('one line is enough where the user wants one', () => {
  const options = { complete: false, oneLine: true };
  assert.deepEqual(upToBlockEnd('x = ', 'f(\n    1,', options), { text: 'f(', ended: true });
  assert.deepEqual(upToBlockEnd('def f():', '\n    return 1\n', options), { text: '\n    return 1', ended: true });
  assert.deepEqual(upToBlockEnd('def f():', '\n    return', options), { text: '\n    return', ended: false });
});
