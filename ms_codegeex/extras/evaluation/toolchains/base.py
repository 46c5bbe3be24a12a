"""Shared by all tool chains: finding them, preparing once, making commands, judging the executions; and by their tasks.

A program whose tests were translated only says values, which `judging.values` compares with the expected ones in this
process. Any other passes `strict` if it has printed its witness, a line of two halves: a token in the call after the
last test, and a challenge on standard input that our own code reads before the program starts. A program that prints
its own source knows only the first; a program that prints its input knows neither.
"""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
import secrets
import shutil
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.locks import locked
from ms_codegeex.extras.evaluation.judging import values
from ms_codegeex.extras.evaluation.sandbox import (
    Command,
    Execution,
    ResourceLimits,
    Sandbox,
    Verdict,
    published_verdict,
)
from ms_codegeex.extras.evaluation.sandbox.workspace import check_readable
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Reference, Sample, Task

INSIDE = Path(__file__).with_name("inside")
PREPARING = 900.0  # seconds for a command that fills the cache
ALONE = 2  # processes: the sandbox's first and the program, which therefore cannot test its tests in a fork
REFERENCE_SECONDS = 60.0  # canonical solutions may be slow, and limits are derived from their times
MAX_OUTPUT = 2000  # characters that are kept
COMPLETE = "complete"  # a file in a complete cache
PATH = "/usr/local/bin:/usr/bin:/bin"
CALLED_BY_NAME = ("ccache", "distcc", "icecc", "mise", "rustup", "sccache", "snap", "volta-shim")
LIBRARY = re.compile(r"=> (/.*) \(0x")  # in a line of ldd


def places_of(name: str) -> list[Path]:
    """Where a command is, in the order of PATH."""
    folders = dict.fromkeys(f"{os.environ.get('PATH', '')}:{PATH}".split(":"))
    return [Path(path) for folder in folders if folder and (path := shutil.which(name, path=folder))]


def program_of(name: str) -> Path | None:
    return next((path for path in map(Path.resolve, places_of(name)) if path.name not in CALLED_BY_NAME), None)


def output_of(*words: str | Path, **environment: str) -> str | None:
    """The first line that a command prints, with these variables besides ours; None if it does not run."""
    values = {**os.environ, **environment}
    try:
        done = subprocess.run([*map(str, words)], capture_output=True, timeout=60, errors="replace", env=values)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def outside_system(*paths: Path) -> dict[str, Path]:
    return {str(path): path for path in paths if path.exists() and not path.is_relative_to("/usr")}


def parts_of(root: Path, *names: str) -> dict[str, Path]:
    """For `readable`: the parts that a tool needs of its directory, which may be a home or have unrelated files."""
    return outside_system(*(root / name for name in names))


def with_libraries(program: Path | None) -> dict[str, Path]:
    """For `readable`: a program, which may be among a user's own files, and the shared libraries that it needs."""
    if program is None:  # it was there when the evaluation began; this is not a verdict about an answer
        raise RunFailure("a program of the tool chain is gone; install it again and repeat the same command")
    output = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout if shutil.which("ldd") else ""
    libraries = (Path(os.path.normpath(path)) for path in LIBRARY.findall(output))
    return outside_system(program, *(path for path in libraries if not path.is_relative_to("/lib")))


@dataclass(frozen=True)
class Program:
    """A source text in two parts with the witness between them, and other files."""

    before: str
    call: str  # with a `%s` for the token, or empty if the runner needs none
    after: str
    libraries: tuple[str, ...] = ()  # for the linker
    only_compiles: bool = False  # the benchmark has no tests for it, so `published` is satisfied when it compiles
    check: bool = False  # it has to compile without tests too
    others: Mapping[str, str] = field(default_factory=dict)  # by name; they must not share a scope with the text
    checks: tuple[values.Check, ...] = ()  # what the values that it says must be, in order
    witnessed: bool = True  # it has tests besides, so the witness is needed

    def source(self, token: str) -> bytes:
        call = self.call % token if self.call else ""
        return f"{self.before}{call}{self.after}".encode("utf-8", "replace")

    def files(self, name: str, token: str) -> dict[str, bytes]:
        others = {other: text.encode("utf-8", "replace") for other, text in self.others.items()}
        return {name: self.source(token), **others}

    @property
    def fingerprint(self) -> str:
        """A hash of the judged program, independent of the token."""
        others = (part for pair in sorted(self.others.items()) for part in pair)
        text = "\0".join((self.before, self.call, self.after, *self.libraries, *others, *map(repr, self.checks)))
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


@dataclass(frozen=True)
class RunPlan:
    """The commands and files of one program. The first `compiling` commands only compile."""

    commands: Sequence[Command]
    files: Mapping[str, bytes]
    compiling: int = 0


