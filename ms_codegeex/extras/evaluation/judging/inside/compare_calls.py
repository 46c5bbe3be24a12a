"""Compare the values that a function returned (`run_calls.py`) with the expected ones, by EvalPlus's rules.

    python compare_calls.py

Standard input, a line of JSON: {"entry_point": name, "dataset": "mbpp" or "humaneval", "tolerance": absolute,
"arguments": and "expected": base64 of pickles, "secret": text}. It is sent after the program has ended. Its values are
plain data, so no code of the program runs here. Standard output: the number of leading calls with a right value and, on
the next line, the secret. Standard library only, compatible with Python 3.7.
"""
# ruff: noqa: B905 (zip has no `strict` before Python 3.10)

from __future__ import annotations

import base64
import cmath
import io
import json
import math
import sys
import traceback

import plain

RELATIVE, FLOATS = 1e-7, 1e-6  # tolerances: relative; absolute, of floats if the problem has none
# Functions of MBPP+ whose result is compared as a set, and those of which only being None matters.
SETS = (
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
)  # fmt: skip
PRESENT = ("check_str", "text_match_three", "text_starta_endb")


def pyramid(side: float, height: float) -> int:
    return round(side**2 + 2 * side * math.sqrt((side / 2) ** 2 + height**2))


def digits(one: int, other: int) -> int:
    """The sum of the differences of two numbers' digits, position by position (Mbpp/558)."""
    texts = str(one), str(other)
    width = max(map(len, texts))
    return sum(abs(int(a) - int(b)) for a, b in zip(*(text.zfill(width) for text in texts)))


def is_float(value: object) -> bool:
    """Whether this is a float, or a list, tuple or array of floats."""
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float) or str(getattr(value, "dtype", "")) in ("float64", "float32")


def near(returned: object, expected: object, absolute: float) -> bool:
    """Whether all numbers are within the tolerances, at any depth; False if there is anything but numbers."""
    returned, expected = (value.tolist() if hasattr(value, "tolist") else value for value in (returned, expected))
    if isinstance(returned, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(returned) == len(expected) and all(near(*pair, absolute) for pair in zip(returned, expected))
    if not all(isinstance(value, (int, float, complex)) for value in (returned, expected)):
        return False
    if returned == expected:
        return True
    return not cmath.isinf(expected) and abs(returned - expected) <= absolute + RELATIVE * abs(expected)


def special(entry_point: str, dataset: str, arguments: list, returned: object, tolerance: float) -> bool:
    rules = {
        "are_equivalent": lambda: True,  # Mbpp/164 leaves open what is equivalent
        "sum_div": lambda: returned == 0,
        "surface_Area": lambda: abs(returned - pyramid(*arguments)) <= tolerance,
        "digit_distance_nums": lambda: returned == digits(*arguments),
    }
    return dataset == "mbpp" and entry_point in rules and rules[entry_point]()


def exact(entry_point: str, dataset: str, returned: object, expected: object) -> bool:
    """Whether two values are equal, as sets or in being present for some functions."""
    if dataset == "mbpp" and entry_point in SETS:
        return set(returned) == set(expected)
    if dataset == "mbpp" and entry_point in PRESENT and not isinstance(returned, bool):
        return expected == (returned is not None)
    return bool(returned == expected)


def right_calls(given: dict, arguments: list, returned: list, expected: list) -> int:
    """The number of leading calls with a right value."""
    name, dataset, tolerance = given["entry_point"], given["dataset"], given["tolerance"]
    for number, (words, value, wanted) in enumerate(zip(arguments, returned, expected)):
        if dataset == "humaneval" and name == "find_zero":  # any root of the polynomial will do
            there = sum(coefficient * math.pow(value, power) for power, coefficient in enumerate(words[0]))
            right = abs(there) <= tolerance
        else:
            equal = exact(name, dataset, value, wanted) or special(name, dataset, words, value, tolerance)
            if tolerance == 0 and is_float(wanted):
                tolerance = FLOATS  # from here on, as in the published runner
            right = equal or (tolerance != 0 and type(value) is type(wanted) and near(value, wanted, tolerance))
        if not right:
            sys.stderr.write(f"call {number}: {value!r:.200} instead of {wanted!r:.200}\n")
            return number
    return min(len(returned), len(expected))


def unpickled(data: bytes) -> list:
    """The values that were written one after the other, as far as they are plain data."""
    stream, values = io.BytesIO(data), []
    try:
        while stream.tell() < len(data):
            values.append(plain.Unpickler(stream).load())
    except Exception:
        traceback.print_exc(limit=-3)
    return values


def main() -> None:
    """Compare."""
    with open("returned", "rb") as file:
        returned = unpickled(file.read())
    given = json.loads(sys.stdin.readline())
    arguments, expected = (unpickled(base64.b64decode(given[name])) for name in ("arguments", "expected"))
    if given["dataset"] == "mbpp" and given["entry_point"] in PRESENT:
        expected = [value is not None for value in expected]
    try:
        count = right_calls(given, arguments, returned, expected)
    except Exception:
        traceback.print_exc(limit=-3)
        count = 0
    sys.stdout.write(f"{count}\n{given['secret']}\n")


if __name__ == "__main__":
    main()
