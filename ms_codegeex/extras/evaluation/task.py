"""The contract between a benchmark and the rest of the evaluation: problems, samples, judgements.

A task writes its prompts, cleans up its samples and judges them. It knows no model: text comes from a `TextSource`. It
knows no files either: `Sample` and `Judgement` are the rows of `samples.jsonl` and `results.jsonl`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest, ReplyCode
from ms_codegeex.extras.evaluation.replies.code import code_of
from ms_codegeex.extras.evaluation.sandbox import Sandbox, Verdict
from ms_codegeex.generation.stopping import Rule

UNREAD = "too long"  # `finish` of a sample whose prompt leaves the model no room


@dataclass(frozen=True)
class SampledAnswer:
    """The text that follows a prompt, and why it ended: "eos", "stop" (the task's rule) or "length"."""

    text: str
    finish: str
    is_reply: bool = False  # it is a chat model's whole reply instead


class TextSource(Protocol):
    """A model as tasks see it. The same prompt, settings and seed give the same text."""

    def __call__(
        self, prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None
    ) -> SampledAnswer:
        """Continue a prompt. Only a task that prescribes it passes `max_new_tokens`. `PromptTooLong` if the prompt
        leaves the model no room: unless the task catches it, the sample finishes as "too long" and does not run."""


@dataclass(frozen=True)
class Problem:
    """One problem. A report groups by `labels`, such as {"language": "python"}."""

    id: str
    labels: Mapping[str, str]
    data: Any  # the task's own record


@dataclass(frozen=True)
class Sample:
    """One answer of a model: a row of `samples.jsonl`. `completion_id` numbers the samples of a problem from 0."""

    task_id: str
    completion_id: int
    prompt: str
    generation: str
    finish: str
    extra: Mapping[str, Any] = field(default_factory=dict)  # what the task needs to judge it, JSON values only

    @property
    def whole(self) -> bool:
        return self.extra.get("whole") is True

    @property
    def program(self) -> str:
        return self.generation if self.whole else f"{self.prompt}{self.generation}"

    @property
    def ran(self) -> str:
        lacking = self.extra.get("lacking") or (self.extra.get("reason") if self.finish == UNREAD else "")
        return f"nothing: {lacking}" if lacking else "program" if self.whole else "continuation"


class Reference(Sample):
    """A canonical solution. No row of a file becomes one, so a model's sample never gets the longer time limit."""


@dataclass(frozen=True)
class Judgement:
    """The result for one sample: a row of `results.jsonl`."""

    task_id: str
    completion_id: int
    verdicts: Mapping[str, Verdict]  # for each of the task's judging modes
    seconds: float  # wall clock of compiling and running
    exit_code: int | None
    stderr: str  # its end
    extra: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """A benchmark. `name` is the one on the command line, such as "humaneval-x", plus the variant if it has several."""

    name: str
    problems: Sequence[Problem]
    modes: Sequence[str] = ("strict", "published")  # judging modes; each judgement has a verdict for each
    measures: Sequence[str] = ()  # keys of a judgement's `extra` with a figure from 0 to 1, of which means are reported
    runs_programs = True  # otherwise `judge` gets no sandbox

    @abstractmethod
    def produce(self, problem: Problem, completion_id: int, seed: int, complete: TextSource) -> Sample:
        """Draw one sample: build the prompt or prompts, complete them, clean up the text."""

    def code_request(self, problem: Problem, prompt: str) -> CodeRequest:
        name = getattr(problem.data, "entry_point", None)
        return CodeRequest(problem.labels.get("language", "python"), prompt, name or "")

    def read(self, problem: Problem, prompt: str, done: SampledAnswer) -> ReplyCode:
        return code_of(done.text, replace(self.code_request(problem, prompt), finished=done.finish != "length"))

    def sample(
        self, problem: Problem, completion_id: int, prompt: str, done: SampledAnswer, clean: Callable[[str], str]
    ) -> Sample:
        """The sample of an answer. `clean` is the benchmark's rule for a text that continues the prompt. A reply
        that is a program stays one. The text as it was sampled is kept if it differs."""
        code, notes = ReplyCode(done.text, False), {}
        if done.is_reply:
            code = self.read(problem, prompt, done)
            notes = {"whole": True} if code.whole else {"lacking": code.lacking} if code.lacking else {}
        text = code.text if notes else clean(code.text)
        extra = notes if text == done.text else {**notes, "raw": done.text}
        return Sample(problem.id, completion_id, prompt, text, done.finish, extra)

    @abstractmethod
    def judge(self, problem: Problem, sample: Sample, sandbox: Sandbox) -> Judgement:
        """Run a sample in the sandbox. Nothing that the program does raises an exception here."""

    def samples_per_problem(self, n: int) -> int:
        return n

    def reference(self, problem: Problem) -> Sample | None:
        """The canonical solution as a sample, None if the benchmark has none."""
        return None

    def trial(self, problem: Problem) -> Sample | None:
        """A program that passes wherever this problem's language or library works: the canonical solution, or one of
        ours. None: there is nothing to try."""
        return self.reference(problem) if self.runs_programs else None

    def flaw(self, sample: Sample) -> str:
        return ""

    def known_defects(self) -> Mapping[str, str]:
        return {}

    def missing(self) -> Mapping[str, str]:
        return {}

    def prepare(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Prepare to judge these problems, once per machine. Return label value -> reason for each tool that does not
        work; a broken one never raises an exception here."""
        return {}

    def tools(self) -> Mapping[str, str]:
        """Name of a tool chain or interpreter -> its version. Verdicts on references are valid for these only."""
        return {}

    def calibrate(self, judgements: Iterable[Judgement]) -> Mapping[str, float]:
        """Fit the time limits to this machine, given judgements of its references; return the seconds."""
        return {}
