"""Middles to remove from texts: single lines, several lines, and random spans, as a pure function of texts and seed."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

KINDS = ("single-line", "multi-line", "random")
MAX_LINES, MAX_CHARACTERS = 8, 256
_ROUNDS = 16  # over the documents without a new span, after which there are no more


@dataclass(frozen=True)
class Span:
    """A middle: the characters start..stop-1 of document `document`."""

    document: int
    start: int
    stop: int


@dataclass(frozen=True)
class NumberedText:
    """A document and its number in the data."""

    number: int
    text: str

    def parts(self, span: Span) -> tuple[str, str, str]:
        """Prefix, middle and suffix."""
        return self.text[: span.start], self.text[span.start : span.stop], self.text[span.stop :]


def chosen_texts(texts: Iterable[str], count: int, seed: int) -> list[NumberedText]:
    """At most `count` of the texts, each as likely as any other, in an order of the seed."""

    def keys() -> Iterator[tuple[float, int, str]]:
        for number, text in enumerate(texts):
            yield np.random.default_rng([seed, number]).random(), number, text

    return [NumberedText(number, text) for _, number, text in heapq.nsmallest(count, keys())]


def choose_spans(texts: list[NumberedText], kind: str, count: int, seed: int) -> list[Span]:
    """At most `count` different spans of a kind, from each text in turn."""
    spans: dict[Span, None] = {}
    fruitless, turn = 0, 0
    while texts and fruitless < _ROUNDS and len(spans) < count:
        before = len(spans)
        for text in texts:
            generator = np.random.default_rng([seed, KINDS.index(kind), text.number, turn])
            bounds = _CHOOSERS[kind](text.text, generator)
            if bounds is not None and len(spans) < count:
                spans[Span(text.number, *bounds)] = None
        turn, fruitless = turn + 1, fruitless + 1 if len(spans) == before else 0
    return list(spans)


def _filled(text: str) -> list[tuple[int, int, int]]:
    """Number, beginning and end, without the line break, of each line that is not blank."""
    lines = enumerate(re.finditer("^.*$", text, re.MULTILINE))
    return [(number, *line.span()) for number, line in lines if line.group().strip()]


def _single(text: str, generator: np.random.Generator) -> tuple[int, int] | None:
    """A line that is not blank."""
    filled = _filled(text)
    return filled[int(generator.integers(len(filled)))][1:] if filled else None


def _several(text: str, generator: np.random.Generator) -> tuple[int, int] | None:
    """Two to `MAX_LINES` consecutive lines; the first and the last are not blank."""
    filled = _filled(text)
    if len(filled) < 2:
        return None
    first, start, _ = filled[int(generator.integers(len(filled) - 1))]
    stops = [stop for number, _, stop in filled if first < number < first + MAX_LINES]
    return (start, stops[int(generator.integers(len(stops)))]) if stops else None


def _anything(text: str, generator: np.random.Generator) -> tuple[int, int] | None:
    """Any characters, up to `MAX_CHARACTERS`, that are not all white space."""
    if not text:
        return None
    length = int(generator.integers(1, min(MAX_CHARACTERS, len(text)) + 1))
    start = int(generator.integers(len(text) - length + 1))
    return (start, start + length) if text[start : start + length].strip() else None


_CHOOSERS: dict[str, Callable[[str, np.random.Generator], tuple[int, int] | None]] = {
    "single-line": _single,
    "multi-line": _several,
    "random": _anything,
}
