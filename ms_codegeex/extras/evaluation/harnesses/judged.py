"""A benchmark of ours as rows of text and a judge of answers: what any harness can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS, build_task
from ms_codegeex.extras.evaluation.recipe import language
from ms_codegeex.extras.evaluation.sampling.recipes import build
from ms_codegeex.extras.evaluation.sandbox import Sandbox, open_sandbox
from ms_codegeex.extras.evaluation.task import Problem, Sample, SampledAnswer, Task, TextSource
from ms_codegeex.generation.stopping import Rule

UNFIT = ("mtpb", "humaneval-x-summary")  # it asks more than once for a sample; it gives no verdicts


class JudgedBenchmark:
    """One of our benchmarks with one prompt for each problem. Answers are cleaned and judged as `evaluate` does.

    Args:
        benchmark: its name in `evaluate`.
        data: its file or directory.
        languages: of HumanEval-X and MultiPL-E; none: all that the data has.
        sandbox: "strict" or "best-effort".
    """

    def __init__(
        self, benchmark: str, data: Path | str, languages: Sequence[str] = (), sandbox: str = "strict"
    ) -> None:
        known = [name for name in BENCHMARKS if name not in UNFIT]
        if benchmark not in known:
            raise UserError(f"benchmark: {benchmark} is not for other harnesses; expected one of {', '.join(known)}")
        chosen = {"languages": [language(name) for name in languages]} if languages else {}
        self.task: Task = build_task(build({"task": benchmark, **chosen}), Path(data))
        lacking = self.task.missing()
        self._problems = {
            problem.id: problem for problem in self.task.problems if not set(problem.labels.values()) & lacking.keys()
        }
        if not self._problems:
            raise UserError(f"benchmark: nothing of {data} can be judged here; {'; '.join(lacking.values())}")
        self._mode, self._prepared = sandbox, False

    @cached_property
    def sandbox(self) -> Sandbox:
        """Where answers run."""
        return open_sandbox(self._mode)

    def rows(self) -> list[dict[str, str]]:
        """`task_id` and `prompt` of every problem that this machine can judge."""
        return [{"task_id": name, "prompt": self._asked(each).prompt} for name, each in self._problems.items()]

    def verdict(self, task_id: str, answer: str, is_chat: bool = False) -> tuple[bool, str]:
        """Whether an answer passes `strict`, and its verdict in a word. `answer` continues the prompt; `is_chat`: it is
        a chat model's reply."""
        problem = self._problems[task_id]
        if not self._prepared:
            if reasons := self.task.prepare(list(self._problems.values())):
                raise UserError("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
            self._prepared = True
        sample = self._asked(problem, answer, is_chat)
        if sample.ran.startswith("nothing"):
            return False, sample.ran
        found = self.task.judge(problem, sample, self.sandbox).verdicts["strict"]
        return found.value == "passed", found.value

    def _asked(self, problem: Problem, answer: str = "", is_chat: bool = False) -> Sample:
        """The sample that the task makes of an answer."""

        class GivenAnswer(TextSource):
            def __call__(
                self, prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None
            ) -> SampledAnswer:
                return SampledAnswer(answer, "eos", is_chat)

        return self.task.produce(problem, 0, 0, GivenAnswer())


def opened(values: Mapping[str, Any]) -> JudgedBenchmark:
    """The benchmark of a harness's settings: `benchmark`, `data`, `languages` (a list, or a text with commas) and
    `sandbox`."""
    for key in ("benchmark", "data"):
        if not isinstance(values.get(key), str):
            raise UserError(f"{key}: missing; see docs/evaluation.md for the command")
    languages = values.get("languages") or ()
    languages = languages.split(",") if isinstance(languages, str) else languages
    return JudgedBenchmark(values["benchmark"], values["data"], tuple(languages), values.get("sandbox", "strict"))
