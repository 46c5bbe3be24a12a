"""Python: this process's interpreter, with its NumPy."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ms_codegeex.extras.evaluation.judging import python_program
from ms_codegeex.extras.evaluation.sandbox import Command, Execution, ResourceLimits, Verdict
from ms_codegeex.extras.evaluation.toolchains.base import ALONE, Program, RunPlan, ToolChain

FILE = re.compile(rb'  File "(program|tests)\.py", line')
KEPT = ("PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOGNAME")
ENVIRONMENT = {name: python_program.ENVIRONMENT[name] for name in KEPT}


class Python(ToolChain):
    """Published and strict are the same: the original runner also checks that the program reached its end. Its guard is
    there for both."""

    language = "python"
    install = "pip install numpy"  # PYTHONPATH, .pth files and links do not count: the sandbox lacks what they name
    installer = "pip install"
    libraries: ClassVar[Mapping[str, str]] = {"NumPy": "numpy"}
    sources = ("run_python.py", str(python_program.INSIDE / "program.py"))
    how: ClassVar[str] = "guarded"
    limits: ClassVar[ResourceLimits] = ResourceLimits(processes=ALONE)
    notices_exit = True
    failed_assertion = (b"\nAssertionError",)
    no_memory = (b"\nMemoryError",)

    def version(self) -> str | None:
        """The versions of Python and NumPy, None without a NumPy that the sandbox shows."""
        if self.lacking():
            return None
        versions = self._interpreter.versions(["numpy"])
        return f"Python {versions['Python']}, NumPy {versions.get('numpy', 'of an unknown version')}"

    def has(self, name: str) -> bool:
        return not self._interpreter.lacks([self.libraries[name]])

    @property
    def _interpreter(self) -> python_program.PythonInterpreter:
        return python_program.PythonInterpreter(Path(sys.executable))

    def readable(self) -> dict[str, Path]:
        prefixes = (Path(sys.prefix), Path(sys.base_prefix))
        return {**super().readable(), **python_program.readable_parts(Path(sys.executable), prefixes)}

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        words = [sys.executable, "-s", f"{self.inside}/run_python.py", self.how]
        run = Command(words, replace(self.limits, wall=seconds), ENVIRONMENT, challenge)
        return RunPlan([run], program.files("tests.py", token))

    def published(self, plan: RunPlan, executions: Sequence[Execution], witness: bytes) -> Verdict:
        verdict = super().published(plan, executions, witness)
        return Verdict.ERROR if verdict is Verdict.PASSED and not executions[-1].printed(witness) else verdict

    def named(self, verdict: Verdict, executions: Sequence[Execution]) -> Verdict:
        """As in the base class; a syntax error of the program counts as a compile error."""
        verdict = super().named(verdict, executions)
        syntax = verdict is Verdict.ERROR and FILE.search(executions[-1].stderr) is not None
        wrong = (b"\nSyntaxError: ", b"\nIndentationError: ", b"\nTabError: ")
        last = b"\n" + executions[-1].stderr.rstrip().rsplit(b"\n", 1)[-1]
        return Verdict.COMPILE_ERROR if syntax and last.startswith(wrong) else verdict
