"""From an answer to a program: imports, prompt, answer and tests in one text, with a place for the witness.

The witness is a call that our own code puts behind the last test (see `toolchains`). The tests are the benchmark's, not
a model's, so their text may be taken apart; the answer's may not, and is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.humaneval_x import defects
from ms_codegeex.evaluation.humaneval_x.data import Row
from ms_codegeex.evaluation.humaneval_x.rules import first_unindented
from ms_codegeex.evaluation.toolchains import Program

PYTHON_IMPORTS = (
    "import math", "import re", "import sys", "import copy", "import datetime", "import itertools",
    "import collections", "import heapq", "import statistics", "import functools", "import hashlib",
    "import numpy", "import numpy as np", "import string", "from typing import *", "from collections import *",
)  # fmt: skip
CPP_INCLUDES = (
    "#include<stdlib.h>", "#include<algorithm>", "#include<math.h>", "#include<stdio.h>", "#include<vector>",
    "#include<string>", "#include<climits>", "#include<cstring>", "#include<iostream>",
)  # fmt: skip
GO_PACKAGES = (
    "math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5",
)  # fmt: skip
CPP_OPENSSL = 162  # the problem that needs it
CALL = "ms_codegeex_tests_ended"
RUST_ASSERT = re.compile(r"(?<![\w:])(?:debug_)?assert(?:_eq|_ne)?!")


def assemble(row: Row, answer: str) -> Program:
    """The program that judges an answer. A translation too stands behind the prompt, not behind the declaration that
    its model saw: Go's declarations lack the functions that some tests call."""
    return ASSEMBLERS[row.language](row, answer)


def python(row: Row, answer: str) -> Program:
    """16 imports, of which NumPy's only where a name may be meant: they cost more than everything else."""
    answer = answer[: first_unindented(answer)]
    rest = f"{row.prompt}{answer}\n{row.test}\n"
    named = "np" in rest or "numpy" in rest
    imports = "\n".join(line for line in PYTHON_IMPORTS if named or "numpy" not in line)
    return Program(f"{imports}\n{rest}", f'{CALL}("%s")', "\n")


def cpp(row: Row, answer: str) -> Program:
    """The includes that the prompt does not have; the witness ends main."""
    includes = "\n".join(line for line in CPP_INCLUDES if line not in row.prompt)
    tests, untested = defects.tests(row)
    head, tail = at_end_of_block(tests, r"\bint\s+main\s*\(\s*\)\s*\{", row)
    libraries = ("-lcrypto", "-lssl") if row.number == CPP_OPENSSL else ()
    call = f';\nvoid {CALL}(const char *);\n{CALL}("%s");\n'
    return Program(f"{includes}\n{row.prompt}{answer}\n{head}", call, tail, libraries, only_compiles=untested)


def java(row: Row, answer: str) -> Program:
    """As it is: a class of ours calls main and knows when it has returned."""
    return Program(f"{row.prompt}{answer}\n{row.test}", "", "")


def javascript(row: Row, answer: str) -> Program:
    """Tests report on standard error and go on; the witness sees which `console.assert` they called."""
    return Program(f"{row.prompt}{answer}\n{row.test}\n;", f'{CALL}("%s", console.assert)', "\n")


def go(row: Row, answer: str) -> Program:
    """The prompt without its imports; packages are imported where the answer uses them."""
    used = [name for name in GO_PACKAGES if name not in row.test_setup and f"{name.split('/')[-1]}." in answer]
    lines = "\n".join(f'    "{name}"' for name in used)
    imports = f"import (\n{lines}\n)\n" if used else ""
    body = row.prompt.replace(row.imports, "", 1) if row.imports else row.prompt
    head, tail = at_end_of_block(row.test, r"\bfunc\s+Test\w+\s*\(\s*t\s+\*testing\.T\s*\)\s*\{", row)
    setup = f'{row.test_setup}\nimport {CALL} "ms_codegeex/witness"\n{imports}'
    call = f'\nif !t.Failed() {{\n{CALL}.Tell("%s")\n}}\n'
    return Program(f"{setup}\n{body}{answer}\n{head}", call, tail)


def rust(row: Row, answer: str) -> Program:
    """An empty main; the declaration where the prompt is only a comment (CodeGeeX's file). The tests' assertions are
    the standard library's, whatever macros the answer defines."""
    declaration = "" if row.declaration.strip() in row.prompt else row.declaration
    tests, untested = defects.tests(row)
    head, tail = at_end_of_block(
        RUST_ASSERT.sub(r"::std::\g<0>", tests), r"#\[test\][^{]*?\bfn\s+\w+\s*\(\s*\)\s*\{", row
    )
    source = f"fn main() {{}}\n{declaration}{row.prompt}{answer}\n{head}"
    check = re.search(r"\bcfg\b", answer) is not None
    return Program(source, f';\n::{CALL}::tell("%s");\n', tail, only_compiles=untested, check=check)


ASSEMBLERS: dict[str, Callable[[Row, str], Program]] = {
    "python": python,
    "cpp": cpp,
    "java": java,
    "js": javascript,
    "go": go,
    "rust": rust,
}

TOKENS = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\\n])'|`[^`]*`|[{}]""",
    re.DOTALL,
)


def at_end_of_block(test: str, opening: str, row: Row) -> tuple[str, str]:
    """The tests' text, cut before the brace that closes the block that the pattern opens."""
    start = re.search(opening, test)
    depth = 1
    for token in TOKENS.finditer(test, start.end()) if start else ():
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return test[: token.start()], test[token.start() :]
    raise UserError(
        f"problem {row.number}, {row.language}: no test function in `test`, expected one as in the published files; "
        "fetch the file again"
    )
