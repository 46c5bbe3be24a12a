"""Own problems as a task: generation in described languages, each with its tool chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import sha256
from ms_codegeex.evaluation.benchmarks.own_problems.language import LanguageDescription
from ms_codegeex.evaluation.benchmarks.own_problems.problems import OwnProblem, described_files, rows
from ms_codegeex.evaluation.benchmarks.tool_chain_task import ToolChainTask
from ms_codegeex.evaluation.sandbox import Command, Execution, ResourceLimits, Sandbox, Verdict, open_sandbox
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Reference, Sample
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


REFERENCE_SECONDS = 60.0  # a canonical solution may be slow


class OwnProblems(ToolChainTask):
    """The problems of all languages that a directory describes.

    Args:
        data: a directory with descriptions and problems, such as perl.yaml and perl.jsonl.
        tag: put CodeGeeX's kind of tag line before the prompt.
        timeout: seconds of a run; None: each description's.
        cache: where prepared tool chains are kept; None: the user's cache directory.
    """

    name = "own-problems"

    def __init__(self, data: Path, tag: bool = False, timeout: float | None = None, cache: Path | None = None) -> None:
        files = described_files(data)
        if not files:
            raise UserError(f"{data}: no descriptions of languages, such as perl.yaml; see docs/own-problems.md")
        self.languages = {file.language.name: file.language for file in files}
        super().__init__({name: DescribedToolChain(each, cache) for name, each in self.languages.items()})
        self._tag, self._timeout = tag, timeout
        self.problems, self.places = [], {}
        for file in files:
            for line, row in rows(file):
                if isinstance(row, UserError):
                    raise row
                name = f"{row.language}/{row.number}"
                self.problems.append(Problem(name, {"language": row.language}, row))
                self.places[name] = f"{file.path}:{line}"
        self.provenance = {file.language.name: {"path": str(file.path), "sha256": sha256(file.path)} for file in files}

    def prompt(self, row: OwnProblem) -> str:
        """The model's prompt: as in HumanEval-X with the tag line, or stripped without it."""
        return f"{self.languages[row.language].tag}\n{row.prompt}" if self._tag else row.prompt.strip()

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One answer, cleaned up; the raw text is kept if it differs."""
        language, prompt = self.languages[problem.data.language], self.prompt(problem.data)
        done = complete(prompt, seed=seed, stop=language.stop())
        return self.sample(problem, completion_id, prompt, done, language.clean)

    def reference(self, problem: Problem) -> Sample:
        """The canonical solution."""
        return Reference(problem.id, 0, self.prompt(problem.data), problem.data.solution, "eos", {"reference": True})

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Compile and run the program with its tests. Published: exit status 0. Strict: and their end was reached."""
        row, language = problem.data, self.languages[problem.data.language]
        wall = self._timeout or language.seconds
        if isinstance(sample, Reference) and self._timeout is None:
            wall = max(wall, REFERENCE_SECONDS)
        program = language.assemble(row.prompt, sample.generation, row.test, sample.whole)
        return self.judge_program(problem, sample, program, sandbox, wall)

    def missing(self) -> Mapping[str, str]:
        """Language -> the command that installs it."""
        return {name: chain.remedy for name, chain in self._chains.items() if chain.found is None}


build = OwnProblems
