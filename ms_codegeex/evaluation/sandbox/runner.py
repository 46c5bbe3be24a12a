"""One program: files in, commands one after the other, executions out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ms_codegeex.evaluation.sandbox.limits import Limits
from ms_codegeex.evaluation.sandbox.outcome import Execution


@dataclass(frozen=True)
class Command:
    """One command of a program, run in its working directory `/work`."""

    words: Sequence[str]
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""


class Sandbox:
    """Runs programs. Safe to share between threads: every program has a sandbox of its own."""

    def run(
        self,
        commands: Sequence[Command],
        files: Mapping[str, bytes],
        readable: Mapping[str, Path] | None = None,
    ) -> list[Execution]:
        """Run the commands in order in one fresh sandbox until one does not succeed; an execution for each one run.

        `files` (relative path -> content) are the program's directory at the start; what one command writes there the
        next one finds, nothing outlives the program. `readable` (path inside -> path of this machine) is seen
        read-only, beside the system's tool chains.
        """
        raise NotImplementedError


def open_sandbox(mode: str = "strict") -> Sandbox:
    """A sandbox with every layer this machine's kernel offers; `mode` is "strict" or "best-effort".

    A missing layer is a `UserError` that names it, its reason and the remedy, unless the mode is best-effort.
    """
    raise NotImplementedError
