"""Run tests of a function with values that it returned elsewhere, or record its calls. Runs in the sandbox, without
any code of the answer.

    python replay_tests.py record|replay

Standard input is what `marshal` makes, by the same Python outside, which is read faster than JSON. Each problem has
`names`, a program (imports, prompt and canonical solution), `tests`, a program that uses its names, and `function`, the
name of the tested one. `record`: a list of problems; for each, standard output has, as JSON, the encoded arguments and
values of all calls, or null if its tests do not pass with these values in place of the function. `replay`: one problem,
with its `calls`, `bare` as recorded, and the encoded `values` as far as they got; standard output is what stopped the
tests: "None", "assertion", "other" (a value is no plain data), "more" (they need more values) or the name of an error.
"""

from __future__ import annotations

import marshal
import os
import sys

from typed import ValueEncoder, decoded

TYPE_CHECKING = False  # as in `typing`, whose import takes time
if TYPE_CHECKING:
    from collections.abc import Callable


class Other(BaseException):
    """A value is no plain data."""


class More(BaseException):
    """The tests need more values."""


def run(problem: dict, bare: bool, function: Callable) -> None:
    """Run the tests. `function` gets the canonical solution and makes the tested function of it. `bare`: the tests use
    no other name, so nothing else runs."""
    if "random" in problem["names"] or "random" in problem["tests"]:
        import random

        random.seed(0)
    names = {}
    if not bare:
        exec(compile(problem["names"], "names.py", "exec"), names)
    # a copy: the solution's own names stay its own, so its recursion is no call of the tests
    exec(
        compile(problem["tests"], "tests.py", "exec"),
        {**names, problem["function"]: function(names.get(problem["function"]))},
    )


def recorder(calls: list, values: list) -> Callable:
    """Makes a function that records its calls. It gets copies of the arguments, so the tests see no change of theirs,
    as when they are run with values."""

    def wrapped(solution: Callable) -> Callable:
        def call(*arguments: object) -> object:
            calls.append(ValueEncoder()(list(arguments)))
            value = solution(*decoded(calls[-1]))
            values.append(ValueEncoder()(value))
            return value

        return call

    return wrapped


def player(calls: list, values: list) -> Callable:
    """Makes a function that returns recorded values. Other calls than the recorded ones fail like an assertion: only
    messages of failed assertions make them."""
    state = {"at": 0}

    def call(*arguments: object) -> object:
        at = state["at"]
        if at >= len(calls) or ValueEncoder()(list(arguments)) != calls[at]:
            raise AssertionError("the tests make other calls")
        if at >= len(values):
            raise More
        state["at"] += 1
        try:
            return decoded(values[at])
        except (ValueError, TypeError):
            raise Other(f"value {at} is no plain data: {str(values[at])[:200]}") from None

    return lambda _: call


def record(problem: dict) -> dict | None:
    """The calls and values of the canonical solution, None if they do not make the tests pass. `bare` as in `run`."""
    calls, values = [], []
    try:
        run(problem, False, recorder(calls, values))
    except BaseException:
        return None
    recorded = {"calls": calls, "values": values}
    if not calls:
        return None
    for bare in (True, False):
        if replay({**problem, **recorded, "bare": bare}) is None:
            return {**recorded, "bare": bare}
    return None


def replay(problem: dict) -> str | None:
    """Run the tests with values; see the module."""
    try:
        run(problem, problem["bare"], player(problem["calls"], problem["values"]))
    except More:
        return "more"
    except (AssertionError, Other) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return "other" if isinstance(error, Other) else "assertion"
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n"[:500])
        return type(error).__name__
    return None


def main(mode: str) -> None:
    """Record or replay."""
    output, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    given = marshal.loads(sys.stdin.buffer.read())
    if mode == "record":
        import json  # only here, because it makes every start slower

        result = json.dumps([record(problem) for problem in given])
    else:
        result = str(replay(given))
    sys.stdout.flush()
    with os.fdopen(output, "wb") as file:
        file.write(result.encode("ascii"))


if __name__ == "__main__":
    main(*sys.argv[1:])
