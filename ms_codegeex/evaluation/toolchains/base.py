"""What all tool chains have in common: finding, preparing once, making commands, reading what came of them.

A program has passed `strict` when it has printed its witness, a line of two halves: a token that stands in the call
behind the last test, and a challenge from standard input that our own code reads before the program's has begun. A
program that prints its own source knows the one, a program that prints its input neither.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.judging import verdicts as judging
from ms_codegeex.evaluation.sandbox import Command, Execution, Limits, Verdict
from ms_codegeex.files import user_cache

INSIDE = Path(__file__).with_name("inside")
PATH = "/usr/local/bin:/usr/bin:/bin"
PREPARING = 900.0  # seconds of a command that fills the cache
LIBRARY = re.compile(r"=> (/.*) \(0x")  # in a line of ldd
ALONE = 2  # processes: the sandbox's first and the program, which so can try nothing out in a copy of itself
COMPLETE = "complete"  # a file in a cache that is whole


@dataclass(frozen=True)
class Program:
    """A source text in two parts with the witness between them, and other texts.

    Attributes:
        before, call, after: `call` has a `%s` for the token, or is empty where the runner needs none.
        others: files beside it, by name: what must not share a scope with it.
        libraries: for the linker.
        only_compiles: the benchmark has no tests for it: `published` is satisfied when it compiles.
        check: it has to compile without tests too.
    """

    before: str
    call: str
    after: str
    libraries: tuple[str, ...] = ()
    only_compiles: bool = False
    check: bool = False
    others: Mapping[str, str] = field(default_factory=dict)

    def source(self, token: str) -> bytes:
        """The text with a token."""
        call = self.call % token if self.call else ""
        return f"{self.before}{call}{self.after}".encode("utf-8", "replace")

    def files(self, name: str, token: str) -> dict[str, bytes]:
        """All texts, the one with the token under this name."""
        others = {other: text.encode("utf-8", "replace") for other, text in self.others.items()}
        return {name: self.source(token), **others}

    @property
    def fingerprint(self) -> str:
        """What is judged, whatever the token."""
        others = (part for pair in sorted(self.others.items()) for part in pair)
        text = "\0".join((self.before, self.call, self.after, *self.libraries, *others))
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class Seconds:
    """Wall clock for compiling (all commands of it, each) and for running."""

    compile: float
    run: float


@dataclass(frozen=True)
class Job:
    """What a sandbox is given for one program; the first `compiling` commands only compile."""

    commands: Sequence[Command]
    files: Mapping[str, bytes]
    compiling: int = 0


class ToolChain(ABC):
    """One language on this machine. Safe to share between threads."""

    language: ClassVar[str]
    install: ClassVar[str]  # the line that installs it on Debian
    compile_seconds: ClassVar[float] = 60.0
    sources: ClassVar[tuple[str, ...]] = ()  # of `inside`, that the cache is made of
    failed_assertion: ClassVar[tuple[bytes, ...]]  # in what a program writes when a test fails
    no_memory: ClassVar[tuple[bytes, ...]]  # ... when it asked for memory in vain

    def __init__(self, cache: Path | None = None) -> None:
        self._root = cache or user_cache() / "toolchains"
        self._lock = threading.Lock()
        self._prepared: Path | None = None

    @abstractmethod
    def version(self) -> str | None:
        """What there is, in a line; None if something is missing."""

    @abstractmethod
    def make(self, cache: Path) -> None:
        """Fill an empty directory with what all programs need."""

    @abstractmethod
    def job(self, program: Program, token: str, challenge: bytes, seconds: Seconds) -> Job:
        """The commands for one program. `prepare` comes first."""

    def readable(self) -> dict[str, Path]:
        """What the sandbox must show beside the system: path there -> path here."""
        return {self.inside: self.cache}

    @property
    def inside(self) -> str:
        """Where a program finds the prepared directory: at its own path, unless that is where programs write."""
        own = any(self.cache.is_relative_to(place) for place in ("/program", "/tmp"))
        return f"/toolchains/{self.language}" if own else str(self.cache)

    @cached_property
    def found(self) -> str | None:
        """The version, asked for once."""
        return self.version()

    @property
    def cache(self) -> Path:
        """The prepared directory."""
        if self._prepared is None:
            raise RuntimeError("prepare() comes first")
        return self._prepared

    def prepare(self) -> None:
        """Fill the cache, unless it was filled before on this machine, by whomever."""
        with self._lock:
            if self._prepared is None:
                self._prepared = self._made()

    def _made(self) -> Path:
        key = hashlib.sha256(f"{self.found}".encode())
        for path in (Path(str(sys.modules[type(self).__module__].__file__)), *(INSIDE / name for name in self.sources)):
            key.update(path.read_bytes())
        place = self._root / f"{self.language}-{key.hexdigest()[:16]}"
        with exclusive(place.with_suffix(".lock")):
            if not (place / COMPLETE).exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(mode=0o755)
                self.make(place)
                (place / COMPLETE).touch()
        return place

    def tell(self, words: Sequence[str | Path], cache: Path, **environment: str) -> None:
        """Run a command of ours, over sources of ours, that fills the cache."""
        values = {"PATH": PATH, "HOME": str(cache), "LANG": "C.UTF-8", **environment}
        done = subprocess.run(
            [str(word) for word in words], cwd=cache, env=values, capture_output=True, timeout=PREPARING
        )
        if done.returncode:
            told = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["no message"]
            raise UserError(
                f"{self.language}: {words[0]} fails on our own sources ({told[-1]}); its packages: {self.install}"
            )

    def limits(self, wall: float, **others: int) -> Limits:
        """Limits of a command."""
        return Limits(wall=wall, **others)

    def published(self, job: Job, executions: Sequence[Execution], witness: bytes) -> Verdict:
        """The original's rule: exit status 0."""
        return self.named(judging.published(executions, job.compiling), executions)

    def strict(self, job: Job, executions: Sequence[Execution], witness: bytes) -> Verdict:
        """The original's rule, and the witness."""
        verdict = self.published(job, executions, witness)
        if verdict is Verdict.PASSED and not (executions[-1].succeeded and judging.told(executions[-1], witness)):
            return self.named(Verdict.ERROR, executions)
        return verdict

    def named(self, verdict: Verdict, executions: Sequence[Execution]) -> Verdict:
        """An error by what the program wrote about it."""
        if verdict is not Verdict.ERROR:
            return verdict
        text = executions[-1].stderr + executions[-1].stdout
        if any(words in text for words in self.no_memory):
            return Verdict.MEMORY
        return Verdict.WRONG if any(words in text for words in self.failed_assertion) else verdict


