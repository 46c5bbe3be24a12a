"""Sums over all documents for dataset.json and report.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ms_codegeex.base.files import shared_files
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.corpus.shards import Shard
from ms_codegeex.data.corpus.stages import DocumentBlock, Stages
from ms_codegeex.data.datasets.layout import SPLITS

MAX_PACKAGES = 1000  # named in dataset.json: a large corpus has hundreds of thousands
_SHORTEST = 16  # upper end of the first bin of lengths, tokens; each further one ends at twice as many


class Placed(Protocol):
    """The number of the split of each document in `SPLITS`, below 0 if it is left out: an int8 array, or something that
    gives one for documents of one shard."""

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


@dataclass
class Counts:
    """Numbers of `documents`, `tokens` and `bytes`."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    def add(self, other: Counts) -> None:
        """Add `other`."""
        self.documents += other.documents
        self.tokens += other.tokens
        self.bytes += other.bytes


@dataclass
class Summary:
    """Sums over documents.

    Attributes:
        languages: counts by the number that the documents were placed at, then by language; `unknown` is no language.
        lengths: how many kept documents have less than 16 tokens, 16 to 31, 32 to 63 and so on.
        redacted: replacements in kept documents, by kind.
        licences: how many kept documents lost a licence header, and the bytes of those headers.
        stripped: bytes of licence headers of all documents, dropped ones too.
        packages: for each split, the first `MAX_PACKAGES` names of its packages or repositories.
    """

    languages: dict[int, dict[str, Counts]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    redacted: list[int] = field(default_factory=list)
    licences: Counts = field(default_factory=Counts)
    stripped: int = 0
    packages: dict[int, list[str]] = field(default_factory=dict)

    def add_documents(self, shard: Shard, placed: np.ndarray) -> None:
        """Add the documents of a shard, which were placed at `placed`, int8 `[documents]`."""
        columns = shard.read("language", "group", "bytes", "tokens", "licence_bytes", "redacted")
        names, kept = shard.names(), placed >= 0
        languages = [name or "unknown" for name in names["languages"]]
        for place in np.unique(placed).tolist():
            here = placed == place
            for code in np.unique(columns["language"][here]).tolist():
                rows = here & (columns["language"] == code)
                tokens, size = (int(columns[name][rows].sum()) for name in ("tokens", "bytes"))
                self._count(place, languages[code], Counts(int(np.count_nonzero(rows)), tokens, size))
            codes = np.unique(columns["group"][here]).tolist() if place >= 0 else ()
            self._name(place, [names["groups"][code] for code in codes if code >= 0])
        bins = np.maximum(np.frexp(columns["tokens"][kept] // _SHORTEST)[1], 0)
        self.lengths = _sum(self.lengths, np.bincount(bins).tolist() if bins.size else [])
        self.redacted = _sum(self.redacted, columns["redacted"][kept].sum(axis=0).tolist())
        stripped = columns["licence_bytes"][kept]
        self.licences.add(Counts(int(np.count_nonzero(stripped)), 0, int(stripped.sum())))
        self.stripped += int(columns["licence_bytes"].sum())

    def add(self, other: Summary) -> None:
        """Add the sums over other documents."""
        for place, languages in other.languages.items():
            for language, counts in languages.items():
                self._count(place, language, counts)
        for place, names in other.packages.items():
            self._name(place, names)
        self.lengths, self.redacted = _sum(self.lengths, other.lengths), _sum(self.redacted, other.redacted)
        self.licences.add(other.licences)
        self.stripped += other.stripped

    def _count(self, place: int, language: str, counts: Counts) -> None:
        self.languages.setdefault(place, {}).setdefault(language, Counts()).add(counts)

    def _name(self, place: int, names: Sequence[str]) -> None:
        if names:
            self.packages[place] = sorted({*self.packages.get(place, ()), *names})[:MAX_PACKAGES]

    def counts(self, *places: int) -> dict[str, int]:
        """Numbers of `documents`, `tokens` and `bytes` that were placed at `places`."""
        total = Counts()
        for place in places:
            for counts in self.languages.get(place, {}).values():
                total.add(counts)
        return vars(total)

    def language_counts(self, *places: int) -> dict[str, dict[str, int]]:
        """`counts` by language, most bytes first."""
        names = {name for place in places for name in self.languages.get(place, {})}
        found = {name: Counts() for name in names}
        for place in places:
            for name, counts in self.languages.get(place, {}).items():
                found[name].add(counts)
        entries = {name: vars(counts) for name, counts in found.items()}
        return dict(sorted(entries.items(), key=lambda item: (-item[1]["bytes"], item[0])))

    def length_histogram(self) -> dict[str, list[int]]:
        """A histogram of kept documents by length: `documents[i]` of them have at least `edges[i]` and less than
        `edges[i + 1]` tokens."""
        counts = self.lengths or [0]
        return {"edges": [0, *(_SHORTEST << number for number in range(len(counts)))], "documents": counts}

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON holds them."""
        languages = {
            place: {name: vars(counts) for name, counts in found.items()} for place, found in self.languages.items()
        }
        return {**vars(self), "languages": languages, "licences": vars(self.licences)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Summary:
        """The sums that `to_json` gave, after they were in a file."""
        languages = {
            int(place): {name: Counts(**counts) for name, counts in found.items()}
            for place, found in content["languages"].items()
        }
        packages = {int(place): names for place, names in content["packages"].items()}
        licences = Counts(**content["licences"])
        return cls(**{**content, "languages": languages, "packages": packages, "licences": licences})


def _sum(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The sums of two lists; the shorter one ends with zeros."""
    longer, shorter = sorted((first, second), key=len, reverse=True)
    return [*(a + b for a, b in zip(longer, shorter, strict=False)), *longer[len(shorter) :]]


def summarise(parts: Iterable[tuple[Shard, int, int]], placed: Placed) -> Summary:
    """Sums over the documents of shards, each with the numbers of its first document and of the one after its last."""
    found = Summary()
    for shard, start, end in parts:
        found.add_documents(shard, placed[start:end])
    return found


def summarise_in_stages(stages: Stages) -> Summary:
    """`summarise` all documents, which the stage `placed` has placed."""
    stages.by_block("summary", _write_summary, lambda block: stages.path("placed", block.number))
    found = Summary()
    for path in stages.paths("summary"):
        found.add(Summary.from_json(read_json(path)))
    return found


def _write_summary(path: Path, block: DocumentBlock, placed: Path) -> None:
    content = summarise(block.parts(), np.load(placed, allow_pickle=False)).to_json()
    with shared_files(path) as (temporary,):
        temporary.write_text(json.dumps(content), encoding="utf-8")


def describe_splits(summary: Summary) -> dict[str, dict[str, Any]]:
    """The entry of each split in dataset.json: its counts, in total and by language."""
    return {
        split: {**summary.counts(number), "languages": summary.language_counts(number)}
        for number, split in enumerate(SPLITS)
    }
