"""Own problems as a task: generation in described languages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import sha256
from ms_codegeex.evaluation.benchmarks.own_problems.problems import OwnProblem, described_files, rows
from ms_codegeex.evaluation.benchmarks.own_problems.tool_chain import DescribedToolChain
from ms_codegeex.evaluation.benchmarks.tool_chain_task import ToolChainTask
from ms_codegeex.evaluation.sandbox import Sandbox
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Reference, Sample

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
        answer = language.clean(done.text)
        extra = {} if answer == done.text else {"raw": done.text}
        return Sample(problem.id, completion_id, prompt, answer, done.finish, extra)

    def reference(self, problem: Problem) -> Sample:
        """The canonical solution."""
        return Reference(problem.id, 0, self.prompt(problem.data), problem.data.solution, "eos", {"reference": True})

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Compile and run the program with its tests. Published: exit status 0. Strict: and their end was reached."""
        row, language = problem.data, self.languages[problem.data.language]
        wall = self._timeout or language.seconds
        if isinstance(sample, Reference) and self._timeout is None:
            wall = max(wall, REFERENCE_SECONDS)
        program = language.assemble(row.prompt, sample.generation, row.test)
        return self.judge_program(problem, sample, program, sandbox, wall)

    def missing(self) -> Mapping[str, str]:
        """Language -> the command that installs it."""
        return {name: chain.remedy for name, chain in self._chains.items() if chain.found is None}


build = OwnProblems
