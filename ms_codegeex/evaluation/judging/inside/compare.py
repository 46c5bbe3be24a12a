"""DS-1000's comparison (original format): what the programs left in `result` with what they should have.

    python compare.py COUNT

Standard input: a line of JSON {"test_code": text, "answers": {file name: base64}, "solution": text of the answer if
there is a test of its words, else null, "secret": text}. All of it comes after the programs have ended, and is read
when their results have been loaded: those are plain data (see `open_results.py`), so nothing of the programs' runs
beside it. Standard output: {"results": [1, 0, ...], "string": 1, 0 or null} and, on the next line, the secret.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import pickle
import sys
import traceback
import types

import plain

STRING_TESTS = ("stringTest", "test_string", "string_test", "testString")


def opened(case):
    """The case's result in a list, which is empty if there is none that is plain data."""
    try:
        with open(f"opened/{case}", "rb") as file:
            return [plain.Unpickler(file).load()]
    except Exception:
        traceback.print_exc(limit=-3)
        return []


def compare(test, case, result):
    """1 if the case's result is the expected one, by the benchmark's own function."""
    try:
        with open(f"ans/ans{case}.pkl", "rb") as file:
            answer = pickle.load(file)
        return int(test(*result, answer) == 1)
    except Exception:
        traceback.print_exc(limit=-3)
        return 0


def without_prints(solution):
    """The answer's code without statements that print."""

    class Remove(ast.NodeTransformer):
        def visit_Expr(self, node):
            call = node.value
            return None if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "print" else node

    return ast.unparse(Remove().visit(ast.parse(solution))) if hasattr(ast, "unparse") else solution


def string_test(module, solution):
    """1 if the words of the answer are as demanded; a test that asserts returns nothing."""
    for name in STRING_TESTS:
        if hasattr(module, name):
            try:
                return int(getattr(module, name)(without_prints(solution)) in (None, 1))
            except Exception:
                traceback.print_exc(limit=-3)
                return 0
    sys.stderr.write(f"test_code has none of {', '.join(STRING_TESTS)}\n")
    return 0


def main(count):
    """Compare everything, then say so."""
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    results = [opened(case) for case in range(1, count + 1)]
    given = json.loads(sys.stdin.readline())
    if os.path.lexists("ans"):
        os.rename("ans", ".ans of the program")
    os.mkdir("ans")
    for name, content in given["answers"].items():
        with open(os.path.join("ans", os.path.basename(name)), "wb") as file:
            file.write(base64.b64decode(content))
    module = types.ModuleType("test_code")
    sys.modules["test_code"] = module
    exec(compile(given["test_code"], "test_code.py", "exec"), module.__dict__)
    results = [compare(module.test, case, result) for case, result in enumerate(results, 1)]
    string = None if given["solution"] is None else string_test(module, given["solution"])
    os.write(report, f"{json.dumps({'results': results, 'string': string})}\n{given['secret']}\n".encode("ascii"))


if __name__ == "__main__":
    main(int(sys.argv[1]))
