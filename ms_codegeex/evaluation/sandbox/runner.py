"""One program: files in, commands one after the other, executions out."""

from __future__ import annotations

import fcntl
import marshal
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ms_codegeex.errors import RunFailure, UserError
from ms_codegeex.evaluation.sandbox.channel import Collector, Stream
from ms_codegeex.evaluation.sandbox.interpreter import Interpreter, find_interpreter
from ms_codegeex.evaluation.sandbox.layers import Layers, advice, find_layers
from ms_codegeex.evaluation.sandbox.limits import Limits
from ms_codegeex.evaluation.sandbox.outcome import End, Execution
from ms_codegeex.evaluation.sandbox.place import Place, isolated, plain
from ms_codegeex.evaluation.sandbox.supervisors import (
    ForkServers,
    OneByOne,
    Origin,
    ServerLost,
    Supervisors,
    message,
    send,
)
from ms_codegeex.evaluation.sandbox.told import crowd, limits_of

MODES = ("strict", "best-effort")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"}
ATTEMPTS = 3  # at a program whose fork server has died


@dataclass(frozen=True)
class Command:
    """One command of a program, run in its working directory `/program`."""

    words: Sequence[str]
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""


class Sandbox:
    """Runs programs. Safe to share between threads: every program has a sandbox of its own.

    `layers` says of each layer "active", or "missing: " with its reason and remedy.
    """

    def __init__(self, layers: Layers, interpreter: Interpreter) -> None:
        self._parts = layers
        self._supervisors: Supervisors = (
            ForkServers(interpreter) if layers.namespaces else OneByOne(interpreter, layers.identity)
        )

    @property
    def layers(self) -> Mapping[str, str]:
        """See the class."""
        return dict(self._parts.states)

    @property
    def missing(self) -> Mapping[str, str]:
        """The layers that this machine lacks, each with its reason and remedy."""
        return self._parts.missing()

    def run(
        self,
        commands: Sequence[Command],
        files: Mapping[str, bytes],
        readable: Mapping[str, Path] | None = None,
    ) -> list[Execution]:
        """Run the commands in order in one fresh sandbox until one does not succeed; an execution for each one run.

        `files` (relative path -> content) are the program's directory at the start; what one command writes there the
        next one finds, nothing outlives the program. `readable` (path inside -> path of this machine) is seen
        read-only, beside the system's tool chains. Without namespaces (best-effort) the paths `/program`, `/tmp` and
        those of `readable` at the beginning of a word or a variable are replaced by the ones they have on this machine.
        """
        check_names(files)
        for _ in range(ATTEMPTS - 1):
            with suppress(ServerLost):
                return self._attempt(commands, files, readable or {})
        return self._attempt(commands, files, readable or {})

    def _attempt(
        self, commands: Sequence[Command], files: Mapping[str, bytes], readable: Mapping[str, Path]
    ) -> list[Execution]:
        """See `run`. A `ServerLost` if the fork server has died, which is nothing that a program can do."""
        with ExitStack() as stack:
            place = stack.enter_context(self._place(commands, readable))
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            owner = self._parts.identity.get("user", -1)
            pipes = [(stack.enter_context(Pipe(owner)), stack.enter_context(Pipe(owner))) for _ in commands]
            inputs = [stack.enter_context(given(command.stdin, owner)) for command in commands]
            job = self._job(place, commands, files)
            passed: list[int] = []
            for command, (out, error), stdin in zip(job["commands"], pipes, inputs, strict=True):
                command.update(stdin=place_of(stdin, passed), stdout=place_of(out.write, passed))
                command.update(stderr=place_of(error.write, passed))
            origin = stack.enter_context(self._supervisors.one(place, ours, theirs, passed))
            theirs.close()
            for pair in pipes:
                for pipe in pair:
                    pipe.close_write()
            caps = [command.limits.output for command in commands]
            streams = [
                (Stream(out.read, cap), Stream(error.read, cap)) for (out, error), cap in zip(pipes, caps, strict=True)
            ]
            allowed = sum(command.limits.wall for command in commands)
            collector = stack.enter_context(Collector(ours, streams, allowed))
            send(ours, message(marshal.dumps(job, 2)))
            collector.collect()
            return found(collector, origin)

    def _place(self, commands: Sequence[Command], readable: Mapping[str, Path]) -> AbstractContextManager[Place]:
        """Namespaces where there are any."""
        if not self._parts.namespaces:
            return plain(self._parts, readable)
        disk = max((command.limits.disk for command in commands), default=1)
        return nullcontext(isolated(self._parts, disk, readable))

    def _job(self, place: Place, commands: Sequence[Command], files: Mapping[str, bytes]) -> dict[str, Any]:
        """What the supervisor is told."""
        others = crowd(self._parts.user, place.job["alone"])
        described = []
        for command in commands:
            environment = {name: place.local(value) for name, value in {**ENVIRONMENT, **command.environment}.items()}
            words = [place.local(str(word)) for word in command.words]
            described.append({"words": words, "environment": environment, **limits_of(command.limits, others)})
        contents = [(name, bytes(content)) for name, content in files.items()]
        mine = {"directory": place.directory, "seccomp": self._parts.filter, "contents": contents}
        return {**mine, **place.job, "commands": described}


