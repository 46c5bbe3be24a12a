"""Batches of packed sequences from an indexed dataset: their order, and how a device reads them ahead of its steps."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.datasets.indexed import AGAIN, IndexedDataset, open_tokens
from ms_codegeex.data.infilling.rearranging import Rearrangement

T = TypeVar("T")
FEISTEL_ROUNDS = 6
KIND = "finetune"  # "kind" in dataset.json, with examples
ENDS_INSIDE = "ends_inside"  # true in dataset.json if examples have the end token before their end, too


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, uint64 -> uint64 (Steele et al., 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    mask, shift = np.uint64((1 << half_bits) - 1), np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for i in range(FEISTEL_ROUNDS):
        left, right = right, left ^ (_mix(right + keys[i]) & mask)
    return (left << shift) | right


def stream_seed(seed: int, stream: int) -> int:
    """Seed for the order of corpus number `stream` of a blend, different for each; number 0 has `seed` itself."""
    if stream == 0:
        return seed
    with np.errstate(over="ignore"):
        return int(_mix(np.uint64(seed) + _mix(np.uint64(stream))))


def sample_indices(numbers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Index in 0..size-1 of each global sample number; every epoch of `size` numbers visits each index once. `numbers`
    int64 [n], any values >= 0; returns int64 [n]. O(1) per number for any size of epoch, without arrays of indices: a
    balanced Feistel network permutes the smallest even power of two that holds an epoch, and results outside of it are
    permuted again until they fall inside (cycle walking)."""
    numbers = np.asarray(numbers, np.uint64)
    epoch, position = numbers // np.uint64(size), numbers % np.uint64(size)
    half_bits = max(1, (int(size - 1).bit_length() + 1) // 2)
    with np.errstate(over="ignore"):  # the arithmetic is modulo 2^64 on purpose
        key = _mix(np.uint64(seed) + _mix(epoch + np.uint64(0x9E3779B97F4A7C15)))
        keys = np.stack([_mix(key + np.uint64(i)) for i in range(FEISTEL_ROUNDS)])
        result = _feistel(position, half_bits, keys)
        outside = result >= size
        while outside.any():
            result[outside] = _feistel(result[outside], half_bits, keys[:, outside])
            outside = result >= size
    return result.astype(np.int64)


@dataclass(frozen=True)
class Batch:
    """Sequences for one device: inputs, labels int32 and loss_mask FP32 [batch, seq]; global numbers int32 [batch].
    `first` numbers a step's batch: the global number of its first sample, on whichever device that is."""

    inputs: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray
    samples: np.ndarray
    first: int = 0

    def rows(self, start: int, stop: int) -> Batch:
        return Batch(*(array[start:stop] for array in self.arrays()), first=self.first)

    def parts(self, count: int) -> list[Batch]:
        size = len(self.samples) // count
        return [self.rows(i * size, (i + 1) * size) for i in range(count)]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The arrays in the order in which the networks take them."""
        return self.inputs, self.labels, self.loss_mask, self.samples


class DocumentSpan(NamedTuple):
    """Tokens start..stop-1 of a document in a split, counted from the document's first token."""

    document: int
    start: int
    stop: int


class Sequences(ABC):
    """The sequences of one split of a dataset directory, in the seed's order. A sequence has `seq_length` + 1 tokens.
    `info` is dataset.json, `eos` the id that ends documents, `tokens` the read-only ids of the split, and `size` the
    number of sequences per epoch. `infilling` moves the middle of some documents to their end as they are read."""

    size: int

    def __init__(
        self, directory: Path, split: str, seq_length: int, seed: int, infilling: Rearrangement | None = None
    ) -> None:
        if seq_length < 1:
            raise UserError(f"seq_length {seq_length}: expected 1 or more, for example 2048")
        self.directory, self.split, self.seq_length, self.seed = Path(directory), split, seq_length, seed
        self.info = read_info(self.directory)
        self.eos: int = self.info["eos_id"]
        self.tokens = open_tokens(self.directory / split)
        self.infilling = infilling

    @abstractmethod
    def read(self, indices: np.ndarray, numbers: np.ndarray) -> Batch:
        """The sequences with these indices, int64 [n] in 0..size-1, as the samples with these numbers, int64 [n]."""

    @abstractmethod
    def documents_of(self, index: int) -> list[DocumentSpan]:
        """The parts of documents that make up the tokens of sequence `index` before its padding, in order."""

    @abstractmethod
    def label_counts(self) -> np.ndarray:
        """How often each id is a label that the loss counts in one epoch of all text, int64 [highest id + 1]."""

    def check_ids(self, ids: np.ndarray) -> None:
        """`UserError` if ids that were read are not in the vocabulary: looking them up would read foreign memory."""
        rows, lowest, highest = self.info["vocab_size"], int(ids.min(initial=0)), int(ids.max(initial=0))
        if lowest < 0 or highest >= rows:
            found = f"id {lowest if lowest < 0 else highest}, but the vocabulary has {rows} (dataset.json)"
            raise UserError(f"{self.directory / self.split}.bin: {found}; {AGAIN}")

    @property
    def segments(self) -> list[tuple[int, int, int]]:
        return [(0, 0, self.size)]

    def indices(self, numbers: np.ndarray) -> np.ndarray:
        """The sequence of each sample number, int64 [n]. Epochs of a segment follow each other, each in its order."""
        result = np.empty(np.shape(numbers), np.int64)
        for start, first, size in self.segments:
            here = numbers >= start
            result[here] = first + sample_indices(numbers[here] - start, size, self.seed)
        return result

    def first_time(self, numbers: np.ndarray) -> np.ndarray:
        """Whether each sample is the first with its sequence, bool [n]."""
        start, _, size = (np.array(column) for column in zip(*self.segments, strict=True))
        segment = np.searchsorted(start, numbers, side="right") - 1
        return numbers - start[segment] < size[segment]

    def training_batch(self, first: int, count: int) -> Batch:
        """Samples with the global numbers first..first+count-1, in the seed's order; epochs follow each other."""
        numbers = np.arange(first, first + count, dtype=np.int64)
        return self.read(self.indices(numbers), numbers)

    def evaluation_batch(self, rank: int, ranks: int, samples: int) -> Batch:
        """This rank's share of `samples` evenly spaced sequences. Masked sequences pad the shares to equal size."""
        samples = min(samples, self.size)
        share = -(-samples // ranks)
        numbers = np.arange(rank * share, (rank + 1) * share)
        batch = self.read(np.minimum(numbers, samples - 1) * self.size // samples, numbers)
        batch.loss_mask[numbers >= samples] = 0.0
        return batch

    def check_model(self, vocab_size: int, eos_token_id: int) -> None:
        """`UserError` if the corpus has ids beyond the model's table, or ends documents with another token."""
        ids, where, said = self.info["vocab_size"], self.directory, {}
        if ids > vocab_size:
            said[f"model.vocab_size={ids}"] = f"{vocab_size} rows, but {where} was tokenised with {ids} ids"
        if self.eos != eos_token_id:
            said[f"model.eos_token_id={self.eos}"] = f"{eos_token_id}, but {where} ends documents with {self.eos}"
        for setting, problem in said.items():
            raise UserError(f"{setting.partition('=')[0]}: {problem}; set {' '.join(said)}")
        if self.infilling is not None:
            self.infilling.check_rows(vocab_size)


def other_data(split: str) -> str:
    return f"data.{split}=DIR to a dataset with more text, which `ms-codegeex prepare` makes"


def is_dataset(directory: Path) -> bool:
    """Whether a directory has the description of a dataset; records may be in a file of that name, too."""
    path = Path(directory) / "dataset.json"
    with contextlib.suppress(UserError):  # records are lines, which as a whole are not JSON
        return path.is_file() and isinstance(info := read_json(path), dict) and "vocab_size" in info
    return False


def read_info(directory: Path, form: str | None = None) -> dict[str, Any]:
    """The content of a dataset directory's dataset.json. `UserError` if it lacks what training needs, or, if it must
    have the format `form`, what else is read of a dataset that `prepare` wrote."""
    path = Path(directory) / "dataset.json"
    info = read_json(path)
    if not isinstance(info, dict) or (form and info.get("format") != form):
        said = f' (no "format": "{form}")' if form else ""
        raise UserError(f"{path}: not the description of a dataset{said}; {AGAIN}")
    if (kind := info.get("kind")) not in (None, KIND):
        raise UserError(f"{path}: kind {kind!r}, known is {KIND!r}; {AGAIN}")
    needed = {"vocab_size": int, "eos_id": int, **({} if kind is None else {"seq_length": int})}
    if form:
        needed |= dict.fromkeys(("tokenizer", "splits", "files"), dict) | ({} if kind is None else {"task": str})
    for key, expected in needed.items():
        if type(info.get(key)) is not expected:
            raise UserError(f"{path}: {key!r} is missing, or not of type {expected.__name__}; {AGAIN}")
    return info


class PackedSequences(Sequences):
    """A split of a dataset directory as sequences of `seq_length` + 1 tokens; neighbours share their border token. From
    sample `starts_from` on they begin at the tokens `starts`, int64 [sequences] in order, which leave text out; these
    have the last indices. There is no padding; documents are separated by eos. The loss counts a position iff its input
    is not eos (CodeGeeX release), or with `loss_after_eos` every position (CodeGen release)."""

    def __init__(
        self,
        directory: Path,
        split: str,
        seq_length: int,
        seed: int,
        infilling: Rearrangement | None = None,
        *,
        loss_after_eos: bool = False,
        starts: np.ndarray | None = None,
        starts_from: int = 0,
    ) -> None:
        super().__init__(directory, split, seq_length, seed, infilling)
        self.loss_after_eos, self.starts, self.starts_from = loss_after_eos, starts, starts_from
        whole = infilling is not None and infilling.level == "document"
        self._bounds = self._document_bounds() if whole else None
        self._continuous = (len(self.tokens) - 1) // seq_length
        self.size = self._continuous + (0 if starts is None else len(starts))
        if self._continuous < 1:
            short = f"{len(self.tokens)} tokens are less than one sequence of {seq_length} (data.seq_length)"
            shorter = f"data.seq_length={len(self.tokens) - 1} or " if len(self.tokens) > 1 else ""
            raise UserError(f"{self.directory}/{split}.bin: {short}; set {shorter}{other_data(split)}")

    def read(self, indices: np.ndarray, numbers: np.ndarray) -> Batch:
        check_whole(self.tokens)
        starts = self._starts(indices)
        rows = np.stack([self.tokens[s : s + self.seq_length + 1] for s in starts]).astype(np.int32)
        self.check_ids(rows)
        if self.infilling is not None:
            for row, start, number in zip(rows, starts.tolist(), numbers.tolist(), strict=True):
                self.infilling.check(row, f"{self.directory / self.split}.bin")
                if self._bounds is None:
                    self._rearrange(row, number)
                else:
                    self._take_rearranged(row, start, self._bounds)
        inputs, labels = rows[:, :-1], rows[:, 1:]
        return make_batch(inputs, labels, self._counted(inputs), numbers)

    @property
    def segments(self) -> list[tuple[int, int, int]]:
        late = [] if self.starts is None else [(self.starts_from, self._continuous, len(self.starts))]
        return [(0, 0, self._continuous), *late]

    def _starts(self, indices: np.ndarray) -> np.ndarray:
        if self.starts is None:
            return indices * self.seq_length
        places = np.clip(indices - self._continuous, 0, None)
        return np.where(indices < self._continuous, indices * self.seq_length, self.starts[places])

    def _counted(self, inputs: np.ndarray) -> np.ndarray:
        return np.ones(inputs.shape, bool) if self.loss_after_eos else inputs != self.eos

    def _rearrange(self, row: np.ndarray, number: int) -> None:
        assert self.infilling is not None
        ends = np.flatnonzero(row == self.eos).tolist()
        for part, (before, end) in enumerate(itertools.pairwise([-1, *ends, len(row)])):
            ids = row[before + 1 : end]
            if rearranged := self.infilling.rearrange(ids, (number, part), ended=end < len(row)):
                ids[:] = rearranged.ids

    def _take_rearranged(self, row: np.ndarray, start: int, bounds: np.ndarray) -> None:
        assert self.infilling is not None
        stop = start + len(row)
        for number, low, high in _documents_between(bounds, start, stop):
            if rearranged := self.infilling.rearrange(self.tokens[low : high - 1], (number,)):
                begin, end = max(start, low), min(stop, high - 1)
                row[begin - start : end - start] = rearranged.ids[begin - low : end - low]

    def _document_bounds(self) -> np.ndarray:
        return np.concatenate(([0], np.cumsum(IndexedDataset(self.directory / self.split).sizes)))

    def documents_of(self, index: int) -> list[DocumentSpan]:
        """See `Sequences.documents_of`; reads the split's index, which training does not keep in memory."""
        if not 0 <= index < self.size:
            raise IndexError(f"sequence {index}: {self.directory}/{self.split} has sequences 0..{self.size - 1}")
        bounds = self._document_bounds()
        start = int(self._starts(np.array(index)))
        stop = start + self.seq_length + 1
        between = _documents_between(bounds, start, stop)
        return [DocumentSpan(number, max(start, low) - low, min(stop, high) - low) for number, low, high in between]

    def label_counts(self) -> np.ndarray:
        tokens = np.asarray(self.tokens)
        self.check_ids(tokens)
        return np.bincount(tokens[1:][self._counted(tokens[:-1])])


def _documents_between(bounds: np.ndarray, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    first, last = np.searchsorted(bounds, (start, stop - 1), side="right") - 1
    for number in range(first, last + 1):
        yield number, int(bounds[number]), int(bounds[number + 1])


def check_whole(mapped: np.ndarray) -> None:
    """`UserError` if a mapped file was truncated after it was opened: reading beyond its end kills the process."""
    if isinstance(mapped, np.memmap) and mapped.base.size() < mapped.nbytes:
        found = f"{mapped.base.size()} bytes, but it had {mapped.nbytes} when it was opened"
        remedy = "leave datasets alone while a run reads them, restore it and continue with --resume auto"
        raise UserError(f"{mapped.filename}: {found}; {remedy}")


def make_batch(inputs: np.ndarray, labels: np.ndarray, counted: np.ndarray, numbers: np.ndarray) -> Batch:
    """A batch of contiguous arrays: int32 inputs and labels [n, seq], `counted` bool [n, seq], numbers int64 [n]."""
    inputs, labels = np.ascontiguousarray(inputs), np.ascontiguousarray(labels)
    return Batch(inputs, labels, counted.astype(np.float32), (numbers % 2**31).astype(np.int32))


def shuffle_context(batch: Batch, eos: int, seed: int) -> Batch:
    """The batch with the input tokens of each document permuted; labels and eos tokens stay. A model that uses more
    than token frequencies does worse on it."""
    inputs = batch.inputs.copy()
    for row, sample in zip(inputs, batch.samples, strict=True):
        generator = np.random.default_rng([seed, int(sample)])
        borders = [-1, *np.flatnonzero(row == eos), len(row)]
        for start, stop in itertools.pairwise(borders):
            row[start + 1 : stop] = generator.permutation(row[start + 1 : stop])
    return Batch(inputs, batch.labels, batch.loss_mask, batch.samples)


def unigram_entropy(sequences: Sequences) -> float:
    """Entropy in nats of the labels in the loss, over the entire split: the loss of a table of frequencies."""
    counts = sequences.label_counts()
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


@contextmanager
def read_ahead(read: Callable[[int], T], positions: Iterable[int], threads: int) -> Iterator[Iterator[T]]:
    """Yield an iterator over `read(position)` for all positions, in their order; there may be endlessly many. `read` is
    called in `threads` threads, with at most twice as many results ready or being read, or, with 0, in the caller's
    thread. Its exceptions are raised where the result is requested. At the end of the `with` block, reads in progress
    are awaited and no others start."""
    if not threads:
        yield map(read, positions)
        return
    pool = ThreadPoolExecutor(threads, "batches")
    try:
        submitted = (pool.submit(read, position) for position in positions)
        yield _in_order(deque(itertools.islice(submitted, 2 * threads)), submitted)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(pending: deque[Future[T]], later: Iterator[Future[T]]) -> Iterator[T]:
    while pending:
        result = pending.popleft().result()
        pending.extend(itertools.islice(later, 1))
        yield result
