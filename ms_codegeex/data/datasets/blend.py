"""Mixtures of corpora with a schedule over steps: the corpus of any sample number in O(1), without drift.

A stage repeats a table of one period. Weights are converted to integers without a common divisor; the period is their
sum. Each corpus's k-th position in the table lies in the window that keeps its count within one of its share (the quota
method: Balinski and Young 1975, Tijdeman 1980). Among the corpora with an open window, the one whose window closes
first gets the position: a valid order exists, and earliest deadline first finds one for unit jobs on one machine."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.blend import KEY, BlendStage, corpora_of, parse_blend
from ms_codegeex.data.datasets.batches import Batch, Sequences


def quota_order(weights: Sequence[int]) -> np.ndarray:
    """The index into `weights` for each position of a period, int64 [sum of the weights]. Of the first n positions,
    index i has weights[i] · n / sum, with a difference of less than one."""
    period, count = sum(weights), len(weights)
    releases, deadlines, owners = [], [], []
    for owner, weight in enumerate(weights):
        k = np.arange(weight, dtype=np.int64)
        releases.append(k * period // weight)
        deadlines.append(-(-(k + 1) * period // weight))
        owners.append(np.full(weight, owner))
    release, keys = np.concatenate(releases), np.concatenate(deadlines) * count + np.concatenate(owners)
    order = np.argsort(release, kind="stable")
    times, waiting = release[order].tolist(), keys[order].tolist()
    ready: list[int] = []
    turns, next_job = [0] * period, 0
    for position in range(period):
        while next_job < period and times[next_job] <= position:
            heapq.heappush(ready, waiting[next_job])
            next_job += 1
        turns[position] = heapq.heappop(ready) % count
    return np.array(turns, np.int64)


@dataclass(frozen=True)
class _Table:
    """One stage: its first sample, and for each position of a period the corpus and its number of earlier positions."""

    first: int
    turns: np.ndarray  # [period], numbers of corpora
    times: np.ndarray  # int32 [period]
    weights: np.ndarray  # int64 [corpora of the whole blend]
    before: np.ndarray  # int64 [corpora]: samples of each in earlier stages

    def given(self, samples: int) -> np.ndarray:
        """The number of samples of each corpus before sample `first` + `samples`, int64 [corpora]."""
        periods, rest = divmod(samples, len(self.turns))
        return self.before + periods * self.weights + np.bincount(self.turns[:rest], minlength=len(self.weights))


class Blend:
    """Training samples of several corpora, mixed by the stages. Sample n belongs to the last stage that begins at or
    before it, at sample from_step times `global_batch`. After any number of samples of a stage, each corpus's count is
    within one of its share. A corpus's k-th sample in the run is sample k of its own order, which a later stage
    continues. `corpora` are by the names in the stages, each with its own seed. `UserError` if tokenizers differ."""

    def __init__(self, stages: Sequence[BlendStage], corpora: Mapping[str, Sequences], global_batch: int) -> None:
        names = corpora_of(stages)
        self.corpora = [corpora[name] for name in names]
        self.directory, self.info, self.eos = self.corpora[0].directory, self.corpora[0].info, self.corpora[0].eos
        for other in self.corpora[1:]:
            _check_same_ids(self.corpora[0], other)
        self.infilling = next((corpus.infilling for corpus in self.corpora if corpus.infilling is not None), None)
        _check_same_sentinels(self.corpora)
        self._tables: list[_Table] = []
        for stage in stages:
            self._tables.append(self._table(stage, [names.index(name) for name in stage.corpora], global_batch))
        self._firsts = np.array([table.first for table in self._tables])

    def _table(self, stage: BlendStage, numbers: list[int], global_batch: int) -> _Table:
        count, first = len(self.corpora), stage.from_step * global_batch
        weights = np.zeros(count, np.int64)
        weights[numbers] = stage.weights
        turns = np.array(numbers)[quota_order(stage.weights)]
        places, times = np.argsort(turns, kind="stable"), np.empty(len(turns), np.int32)
        times[places] = np.arange(len(turns)) - np.repeat(np.cumsum(weights) - weights, weights)
        last = self._tables[-1] if self._tables else None
        before = last.given(first - last.first) if last else np.zeros(count, np.int64)
        return _Table(first, turns.astype(np.min_scalar_type(count - 1)), times, weights, before)

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The corpus of each of the samples `numbers`, and its number in that corpus's order, two int64 [n]."""
        numbers = np.asarray(numbers, np.int64)
        stage_of = np.searchsorted(self._firsts, numbers, side="right") - 1
        owners, times = np.empty_like(numbers), np.empty_like(numbers)
        for number in np.unique(stage_of):
            table, here = self._tables[number], stage_of == number
            periods, positions = np.divmod(numbers[here] - table.first, len(table.turns))
            owner = table.turns[positions].astype(np.int64)
            owners[here] = owner
            times[here] = table.before[owner] + periods * table.weights[owner] + table.times[positions]
        return owners, times

    def training_batch(self, first: int, count: int) -> Batch:
        """Samples with the global numbers first..first+count-1; reads only these."""
        numbers = np.arange(first, first + count, dtype=np.int64)
        owners, times = self.locate(numbers)
        places, parts = [], []
        for owner in np.unique(owners):
            corpus, here = self.corpora[owner], np.flatnonzero(owners == owner)
            places.append(here)
            parts.append(corpus.read(corpus.indices(times[here]), numbers[here]).arrays())
        back = np.argsort(np.concatenate(places))
        return Batch(*(np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)))

    def check_model(self, vocab_size: int, eos_token_id: int) -> None:
        """`UserError` if a corpus holds ids beyond the model's table or ends its documents with another token."""
        for corpus in self.corpora:
            corpus.check_model(vocab_size, eos_token_id)


