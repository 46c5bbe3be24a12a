"""MultiPL-E as a task: a function is completed, and its tests run in its own language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation import stop_rules
from ms_codegeex.evaluation.benchmarks.multipl_e import programs
from ms_codegeex.evaluation.benchmarks.multipl_e.problems import read_problems
from ms_codegeex.evaluation.benchmarks.tool_chain_task import ToolChainTask
from ms_codegeex.evaluation.sandbox import Sandbox
from ms_codegeex.evaluation.task import Complete, Judgement, Problem, Sample
from ms_codegeex.evaluation.toolchains import PLAIN_TOOL_CHAINS

SECONDS = 15.0  # of a run, as published
LONGER = {"go": 30.0}


class MultiPlE(ToolChainTask):
    """The problems of a file or directory, in the languages that are named (none: in all of them).

    Args:
        data: see `problems`.
        timeout: seconds of a run; None: the published ones.
        cache: where prepared tool chains are kept; None: the user's cache directory.
    """

    name = "multipl-e"

    def __init__(
        self, data: Path, languages: Sequence[str] = (), timeout: float | None = None, cache: Path | None = None
    ) -> None:
        self.problems = read_problems(data, languages)
        names = dict.fromkeys(problem.labels["language"] for problem in self.problems)
        super().__init__({name: PLAIN_TOOL_CHAINS[name](cache) for name in names})
        self._timeout = timeout
        for problem in self.problems:  # a damaged row is found before any sample is drawn
            programs.assemble(problem.data, "", problem.id)

    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One completion, truncated at the first of the problem's stop words."""
        words = problem.data.stops
        answer = complete(problem.data.prompt, seed=seed, stop=stop_rules.words(words))
        return Sample(problem.id, completion_id, problem.data.prompt, stop_rules.cut(answer.text, words), answer.finish)

    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Compile and run the program with its tests. Published: exit status 0. Strict: and the tests' end was
        reached."""
        program = programs.assemble(problem.data, sample.generation, problem.id)
        wall = self._timeout or LONGER.get(problem.labels["language"], SECONDS)
        return self.judge_program(problem, sample, program, sandbox, wall)

    def missing(self) -> Mapping[str, str]:
        """Nothing. If this machine lacks tool chains, a `UserError` names the languages, because a mean over fewer
        languages is a different score. The user has to leave them out explicitly."""
        lacking = {name: chain.remedy for name, chain in self._chains.items() if chain.found is None}
        if lacking:
            rest = " ".join(name for name in self._chains if name not in lacking)
            lines = "; ".join(f"{name}: {line}" for name, line in lacking.items())
            remedy = f", or leave them out: --language {rest}" if rest else ""
            raise UserError(f"tool chains are missing on this machine: {lines}{remedy}")
        return {}


build = MultiPlE
