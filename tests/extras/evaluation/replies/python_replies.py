"""Replies as chat models write them: what they are, and what a judge must make of them.

Each is about `PROMPT`, or says its own; `RIGHT` define a right `add`, `WRONG` do not.
"""
# ruff: noqa: E501 (a reply is one line)

PROMPT = '''from typing import List

LIMIT = 3


def double(x: int) -> int:
    return 2 * x


def add(a: int, b: int) -> int:
    """Return the sum.
    >>> add(1, 2)
    3
    """
'''
CODE = "def add(a, b):\n    return a + b\n"
DRAFT = "def add(a, b):\n    return a - b\n"


def fenced(code, tag="python", mark="```"):
    return f"{mark}{tag}\n{code.rstrip()}\n{mark}\n"


RIGHT = {
    # fences
    "a fence": fenced(CODE),
    "prose around it": f"Sure! Here you go:\n\n{fenced(CODE)}\nThis adds `a` and `b`. Let me know!\n",
    "py": fenced(CODE, "py"),
    "Python3, with attributes": fenced(CODE, "Python3 title='add.py'"),
    "no tag": fenced(CODE, ""),
    "tildes": fenced(CODE, "python", "~~~"),
    "four ticks": fenced(CODE, "python", "````"),
    "never closed": f"```python\n{CODE}",
    "closed on the last line of code": "```python\ndef add(a, b):\n    return a + b```\nDone.",
    "closed late": f"```python\n{CODE}\nThis function adds both numbers.\n```\n",
    "opened after a sentence": f"Here it is: ```python\n{CODE}```\n",
    "opened late": "def add(a, b):\n```python\n    return a + b\n```\n",
    "in a list": "1. The function:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n2. Done.\n",
    "the list's own line": "- ```python\n  def add(a, b):\n      return a + b\n  ```\n",
    "in a quotation": "> ```python\n> def add(a, b):\n>     return a + b\n> ```\n",
    "in markdown": f"```markdown\n# Answer\n{fenced(CODE)}```\n",
    "in markdown with more ticks": f"````markdown\n# Answer\n{fenced(CODE)}````\n",
    "a fence in a docstring": fenced('def add(a, b):\n    """Sum.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b'),
    "a fence in a docstring, first column": fenced('def add(a, b):\n    """Sum.\n```\nadd(1, 2)\n```\n"""\n    return a + b'),
    "one line": "`def add(a, b): return a + b`",
    "one line with three ticks": "```python def add(a, b): return a + b```",
    "an answer tag": f"<answer>\n{fenced(CODE)}</answer>",
    "CodeLlama's tags": f"[PYTHON]\n{CODE}[/PYTHON]\n[TESTS]\nassert add(1, 2) == 3\n[/TESTS]\n",
    "CRLF": fenced(CODE).replace("\n", "\r\n"),
    "tabs": fenced("def add(a, b):\n\tc = a\n\treturn c + b"),
    "non-breaking spaces": fenced(CODE.replace("    ", "\xa0\xa0\xa0\xa0")),
    "a byte order mark": "\ufeff" + CODE,
    "all lines indented": fenced("".join(f"    {line}\n" for line in CODE.splitlines())),
    "an interpreter's session": fenced(">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3"),
    # no fence
    "no fence": CODE,
    "a sentence before": f"Here is the function:\n\n{CODE}",
    "a sentence after": f"{CODE}\nIt adds both numbers.\n",
    "sentences around": f"Here is the function:\n{CODE}\nExplanation:\n- `a` is first\n1. Then b = 3, of course.\n\nNote: fine\n",
    "no fence, an example in one": f"{CODE}\nUsage:\n{fenced('print(add(1, 2))')}",
    "a heading and a list": f"## Solution\n\n{CODE}\n**Complexity**: O(1)\n* time\n* space\n",
    "copied from a page": f"python\nCopy code\n{CODE}This adds.\n",
    "sentences like code": f"Here's what I'd do (it's simple:\n\n{CODE}\nfor example add(1, 2) is 3, isn't it?\nwith this you're done.\n",
    "an indented paragraph": "Here:\n\n    def add(a, b):\n        return a + b\n\nDone.\n",
    "a page's escapes": fenced("def add(a, b):\n    return a + b if a &lt; 99 and b &gt; -99 else &quot;&quot;"),
    "a page": "<p>Here:</p>\n<pre><code class='language-python'>def add(a, b):\n    return {&#39;&lt;&#39;: a + b}[&#39;&lt;&#39;]\n</code></pre>",
    "escapes in a text": fenced("def add(a, b):\n    return a + b + len('&lt;') - 4"),
    "a diff": fenced("--- a.py\n+++ a.py\n@@ -1,2 +1,2 @@\n def add(a, b):\n-    pass\n+    return a + b", "diff"),
    "HTML": f"<pre><code>\n{CODE}</code></pre>\n",
    "a token at its end": f"{fenced(CODE).rstrip()}<|im_end|>",
    "a token at its end, no fence": f"{CODE.rstrip()}</s>",
    # thoughts
    "thoughts": f"<think>\n{fenced(DRAFT)}no\n</think>\n\n{fenced(CODE)}",
    "thoughts never opened": f"First:\n{fenced(DRAFT)}no\n</think>\n{fenced(CODE)}",
    "thoughts with an open fence": f"<think>\n```python\n{DRAFT}</think>\n{fenced(CODE)}",
    "thoughts never closed": f"<think>\nI add both.\n\n{fenced(CODE)}",
    "other tags": f"[THINK]\n{fenced(DRAFT)}[/THINK]{fenced(CODE)}",
    "gpt-oss": f"<|channel|>analysis<|message|>{fenced(DRAFT)}<|end|><|start|>assistant<|channel|>final<|message|>{fenced(CODE)}",
    "a tag in the code": fenced("def add(a, b):\n    return a + b  # not </think>"),
    "a tag in a text": fenced('def add(a, b):\n    t = "<think>"\n    return a + b'),
    # several blocks
    "a draft, then better": f"First:\n{fenced(DRAFT)}This subtracts. Corrected:\n{fenced(CODE)}",
    "a usage example": f"{fenced(CODE)}Usage:\n{fenced('print(add(1, 2))  # 3')}",
    "a test in its own block": f"{fenced(CODE)}{fenced('from add import add' + chr(10) + 'assert add(1, 1) == 2')}",
    "output": f"{fenced(CODE)}Output:\n{fenced('3', '')}",
    "an installation": f"{fenced('pip install numpy', 'bash')}{fenced(CODE)}",
    "imports in one block": f"{fenced('import operator')}Then:\n{fenced('def add(a, b):' + chr(10) + '    return operator.add(a, b)')}",
    "star imports in one block": f"{fenced('from operator import *')}{fenced('def add(x, y):' + chr(10) + '    return sub(x, neg(y))')}",
    "a helper in one block": f"{fenced('def plus(a, b):' + chr(10) + '    return a + b')}{fenced('def add(a, b):' + chr(10) + '    return plus(a, b)')}",
    "a helper in a later block": f"{fenced('def add(a, b):' + chr(10) + '    return plus(a, b)')}with\n{fenced('def plus(a, b):' + chr(10) + '    return a + b')}",
    "a function in two blocks": f"{fenced('def add(a, b):' + chr(10) + '    c = a + b')}and\n{fenced('    return c')}",
    "quotes as a fence": f"Here:\n\n'''python\n{CODE}'''\nDone.",
    "a result of its name in its own block": f"{fenced(CODE)}For example:\n{fenced('add = add(1, 2)')}",
    "a formula after it": f"{fenced(CODE)}since\n{fenced('add = x + y', '')}",
    "a stub after it": f"{fenced(CODE)}The signature was\n{fenced('def add(a: int, b: int) -> int:' + chr(10) + '    ...')}",
    "another language after it": f"{fenced(CODE)}In JavaScript:\n{fenced('function add(a, b) { return a - b }', 'javascript')}",
    "a wrong tag": fenced(CODE, "ruby"),
    "a name in the tag": f"```python:add.py\n{CODE}```",
    "overloads": fenced("from typing import overload\n\n@overload\ndef add(a: int, b: int) -> int: ...\n@overload\ndef add(a: str, b: str) -> str: ...\ndef add(a, b):\n    return a + b"),
    # what stands around the function
    "a decorator": fenced("from functools import lru_cache\n\n@lru_cache(maxsize=None)\ndef add(a, b):\n    return a + b"),
    "a decorator of its own": fenced("def twice(f):\n    return lambda a, b: f(a, b) * 2 // 2\n\n@twice\ndef add(a, b):\n    return a + b"),
    "star imports": fenced("from operator import *\n\ndef plus(x, y):\n    return x - neg(y)\n\ndef add(a, b):\n    return plus(a, b)"),
    "from __future__": fenced("from __future__ import annotations\n\ndef add(a: int | Unknown, b) -> Missing:\n    return a + b"),
    "a module's docstring, then from __future__": fenced('"""Sums."""\nfrom __future__ import annotations\n\ndef add(a: X, b):\n    return double(a) - a + b'),
    "a global": fenced("count = 0\n\ndef add(a, b):\n    global count\n    count += 1\n    return a + b"),
    "a constant below": fenced("def add(a, b):\n    return a + b + ZERO\n\nZERO = 0"),
    "renamed parameters": fenced("def add(x, y):\n    return x + y"),
    "a helper class": fenced("class Sum:\n    def __init__(self):\n        self.value = 0\n\ndef add(a, b):\n    s = Sum()\n    s.value += a\n    s.value += b\n    return s.value"),
    "a redefinition": fenced(f"{DRAFT}\n\n{CODE}"),
    "a lambda": fenced("add = lambda a, b: a + b"),
    "another name for it": fenced("def plus(a, b):\n    return a + b\n\nadd = plus"),
    "an import as it": fenced("from operator import add"),
    "a type alias": fenced("Number = int\n\ndef add(a: Number, b: Number) -> Number:\n    return a + b"),
    "the recursion limit": fenced("import sys\nsys.setrecursionlimit(10**6)\n\ndef add(a, b):\n    return a if not b else add(a + 1, b - 1)"),
    "a table that a loop fills": fenced("table = {}\nfor i in range(9):\n    for j in range(9):\n        table[i, j] = i + j\n\ndef add(a, b):\n    return table[a, b]"),
    "a table that a function fills": fenced("table = {}\n\ndef fill():\n    for i in range(9):\n        table[i] = i\n\nfill()\n\ndef add(a, b):\n    return table[a] + b"),
    "an import that may fail": fenced("try:\n    import no_such_module\nexcept ImportError:\n    no_such_module = None\n\ndef add(a, b):\n    return a + b"),
    "nested functions": fenced("def add(a, b):\n    def plus(c):\n        return a + c\n    return plus(b)"),
    "one line of code": fenced("import math; zero = 0\ndef add(a, b): return a + b + zero"),
    "an attribute of the function": fenced("def add(a, b):\n    add.calls += 1\n    return a + b\n\nadd.calls = 0\nprint(add(1, 2))"),
    "a class with a state": fenced("class Sum:\n    def __init__(self):\n        self.sum = 0\n    def add(self, a, b):\n        self.sum += a + b\n        return self.sum"),
    "a class of LeetCode": fenced("class Solution:\n    def add(self, a: int, b: int) -> int:\n        return a + b"),
    # the prompt's own code
    "a helper of the prompt": fenced("def add(a: List[int], b):\n    return double(a) - a + b + LIMIT - 3"),
    "a stub of a helper of the prompt": fenced("def double(x: int) -> int:\n    ...\n\ndef add(a, b):\n    return double(a) - a + b"),
    "all of the prompt": fenced(f"{PROMPT}    return a + b"),
    "a part of the prompt": fenced("def double(x):\n    return 2 * x\n\ndef add(a: List, b):\n    return a + double(b) - b"),
    # drivers
    "prints": fenced(f"{CODE}\nprint(add(1, 2))\nprint('done')"),
    "a wrong assertion": fenced(f"{CODE}\nassert add(1, 2) == 4"),
    "a main guard": fenced(f"{CODE}\nif __name__ == '__main__':\n    print(add(int(input()), 1))"),
    "input below": fenced(f"{CODE}\na = int(input())\nb = int(input())\nprint(add(a, b))"),
    "input above": fenced(f"a, b = map(int, input().split())\n\n{CODE}\nprint(add(a, b))"),
    "a main function": fenced(f"{CODE}\ndef main():\n    a = int(input())\n    print(add(a, 1))\n\nmain()"),
    "sys.stdin": fenced(f"import sys\n{CODE}\nfor line in sys.stdin:\n    print(add(*map(int, line.split())))"),
    "doctest": fenced(f"{CODE}\nimport doctest\ndoctest.testmod()"),
    "unittest": fenced(f"import unittest\n{CODE}\nclass TestAdd(unittest.TestCase):\n    def test(self):\n        self.assertEqual(add(1, 1), 3)\n\nunittest.main()"),
    "pytest": fenced(f"import pytest\n{CODE}\n@pytest.mark.parametrize('a', [1])\ndef test_add(a):\n    assert add(a, 1) == 2"),
    "a loop of tests": fenced(f"{CODE}\ntests = [(1, 2, 4)]\nfor a, b, c in tests:\n    assert add(a, b) == c, 'wrong'"),
    "a result of its name": fenced(f"{CODE}\nadd = add(1, 2)\nprint(add)"),
    "an import of an example": fenced(f"import no_such_module as n\n{CODE}\nn.show(add(1, 2))\nprint(n)"),
    "a result": fenced(f"{CODE}\nresult = add('x', 1)\nprint(result)"),
    "exit below": fenced(f"import sys\n{CODE}\nprint(add(1, 2))\nsys.exit(1)"),
    "an asynchronous main": fenced(f"import asyncio\n{CODE}\nasync def main():\n    print(add(1, int(input())))\n\nasyncio.run(main())"),
    "cut off in an example": f"```python\n{CODE}\nprint(add(1,",
    "cut off in a text": f"```python\n{CODE}\nprint('''Result",
    "argparse": fenced(f"import argparse\n{CODE}\nparser = argparse.ArgumentParser()\nparser.add_argument('a')\nargs = parser.parse_args()\nprint(add(args.a, 1))"),
    "a failing call": fenced(f"{CODE}\ntry:\n    add('x', 1)\nexcept TypeError as e:\n    print(e)\nelse:\n    raise AssertionError"),
    "Python 2's print": fenced(f"{CODE}\nprint add(1, 2)"),
    "a table that calls it": fenced(f"{CODE}\ntable = [add(i, 1) for i in range(3)]\nlist(map(print, table))"),
    # continuations
    "a body": "    return a + b\n",
    "a body in a fence": fenced("    return a + b"),
    "a body without indentation": fenced("return a + b"),
    "a body whose first line lost it": fenced("c = a\n    return c + b"),
    "a body with a text of lines": fenced('c = """\n """\nreturn a + b + len(c) - 2'),
    "a body with two spaces": fenced("  c = a\n  if c:\n    return c + b\n  return b"),
    "a body after a sentence": "Here is the body:\n\n    return a + b\n",
    "a body before a sentence": "    return a + b\n\nThis adds both.\n",
    "a body with a nested function": fenced("    def plus(c):\n        return a + c\n    return plus(b)"),
    "a body, then a helper": fenced("    return plus(a, b)\n\ndef plus(a, b):\n    return a + b"),
    "a body, then an example": fenced("    return a + b\n\nprint(add(1, 2))"),
    "the prompt's last line again": fenced('    """\n    return a + b'),
    "the prompt's last lines again": fenced('def add(a: int, b: int) -> int:\n    """Return the sum.\n    >>> add(1, 2)\n    3\n    """\n    return a + b'),
    "a body after imports": fenced("    import operator\n    return operator.add(a, b)"),
}  # fmt: skip

