"""Evaluate infilling: the perplexity of removed middles, and the share of greedy answers that match them exactly.

Middles are single lines, several lines and random spans; texts and seed determine them. A model that was trained
for infilling is prompted with its sentinels, and with the prefix alone for comparison. Any other model is prompted with
the prefix. A middle has the same tokens in both cases, so the perplexities are comparable.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.progress import Progress
from ms_codegeex.data.summary_lines import print_tally
from ms_codegeex.extras.corpus.tally import Tally
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.output_directory import RecordedSettings, sole_writer
from ms_codegeex.extras.evaluation.perplexity.corpus import corpus_documents
from ms_codegeex.extras.evaluation.perplexity.scoring import Score
from ms_codegeex.extras.evaluation.reports import page
from ms_codegeex.extras.evaluation.reports.estimators import wilson
from ms_codegeex.extras.evaluation.reports.scores import percent

if TYPE_CHECKING:
    from ms_codegeex.generation.engine import Generator

COUNT, SEED = 100, 0
SPANS = "spans.jsonl"
INFILL, PREFIX = "infill", "prefix"
KINDS = ("single-line", "multi-line", "random")
MAX_LINES, MAX_CHARACTERS = 8, 256
_ROUNDS = 16  # passes over the documents without a new span, after which the search ends
MORE = 16  # tokens by which an answer may exceed the middle


@dataclass(frozen=True)
class Span:
    """A middle: characters start to stop - 1 of document `document`."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class NumberedText:
    """A document and its number in the data."""

    number: int
    text: str

    def parts(self, span: Span) -> tuple[str, str, str]:
        return self.text[: span.start], self.text[span.start : span.stop], self.text[span.stop :]


def chosen_texts(texts: Iterable[str], count: int, seed: int) -> list[NumberedText]:
    """Return at most `count` of the texts, drawn uniformly, in an order that depends on the seed."""

    def keys() -> Iterator[tuple[float, int, str]]:
        for number, text in enumerate(texts):
            yield np.random.default_rng([seed, number]).random(), number, text

    return [NumberedText(number, text) for _, number, text in heapq.nsmallest(count, keys())]


def choose_spans(texts: list[NumberedText], kind: str, count: int, seed: int) -> list[Span]:
    """Return at most `count` different spans of a kind, taken from each text in turn."""
    spans: dict[Span, None] = {}
    fruitless, turn = 0, 0
    while texts and fruitless < _ROUNDS and len(spans) < count:
        before = len(spans)
        for text in texts:
            bounds = _CHOOSERS[kind](text.text, np.random.default_rng([seed, KINDS.index(kind), text.number, turn]))
            if bounds is not None and len(spans) < count:
                spans[Span(text.number, *bounds)] = None
        turn, fruitless = turn + 1, fruitless + 1 if len(spans) == before else 0
    return list(spans)


def _filled(text: str) -> list[tuple[int, int, int]]:
    lines = enumerate(re.finditer("^.*$", text, re.MULTILINE))
    return [(number, *line.span()) for number, line in lines if line.group().strip()]


def _single(text: str, generator: np.random.Generator) -> tuple[int, int] | None:
    filled = _filled(text)
    return filled[int(generator.integers(len(filled)))][1:] if filled else None


def _several(text: str, generator: np.random.Generator) -> tuple[int, int] | None:
    filled = _filled(text)
    if len(filled) < 2:
        return None
    first, start, _ = filled[int(generator.integers(len(filled) - 1))]
    stops = [stop for number, _, stop in filled if first < number < first + MAX_LINES]
    return (start, stops[int(generator.integers(len(stops)))]) if stops else None


def _anything(text: str, generator: np.random.Generator) -> tuple[int, int] | None:
    if not text:
        return None
    length = int(generator.integers(1, min(MAX_CHARACTERS, len(text)) + 1))
    start = int(generator.integers(len(text) - length + 1))
    return (start, start + length) if text[start : start + length].strip() else None


_CHOOSERS = dict(zip(KINDS, (_single, _several, _anything), strict=True))


@dataclass
class SpanTally:
    """The results of one kind of prompt for the spans of a kind."""

    score: Score = field(default_factory=lambda: Score(0.0, 0))
    bytes: int = 0
    spans: int = 0
    matches: int = 0

    def row(self) -> dict[str, Any]:
        """Return the figures for a report."""
        rate = self.matches / self.spans
        low, high = wilson(rate, self.spans)
        return {
            "spans": self.spans,
            "exact match": rate,
            "low": low,
            "high": high,
            "standard error": math.sqrt(rate * (1 - rate) / self.spans),
            "perplexity": self.score.perplexity,
            "loss (nats per token)": self.score.nats / self.score.tokens,
            "bits per byte": self.score.nats / math.log(2) / self.bytes,
            "tokens": self.score.tokens,
        }


