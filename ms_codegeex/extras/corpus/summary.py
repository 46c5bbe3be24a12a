"""Sums over all documents for dataset.json and report.json."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.files import shared_files
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.datasets.layout import SPLITS
from ms_codegeex.extras.corpus.phases import DocumentBlock, Phases, result_path
from ms_codegeex.extras.corpus.shards import Shard

MAX_PACKAGES = 1000  # listed in dataset.json; a large corpus has hundreds of thousands
_SHORTEST = 16  # tokens: upper end of the first bin of lengths; each further one is twice as high


def _counts(documents: int = 0, tokens: int = 0, size: int = 0) -> dict[str, int]:
    return {"documents": documents, "tokens": tokens, "bytes": size}


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        shared = one.keys() & other.keys()
        return {**one, **other, **{key: _sum(one[key], other[key]) for key in shared}}
    if isinstance(one, list):
        return [*map(sum, itertools.zip_longest(one, other, fillvalue=0))]
    return one + other


@dataclass
class Summary:
    """Sums over documents. `languages`: `documents`, `tokens` and `bytes` by place (`placed_documents`) and by language
    (`unknown`: none); `records`: how many are records, by place. Of kept documents, `lengths`: how many have fewer than
    16 tokens, 16 to 31, 32 to 63 and so on; `redacted`: replacements by kind; `licences`: how many lost a licence
    header, and its bytes; `packages`: for each split the first `MAX_PACKAGES` names of packages or repositories."""

    languages: dict[int, dict[str, dict[str, int]]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)
    redacted: list[int] = field(default_factory=list)
    licences: dict[str, int] = field(default_factory=lambda: {"documents": 0, "bytes": 0})
    by_licence: dict[str, dict[str, int]] = field(default_factory=dict)
    packages: dict[int, list[str]] = field(default_factory=dict)
    records: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, shard: Shard, placed: np.ndarray) -> Summary:
        """Return the sums over the documents of a shard, which were placed at `placed`, int8 `[documents]`."""
        columns = shard.read("language", "group", "bytes", "tokens", "licence_bytes", "licence", "redacted")
        names, kept = shard.names(), placed >= 0
        languages = [name or "unknown" for name in names["languages"]]
        bins = np.maximum(np.frexp(columns["tokens"][kept] // _SHORTEST)[1], 0)
        licence_bytes = columns["licence_bytes"][kept]
        sums = cls(
            lengths=np.bincount(bins).tolist() if bins.size else [],
            redacted=columns["redacted"][kept].sum(axis=0).tolist(),
            licences={"documents": int(np.count_nonzero(licence_bytes)), "bytes": int(licence_bytes.sum())},
        )
        for code in np.unique(columns["licence"][kept]).tolist():
            rows = kept & (columns["licence"] == code)
            if name := names["licences"][code]:
                sums.by_licence[name] = _counts(size=int(columns["bytes"][rows].sum()), documents=int(rows.sum()))
        for number in np.unique(placed).tolist():
            here = placed == number
            sums.records[number] = int(np.count_nonzero(here)) if shard.records else 0
            for code in np.unique(columns["language"][here]).tolist():
                rows = here & (columns["language"] == code)
                tokens, size = (int(columns[name][rows].sum()) for name in ("tokens", "bytes"))
                counts = _counts(int(np.count_nonzero(rows)), tokens, size)
                sums.languages.setdefault(number, {})[languages[code]] = counts
            codes = np.unique(columns["group"][here]).tolist() if number >= 0 else ()
            sums._name(number, [names["groups"][code] for code in codes if code >= 0])
        return sums

    def add(self, other: Summary) -> None:
        for number, names in other.packages.items():
            self._name(number, names)
        for name in ("languages", "lengths", "redacted", "licences", "by_licence", "records"):
            setattr(self, name, _sum(getattr(self, name), getattr(other, name)))

    def _name(self, number: int, names: Sequence[str]) -> None:
        if names:
            self.packages[number] = sorted({*self.packages.get(number, ()), *names})[:MAX_PACKAGES]

    def counts(self, *numbers: int) -> dict[str, int]:
        return functools.reduce(_sum, self.language_counts(*numbers).values(), _counts())

    def records_at(self, *numbers: int) -> int:
        return sum(self.records.get(number, 0) for number in numbers)

    def language_counts(self, *numbers: int) -> dict[str, dict[str, int]]:
        """Return `counts` by language, most bytes first."""
        sums = functools.reduce(_sum, (self.languages.get(number, {}) for number in numbers), {})
        return dict(sorted(sums.items(), key=lambda item: (-item[1]["bytes"], item[0])))

    def licence_counts(self) -> dict[str, dict[str, int]]:
        """Return documents and bytes by licence, most bytes first."""
        ordered = sorted(self.by_licence.items(), key=lambda item: (-item[1]["bytes"], item[0]))
        return {name: {each: counts[each] for each in ("documents", "bytes")} for name, counts in ordered}

    def length_histogram(self) -> dict[str, list[int]]:
        """Return kept documents by length: `documents[i]` of them have `edges[i]` to `edges[i + 1] - 1` tokens."""
        counts = self.lengths or [0]
        return {"edges": [0, *(_SHORTEST << number for number in range(len(counts)))], "documents": counts}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Summary:
        names = ("languages", "packages", "records")
        return cls(**{**content, **{name: {int(key): it for key, it in content[name].items()} for name in names}})


def summarise(placed: Iterable[tuple[Shard, np.ndarray]]) -> Summary:
    """Return the sums over the documents of shards, each with the places of its documents."""
    total = Summary()
    for shard, numbers in placed:
        total.add(Summary.of(shard, numbers))
    return total


def summarise_in_phases(phases: Phases) -> Summary:
    """Return the sums over all documents, as the phase `placed` has placed them."""
    phases.by_block("summary", _summary, save=_save)
    total = Summary()
    for path in phases.paths("summary"):
        total.add(Summary.from_json(read_json(path)))
    return total


def _summary(directory: Path, block: DocumentBlock, _: np.ndarray) -> dict[str, Any]:
    placed = np.load(result_path(directory, "placed", block.number), allow_pickle=False)
    return vars(summarise(block.by_shard(placed)))


def _save(path: Path, content: dict[str, Any]) -> None:
    with shared_files(path) as (temporary,):
        temporary.write_text(json.dumps(content), encoding="utf-8")


def describe_splits(summary: Summary, packages: Sequence[int] = ()) -> dict[str, dict[str, Any]]:
    """Return the entry of each split in dataset.json: its counts, in total and by language, and the first names of its
    packages if their numbers are given."""
    splits: dict[str, dict[str, Any]] = {}
    for number, split in enumerate(SPLITS):
        splits[split] = {**summary.counts(number), "languages": summary.language_counts(number)}
        if packages:
            names = summary.packages.get(number, [])
            count = packages[number] if len(names) == MAX_PACKAGES else len(names)
            splits[split] |= {"package_count": count, "packages": names}
    return splits
