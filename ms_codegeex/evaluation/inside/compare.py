"""DS-1000's comparison (original format): what the programs left in `result` with what they should have.

    python compare.py

Standard input: a line of JSON {"test_code": text, "answers": {file name: base64}, "count": number of test cases,
"solution": text of the answer if there is a test of its words, else null, "secret": text}. All of it comes after the
programs have ended, so none of them has seen it. Standard output: {"results": [1, 0, ...], "string": 1, 0 or null} and,
on the next line, the secret.
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

STRING_TESTS = ("stringTest", "test_string", "string_test", "testString")


def load(path):
    """What a pickle holds."""
    with open(path, "rb") as file:
        return pickle.load(file)


def compare(test, case):
    """1 if the case's result is the expected one, by the benchmark's own function."""
    try:
        return int(test(load(f"result/result_{case}.pkl"), load(f"ans/ans{case}.pkl")) == 1)
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


def main():
    """Compare everything, then say so."""
    report, given = os.dup(1), json.loads(sys.stdin.readline())
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path[0] = os.getcwd()
    if os.path.lexists("ans"):
        os.rename("ans", ".ans of the program")
    os.mkdir("ans")
    for name, content in given["answers"].items():
        with open(os.path.join("ans", os.path.basename(name)), "wb") as file:
            file.write(base64.b64decode(content))
    module = types.ModuleType("test_code")
    sys.modules["test_code"] = module
    exec(compile(given["test_code"], "test_code.py", "exec"), module.__dict__)
    results = [compare(module.test, case + 1) for case in range(given["count"])]
    string = None if given["solution"] is None else string_test(module, given["solution"])
    os.write(report, f"{json.dumps({'results': results, 'string': string})}\n{given['secret']}\n".encode("ascii"))


if __name__ == "__main__":
    main()