class ToolChain(ABC):
    """One language on this machine. Safe to share between threads."""

    language: ClassVar[str]
    install: ClassVar[str]  # the command that installs all of it on Debian
    installer: ClassVar[str] = "apt-get install"
    programs: ClassVar[Mapping[str, str]] = {}  # program -> the package that has it; the first is `tool`
    libraries: ClassVar[Mapping[str, str]] = {}  # header, package or crate -> the package that has it
    version_option: ClassVar[str] = "--version"
    asking: ClassVar[Mapping[str, str]] = {}  # variables of a tool that is asked for its version
    compile_seconds: ClassVar[float] = 60.0  # for each command that compiles
    sources: ClassVar[tuple[str, ...]]  # files of `inside` that the cache is made from
    failed_assertion: ClassVar[tuple[bytes, ...]]  # what a program prints when a test fails
    no_memory: ClassVar[tuple[bytes, ...]]  # ... when an allocation fails
    no_program: ClassVar[re.Pattern[bytes] | None] = None  # what an interpreter says of a text that is not a program
    notices_exit: ClassVar[bool] = False  # the original runner notices that a program leaves before its tests' end
    shows_tool: ClassVar[bool] = False  # the sandbox must show it and its libraries: it may be among a user's files

    def __init__(self, cache: Path | None = None) -> None:
        self._root = cache or user_cache() / "toolchains"
        self._lock = threading.Lock()
        self._prepared: Path | None = None

    @property
    def tool(self) -> Path | None:
        """The path of the compiler or interpreter, None without it."""
        return program_of(next(iter(self.programs)))

    def version(self) -> str | None:
        """The installed versions, in one line; None if something is missing."""
        return None if self.lacking() else output_of(str(self.tool), self.version_option, **self.asking)

    def has(self, name: str) -> bool:
        return program_of(name) is not None

    def lacking(self) -> dict[str, str]:
        return {name: package for name, package in {**self.programs, **self.libraries}.items() if not self.has(name)}

    @property
    def remedy(self) -> str:
        packages = " ".join(dict.fromkeys(self.lacking().values()))
        return f"{self.installer} {packages}" if packages else self.install

    def make(self, cache: Path) -> None:
        for name in self.sources:
            shutil.copy(INSIDE / name, cache)

    @abstractmethod
    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        """The commands for one program, which runs for at most `seconds`. Call `prepare` first."""

    def readable(self) -> dict[str, Path]:
        """Paths that the sandbox must show in addition to the system: path in the sandbox -> path on this machine."""
        return {self.inside: self.cache, **(with_libraries(self.tool) if self.shows_tool else {})}

    @property
    def inside(self) -> str:
        own = any(self.cache.is_relative_to(directory) for directory in ("/program", "/tmp"))
        return f"/toolchains/{self.language}" if own else str(self.cache)

    @cached_property
    def found(self) -> str | None:
        return self.version()

    @property
    def cache(self) -> Path:
        """The prepared directory."""
        if self._prepared is None:
            raise RuntimeError("prepare() comes first")
        return self._prepared

    def prepare(self) -> None:
        with self._lock:
            self._prepared = self._prepared or self._made()

    def _made(self) -> Path:
        key = hashlib.sha256(f"{self.found}".encode())
        kinds = type(self).__mro__[: type(self).__mro__.index(ToolChain)]
        modules = (Path(str(sys.modules[kind.__module__].__file__)) for kind in kinds)
        for path in (*modules, *(INSIDE / name for name in self.sources)):
            key.update(path.read_bytes())
        directory = self._root / f"{self.language}-{key.hexdigest()[:16]}"
        with ExitStack() as stack:
            try:
                self._root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(directory.with_suffix(".lock")))
            except OSError as error:
                problem = f"prepared tool chains cannot be kept there ({error.strerror})"
                remedy = "set XDG_CACHE_HOME to a directory that can be written"
                raise UserError(f"{self._root}: {problem}; {remedy}") from None
            if not (directory / COMPLETE).exists():
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(mode=0o755)
                self.make(directory)
                (directory / COMPLETE).touch()
        return directory

    def run_tool(self, words: Sequence[str | Path], cache: Path, **environment: str) -> None:
        """Run a command on our own sources that fills the cache; a `UserError` if it fails."""
        values = {"PATH": PATH, "HOME": str(cache), "LANG": "C.UTF-8", **environment}
        done = subprocess.run([*map(str, words)], cwd=cache, env=values, capture_output=True, timeout=PREPARING)
        if done.returncode:
            output = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines() or ["no message"]
            problem = f"{words[0]} fails on our own sources ({output[-1]})"
            raise UserError(f"{self.language}: {problem}; its packages: {self.install}")

    @property
    def compiling(self) -> ResourceLimits:
        return ResourceLimits(wall=self.compile_seconds)

    def ended(self, plan: RunPlan, executions: Sequence[Execution]) -> Verdict:
        return self.named(published_verdict(executions, plan.compiling), executions)

    def published(self, plan: RunPlan, executions: Sequence[Execution], witness: bytes) -> Verdict:
        return self.ended(plan, executions)

    def strict(self, plan: RunPlan, executions: Sequence[Execution], witness: bytes) -> Verdict:
        """The original rule, and the witness was printed."""
        verdict = self.published(plan, executions, witness)
        if verdict is Verdict.PASSED and not (executions[-1].succeeded and executions[-1].printed(witness)):
            return self.named(Verdict.ERROR, executions)
        return verdict

    def named(self, verdict: Verdict, executions: Sequence[Execution]) -> Verdict:
        """Replace ERROR by a more specific verdict if the program's output shows one."""
        if verdict is not Verdict.ERROR:
            return verdict
        text = executions[-1].stderr + executions[-1].stdout
        if any(words in text for words in self.no_memory):
            return Verdict.MEMORY
        if any(words in text for words in self.failed_assertion):
            return Verdict.WRONG
        unread = self.no_program is not None and self.no_program.search(executions[-1].stderr)
        return Verdict.COMPILE_ERROR if unread else verdict


