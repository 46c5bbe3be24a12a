"""The result of a program in the sandbox, and the verdicts of a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Verdict(str, Enum):
    """A judge's verdict on one program."""

    PASSED = "passed"
    WRONG = "wrong"  # it ran to its end, or an assertion of the tests failed
    ERROR = "error"  # an exception, a crash, an early exit
    COMPILE_ERROR = "compile error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    KILLED = "killed"  # by a limit on files, processes or output, or by a forbidden system call


class End(str, Enum):
    """How one command ended."""

    EXITED = "exited"  # by itself: `code` is its exit status
    SIGNALLED = "signalled"  # by a signal other than our limits': `code` is minus the signal's number
    TIMEOUT = "timeout"  # wall clock or CPU seconds
    MEMORY = "memory"
    OUTPUT = "output"  # it wrote more than the cap
    KILLED = "killed"  # forbidden system call, size of a file


FAILURES = {  # any other end is an error of the program
    End.TIMEOUT: Verdict.TIMEOUT,
    End.MEMORY: Verdict.MEMORY,
    End.OUTPUT: Verdict.KILLED,
    End.KILLED: Verdict.KILLED,
}


@dataclass(frozen=True)
class Execution:
    """One command of a program: how it ended, the wall clock seconds it took, and its output (capped, raw bytes)."""

    end: End
    code: int
    seconds: float
    stdout: bytes
    stderr: bytes

    @property
    def succeeded(self) -> bool:
        return self.end is End.EXITED and self.code == 0

    @property
    def failure(self) -> Verdict:
        return FAILURES.get(self.end, Verdict.ERROR)

    def printed(self, secret: str | bytes) -> bool:
        line = secret.encode("ascii") if isinstance(secret, str) else secret
        return line in self.stdout.split(b"\n")


def published_verdict(executions: Sequence[Execution], compiling: int = 0) -> Verdict:
    """The rule of the published runners: every command exits with 0. The first `compiling` commands only compile."""
    last = executions[-1]
    if last.succeeded:
        return Verdict.PASSED
    compiled = len(executions) > compiling or last.end not in (End.EXITED, End.SIGNALLED)
    return last.failure if compiled else Verdict.COMPILE_ERROR
