"""Run Python programs in the sandbox with a chosen interpreter, and read their reports: shared by the benchmarks that
Python judges.

The counterpart of `inside/program.py`, which describes the report. That script is shown to the sandbox read-only, so
programs cannot replace it.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.extras.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample, Task

INSIDE = Path(__file__).with_name("inside")
SYSTEM = (Path("/usr"), Path("/usr/local"))  # visible in every sandbox
PREFIX_PARTS = ("lib", "lib64", "pyvenv.cfg")
PLACE = "/judge"  # where `inside` is mounted in the sandbox
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # the order of sets, and so the verdict, is reproducible
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONIOENCODING": "utf-8",
    "LOGNAME": "program",  # for getpass; nobody has a name in the sandbox
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "MPLCONFIGDIR": "/tmp/matplotlib",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Only what the sandbox shows counts: a .pth file may add directories, and links may lead to places, that it lacks.
SHOWN = (
    f"PARTS = {PREFIX_PARTS!r}"
    + """
import os, sys
places = [os.path.join(prefix, part) for prefix in (sys.prefix, sys.base_prefix) for part in PARTS]
roots = [os.path.join(os.path.realpath(place), "") for place in ("/usr", *places)]
def shown(path):
    return os.path.join(os.path.realpath(path), "").startswith(tuple(roots))
sys.path = [path for path in sys.path if shown(path)]
"""
)
LACKS = """
from importlib.util import find_spec
for name in sys.argv[1:]:
    spec = find_spec(name)
    files = spec and ([spec.origin] if spec.has_location else spec.submodule_search_locations or [])
    if spec is None or not all(map(shown, files)):
        print(name)
"""
VERSIONS = """
print(sys.version.split()[0])
try:
    from importlib.metadata import distribution
    def version(name):
        found = distribution(name)
        modules = (file.locate() for file in found.files or () if file.suffix == ".py" and ".." not in file.parts)
        return found.version if shown(next(modules, "/usr")) else ""
except ImportError:
    from pkg_resources import WorkingSet
    version = lambda name: WorkingSet(sys.path).by_key[name.lower()].version
for name in sys.argv[1:]:
    try:
        print(version(name))
    except Exception:
        print()
"""
ENDED = {
    None: Verdict.WRONG,  # it ran to its end: the answer decides
    "syntax": Verdict.COMPILE_ERROR,
    "time": Verdict.TIMEOUT,
    "memory": Verdict.MEMORY,
    "assertion": Verdict.WRONG,  # in the tests; without tests it is an error of the program
}  # anything else is an error


@dataclass(frozen=True)
class PythonInterpreter:
    """A Python with its libraries, except those in the user's home directory (`pip install --user`)."""

    path: Path

    def ask(self, script: str, *arguments: str) -> list[str]:
        """The lines that a script of ours, never anybody else's, prints. `UserError` if this is not a Python."""
        words = [str(self.path), "-s", "-E", "-c", script, *arguments]
        try:
            return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"{self.path}: not a Python that runs ({error}); give the path of a python3") from None

    def lacks(self, modules: Iterable[str]) -> list[str]:
        return self.ask(SHOWN + LACKS, *modules)

    def versions(self, packages: Iterable[str]) -> dict[str, str]:
        """The versions of the interpreter and of the packages that are installed where the sandbox shows them."""
        names = list(packages)
        lines = self.ask(SHOWN + VERSIONS, *names)
        return {name: version for name, version in zip(["Python", *names], lines, strict=False) if version}


def readable_parts(executable: Path, prefixes: Iterable[Path]) -> dict[str, Path]:
    """The files of an interpreter that a sandbox must show: the executable and its libraries, not the whole prefix,
    which may be a home directory or ~/.local."""
    needed = [executable, *(prefix / part for prefix in prefixes for part in PREFIX_PARTS)]
    return {str(path): path for path in needed if path.exists() and not path.is_relative_to("/usr")}


@dataclass(frozen=True)
class ProgramReport:
    """The result of one program. `ended` says what stopped it ("error", "exit", "time", ...), None if it ran to its
    end, "gone" if there is no valid report. `printed` is set in the mode "value"."""

    execution: Execution
    ended: str | None
    printed: Mapping[str, Any] | None = None

    @property
    def finished(self) -> bool:
        return self.ended is None and self.execution.succeeded

    @property
    def verdict(self) -> Verdict:
        """The verdict on a program that did not finish; on one that did, the verdict for a wrong answer."""
        if self.ended == "gone" or (self.ended is None and not self.execution.succeeded):
            return self.execution.failure
        if self.ended == "assertion" and self.printed is not None:
            return Verdict.ERROR
        return ENDED.get(self.ended, Verdict.ERROR)