def mixed_before(
    samples: int, data: Mapping[str, Any], global_batch: int, contents: Mapping[str, str] | None = None
) -> str:
    """A text on the mixture of the first `samples` samples: equal for two configurations iff these samples are. `data`
    is the section of the configuration. `contents`: texts by directories, such as hashes; None: their paths."""
    contents = contents or {}
    stages = [BlendStage(0, (str(data["train"]),), (1,))] if data.get("blend") is None else parse_blend(data["blend"])
    parts = []
    for stage in stages:
        first, weights = stage.from_step * global_batch, zip(stage.corpora, stage.weights, strict=True)
        if not first or first < samples:
            shares = ", ".join(f"{contents.get(name, name)}: {weight}" for name, weight in weights)
            parts.append(f"{shares} from sample {first}")
    return "; ".join(parts)


def _check_same_sentinels(corpora: Sequence[Sequences]) -> None:
    """`UserError` if two corpora are prepared for infilling with different sentinels."""
    marked = [(corpus.directory, corpus.infilling.marks) for corpus in corpora if corpus.infilling is not None]
    for directory, marks in marked[1:]:
        first, expected = marked[0]
        if marks != expected:
            ours, theirs = list(expected.values()), list(marks.values())
            remedy = "prepare both with the same sentinels, or set data.infill for all"
            raise UserError(f"{KEY}: {first} marks infilling with the ids {ours}, {directory} with {theirs}; {remedy}")


def _check_same_ids(one: Sequences, other: Sequences) -> None:
    def layout(corpus: Sequences) -> dict[str, Any]:
        fingerprint = (corpus.info.get("tokenizer") or {}).get("fingerprint")
        return {"tokenizer": fingerprint, "eos_id": corpus.eos, "vocab_size": corpus.info["vocab_size"]}

    ours, theirs = layout(one), layout(other)
    for key in ours:
        if ours[key] != theirs[key]:
            differs = f"{one.directory} has {key} {ours[key]}, {other.directory} has {theirs[key]}"
            remedy = "prepare both with the same tokenizer"
            raise UserError(f"{KEY}: {differs}; their ids mean different texts, {remedy}")
