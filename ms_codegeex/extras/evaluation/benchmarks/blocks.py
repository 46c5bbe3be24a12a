"""The witness in a benchmark's tests: our call after the last test, at the end of the block that holds them."""

from __future__ import annotations

import re

from ms_codegeex.base.errors import UserError

TOKENS = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\\n])'|`[^`]*`|[{}]""", re.DOTALL)
CALL = "ms_codegeex_tests_ended"
CPP_MAIN = r"\bint\s+main\s*\(\s*\)\s*\{"
GO_TEST = r"\bfunc\s+Test\w+\s*\(\s*t\s+\*testing\.T\s*\)\s*\{"
GO_IMPORT = f'import {CALL} "ms_codegeex/witness"\n'
GO_CALL = f'\nif !t.Failed() {{\n{CALL}.Tell("%s")\n}}\n'
RUST_CALL = f';\n::{CALL}::tell("%s");\n'
# In C++: what the tests call instead of the library's macro, which an answer may redefine; see the witness.
OUR_ASSERT = """#include<assert.h>
#undef assert
void ms_codegeex_test_failed(const char *);
#define assert(test) (static_cast<bool>(test) ? void(0) : ms_codegeex_test_failed(#test))"""


def at_end_of_block(test: str, opening: str, where: str) -> tuple[str, str]:
    """The tests' text, split before the brace that closes the block that the pattern opens. `where`: of an error."""
    start = re.search(opening, test)
    depth = 1
    for token in TOKENS.finditer(test, start.end()) if start else ():
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return test[: token.start()], test[token.start() :]
    expected = "expected one as in the published files; fetch the file again"
    raise UserError(f"{where}: no test function in its tests, {expected}")
