"""The result of a program in the sandbox, and the verdicts of a judge."""

from __future__ import annotations

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
        """The command exited by itself with status 0."""
        return self.end is End.EXITED and self.code == 0
