"""What a benchmark is to the rest of the evaluation: problems, samples of a model, verdicts about them.

A task writes its prompts, cleans its samples and judges them. It knows no model: text comes from a `Complete`. It knows
no files of an evaluation either: `Sample` and `Judgement` are rows of JSONL that `evaluation.run` writes and reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ms_codegeex.evaluation.sandbox import Sandbox, Verdict

UNREAD = "too long"  # how a sample "finishes" whose prompt leaves the model no room
Stop = Callable[[str], bool]  # given the text so far, whether decoding may end; the task's clean-up does the cutting


@dataclass(frozen=True)
class Completion:
    """The text that follows a prompt, and why it ended: "eos", "stop" (the task's rule) or "length"."""

    text: str
    finish: str


class Complete(Protocol):
    """A model as tasks see it. The same prompt, settings and seed give the same text."""

    def __call__(
        self, prompt: str, *, seed: int, stop: Stop | None = None, max_new_tokens: int | None = None
    ) -> Completion:
        """Continue a prompt; `max_new_tokens` only where the task itself prescribes it. `PromptTooLong` if the prompt
        leaves the model no room; a task that lets it pass gets a sample "too long", which is judged without running."""


@dataclass(frozen=True)
class Problem:
    """One problem. `labels` are what a report breaks its tables down by, such as {"language": "python"}."""

    id: str
    labels: Mapping[str, str]
    data: Any  # the task's own record


@dataclass(frozen=True)
class Sample:
    """One answer of a model: a row of `samples.jsonl`. `completion_id` counts a problem's samples from 0."""

    task_id: str
    completion_id: int
    prompt: str
    generation: str
    finish: str
    extra: Mapping[str, Any] = field(default_factory=dict)  # what the task needs to judge it, JSON values only


class Reference(Sample):
    """A canonical solution. No row of a file becomes one, so no model's sample is given its time."""


@dataclass(frozen=True)
class Judgement:
    """What the judges say about one sample: a row of `results.jsonl`. `verdicts` has one entry per judging mode,
    "strict" and "published"; `seconds` is the wall clock of compiling and running; `stderr` its tail."""

    task_id: str
    completion_id: int
    verdicts: Mapping[str, Verdict]
    seconds: float
    exit_code: int | None
    stderr: str
    extra: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A benchmark."""

    name: str  # as on the command line, with what distinguishes it: "humaneval-x", "mtpb", ...
    problems: Sequence[Problem]

    @abstractmethod
    def samples_per_problem(self, n: int) -> int:
        """How many samples of one problem `n` of a recipe means (MTPB: n for each of its test cases)."""

    @abstractmethod
    def produce(self, problem: Problem, completion_id: int, seed: int, complete: Complete) -> Sample:
        """One sample: the prompt or prompts, the model's text, the task's clean-up."""

    @abstractmethod
    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Run a sample in the sandbox. Never raises for anything the program does."""

    @abstractmethod
    def reference(self, problem: Problem) -> Sample | None:
        """The canonical solution as a sample, if the benchmark has one."""

    def flaw(self, sample: Sample) -> str:
        """What keeps a sample that comes from a file from being judged; "" for nothing. Its problem is one of ours."""
        return ""

    def known_defects(self) -> Mapping[str, str]:
        """Problems whose reference cannot pass, each with its reason."""
        return {}

    def missing(self) -> Mapping[str, str]:
        """What this machine lacks for judging: name (of a tool chain, of a library) -> the line that installs it."""
        return {}

    def prepare(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Make what judging these problems needs, once on a machine; what cannot be made: name (as in a label) -> why.
        Never raises for a tool that is broken."""
        return {}

    def tools(self) -> Mapping[str, str]:
        """What judges here: name of a tool chain or interpreter -> its version. Verdicts of references hold for it."""
        return {}

    def calibrate(self, judgements: Iterable[Judgement]) -> Mapping[str, float]:
        """Fit time limits to this machine, from judgements of its references; the limits in seconds."""
        return {}
