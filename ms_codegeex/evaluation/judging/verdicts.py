"""From what a program did to a verdict: what the judges of all tasks share."""

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
    """A secret of one run. A program whose last act after its tests is to print it has come to the end of them: one
    that leaves early, or prints that it passed, does not know it."""
    return f"witness-{secrets.token_hex(16)}"


def published(executions: Sequence[Execution], compiling: int = 0) -> Verdict:
    """The rule of the published runners: every command exits with 0. The first `compiling` commands only compile."""
    last = executions[-1]
    if last.succeeded:
        return Verdict.PASSED
    if len(executions) <= compiling and last.end in (End.EXITED, End.SIGNALLED):
        return Verdict.COMPILE_ERROR
    return ENDS.get(last.end, Verdict.ERROR)


def told(execution: Execution, secret: str | bytes) -> bool:
    """The secret is a line of what the command wrote. Where is no matter: nobody knows it before the tests' end."""
    line = secret.encode("ascii") if isinstance(secret, str) else secret
    return line in execution.stdout.split(b"\n")


def strict(executions: Sequence[Execution], secret: str, compiling: int = 0) -> Verdict:
    """As `published`, and the last command has written the secret. One that has not, has left before its tests' end."""
    verdict = published(executions, compiling)
    return Verdict.ERROR if verdict is Verdict.PASSED and not told(executions[-1], secret) else verdict
