"""Run a program in the sandbox: files in, one command after the other, executions out."""

from __future__ import annotations

import marshal
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.evaluation.sandbox.collector import Collector, OutputPipe, standard_input
from ms_codegeex.extras.evaluation.sandbox.layers import ACTIVE, Layers, advice, find_layers
from ms_codegeex.extras.evaluation.sandbox.limits import ResourceLimits, foreign_threads, limits_of
from ms_codegeex.extras.evaluation.sandbox.outcome import End, Execution
from ms_codegeex.extras.evaluation.sandbox.supervisors import (
    ForkServers,
    Interpreters,
    ServerLost,
    SupervisorInterpreter,
    SupervisorProcess,
    find_interpreter,
    message,
    send,
)
from ms_codegeex.extras.evaluation.sandbox.workspace import Workspace, in_directory, in_namespaces

MODES = ("strict", "best-effort")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
ATTEMPTS = 3  # to run a program whose fork server died


@dataclass(frozen=True)
class Command:
    """One command of a program, run in its working directory `/program`."""

    words: Sequence[str]
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""


class Sandbox:
    """Runs programs. Safe to share between threads: every program has its own sandbox."""

    def __init__(self, layers: Layers, interpreter: SupervisorInterpreter) -> None:
        self._parts = layers
        identity = layers.identity
        self._supervisors = ForkServers(interpreter) if layers.namespaces else Interpreters(interpreter, identity)

    @property
    def layers(self) -> Mapping[str, str]:
        return dict(self._parts.states)

    @property
    def missing(self) -> Mapping[str, str]:
        return {name: state.removeprefix("missing: ") for name, state in self.layers.items() if state != ACTIVE}

    def run(
        self, commands: Sequence[Command], files: Mapping[str, bytes], readable: Mapping[str, Path] | None = None
    ) -> list[Execution]:
        """Run the commands in order in one fresh sandbox until one does not succeed; the executions of those that ran.

        `files` (relative path -> content) are the initial content of the program's directory. Each command finds what
        the previous ones wrote there; nothing outlives the program. `readable` (path inside -> path on this machine)
        is mounted read-only, in addition to the system's tool chains. Without namespaces (best-effort), paths inside
        `/program`, `/tmp` and `readable` at the beginning of a word or a variable are replaced by the paths here."""
        check_names(files)
        for _ in range(ATTEMPTS - 1):
            with suppress(ServerLost):
                return self._attempt(commands, files, readable or {})
        return self._attempt(commands, files, readable or {})

    def _attempt(
        self, commands: Sequence[Command], files: Mapping[str, bytes], readable: Mapping[str, Path]
    ) -> list[Execution]:
        """See `run`. Raises `ServerLost` if the fork server died, which no program can cause."""
        with ExitStack() as stack:
            if self._parts.namespaces:
                disk = max((command.limits.disk for command in commands), default=1)
                workspace = in_namespaces(self._parts, disk, readable)
            else:
                workspace = stack.enter_context(in_directory(self._parts, readable))
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            owner = self._parts.identity.get("user", -1)
            job, streams = self._job(workspace, commands, files), []
            passed: list[int] = []  # to the supervisor, after its end of the control socket
            for command, described in zip(commands, job["commands"], strict=True):
                stdin = stack.enter_context(standard_input(command.stdin, owner))
                streams.append([stack.enter_context(OutputPipe(owner, command.limits.output)) for _ in range(2)])
                descriptors = (stdin, *(pipe.write for pipe in streams[-1]))
                for name, descriptor in zip(("stdin", "stdout", "stderr"), descriptors, strict=True):
                    passed += [descriptor] if descriptor >= 0 else []
                    described[name] = len(passed) if descriptor >= 0 else -1
            origin = stack.enter_context(self._supervisors.one(workspace, ours, theirs, passed))
            theirs.close()
            for pipe in (pipe for pair in streams for pipe in pair):
                pipe.close_write()
            allowed = sum(command.limits.wall for command in commands)
            collector = stack.enter_context(Collector(ours, streams, allowed))
            send(ours, message(marshal.dumps(job, 2)))
            collector.collect()
            return collected(collector, origin)

    def _job(self, workspace: Workspace, commands: Sequence[Command], files: Mapping[str, bytes]) -> dict[str, Any]:
        others = foreign_threads(self._parts.user, workspace.job["alone"])
        described, local = [], workspace.local
        for command in commands:
            environment = {name: local(value) for name, value in {**ENVIRONMENT, **command.environment}.items()}
            words = [local(str(word)) for word in command.words]
            described.append({"words": words, "environment": environment, **limits_of(command.limits, others)})
        contents = [(name, bytes(content)) for name, content in files.items()]
        mine = {"directory": workspace.directory, "seccomp": self._parts.filter, "contents": contents}
        return {**mine, **workspace.job, "commands": described}


def collected(collector: Collector, origin: SupervisorProcess) -> list[Execution]:
    """The executions, unless the sandbox itself failed: that is not a verdict on a program."""
    executions = collector.executions()
    silent = len(executions) > len(collector.reports) and executions[-1].end is End.KILLED
    if not collector.ready or collector.failure:
        reason = collector.failure or (origin.complaint() if collector.complete else "nobody answered")
        failed = f"a sandbox {'failed' if collector.ready else 'did not start'}: {reason}"
        raise ServerLost(failed) if not collector.failure and origin.lost() else RunFailure(failed)
    if silent and origin.lost():
        raise ServerLost(f"a sandbox was ended: {origin.complaint()}")
    return executions


def check_names(files: Mapping[str, bytes]) -> None:
    """A program's files must be inside its directory."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise ValueError(f"the name of a program's file must be a relative path without .., not {name!r}")


def open_sandbox(mode: str = "strict") -> Sandbox:
    """A sandbox with every layer that this machine's kernel offers. If `mode` is "strict" and not "best-effort", a
    missing layer is a `UserError` that gives the reason and the remedy."""
    if mode not in MODES:
        raise UserError(f"sandbox: {mode!r} is not a mode; expected one of {', '.join(MODES)}")
    sandbox = best(find_layers(), find_interpreter())
    missing = sandbox.missing
    if missing and mode == "strict":
        problems = "; ".join(f"{name}: {problem}" for name, problem in missing.items())
        raise UserError(f"sandbox: layers are missing ({problems}); or do without them: --sandbox best-effort")
    return sandbox


def best(layers: Layers, interpreter: SupervisorInterpreter) -> Sandbox:
    """A sandbox with namespaces if the kernel lets us create them, which an empty program shows."""
    layers.namespaces = True
    sandbox = Sandbox(layers, interpreter)
    try:
        sandbox.run([], {})
    except RunFailure as error:
        layers.namespaces = False
        layers.state("namespaces", f"{error}; {advice()}")
        return Sandbox(layers, interpreter)
    layers.state("namespaces", "")
    return sandbox
