"""The shapes of situations in which an error says what to do, and in which it is done."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import command_here

from ms_codegeex.base.errors import UserError

Call = Callable[[], object]
Situation = Callable[[Path], Iterator[Call]]  # a call that fails, and after its message is sent, others
Entry = Situation | tuple[Situation, ...]  # of a remedy
AGAIN = "again"  # the step that failed, once more


class Started(Exception):
    """A run has checked everything and would start its workers, or a server would load its model."""


class Said(NamedTuple):
    """A step with what a pattern finds in the message: in the places {0}, {1} … of a command, or as arguments."""

    pattern: str
    step: str | Callable[..., object]


def failing(line: str, status: int | None = None) -> Call:
    """A command as a call that raises its message, with this status."""

    def call() -> None:
        with contextlib.suppress(Started):
            result = command_here(*shlex.split(line))
            if result.returncode:
                assert status in (None, result.returncode), result.stderr
                raise UserError(result.stderr.splitlines()[-1].partition(": ")[2])

    return call


def run(line: str) -> None:
    """A command that has to succeed."""
    failing(line)()


def tried(*steps: Any) -> Situation:
    """Steps of which the first fails, and the others do what its message says. A step is a command (`{at}` is the
    directory of the situation), a function of that directory, Said, AGAIN, or a tuple that ends with one of them, after
    what is done before it: such steps, and dicts of files to put there."""

    def call_of(step: Any, at: Path, message: str) -> Call:
        found: tuple[str, ...] = ()
        if isinstance(step, Said):
            found, step = re.search(step.pattern, message).groups(), step.step
        return failing(step.format(*found, at=at)) if isinstance(step, str) else partial(step, at, *found)

    def situation(at: Path) -> Iterator[Call]:
        message, first = "", None
        for step in steps:
            *before, last = step if type(step) is tuple else (step,)
            for do in before:
                put(at, do) if isinstance(do, dict) else call_of(do, at, message)()
            call = first if last is AGAIN else call_of(last, at, message)
            first = first or call
            message = (yield call) or message

    return situation


def lines(line: str, *words: object) -> Situation:
    """A command with each of these in the place of @, of which the first fails."""
    return tried(*(line.replace("@", str(each)) for each in words))


def followed(pattern: str = "`ms-codegeex (.*?)`", more: str = "", **places: str) -> Said:
    """The command in the message, with what the user puts in its places."""

    def follow(at: Path, line: str) -> None:
        for place, value in places.items():
            line = re.sub(rf"\b{place}\b", value.format(at=at), line)
        run(f"{line} {more}".format(at=at))

    return Said(pattern, follow)


def each(call: Callable[..., object], *values: Any) -> Situation:
    """A call with a value that is refused, and with others. Those in a tuple are all its arguments, in a dict all its
    keywords."""

    def called(value: Any, at: Path) -> object:
        if isinstance(value, dict):
            return call(**value)
        return call(*value) if type(value) is tuple else call(value)

    return tried(*(partial(called, value) for value in values))


def of_each(call: Callable[[Path, Any], object], *values: Any) -> Situation:
    """The same, of a call that takes the directory of the situation, too."""
    return tried(*(lambda at, value=value: call(at, value) for value in values))


@contextlib.contextmanager
def environment(**values: object) -> Iterator[pytest.MonkeyPatch]:
    """Meanwhile, these variables; None: without."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in values.items():
            patched.delenv(name, raising=False) if value is None else patched.setenv(name, str(value))
        yield patched


def copied(at: Path, name: str) -> Path:
    """A copy of a directory of the place, for the situation alone."""
    return Path(shutil.copytree(name, at / name, symlinks=True))


def put(folder: Path, files: dict[str, Any]) -> None:
    """Files by name: rows of a .jsonl file, the values of another, text or bytes, None: no file."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, list):
            content = "".join(f"{json.dumps(row)}\n" for row in content)
        elif isinstance(content, dict):
            content = json.dumps(content)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
