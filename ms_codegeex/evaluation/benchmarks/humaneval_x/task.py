"""HumanEval-X as a task: generation, or translation from one language, in up to six languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks.humaneval_x import defects, problems, programs, prompts, rules
from ms_codegeex.evaluation.benchmarks.humaneval_x.languages import LANGUAGES
from ms_codegeex.evaluation.benchmarks.humaneval_x.problems import HumanEvalXProblem
from ms_codegeex.evaluation.benchmarks.tool_chain_task import ToolChainTask
from ms_codegeex.evaluation.sandbox import Sandbox
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Reference, Sample
from ms_codegeex.evaluation.toolchains import TOOL_CHAINS, Program, ToolChain
from ms_codegeex.evaluation.toolchains.javascript import MD5, MD5_INSTALL, JavaScript

PUBLISHED_SECONDS = 5.0  # the published time limit of a run
REFERENCE_SECONDS = 60.0  # for canonical solutions, from whose times the limits are derived
FACTOR = 5.0  # a limit is at least this many times the slowest reference


class HumanEvalX(ToolChainTask):
    """`timeouts` holds the seconds of a run by language: the release's, until `calibrate` or the user changes them."""

    def __init__(
        self,
        files: Mapping[str, problems.ProblemFile],
        sources: Mapping[int, HumanEvalXProblem] | None,
        tag: bool,
        rule_set: str,
        timeout: float | None,
        chains: Mapping[str, ToolChain],
    ) -> None:
        super().__init__(chains)
        self.name = "humaneval-x"
        self._files, self._sources, self._tag, self._rules = files, sources, tag, rule_set
        self._timeout = timeout
        self.timeouts = {name: timeout or PUBLISHED_SECONDS for name in files}
        self.problems = [self._problem(row) for file in files.values() for row in file.rows if self._has(row)]

    @property
    def provenance(self) -> dict[str, Any]:
        """The files that were read, by language."""
        return {
            name: {"path": str(file.path), "sha256": file.sha256, "version": file.version}
            for name, file in self._files.items()
        }

    def _has(self, row: HumanEvalXProblem) -> bool:
        return self._sources is None or row.number in self._sources

    def _problem(self, row: HumanEvalXProblem) -> Problem:
        labels = {"language": row.language}
        if self._sources is not None:
            labels["source"] = self._sources[row.number].language
        return Problem(f"{LANGUAGES[row.language].prefix}/{row.number}", labels, row)

    def samples_per_problem(self, n: int) -> int:
        """n."""
        return n

    def prompt(self, row: HumanEvalXProblem) -> str:
        """The model's prompt."""
        if self._sources is None:
            return prompts.generation(row, self._tag)
        return prompts.translation(self._sources[row.number], row)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One answer, cleaned up; the raw text is kept if it differs."""
        row: HumanEvalXProblem = problem.data
        prompt = self.prompt(row)
        done = complete(prompt, seed=seed, stop=rules.stop(row.language, self._rules))
        answer = rules.clean(done.text, row.language, self._rules)
        extra = {} if answer == done.text else {"raw": done.text}
        return Sample(problem.id, completion_id, prompt, answer, done.finish, extra)

    def reference(self, problem: Problem) -> Sample:
        """The canonical solution."""
        row: HumanEvalXProblem = problem.data
        return Reference(problem.id, 0, self.prompt(row), row.solution, "eos", {"reference": True})

    def program(self, problem: Problem, sample: Sample) -> Program:
        """The program of a sample, before it gets a secret. Equal samples have the same `fingerprint`."""
        return programs.assemble(problem.data, sample.generation)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Compile and run the program with its tests."""
        program = self.program(problem, sample)
        wall = self.timeouts[problem.labels["language"]]
        if isinstance(sample, Reference) and self._timeout is None:
            wall = max(wall, REFERENCE_SECONDS)
        judgement = self.judge_program(problem, sample, program, sandbox, wall)
        extra = {**judgement.extra, "limit": wall, "program": program.fingerprint[:32]}
        return replace(judgement, extra=extra)

    def calibrate(self, judgements: Iterable[Judgement]) -> Mapping[str, float]:
        """Set the time limits of this machine: `FACTOR` times the slowest reference that passed, at least the published
        5 s. A limit that the user has set stays."""
        slowest: dict[str, float] = {}
        languages = {problem.id: problem.labels["language"] for problem in self.problems}
        for each in judgements:
            if each.task_id in languages and each.verdicts["strict"].value == "passed":
                name = languages[each.task_id]
                spent = each.extra.get("run_seconds")
                known = isinstance(spent, int | float) and 0 <= spent <= REFERENCE_SECONDS
                slowest[name] = max(slowest.get(name, 0.0), float(spent) if known else 0.0)
        if self._timeout is None:
            for name, seconds in slowest.items():
                self.timeouts[name] = max(PUBLISHED_SECONDS, FACTOR * seconds)
        return dict(self.timeouts)

    def known_defects(self) -> Mapping[str, str]:
        """The defects of the published files, and the problem that needs js-md5 if that is missing."""
        found = defects.known(self._files)
        if "js" in self._files and not self._has_md5():
            found["JavaScript/162"] = f"{MD5} is not on this machine; {MD5_INSTALL}"
        return found

    def missing(self) -> Mapping[str, str]:
        """Language or library -> the command that installs it."""
        found = {name: chain.remedy for name, chain in self._chains.items() if chain.found is None}
        if "js" in self._files and "js" not in found and not self._has_md5():
            found[MD5] = MD5_INSTALL
        return found

    def _has_md5(self) -> bool:
        chain = self._chains["js"]
        return not isinstance(chain, JavaScript) or chain.md5 is not None


def build(
    data: Path,
    languages: Sequence[str] | None = None,
    source_language: str | None = None,
    tag: bool = False,
    timeout: float | None = None,
    rule_set: str | None = None,
    cache: Path | None = None,
) -> HumanEvalX:
    """The task.

    Args:
        data: a directory with the published files, in it or up to two levels below, or one of the files.
        languages: of python, cpp, java, js, go, rust; None: those that have a file.
        source_language: translate from it; the problems are those of the other languages.
        tag: put CodeGeeX's tag line before the prompt; without it the prompt is stripped, as CodeGeeX2's was.
        timeout: seconds of a run; None: the published 5, or more after `calibrate`.
        rule_set: where an answer ends, "codegeex" or "codegeex2"; None: the former with the tag, the latter without.
        cache: where prepared tool chains are kept; None: the user's cache directory.
    """
    if timeout is not None and not timeout > 0:
        raise UserError(f"timeout: {timeout} s; expected a positive number of seconds")
    targets = [name for name in languages if name != source_language] if languages is not None else None
    if targets == []:
        raise UserError(f"languages: translation from {source_language} needs another language to go to")
    files = problems.read(data, targets)
    sources = None
    if source_language is not None:
        if data.is_file():
            raise UserError(f"{data}: translation needs two languages; give the directory with both files")
        files = {name: file for name, file in files.items() if name != source_language}
        (source,) = problems.read(data, [source_language]).values()
        sources = {row.number: row for row in source.rows}
    chains = {name: TOOL_CHAINS[name](cache) for name in files}
    return HumanEvalX(files, sources, tag, rules.check(rule_set or default_rules(tag)), timeout, chains)


def default_rules(tag: bool) -> str:
    """With the tag a model is evaluated like CodeGeeX, without it like CodeGeeX2."""
    return "codegeex" if tag else "codegeex2"
