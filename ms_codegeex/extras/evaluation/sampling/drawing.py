"""Draw the samples of an evaluation. An interrupted run continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.extras.evaluation.jsonl import RowFile
from ms_codegeex.extras.evaluation.progress import in_parallel
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.rows import RowKey, in_order, key
from ms_codegeex.extras.evaluation.sampling.samplers import Sampler
from ms_codegeex.extras.evaluation.task import UNREAD, Problem, Sample, Task

EQUAL_CHARACTERS = 500


def sample_seed(seed: int, task_id: str, completion_id: int) -> int:
    digest = hashlib.sha256(json.dumps([seed, task_id, completion_id]).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def wanted(task: Task, problems: Sequence[Problem], n: int) -> dict[RowKey, Problem]:
    """The keys of all samples in order, problem by problem, so that a model can reuse each prompt."""
    count = task.samples_per_problem(n)
    return {(problem.id, number): problem for problem in problems for number in range(count)}


def generate(
    task: Task, problems: Sequence[Problem], n: int, seed: int, sampler: Sampler, samples: RowFile, progress: bool
) -> None:
    """Draw the samples that `samples` lacks. Rows that are not wanted stay, at the end of the file. A sample is a
    function of (seed, problem, number). Threads append in any order; the file is sorted at the end."""
    keys = wanted(task, problems, n)
    present = {key(row) for row in samples.rows}
    missing = [each for each in keys if each not in present]

    def draw(each: RowKey) -> Sample:
        try:
            return task.produce(keys[each], each[1], sample_seed(seed, *each), sampler)
        except PromptTooLong as error:
            return Sample(*each, "", "", UNREAD, {"reason": str(error)})

    done = len(keys) - len(missing)
    for _, sample in in_parallel(missing, draw, sampler.concurrency, "samples", progress, done):
        samples.append([asdict(sample)])
    samples.replace(in_order(samples.rows, keys))


def equal_answers(rows: Sequence[Mapping[str, Any]], recipe: Recipe, fields: Mapping[str, Any]) -> str:
    """A sentence if a server seems to repeat itself instead of sampling, from rows of `samples.jsonl`; "" otherwise.
    The requests' own `fields` override the recipe's settings.

    The rule: at least two problems have several samples, in each of them all answers are equal, and the repeated text
    has at least `EQUAL_CHARACTERS` / temperature characters in all. If a code model's text has 0.01 bits a character at
    0.2 and 0.05 at 0.8 (assumed, not measured), such repeats by chance have a probability below 2^-25.
    """
    settings = {**asdict(recipe), **fields}
    if not isinstance(heat := settings["temperature"], int | float) or heat <= 0 or settings["top_k"] == 1:
        return ""
    answers: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row["finish"] != UNREAD:
            asked = (row["task_id"], row["prompt"], row["extra"].get("case"))
            answers.setdefault(asked, []).append(row["extra"].get("raw", row["generation"]))
    several = [texts for texts in answers.values() if len(texts) > 1]
    repeated = sum(len(text) for texts in several for text in texts[1:])
    if len(several) < 2 or any(len(set(texts)) > 1 for texts in several) or repeated * heat < EQUAL_CHARACTERS:
        return ""
    cause, remedy = "a cache, or a fixed seed in the server or a proxy", "switch it off"
    if fields.get("seed") is not None:
        cause, remedy = "--url-field seed, which all requests have", "leave it out"
    found = f"all {sum(map(len, several))} answers to {len(several)} problems are equal, problem by problem"
    return f"{found}, at temperature {heat:g}: probably {cause}; {remedy} and sample again with another --output"