@dataclass(frozen=True)
class Runner:
    """Makes the commands for programs."""

    interpreter: PythonInterpreter
    readable: Mapping[str, Path]

    @classmethod
    def open(cls, python: Path | None = None) -> Runner:
        """A runner for an interpreter, by default our own. The executable is called by its path in its own
        prefix: a link from elsewhere, or pyenv's script, does not exist in the sandbox."""
        given = PythonInterpreter(Path(python or sys.executable))
        lines = given.ask("import sys; print(sys.executable, sys.prefix, sys.base_prefix, sep='\\n')")
        executable, *prefixes = map(Path, lines[:3])
        own = [prefix for prefix in dict.fromkeys(prefixes) if prefix not in SYSTEM]
        if not any(executable.is_relative_to(prefix) for prefix in (*own, *SYSTEM)):
            executable = prefixes[0] / "bin" / executable.resolve().name
        return cls(PythonInterpreter(executable), {**readable_parts(executable, prefixes), PLACE: INSIDE})

    def command(
        self,
        secret: str,
        limits: ResourceLimits,
        program: str,
        *arguments: str,
        gold_type: str | None = None,
        seconds: float = 0,
        bare: bool = False,
        guarded: bool = True,
    ) -> Command:
        """The command for a file in the program's directory.

        With `gold_type`, what the program prints is reported, as it is and converted to that type. After
        `seconds` of wall clock, unless 0, the program is interrupted and reports all the same. `bare`: as HumanEval's
        published runner executes it, not as `__main__`; unless `guarded`, without its guard.
        """
        mode = ("bare" if guarded else "open") if bare else "run" if gold_type is None else "value"
        words = [str(self.interpreter.path), f"{PLACE}/program.py", mode, str(seconds), gold_type or "-"]
        return Command([*words, program, *arguments], limits, ENVIRONMENT, secret.encode("ascii"))


def witness() -> str:
    return f"witness-{secrets.token_hex(16)}"


def read_report(execution: Execution, secret: str) -> ProgramReport:
    """The report of a command that was made with this secret. Anything invalid, forged or truncated is "gone"."""
    lines = execution.stdout.rstrip(b"\n").split(b"\n")
    if len(lines) < 2 or lines[-1] != secret.encode("ascii"):
        return ProgramReport(execution, "gone")
    try:
        record = parse_json(lines[-2], data=True)
        ended, printed = record["ended"], record["printed"]
    except (ValueError, KeyError, TypeError):
        return ProgramReport(execution, "gone")
    known = (ended is None or isinstance(ended, str)) and (printed is None or isinstance(printed, dict))
    return ProgramReport(execution, ended, printed) if known else ProgramReport(execution, "gone")


def tail(executions: Sequence[Execution]) -> str:
    """The end of the last command's standard error."""
    return executions[-1].stderr[-2000:].decode("utf-8", "replace") if executions else ""


class PythonTask(Task):
    """A task with an interpreter, `python`; None: this process's. `packages` are those whose versions matter."""

    packages: Sequence[str] = ()
    limits: ResourceLimits

    def __init__(self, problems: Sequence[Problem], python: Path | None) -> None:
        self.problems, self.runner = problems, Runner.open(python)

    def tools(self) -> Mapping[str, str]:
        return self.runner.interpreter.versions(self.packages)

    def run(self, program: str, sandbox: Sandbox, **how: Any) -> ProgramReport:
        """Run a program; `how` as in `Runner.command`."""
        secret = witness()
        command = self.runner.command(secret, self.limits, "program.py", **how)
        (execution,) = sandbox.run([command], {"program.py": encoded(program)}, self.runner.readable)
        return read_report(execution, secret)

    def script(self, name: str, stdin: bytes, limits: ResourceLimits, *arguments: str) -> Command:
        words = [str(self.runner.interpreter.path), "-s", f"{PLACE}/{name}", *arguments]
        return Command(words, limits, ENVIRONMENT, stdin)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def both_verdicts(report: ProgramReport) -> dict[str, Verdict]:
    return {
        "strict": Verdict.PASSED if report.finished else report.verdict,
        "published": Verdict.PASSED if report.ended is None else report.verdict,
    }


def judgement(sample: Sample, modes: Mapping[str, Verdict], executions: Sequence[Execution], **extra: Any) -> Judgement:
    spent, stderr = sum(execution.seconds for execution in executions), tail(executions)
    return Judgement(sample.task_id, sample.completion_id, modes, spent, executions[-1].code, stderr, extra)
