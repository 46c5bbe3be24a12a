"""Judge answers with the tool chains of this machine; a test is skipped if one is missing."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ms_codegeex.extras.evaluation.benchmarks import humaneval_x
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x import HumanEvalX
from ms_codegeex.extras.evaluation.sandbox import Sandbox
from ms_codegeex.extras.evaluation.task import Judgement, Problem, Sample


def open_task(data: Path, language: str, timeout: float | None = None) -> HumanEvalX:
    """The task in one language. Prepared files stay in the user's cache for the next session."""
    task = humaneval_x.build(data, [language], timeout=timeout)
    if language in task.missing():
        pytest.skip(f"needs {task.missing()[language]}")
    return task


def answer(problem: Problem, text: str) -> Sample:
    return Sample(problem.id, 0, "", text, "eos")


def judge_all(task: HumanEvalX, sandbox: Sandbox, samples: Iterable[tuple[Problem, Sample]]) -> list[Judgement]:
    """Judge in two threads, so that programs compete as on a user's machine."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda each: task.judge(*each, sandbox), samples))


def verdicts(judgements: Iterable[Judgement], mode: str = "strict") -> dict[str, str]:
    return {each.task_id: each.verdicts[mode].value for each in judgements}