class Asker:
    """Prompts one model for middles, with every kind of prompt that it supports."""

    def __init__(self, generator: Generator):
        self.generator, self.tokenizer = generator, generator.tokenizer
        self.ways = (INFILL, PREFIX) if generator.sentinels is not None else (PREFIX,)

    def prompt(self, way: str, prefix: str, suffix: str, room: int) -> list[int]:
        """Return at most `room` ids of a prompt; the text farthest from the middle is left out."""
        if way == INFILL:
            assert self.generator.sentinels is not None
            return self.generator.sentinels.prompt(self.tokenizer, prefix, suffix, room)[0]
        ids = [*self.tokenizer.prefix, *self.tokenizer.encode(prefix)] or [self.tokenizer.eos_id]
        return self.tokenizer.truncate_prompt(ids, room)

    def loss(self, prompt: Sequence[int], middle: Sequence[int]) -> Score:
        """Return the negative log-probability of the middle."""
        logprobs = self.generator.log_probabilities([*prompt, *middle])[-len(middle) :]
        return Score(-float(logprobs.astype(np.float64).sum()), len(middle))

    def answer(self, prompt: Sequence[int], maximum: int) -> str:
        """Return the greedy answer of at most `maximum` tokens."""
        from ms_codegeex.generation.sampling import SamplingSettings

        return "".join(self.generator.stream(prompt, SamplingSettings(max_new_tokens=maximum, temperature=0.0)))


def evaluate_infilling(
    model: LocalModel, data: Path, output: Path, count: int = COUNT, seed: int = SEED
) -> dict[str, Any]:
    """Measure `count` spans of each kind, write `evaluation.json`, `spans.jsonl`, `report.json` and `report.html`, and
    return the report. Raises `UserError` if there is no text, or no span fits into the model's context."""
    if not data.exists():
        raise UserError(f"--data: {data} does not exist; give a dataset directory, text files or .jsonl")
    with sole_writer(output):
        settings = RecordedSettings(output)
        settings.settle("task", {"name": "infilling"})
        generator, identity = model.open()
        asker, tally = Asker(generator), Tally()
        documents = corpus_documents(generator, [data], tally)
        texts = chosen_texts(chain.from_iterable(map(generator.tokenizer.file_texts, documents)), count, seed)
        print_tally(tally.summed(tally.kept))
        tallies, rows = _measure(asker, texts, count, seed)
        if not tallies:
            raise UserError(f"--data: {data} has no text in which a middle fits into the model's context; give others")
        recipe = {"count": count, "seed": seed, "ways": list(asker.ways)}
        with atomic_file(output / SPANS) as temporary:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
        sections = {"data": {"path": str(data)}, "model": identity, "recipe": recipe}
        infilling = {kind: {way: each.row() for way, each in ways.items()} for kind, ways in tallies.items()}
        figures = {"infill": "trained" if INFILL in asker.ways else "prefix-only", "infilling": infilling}
        return page.write_measures(settings, sections, {**figures, "tally": tally.summed(tally.kept)})


def _measure(
    asker: Asker, texts: list[NumberedText], count: int, seed: int
) -> tuple[dict[str, dict[str, SpanTally]], list[dict[str, Any]]]:
    by_number = {text.number: text for text in texts}
    tallies: dict[str, dict[str, SpanTally]] = {}
    rows: list[dict[str, Any]] = []
    with Progress(len(KINDS) * count, "spans") as bar:
        for kind in KINDS:
            for span in choose_spans(texts, kind, count, seed):
                if row := _span(asker, by_number[span.document], span, tallies.setdefault(kind, {})):
                    rows.append({"kind": kind, **row})
                bar.update()
    return {kind: ways for kind, ways in tallies.items() if ways}, rows


def _span(asker: Asker, text: NumberedText, span: Span, ways: dict[str, SpanTally]) -> dict[str, Any] | None:
    prefix, middle, suffix = text.parts(span)
    ids, context = asker.tokenizer.encode_inside(middle), asker.generator.seq_length
    if not ids or len(ids) > context // 2:
        return None
    maximum = min(len(ids) + MORE, context // 2)
    row: dict[str, Any] = {"document": span.document, "start": span.start, "stop": span.stop, "middle": middle}
    for way in asker.ways:
        prompt = asker.prompt(way, prefix, suffix, context - maximum)
        score, answer = asker.loss(prompt, ids), asker.answer(prompt, maximum)
        match = answer == middle if way == INFILL else answer.startswith(middle)
        tally = ways.setdefault(way, SpanTally())
        tally.score += score
        tally.bytes += len(middle.encode())
        tally.spans += 1
        tally.matches += match
        row[way] = {"nats": score.nats, "tokens": score.tokens, "answer": answer, "match": match}
    return row


def lines(report: dict[str, Any]) -> Iterator[str]:
    """Yield the table for a terminal."""
    yield f"{'':<12} {'asked by':<9} {'spans':>6} {'exact match':>22} {'perplexity':>12} {'bits per byte':>14}"
    for kind, ways in report["infilling"].items():
        for way, figures in ways.items():
            match = percent({**figures, "value": figures["exact match"]})
            losses = f"{figures['perplexity']:>12.3f} {figures['bits per byte']:>14.3f}"
            yield f"{kind:<12} {way:<9} {figures['spans']:>6} {match:>22} {losses}"