def found(collector: Collector, origin: Origin) -> list[Execution]:
    """What has been collected, unless the sandbox itself has failed: that is no program's verdict."""
    executions = collector.executions()
    silent = len(executions) > len(collector.reports) and executions[-1].end is End.KILLED
    if not collector.ready or collector.failure:
        reason = collector.failure or (origin.complaint() if collector.complete else "nobody answered")
        failed = f"a sandbox {'failed' if collector.ready else 'did not start'}: {reason}"
        raise ServerLost(failed) if not collector.failure and origin.lost() else RunFailure(failed)
    if silent and origin.lost():
        raise ServerLost(f"a sandbox was ended: {origin.complaint()}")
    return executions


def place_of(descriptor: int, passed: list[int]) -> int:
    """Where a supervisor will find the descriptor, which is added to those that it is passed; -1 for none."""
    if descriptor < 0:
        return -1
    passed.append(descriptor)
    return len(passed)  # the control socket is the first


class Pipe:
    """Both ends of a pipe; what is still open at the end is closed. `owner` may open it again as /dev/stdout."""

    def __init__(self, owner: int) -> None:
        self.owner = owner

    def __enter__(self) -> Pipe:
        self.read, self.write = os.pipe()
        os.fchown(self.write, self.owner, -1)
        return self

    def close_write(self) -> None:
        """Leave writing to the program."""
        if self.write >= 0:
            os.close(self.write)
        self.write = -1

    def __exit__(self, *_: object) -> None:
        self.close_write()
        os.close(self.read)


@contextmanager
def given(data: bytes, owner: int) -> Iterator[int]:
    """A descriptor that standard input is read from, -1 for an empty one.

    What has been read from a pipe is gone, so a secret that a judge's harness reads first cannot be read again. Only
    what does not fit into one is given as a file.
    """
    if not data:
        yield -1
        return
    descriptor = filled_pipe(data, owner)
    if descriptor < 0:
        descriptor = sealed_file(data)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def filled_pipe(data: bytes, owner: int) -> int:
    """The reading end of a pipe that holds the data and ends there, -1 if it does not hold that much."""
    read, write = os.pipe()
    try:
        os.fchown(read, owner, -1)
        os.set_blocking(write, False)
        if len(data) <= fcntl.fcntl(write, fcntl.F_GETPIPE_SZ) and os.write(write, data) == len(data):
            return read
    except BlockingIOError:
        pass
    finally:
        os.close(write)
    os.close(read)
    return -1


def sealed_file(data: bytes) -> int:
    """A nameless file that nobody writes to any more: a program could hide memory in it."""
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    every = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, every)
    return descriptor


def check_names(files: Mapping[str, bytes]) -> None:
    """A program's files are below its directory."""
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
            raise ValueError(f"the name of a program's file must be a relative path without .., not {name!r}")


def open_sandbox(mode: str = "strict") -> Sandbox:
    """A sandbox with every layer this machine's kernel offers; `mode` is "strict" or "best-effort".

    A missing layer is a `UserError` that names it, its reason and the remedy, unless the mode is best-effort.
    """
    if mode not in MODES:
        raise UserError(f"sandbox: {mode!r} is no mode; expected one of {', '.join(MODES)}")
    sandbox = best(find_layers(), find_interpreter())
    missing = sandbox.missing
    if missing and mode == "strict":
        told = "; ".join(f"{name}: {problem}" for name, problem in missing.items())
        raise UserError(f"sandbox: layers are missing ({told}); or go on without them by --sandbox best-effort")
    return sandbox


def best(layers: Layers, interpreter: Interpreter) -> Sandbox:
    """With namespaces where the kernel lets us make them, which an empty program shows."""
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
