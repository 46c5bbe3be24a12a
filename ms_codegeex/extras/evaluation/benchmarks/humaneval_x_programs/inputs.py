"""Six problems whose tests draw or compute their inputs: the same inputs, drawn once with a fixed seed.

So their programs, too, only say values. The distributions are those of Python's tests.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.evaluation.judging.values import Check

DRAWS = 100
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Newton's method, as in the references of CPP/32 and Rust/32, converges on these.
POLYNOMIALS = ([1, 2], [-6, 11, -6, 1], [10, -7], [3, 8], [-4, 5, 1, 1], [-27, 27, -9, 1], [5, -9, 2, 3, 1, 7])
Call = tuple[Sequence[Any], Check]
TABLE = Path(__file__).parents[1] / "humaneval_x.yaml"


def table(part: str) -> Any:
    return shipped_table(TABLE)[part]


def cyclic(plain: str) -> str:
    return re.sub(r"(.)(..)", r"\2\1", plain)


def shifted(plain: str) -> str:
    return "".join(LETTERS[(LETTERS.index(letter) + 5) % 26] for letter in plain)


def decoding(encode: Callable[[str], str]) -> Callable[[random.Random], Call]:
    """Calls of a function that decodes ten to twenty small letters."""

    def draw(generator: random.Random) -> Call:
        plain = "".join(generator.choice(LETTERS) for _ in range(generator.randint(10, 20)))
        return [encode(plain)], Check(plain)

    return draw


def root(generator: random.Random) -> Call:
    coefficients = [generator.randint(-10, 10) or 1 for _ in range(2 * generator.randint(1, 4))]
    return [coefficients], Check(coefficients, "root", 1e-4)


def total(generator: random.Random) -> Call:
    x, y = generator.randint(0, 1000), generator.randint(0, 1000)
    return [x, y], Check(x + y)


DRAWN = {
    32: ("find_zero", root),
    38: ("decode_cyclic", decoding(cyclic)),
    50: ("decode_shift", decoding(shifted)),
    53: ("add", total),
}
ODD = list(range(-99, 100, 2))
COMPUTED: dict[int, tuple[str, list[Call]]] = {
    44: ("change_base", [([x, x + 1], Check(str(x))) for x in range(2, 8)]),
    151: ("double_the_difference", [([ODD], Check(sum(x * x for x in ODD if x > 0)))]),
}


def calls(number: int, language: str, test: str) -> tuple[str, list[tuple[str, Check]]] | None:
    """The function of a problem, and calls of it as expressions with their checks; None for any other problem, or if
    the tests are not those of this problem."""
    if number in COMPUTED:
        name, drawn = COMPUTED[number]
    elif number in DRAWN:
        name, draw = DRAWN[number]
        generator = random.Random(number)
        drawn = [draw(generator) for _ in range(DRAWS)]
        if number == 32 and language in ("cpp", "rust"):
            drawn = [([each], Check(each, "root", 1e-3)) for each in POLYNOMIALS]
        if (number, language) == (50, "go"):  # its prompt's function that encodes returns what it gets
            drawn = [([check.expected], check) for _, check in drawn]
    else:
        return None
    first, *words = name.split("_")
    if language in ("java", "js", "go"):
        name = (first.capitalize() if language == "go" else first) + "".join(map(str.capitalize, words))
    if not re.search(rf"\b{name}\(", test):
        return None
    called, made = f"s.{name}" if language == "java" else name, []
    for arguments, check in drawn:
        inside = ", ".join(literal(each, number, language) for each in arguments)
        made.append((f"{called}({inside})", check))
    return name, made


def literal(value: Any, number: int, language: str) -> str:
    """An argument in a language. Numbers in lists are floats where the function takes floats."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, int):
        return str(value)
    real = language == "rust" or (number, language) == (32, "java")
    items = ", ".join(f"{each}.0" if real else str(each) for each in value)
    if number == 32 and language in ("go", "rust"):
        return f"[]int{{{items}}}" if language == "go" else f"&vec![{items}]"
    return str(table("lists")[language]).format(items)


def tests(language: str, name: str, statements: Sequence[str]) -> str:
    body = "\n".join(f"    {statement}{';' if language in ('cpp', 'rust') else ''}" for statement in statements)
    return str(table("tests")[language]).format(body=body, name=name)
