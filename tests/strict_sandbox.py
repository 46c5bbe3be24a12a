"""Tests that are marked `strict_sandbox`, or use a sandbox fixture, are skipped where the kernel refuses a layer
of it; the last lines say how many, why, and what enables them. `test_sandbox_layers.py` says whether the sandbox itself
is what is broken."""

from __future__ import annotations

import errno
import functools
import platform
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from ms_codegeex.extras.evaluation.sandbox import Sandbox, open_sandbox
from ms_codegeex.extras.evaluation.sandbox.seccomp import (
    ALLOW,
    LOAD,
    MACHINES,
    NUMBER,
    NUMBERS,
    RETURN,
    instruction,
    refuse,
    when,
)
from ms_codegeex.extras.evaluation.sandbox.supervisors import find_interpreter

MARK, REASON = "strict_sandbox", "the strict sandbox is not possible here: "


@functools.cache
def refused() -> str:
    """What this machine lacks, each layer with its reason and remedy; "" for nothing."""
    return "; ".join(f"{name}: {problem}" for name, problem in open_sandbox("best-effort").missing.items())


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    """A strict sandbox, shared by the tests of a module."""
    return open_sandbox()


@pytest.fixture
def fresh_sandbox() -> Sandbox:
    """A strict sandbox for one test, with fork servers of its own."""
    return open_sandbox()


@pytest.fixture
def shown() -> Iterator[Path]:
    """A directory that every user can reach, for programs to see."""
    from sandbox_world import open_directory

    with open_directory() as directory:
        yield directory


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is set up."""
    needed = item.get_closest_marker(MARK) or {"sandbox", "fresh_sandbox"} & set(getattr(item, "fixturenames", ()))
    if needed and refused():
        pytest.skip(REASON + refused())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    """The last section of the summary; nothing if no test was skipped for this reason."""
    yield
    skipped = terminalreporter.getreports("skipped")
    reported = [one.longrepr[2] for one in skipped if isinstance(one.longrepr, tuple)]
    reasons = [reason.partition(REASON)[2] for reason in reported if REASON in reason]
    if reasons:
        terminalreporter.section("strict sandbox", sep="-")
        terminalreporter.write_line(f"{len(reasons)} tests were skipped, {REASON}{reasons[0]}")


REFUSING = '''#!/bin/sh
""":"
exec "@python@" -IS "$0" "$@"
":"""
import ctypes, os, sys
libc, code = ctypes.CDLL(None, use_errno=True), @code@
filter = ctypes.create_string_buffer(code, len(code))
program = (ctypes.c_uint64 * 2)(len(code) // 8, ctypes.addressof(filter))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv("@python@", ["@python@", *sys.argv[1:]])
'''


def refusing_filter() -> bytes:
    """A seccomp filter under which a process cannot create namespaces, as in a container with Docker's."""
    unshare = NUMBERS["unshare"][MACHINES[platform.machine()][1]]
    assert unshare is not None
    code = [instruction(LOAD, NUMBER), *when(unshare, [refuse(errno.EPERM)]), instruction(RETURN, ALLOW)]
    return b"".join(code)


def refusing_python(directory: Path, python: str | None = None) -> str:
    """A Python whose kernel denies namespaces; as the sandbox's if none is named."""
    path = directory / "refusing-python"
    text = REFUSING.replace("@python@", python or find_interpreter().path).replace("@code@", repr(refusing_filter()))
    path.write_text(text)
    path.chmod(0o755)
    return str(path)
