"""Rows of whole examples for fine-tuning: examples are never split, and the loss does not count prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets.batches import (
    ENDS_INSIDE,
    Batch,
    DocumentSpan,
    Sequences,
    check_whole,
    make_batch,
    other_data,
)
from ms_codegeex.data.datasets.indexed import IndexedDataset, damaged_dataset
from ms_codegeex.data.datasets.layout import mask_path
from ms_codegeex.data.infilling.rearranging import Rearrangement


def pack(sizes: np.ndarray, capacity: int) -> list[list[int]]:
    """Distribute items of these sizes, int [items] in 1..capacity, over rows: best fit, longest first, equal ones in
    their order. Returns the item numbers of each row; at most one row is less than half full."""
    rows: list[list[int]] = []
    free: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows by free space
    nonempty = 0  # bit s is set where free[s] has a row
    for item in np.argsort(-np.asarray(sizes, np.int64), kind="stable").tolist():
        size = int(sizes[item])
        fitting = nonempty >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = free[space].pop()
            if not free[space]:
                nonempty &= ~(1 << space)
        else:
            space, row = capacity, len(rows)
            rows.append([])
        rows[row].append(item)
        if space > size:
            free[space - size].append(row)
            nonempty |= 1 << (space - size)
    return rows


def open_mask(prefix: Path, tokens: int) -> np.ndarray:
    """Which of its tokens the loss counts of the split at `prefix`, uint8 [tokens], a read-only map of 0 and 1.
    `UserError` for a file that is missing or of another size; without it, prompts would count."""
    path = mask_path(prefix)
    size = path.stat().st_size if path.is_file() else None
    if size != tokens:
        state = "no such file" if size is None else f"{size} bytes"
        raise damaged_dataset(path, f"{state}, expected one byte for each of the {tokens} tokens")
    return np.memmap(path, np.uint8, "r") if tokens else np.empty(0, np.uint8)


class FineTuningRows(Sequences):
    """A split of a fine-tuning dataset as rows of `seq_length` + 1 tokens that hold whole examples. Examples end with
    eos, where attention and positions restart; rows are padded with eos. The loss counts a label iff `{split}.mask` is
    1 there and its input is not eos. Only the dataset and `seq_length` decide the packing; `seed` orders the rows.

    Where a chat template ends turns with eos (`ENDS_INSIDE`), attention must not restart there: such an example has a
    row of its own, and the mask alone says what counts."""

    def __init__(
        self, directory: Path, split: str, seq_length: int, seed: int, infilling: Rearrangement | None = None
    ) -> None:
        super().__init__(directory, split, seq_length, seed, infilling)
        if infilling is not None and self.info.get("task") != "completion":
            held = f"{self.directory} holds {self.info.get('task')} examples, but only completions have a middle"
            raise UserError(f"data.infill: {held}; leave out --infill-rate, or set data.infill.rate=0")
        longest = self.info["seq_length"]
        if longest > seq_length:
            long = f"{self.directory} has examples of up to {longest} tokens (seq_length in its dataset.json)"
            again = f"prepare it again with --replace --seq-length {seq_length}"
            remedy = f"{again}, or set it to {longest} for a model of such a context"
            raise UserError(f"data.seq_length: {seq_length}, but {long} and none is cut; {remedy}")
        sizes = IndexedDataset(self.directory / split).sizes
        self._check(sizes, longest)
        self._mask = open_mask(self.directory / split, len(self.tokens))
        self.ends_inside = self.info.get(ENDS_INSIDE) is True
        if not self._counted(self._mask[1:], self.tokens[:-1]).any():
            raise UserError(f"{mask_path(self.directory / split)}: no token counts; give examples with answers")
        self._starts = np.cumsum(sizes) - sizes
        self._sizes = sizes
        rows = [[item] for item in range(len(sizes))] if self.ends_inside else pack(sizes, seq_length + 1)
        self.size = len(rows)
        self._items = np.array([item for row in rows for item in row], np.int64)
        self._rows = np.cumsum([0, *map(len, rows)])

    def _check(self, sizes: np.ndarray, longest: int) -> None:
        name = self.directory / f"{self.split}.bin"
        if not sizes.size:
            raise UserError(f"{name}: no example in it; set {other_data(self.split)}")
        if sizes.max() > longest:
            found = f"example {int(sizes.argmax())} has {int(sizes.max())} tokens, dataset.json says at most {longest}"
            raise damaged_dataset(name, found)
        unended = np.flatnonzero(self.tokens[np.cumsum(sizes) - 1] != self.eos)
        if unended.size:
            found = f"example {int(unended[0])} does not end with token {self.eos} (eos_id in dataset.json)"
            raise damaged_dataset(name, found)

    def _counted(self, flags: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return flags.astype(bool) if self.ends_inside else flags.astype(bool) & (inputs != self.eos)

    def _items_of(self, index: int) -> list[int]:
        return self._items[self._rows[index] : self._rows[index + 1]].tolist()

    def read(self, indices: np.ndarray, numbers: np.ndarray) -> Batch:
        check_whole(self.tokens)
        check_whole(self._mask)
        rows = np.full((len(indices), self.seq_length + 1), self.eos, np.int32)
        counted = np.zeros(rows.shape, bool)
        for row, flags, index, number in zip(rows, counted, indices.tolist(), numbers.tolist(), strict=True):
            offset = 0
            for item in self._items_of(index):
                start, size = int(self._starts[item]), int(self._sizes[item])
                here = slice(offset, offset + size)
                row[here] = self.tokens[start : start + size]
                self.check_ids(row[here])
                flags[here] = self._mask[start : start + size]
                if self.infilling is not None:
                    whole = self.infilling.level == "document"
                    self._rearrange(row[here], flags[here], (item,) if whole else (number, item))
                offset += size
        inputs, labels = rows[:, :-1], rows[:, 1:]
        return make_batch(inputs, labels, self._counted(counted[:, 1:], inputs), numbers)

    def _rearrange(self, ids: np.ndarray, flags: np.ndarray, key: tuple[int, ...]) -> None:
        assert self.infilling is not None
        self.infilling.check(ids, f"{self.directory / self.split}.bin")
        prompt = int(flags.argmax())
        if rearranged := self.infilling.rearrange(ids[:-1], key, prompt=prompt):
            ids[:-1], flags[:-1] = rearranged.ids, rearranged.counted

    def documents_of(self, index: int) -> list[DocumentSpan]:
        """See `Sequences.documents_of`; whole examples."""
        if not 0 <= index < self.size:
            raise IndexError(f"row {index}: {self.directory}/{self.split} has rows 0..{self.size - 1}")
        return [DocumentSpan(item, 0, int(self._sizes[item])) for item in self._items_of(index)]

    def label_counts(self) -> np.ndarray:
        tokens = np.asarray(self.tokens)
        self.check_ids(tokens)
        return np.bincount(tokens[1:][self._counted(self._mask[1:], tokens[:-1])])
