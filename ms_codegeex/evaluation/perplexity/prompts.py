"""Perplexity: of the prompts of a benchmark (facts A12), of a corpus (`corpus_perplexity.py`).

For the command line. `model` is a `generation.engine.Generator` (a `Scorer`). A server gives no probabilities of a
given text: `--url` with the perplexity task is a `UserError` there.

    corpus_perplexity.measure(model, paths, window, stride, max_tokens, progress) -> Corpus; Corpus.row() is flat JSON
    prompt_perplexities(model, task, samples, progress) -> {problem id: Score}        task: MTPB or HumanEval
    split(scores, solved) -> flat JSON: mean and standard error of all, solved and unsolved problems
    solved(judgements, "strict") -> {problem id: whether one of its samples passed}

A problem's prompt perplexity is exp of minus the mean log-probability of the tokens of its prompts, FP32 by the model
and float64 from there. Of MTPB: over the prompts of all turns of all its samples, each given everything before it,
generated code included, which itself is not scored; nor are the first lines that every program has. A prompt is scored
with its `# ` and its line break. The first token of a text that nothing precedes is not scored, as in a loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.sandbox import Verdict
from ms_codegeex.evaluation.task import Judgement, Sample, Task

Segment = tuple[str, bool]  # text, and whether its tokens are scored


class Scorer(Protocol):
    """A model that gives the probabilities of a text's tokens."""

    tokenizer: Tokenizer
    seq_length: int

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        """Of each of at most `seq_length` ids but the first, given those before it; natural logarithms."""


@dataclass(frozen=True)
class Score:
    """Summed negative log-probability in nats, and of how many tokens."""

    nats: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the mean; nan without tokens, inf beyond a float."""
        if not self.tokens:
            return math.nan
        mean = self.nats / self.tokens
        return math.exp(mean) if mean < 709 else math.inf

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.tokens + other.tokens)


def windowed(model: Scorer, ids: Sequence[int], window: int | None = None, stride: int | None = None) -> np.ndarray:
    """Log-probabilities FP32 [len(ids) - 1] of all ids but the first.

    A text of more than `window` tokens (default: the model's context) is read in windows that begin every `stride`
    tokens (default: half a window). Each token is scored once, in the first window that reaches it: given at least
    `window` - `stride` tokens, or all before it.
    """
    window = model.seq_length if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 2 <= window <= model.seq_length or not 1 <= stride < window:
        raise UserError(
            f"window {window}, stride {stride}: expected a window of 2 to {model.seq_length} tokens (the model's "
            "context) and a stride of 1 to one less than it"
        )
    scored, found = 1, []
    for begin in range(0, max(1, len(ids)), stride):
        piece = ids[begin : begin + window]
        found.append(model.log_probabilities(piece)[scored - begin - 1 :])
        scored = begin + len(piece)
        if scored >= len(ids):
            break
    return np.concatenate(found)


def segment_tokens(tokenizer: Tokenizer, segments: Sequence[Segment]) -> tuple[list[int], np.ndarray]:
    """Ids of the joined text behind the tokenizer's prefix, and which of them are scored: those that begin in a scored
    segment. The text is encoded as a whole, as a model reads it."""
    texts = [text.encode("utf-8", "replace") for text, _ in segments]
    ids = tokenizer.encode(b"".join(texts).decode())  # without the lone surrogates that a model may write
    sizes = np.array([len(tokenizer.token_bytes(number)) for number in ids], np.int64)
    # a tokenizer may put a space in front of a text, which is the first bytes of what its tokens stand for
    begins = np.cumsum(sizes) - sizes - (int(sizes.sum()) - sum(map(len, texts)))
    ends = np.cumsum([len(text) for text in texts])
    places = np.minimum(np.searchsorted(ends, np.maximum(begins, 0), side="right"), len(segments) - 1)
    scored = np.array([flag for _, flag in segments], bool)[places]
    prefix = list(tokenizer.prefix)
    return prefix + ids, np.concatenate([np.zeros(len(prefix), bool), scored])


def score(model: Scorer, segments: Sequence[Segment]) -> Score:
    """The tokens of the scored segments, each given everything before it."""
    if not any(text for text, _ in segments):
        return Score(0.0, 0)  # of a sample that was never drawn
    ids, scored = segment_tokens(model.tokenizer, segments)
    found = windowed(model, ids)[scored[1:]].astype(np.float64)
    return Score(-float(found.sum()), len(found))


def prompt_perplexities(
    model: Scorer, task: Task, samples: Iterable[Sample], progress: bool = False
) -> dict[str, Score]:
    """Scores of the prompts of each problem that has samples, over all of them; of a task without turns, whose samples
    of a problem share one prompt, one is enough. Texts that are there more than once are read once."""
    if not hasattr(task, "segments"):
        raise UserError(f"{task.name}: has no prompt perplexity; only mtpb and humaneval have")
    prompted: Any = task
    problems = {problem.id: problem for problem in task.problems}
    known: dict[tuple[Segment, ...], Score] = {}
    scores: dict[str, Score] = {}
    from tqdm import tqdm

    for sample in tqdm(list(samples), desc="prompts", disable=None if progress else True):
        segments = tuple(prompted.segments(problems[sample.task_id], sample))
        if segments not in known:
            known[segments] = score(model, segments)
        scores[sample.task_id] = scores.get(sample.task_id, Score(0.0, 0)) + known[segments]
    return scores


def solved(judgements: Iterable[Judgement], mode: str = "strict") -> dict[str, bool]:
    """Whether at least one sample of a problem passed."""
    result: dict[str, bool] = {}
    for one in judgements:
        result[one.task_id] = result.get(one.task_id, False) or one.verdicts[mode] is Verdict.PASSED
    return result


def split(scores: Mapping[str, Score], passed: Mapping[str, bool]) -> dict[str, Any]:
    """Problems, mean perplexity and its standard error (None of fewer than 2) of all, solved and unsolved problems."""
    groups = {
        "all": list(scores),
        "solved": [name for name in scores if passed.get(name) is True],
        "unsolved": [name for name in scores if passed.get(name) is False],
    }
    result: dict[str, Any] = {"tokens": sum(one.tokens for one in scores.values())}
    for group, names in groups.items():
        values = [scores[name].perplexity for name in names if scores[name].tokens]
        result[f"problems, {group}"] = len(values)
        result[f"prompt perplexity, {group}"] = statistics.fmean(values) if values else None
        result[f"standard error, {group}"] = (
            statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        )
    return result
