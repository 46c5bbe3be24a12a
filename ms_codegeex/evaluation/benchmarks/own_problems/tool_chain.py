"""The tool chain of a described language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ms_codegeex.evaluation.benchmarks.own_problems.language import LanguageDescription
from ms_codegeex.evaluation.sandbox import Command, Execution, ResourceLimits, Verdict, open_sandbox
from ms_codegeex.evaluation.toolchains import Program, ToolChain
from ms_codegeex.evaluation.toolchains.base import RunPlan, program_of, with_libraries


class DescribedToolChain(ToolChain):
    """Compiles, if the description says so, and runs. `cache`: see `ToolChain`."""

    sources = ()
    no_memory = (b"out of memory", b"Out of memory")

    def __init__(self, description: LanguageDescription, cache: Path | None = None) -> None:
        super().__init__(cache)
        self._description = description
        self.language = description.name.lower()  # type: ignore[misc]
        self.install = description.install  # type: ignore[misc]
        self.failed_assertion = tuple(each.encode() for each in description.failed)  # type: ignore[misc]

    @property
    def tool(self) -> Path | None:
        """The path of the compiler or interpreter, None without it."""
        return program_of(self._description.tool)

    def lacking(self) -> dict[str, str]:
        """The first words of its commands that are not in PATH."""
        words = [command[0] for command in (self._description.compile, self._description.run) if command]
        return {word: word for word in words if not word.startswith("./") and program_of(word) is None}

    @property
    def remedy(self) -> str:
        """The command that installs it."""
        return self.install

    def version(self) -> str | None:
        """The first line that its command for that prints; None if something is missing. The command is a stranger's,
        so it runs in a sandbox."""
        if self.lacking():
            return None
        words = self._description.version or (self._description.tool, "--version")
        sandbox = open_sandbox("best-effort")  # a missing layer is refused where the programs are run
        (done,) = sandbox.run([Command(self._resolved(words))], {}, with_libraries(self.tool))
        lines = (done.stdout or done.stderr).decode("utf-8", "replace").strip().splitlines()
        return lines[0] if done.succeeded and lines else None

    def plan(self, program: Program, token: str, challenge: bytes, seconds: float) -> RunPlan:
        """Compile if there is something to compile with, then run."""
        compile_words = self._description.compile
        commands = [Command(self._resolved(compile_words), self.compiling)] if compile_words else []
        run = Command(self._resolved(self._description.run), ResourceLimits(wall=seconds), {}, challenge + b"\n")
        files = program.files(self._description.file, token)
        return RunPlan([*commands, run], files, compiling=len(commands))

    def readable(self) -> Mapping[str, Path]:  # type: ignore[override]
        """The tool and its libraries."""
        return {**super().readable(), **with_libraries(self.tool)}

    def named(self, verdict: Verdict, executions: Sequence[Execution]) -> Verdict:
        """As in the base class; what the description calls a syntax error counts as a compile error."""
        text = executions[-1].stderr + executions[-1].stdout
        syntax = any(words.encode() in text for words in self._description.syntax)
        return Verdict.COMPILE_ERROR if verdict is Verdict.ERROR and syntax else super().named(verdict, executions)

    @staticmethod
    def _resolved(words: Sequence[str]) -> list[str]:
        path = None if words[0].startswith("./") else program_of(words[0])
        return [str(path or words[0]), *words[1:]]
