"""How a command ends: the error line and the exit status."""

from __future__ import annotations

import os
import sys

from ms_codegeex.base.errors import FAULTS, RunFailure, UserError, escaped, remedy_of
from ms_codegeex.base.printing import discard, print_error


def print_failure(name: str, error: BaseException) -> int:
    """Print one line that says why the command `name` ended, and return its exit status: 1 failed, 2 the user's
    mistake, 130 interrupted, 0 if the reader of its output has gone (`| head`). Re-raises any other exception."""
    status, reason = 1, str(error)
    if isinstance(error, UserError):
        status = 2
    elif isinstance(error, KeyboardInterrupt):
        status, reason = 130, "interrupted"
    elif isinstance(error, BrokenPipeError):  # the reader of our output has exited (`| head`)
        discard(sys.stdout)
        return 0
    elif isinstance(error, OSError) and (error.filename is not None or error.errno in FAULTS):
        # a path that none of our readers has checked: too long, below a file, another user's
        status = 1 if error.errno in FAULTS else 2
        place = "standard output or a file" if error.filename is None else escaped(os.fsdecode(error.filename))
        reason = f"{place}: {error.strerror}; {remedy_of(error, 'give another path')}"
    elif not isinstance(error, RunFailure):
        raise error
    print_error(f"{name}: {reason}")
    return status


def open_closed_streams() -> None:
    """Redirect a closed stdout or stderr to /dev/null."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
