"""MBPP+ from Hugging Face (evalplus/mbppplus), converted to the problems of EvalPlus's own file.

A row has `task_id` (a number), `prompt` (the sentence alone), `code` (the canonical solution), `test_list` (MBPP's
assertions) and `test`: a program whose line `inputs = [...]` holds the arguments of each call, MBPP's first, and whose
last line is `assertion(NAME(*inp), exp, ATOL)` or `assertion(NAME(*inp), ref_func(*inp), ATOL)`. EvalPlus's
`tools/mbpp/to_original_fmt.py` writes this format from the file that `problems` reads.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.tables import value_of

KEYS = "task_id, prompt, code, test_list and test"
INPUTS = "inputs = "
CALL = re.compile(r"^    assertion\((?P<name>\w+)\(\*inp\), (?:exp|ref_func\(\*inp\)), (?P<atol>[0-9.e+-]+)\)$")
CONSTANTS = {"inf": math.inf, "nan": math.nan}


def is_hub_row(row: Mapping[str, Any]) -> bool:
    """Whether a row is of this form."""
    return "test_list" in row and "base_input" not in row


def converted_row(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The row as in EvalPlus's own file, but with arguments that already have their types.

    Raises:
        UserError: something is missing, or `test` has another form.
    """
    kinds = {"task_id": int, "prompt": str, "code": str, "test_list": list, "test": str}
    number, prompt, code, tests, test = (
        value_of(row, key, kind, where, f"on Hugging Face has {KEYS}") for key, kind in kinds.items()
    )
    if not tests or not all(isinstance(each, str) for each in tests):
        raise UserError(f"{where}: test_list is not a list of assertions; fetch the file again")
    inputs, name, tolerance = _calls(test, where)
    return {
        "task_id": f"Mbpp/{number}",
        "prompt": f'"""\n{prompt.strip()}\n{tests[0].strip()}\n"""\n',
        "entry_point": name,
        "canonical_solution": code,
        "base_input": inputs[: len(tests)],
        "plus_input": inputs[len(tests) :],
        "atol": tolerance,
    }


def _calls(test: str, where: str) -> tuple[list[Any], str, float]:
    """The arguments of each call, the function's name and the tolerance. Nothing of the program is run."""
    lines = test.rstrip().split("\n")
    given = [line[len(INPUTS) :] for line in lines if line.startswith(INPUTS)]
    call = CALL.match(lines[-1])
    if len(given) != 1 or call is None:
        raise UserError(
            f"{where}: test has another form than MBPP+'s on Hugging Face, one line {INPUTS!r} and the last "
            "'    assertion(NAME(*inp), exp, ATOL)', or with ref_func(*inp) instead of exp; fetch the file again"
        )
    try:
        inputs, tolerance = _literal(given[0]), float(call["atol"])
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: the inputs of test are not plain values ({error}); fetch the file again") from None
    if not isinstance(inputs, list) or not all(isinstance(each, list | tuple) for each in inputs):
        raise UserError(f"{where}: the inputs of test are not a list of calls; fetch the file again")
    return [list(each) for each in inputs], call["name"], tolerance


class _Constants(ast.NodeTransformer):
    """Replaces `inf` and `nan`, which `repr` writes for numbers."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.copy_location(ast.Constant(CONSTANTS[node.id]), node) if node.id in CONSTANTS else node


def _literal(text: str) -> Any:
    """The value of an expression of literals; ValueError for any other."""
    return ast.literal_eval(_Constants().visit(ast.parse(text, mode="eval")))