WRONG = {
    "a wrong function": fenced(DRAFT),
    "another name": fenced("def plus(a, b):\n    return a + b"),
    "two other names": fenced("def plus(a, b):\n    return a + b\n\ndef total(a, b):\n    return a + b"),
    "right, then wrong": f"{fenced(CODE)}Better:\n{fenced(DRAFT)}",
    "a function that does not parse": fenced("def add(a, b):\n    return a + b)"),
    "a missing helper": fenced("def add(a, b):\n    return plus(a, b)"),
    "a missing import": fenced("def add(a, b):\n    return operator.add(a, b)"),
    "a stub": fenced("def add(a, b):\n    pass"),
    "a name that fails": fenced(f"x = undefined\n\n{CODE}"),
    "exit in the function": fenced("import sys\n\ndef add(a, b):\n    sys.exit(0)"),
    "exit above a wrong function": fenced(f"import sys\nsys.exit(0)\n{DRAFT}"),
    "a wrong body": fenced("    return a - b"),
    "an example alone": fenced("result = add(1, 2)\nprint(result)"),
    "one argument": fenced("def add(a):\n    return a"),
    "JavaScript": fenced("function add(a, b) { return a + b }", "javascript"),
}  # fmt: skip

MBPP = '"""\nAdd two numbers.\nassert add(1, 2) == 3\n"""\n'
CLASS = 'class Account:\n    balance = 0\n\n    def deposit(self, amount):\n        """Add it."""\n'
SCRIPT = "# Read the numbers\nnumbers = [1, 2]\n# total = their sum\n"
LINE = "def add(a, b):\n    return "
COMMENT = "def add(a, b):\n    # add both"
ADDS = "assert add(1, 2) == 3"
DEPOSITS = "assert Account().deposit(3) == 3"
# prompt, entry point, reply, test
OTHER_PROMPTS = [
    (MBPP, "add", fenced(CODE), ADDS),
    (MBPP, "add", f"Here:\n{MBPP}{CODE}", ADDS),
    (CLASS, "", fenced(f"{CLASS}        self.balance += amount\n        return self.balance"), DEPOSITS),
    (CLASS, "", fenced("        self.balance += amount\n        return self.balance"), DEPOSITS),
    (CLASS, "", fenced("self.balance += amount\nreturn self.balance"), DEPOSITS),
    (SCRIPT, "", fenced("total = sum(numbers)"), "assert total == 3"),
    (SCRIPT, "", fenced(f"{SCRIPT}total = sum(numbers)\nprint(total)"), "assert total == 3"),
    (LINE, "add", "a + b", ADDS),
    (LINE, "add", fenced("a + b"), ADDS),
    (LINE, "add", fenced("    return a + b"), ADDS),
    (LINE, "", fenced(CODE), ADDS),
    (COMMENT, "add", "    return a + b", ADDS),
    (COMMENT, "add", fenced("return a + b"), ADDS),
    (COMMENT, "add", fenced("    # add both\n    return a + b"), ADDS),
    (COMMENT, "add", fenced("class Solution:\n    def add(self, a, b):\n        return a + b"), ADDS),
    (f"async {CODE.partition(chr(10))[0]}\n", "add", fenced("    return a + b"), "import asyncio\nassert asyncio.run(add(1, 2)) == 3"),
]  # fmt: skip
CUT_OFF = {  # by the limit of tokens
    f"```python\n{CODE}\nprint(add(1,": "",
    "```python\ndef add(a, b):\n    return (a +": "cut off by the limit of tokens",
    "I think that": "cut off by the limit of tokens",
    f"<think>\n{fenced(CODE)}But": "cut off by the limit of tokens",
}
HOSTILE = {
    "fences": "```\n" * 250_000,
    "open fences": "```python\n" * 5_000,
    "parentheses": f"```python\n{'(' * 50_000}",
    "tags": "<think>" * 140_000,
    "closing tags": "</think>x " * 100_000,
    "attributes": f"```python\na{'.a' * 2_500}\n```",
    "deep attributes": f"```python\na{'.a' * 25_000}\n```",
    "texts": '"""' * 19_000,
    "functions": "def add(x):\n" * 4_000,
    "indentation": "\n".join(" " * i + "if 1:" for i in range(300)),
    "assignments": "x = (\n" * 9_000,
    "a null": "```python\ndef add(a, b):\n    return '\0'\n```",
    "half a character": "```python\ndef add(a, b):\n    return '\ud800'\n```",
}
LACKING = {
    "": "empty",
    " \n": "empty",
    "I cannot help with that.": "prose only",
    "Yes": "prose only",
    "The sum of both: a + b.\n\nUse it well.": "prose only",
    f"<think>\n{fenced(CODE)}</think>\n": "only thoughts",
}
