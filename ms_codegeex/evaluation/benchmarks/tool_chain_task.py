"""Shared by HumanEval-X and MultiPL-E: the tool chain of its language judges each problem's program."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.sandbox import Sandbox
from ms_codegeex.evaluation.sandbox.workspace import check_readable
from ms_codegeex.evaluation.task import Judgement, Problem, Reference, Sample, Task
from ms_codegeex.evaluation.toolchains import Program, ToolChain, base

REFERENCE_SECONDS = 60.0  # of canonical solutions, which may be slow and from whose times limits are derived


class ToolChainTask(Task):
    """A task whose problems have the label `language`, with a tool chain for each. `timeout`: the user's seconds."""

    def __init__(self, chains: Mapping[str, ToolChain], timeout: float | None) -> None:
        self._chains, self._timeout = chains, timeout

    def judge_program(
        self, problem: Problem, sample: Sample, program: Program, sandbox: Sandbox, wall: float
    ) -> Judgement:
        """Compile a sample's program and run it for at most `wall` seconds."""
        return base.run_and_judge(self._chains[problem.labels["language"]], sample, program, sandbox, wall)

    def wall(self, sample: Sample, seconds: float) -> float:
        """The seconds of a run: the user's, or those given, which are more for a reference."""
        return self._timeout or (max(seconds, REFERENCE_SECONDS) if isinstance(sample, Reference) else seconds)

    def missing(self) -> Mapping[str, str]:
        """Language -> the command that installs it."""
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
        """Language -> the tool chain's version."""
        return {name: chain.found for name, chain in self._chains.items() if chain.found is not None}
