"""DS-1000's results (original format): `open` converts them to plain data, and `compare` compares them.

    python compare.py open|compare COUNT

Unpickling a result may run whatever the program has put in it. `open` does that in a process of its own, which ends
before any answer is in the sandbox: it can learn nothing, and change nothing but its own result. What `compare` reads
from `opened` is plain data (see `plain.py`), so no code of the programs runs there. Its standard input, a line of JSON
{"test_code": text, "answers": {file name: base64}, "solution": text of the answer if there is a test of its text, else
null, "secret": text}, is sent after the programs have ended, and read after their results have been loaded. Standard
output: {"results": [1, 0, ...], "string": 1, 0 or null} and, on the next line, the secret.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
import traceback
import types
from collections.abc import Callable

import plain


def open_results(count: int) -> None:
    """Convert each result; one that cannot be opened is missing."""
    if os.path.lexists("opened"):
        os.rename("opened", "opened by the program")
    os.mkdir("opened")
    sys.path.append(os.getcwd())  # a result's class may be defined by the program
    for case in range(1, count + 1):
        try:
            with open(f"result/result_{case}.pkl", "rb") as file:
                value = pickle.load(file)
            with open(f"opened/{case}", "wb") as file:
                plain.Pickler(file, 4).dump(value)
        except Exception:
            traceback.print_exc(limit=-3)


def opened(case: int) -> list:
    """The case's result in a list, which is empty if there is no result of plain data."""
    try:
        with open(f"opened/{case}", "rb") as file:
            return [plain.Unpickler(file).load()]
    except Exception:
        traceback.print_exc(limit=-3)
        return []


def compare(test: Callable, case: int, result: list) -> int:
    """1 if the benchmark's own function accepts the case's result, else 0. An answer that is missing, or that these
    versions of the libraries cannot open, is None, as in the release's script."""
    answer = None
    try:
        with open(f"ans/ans{case}.pkl", "rb") as file:
            answer = pickle.load(file)
    except Exception:
        traceback.print_exc(limit=-3)
    try:
        return int(len(result) == 1 and test(*result, answer) == 1)
    except Exception:
        traceback.print_exc(limit=-3)
        return 0


def without_prints(solution: str) -> str:
    """The answer's text without lines that print, as the release's script makes it: of two in a row, one stays."""
    lines = solution.split("\n")
    for line in lines:
        if "print" in line and "#" not in line.split("print"):
            lines.remove(line)
    return "\n".join(lines)


def string_test(module: types.ModuleType, solution: str) -> int:
    """1 if the answer's text passes its test, else 0."""
    try:
        return int(bool(module.stringTest(without_prints(solution))))
    except Exception:
        traceback.print_exc(limit=-3)
        return 0


def compare_results(count: int) -> None:
    """Compare all cases and print the report."""
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
    {"open": open_results, "compare": compare_results}[sys.argv[1]](int(sys.argv[2]))
