"""Draw the samples of an evaluation. An interrupted run continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.evaluation.jsonl import RowFile
from ms_codegeex.evaluation.rows import RowKey, in_order, key
from ms_codegeex.evaluation.sampling.samplers import Sampler
from ms_codegeex.evaluation.task import UNREAD, Problem, Sample, Task
from ms_codegeex.evaluation.threads import in_parallel


def sample_seed(seed: int, task_id: str, completion_id: int) -> int:
    """The seed of one sample: 31 bits, which every server accepts, independent of other samples and of the order."""
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
