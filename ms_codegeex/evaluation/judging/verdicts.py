"""From the executions of a program to a verdict: what the judges of all tasks share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from ms_codegeex.evaluation.sandbox import End, Execution, Verdict

ENDS = {
    End.TIMEOUT: Verdict.TIMEOUT,
    End.MEMORY: Verdict.MEMORY,
    End.OUTPUT: Verdict.KILLED,
    End.KILLED: Verdict.KILLED,
    End.SIGNALLED: Verdict.ERROR,
}


def witness() -> str:
    """A secret for one run. A program that prints it right after its tests has completed them. One that exits
    early, or prints that it passed, does not know it."""
    return f"witness-{secrets.token_hex(16)}"


def published(executions: Sequence[Execution], compiling: int = 0) -> Verdict:
    """The rule of the published runners: every command exits with 0. The first `compiling` commands only compile."""
    last = executions[-1]
    if last.succeeded:
        return Verdict.PASSED
    if len(executions) <= compiling and last.end in (End.EXITED, End.SIGNALLED):
        return Verdict.COMPILE_ERROR
    return ENDS.get(last.end, Verdict.ERROR)


def printed(execution: Execution, secret: str | bytes) -> bool:
    """Whether the secret is a line of the command's standard output. Any line will do: before the tests' end nobody
    knows the secret."""
    line = secret.encode("ascii") if isinstance(secret, str) else secret
    return line in execution.stdout.split(b"\n")
