"""Prompt perplexity: how well a model predicts the prompts of a benchmark, as in the CodeGen paper.

A problem's prompt perplexity is exp of the negative mean log-probability of its prompts' tokens, FP32 from the model,
summed in float64. For MTPB, the prompts of all turns of all samples count, each given everything before it; generated
code is context only, and so are the first lines, which every program shares. A prompt includes its `# ` and its line
break. The first token of a text has no context and is not scored.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.progress import Progress
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.extras.evaluation.perplexity.scoring import Score, Scorer, windowed
from ms_codegeex.extras.evaluation.rows import sample_from
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Judgement, Sample, Task

FILE = "perplexity.json"
Segment = tuple[str, bool]  # text, and whether its tokens are scored


def segment_tokens(tokenizer: Tokenizer, segments: Sequence[Segment]) -> tuple[list[int], np.ndarray]:
    """The tokenizer's prefix and the ids of the joined text, and a mask of the scored ids: those that begin in a scored
    segment. The text is encoded in one piece, as the model reads it."""
    texts = [text.encode("utf-8", "replace") for text, _ in segments]
    ids = tokenizer.encode(b"".join(texts).decode())  # lone surrogates, which a model may write, are replaced
    sizes = np.array([len(tokenizer.token_bytes(number)) for number in ids], np.int64)
    # a tokenizer may prepend a space, so the tokens can stand for more bytes than the text has
    begins = np.cumsum(sizes) - sizes - (int(sizes.sum()) - sum(map(len, texts)))
    ends = np.cumsum([len(text) for text in texts])
    places = np.minimum(np.searchsorted(ends, np.maximum(begins, 0), side="right"), len(segments) - 1)
    scored = np.array([flag for _, flag in segments], bool)[places]
    prefix = list(tokenizer.prefix)
    return prefix + ids, np.concatenate([np.zeros(len(prefix), bool), scored])


def score(model: Scorer, segments: Sequence[Segment]) -> Score:
    """The score of the tokens in scored segments, each given everything before it."""
    if not any(text for text, _ in segments):
        return Score(0.0, 0)  # the sample was never drawn
    ids, scored = segment_tokens(model.tokenizer, segments)
    logprobs = windowed(model, ids)[scored[1:]].astype(np.float64)
    return Score(-float(logprobs.sum()), len(logprobs))


def prompt_perplexities(
    model: Scorer, task: Task, samples: Iterable[Sample], progress: bool = False
) -> dict[str, Score]:
    """Problem id -> the score of its prompts, summed over its samples. Equal texts are scored once. `UserError` if the
    task, which must have a method `segments`, has no prompt perplexity."""
    segments_of = getattr(task, "segments", None)
    if segments_of is None:
        raise UserError(f"{task.name}: has no prompt perplexity; only mtpb and humaneval have")
    problems = {problem.id: problem for problem in task.problems}
    known: dict[tuple[Segment, ...], Score] = {}
    scores, every = dict[str, Score](), list(samples)
    with Progress(len(every), "prompts", shown=progress) as bar:
        for sample in every:
            segments = tuple(segments_of(problems[sample.task_id], sample))
            if segments not in known:
                known[segments] = score(model, segments)
            scores[sample.task_id] = scores.get(sample.task_id, Score(0.0, 0)) + known[segments]
            bar.update()
    return scores


def solved(judgements: Iterable[Judgement]) -> dict[str, bool]:
    """Problem id -> whether at least one of its samples passed (`strict`)."""
    result: dict[str, bool] = defaultdict(bool)
    for one in judgements:
        result[one.task_id] |= one.verdicts["strict"] is Verdict.PASSED
    return dict(result)


def split(scores: Mapping[str, Score], passed: Mapping[str, bool]) -> dict[str, Any]:
    """Count, mean perplexity and standard error (None for fewer than 2) of all, solved and unsolved problems."""
    scored = {name: one.perplexity for name, one in scores.items() if one.tokens}
    result: dict[str, Any] = {"tokens": sum(one.tokens for one in scores.values())}
    for group, kinds in (("all", (True, False, None)), ("solved", (True,)), ("unsolved", (False,))):
        values = [perplexity for name, perplexity in scored.items() if passed.get(name) in kinds]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        result[f"problems, {group}"] = len(values)
        result[f"prompt perplexity, {group}"] = statistics.fmean(values) if values else None
        result[f"standard error, {group}"] = error
    return result


def measure(task: Task, model: Any, samples: Sequence[Mapping[str, Any]], output: Path, progress: bool) -> None:
    """Write the prompt perplexities of these rows of `samples.jsonl` to `perplexity.json`, unless they are there."""
    if recorded(output):
        return
    scores = prompt_perplexities(model, task, map(sample_from, samples), progress)
    rows = {name: dataclasses.asdict(score) for name, score in scores.items()}
    write_json(output / FILE, {"samples": sha256(output / "samples.jsonl"), "scores": rows})


def recorded(output: Path) -> dict[str, Score]:
    """The content of `perplexity.json`, if it belongs to the present `samples.jsonl`; otherwise nothing."""
    if not (output / FILE).exists():
        return {}
    content = read_json(output / FILE)
    try:
        if content["samples"] != sha256(output / "samples.jsonl"):
            return {}
        return {name: Score(**score) for name, score in content["scores"].items()}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{output / FILE}: damaged; remove it, and it is measured again") from None
