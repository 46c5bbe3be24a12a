"""Where samples are judged: in threads of this process, or on other machines (`nodes`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ms_codegeex.evaluation.sandbox import Sandbox
from ms_codegeex.evaluation.task import Judgement, Problem, Sample, Task

HERE = "this machine"


@dataclass(frozen=True)
class Equipment:
    """What a machine has to judge with.

    Attributes:
        missing: tool chain or library that it lacks -> the command that installs it.
        defects: problem id -> why its reference cannot pass there.
        tools: tool chain or interpreter -> version.
        layers: layer of the sandbox -> "active", or "missing: " with the reason.
    """

    missing: Mapping[str, str]
    defects: Mapping[str, str]
    tools: Mapping[str, str]
    layers: Mapping[str, str]

    @classmethod
    def of(cls, task: Task, sandbox: Sandbox) -> Equipment:
        """This machine's, for the problems of a task."""
        layers = dict(getattr(sandbox, "layers", None) or {})
        return cls(dict(task.missing()), dict(task.known_defects()), dict(task.tools()), layers)


@dataclass(frozen=True)
class LocalEngine:
    """Judges samples in this process, with one sandbox, `workers` at once. Safe to share between threads."""

    task: Task
    sandbox: Sandbox
    workers: int = 1
    place: str = HERE  # in words

    def equipment(self) -> Equipment:
        """What there is to judge with, the same wherever a sample is judged."""
        return Equipment.of(self.task, self.sandbox)

    def prepare(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """See `Task.prepare`."""
        return self.task.prepare(problems)

    def calibrate(self, judgements: Sequence[Judgement]) -> None:
        """See `Task.calibrate`."""
        self.task.calibrate(judgements)

    def judge(self, problem: Problem, sample: Sample) -> Judgement:
        """See `Task.judge`."""
        return self.task.judge(problem, sample, self.sandbox)