def judge(
    chain: ToolChain, program: Program, job: Job, executions: Sequence[Execution], witness: bytes
) -> dict[str, Verdict]:
    """Both modes' verdicts about one run."""
    published = chain.published(job, executions, witness)
    if program.only_compiles and len(executions) > job.compiling:
        published = Verdict.PASSED
    return {"strict": chain.strict(job, executions, witness), "published": published}


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """One process at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"{path.parent}: prepared tool chains cannot be kept there ({error.strerror}); set XDG_CACHE_HOME to a "
            "directory that can be written"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def program_of(name: str) -> Path | None:
    """A command's real path: links such as /etc/alternatives are resolved."""
    found = shutil.which(name, path=os.environ.get("PATH", PATH)) or shutil.which(name, path=PATH)
    return Path(found).resolve() if found else None


def output_of(*words: str | Path) -> str | None:
    """The first line that a command writes, None if it does not run."""
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def outside_system(*paths: Path) -> dict[str, Path]:
    """For `readable`: those of the paths that exist and that the sandbox does not show anyway."""
    return {str(path): path for path in paths if path.exists() and not path.is_relative_to("/usr")}


def parts_of(root: Path, *names: str) -> dict[str, Path]:
    """For `readable`: what a tool needs of the directory that it is installed in. That may be a home directory, or hold
    much else that is nobody's business."""
    return outside_system(*(root / name for name in names))


def with_libraries(program: Path) -> dict[str, Path]:
    """For `readable`: a program, which may lie among a user's own, and the shared libraries that it is linked with."""
    told = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout if shutil.which("ldd") else ""
    found = (Path(os.path.normpath(path)) for path in LIBRARY.findall(told))
    return outside_system(program, *(path for path in found if not path.is_relative_to("/lib")))