@dataclass(frozen=True)
class ProgramVerdicts:
    """The verdicts on a program, and why."""

    strict: Verdict  # as `published`, and the program said all values and reached the end of its tests
    published: Verdict  # by the original rule, no value and no test was wrong
    wrong: str = ""  # the first wrong value, in words
    undecided: bool = False  # a value is not data, which the unchanged tests may accept: they decide what is published


def verdicts_of(
    chain: ToolChain, program: Program, plan: RunPlan, executions: Sequence[Execution], witness: bytes
) -> ProgramVerdicts:
    """The verdicts of a program that was compiled and run."""
    if not program.checks or len(executions) <= plan.compiling:
        return ProgramVerdicts(chain.strict(plan, executions, witness), chain.published(plan, executions, witness))
    said, rest = values.read_frames(executions[-1].stdout)
    executions = [*executions[:-1], replace(executions[-1], stdout=rest)]
    if (wrong := values.first_wrong(program.checks, said)) is not None:
        value, expected = reprlib.repr(said[wrong]), reprlib.repr(program.checks[wrong].expected)
        text = f"value {wrong + 1} of {len(program.checks)}: {value}, expected {expected}"
        return ProgramVerdicts(Verdict.WRONG, Verdict.WRONG, text, not values.is_data(said[wrong]))
    if program.witnessed:
        published, strict = chain.published(plan, executions, witness), chain.strict(plan, executions, witness)
    else:
        published = strict = chain.ended(plan, executions)
    foreign = bool(rest) and not program.witnessed
    if foreign or len(said) != len(program.checks):
        strict = chain.named(Verdict.ERROR, executions) if strict is Verdict.PASSED else strict
        published = strict if chain.notices_exit else published
    return ProgramVerdicts(strict, published, undecided=foreign)


class ToolChainTask(Task):
    """A task whose problems have the label `language`, with a tool chain for each. `timeout`: the user's seconds."""

    def __init__(self, chains: Mapping[str, ToolChain], timeout: float | None) -> None:
        self._chains, self._timeout = chains, timeout

    def judge_program(
        self, problem: Problem, sample: Sample, program: Program, sandbox: Sandbox, wall: float
    ) -> Judgement:
        """Compile a sample's program and run it with its tests for at most `wall` seconds. The judgement's `extra` has
        the seconds of compiling and running, and "no_data" if the published verdict is not final: a value is no
        data."""
        chain = self._chains[problem.labels["language"]]
        chain.prepare()
        token, challenge = secrets.token_hex(8), secrets.token_hex(8)
        plan = chain.plan(program, token, challenge.encode("ascii"), wall)
        executions = sandbox.run(plan.commands, plan.files, chain.readable())
        witness = f"witness-{token}-{challenge}".encode("ascii")
        found = verdicts_of(chain, program, plan, executions, witness)
        verdicts = {"strict": found.strict, "published": found.published}
        if program.only_compiles and len(executions) > plan.compiling:
            verdicts["published"] = Verdict.PASSED
        last, each = executions[-1], [execution.seconds for execution in executions]
        # Go and Rust report failures on standard output
        output = found.wrong or (last.stderr.strip() or last.stdout.strip())[-MAX_OUTPUT:].decode("utf-8", "replace")
        parts = {"compile_seconds": each[: plan.compiling], "run_seconds": each[plan.compiling :]}
        extra: dict[str, Any] = {name: round(sum(part), 3) for name, part in parts.items()}
        extra |= {"no_data": True} if found.undecided else {}
        return Judgement(sample.task_id, sample.completion_id, verdicts, sum(each), last.code, output, extra)

    def wall(self, sample: Sample, seconds: float) -> float:
        """The time limit of a run: the user's, or `seconds`; a reference has at least `REFERENCE_SECONDS`."""
        return self._timeout or (max(seconds, REFERENCE_SECONDS) if isinstance(sample, Reference) else seconds)

    def missing(self) -> Mapping[str, str]:
        return {name: chain.remedy for name, chain in self._chains.items() if chain.found is None}

    def prepare(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Prepare the tool chains of these problems; language -> reason for each that does not work."""
        reasons = {}
        for name in dict.fromkeys(problem.labels["language"] for problem in problems):
            try:
                self._chains[name].prepare()
                check_readable(self._chains[name].readable().values())
            except (UserError, OSError, subprocess.SubprocessError) as error:
                reasons[name] = " ".join(str(error).split()).removeprefix(f"{name}: ")
        return reasons

    def tools(self) -> Mapping[str, str]:
        return {name: chain.found for name, chain in self._chains.items() if chain.found is not None}
