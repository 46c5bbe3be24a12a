"""Work on all documents in phases: tasks that any process on any machine can run, each of which writes one file.

The files are in one directory that all machines share. They are written atomically, so an interrupted run continues
where it stopped. Documents are taken in blocks of complete shards. To compare documents with equal keys, each block's
rows are written in parts by the range of the key, and a second phase reads one part from the files of all blocks. No
task holds more than a block or a part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import shared_files, unwritable
from ms_codegeex.extras.corpus.shards import Shard

BLOCK_DOCUMENTS = 1 << 17
PART_ROWS = 1 << 20
Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
Maker = Callable[[Path, "DocumentBlock", np.ndarray], Any]
Reducer = Callable[[np.ndarray], np.ndarray]


class Flags:
    """A flag for each of `size` documents. A flag is one bit, because a process may hold hundreds of millions. `bits`:
    uint8 `[ceil(size / 8)]`, the first flag in the lowest bit of the first byte; None: no flag is raised."""

    def __init__(self, size: int, bits: np.ndarray | None = None) -> None:
        self.size = size
        self.bits = np.zeros(-(-size // 8), np.uint8) if bits is None else bits

    @classmethod
    def up_to(cls, count: int, size: int) -> Flags:
        return cls(size, np.packbits(np.arange(size) < count, bitorder="little"))

    def __and__(self, other: Flags) -> Flags:
        return Flags(self.size, self.bits & other.bits)

    def __or__(self, other: Flags) -> Flags:
        return Flags(self.size, self.bits | other.bits)

    def __invert__(self) -> Flags:
        bits = ~self.bits
        if self.size % 8:  # unused bits stay 0
            bits[-1] &= (1 << self.size % 8) - 1
        return Flags(self.size, bits)

    def set(self, numbers: np.ndarray) -> None:
        """Raise the flags of `numbers`, int64; duplicates are allowed."""
        for bit in range(8):  # within a pass, flags of the same byte write the same value
            places = numbers[(numbers & 7) == bit] >> 3
            self.bits[places] |= np.uint8(1 << bit)

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """Return the flags of `numbers`, bool `[numbers]`."""
        return (self.bits[numbers >> 3] >> (numbers & 7).astype(np.uint8) & 1).astype(bool)

    def between(self, first: int, end: int) -> np.ndarray:
        """Return the flags of `first` to `end - 1`, bool `[end - first]`."""
        start = first // 8
        bits = np.unpackbits(self.bits[start : -(-end // 8)], bitorder="little")
        return bits[first - 8 * start : end - 8 * start].astype(bool)

    def any(self) -> bool:
        return bool(self.bits.any())

    def count(self) -> int:
        return int.from_bytes(self.bits.tobytes(), "little").bit_count()

    def first(self, count: int) -> list[int]:
        """Return the numbers of the first `count` raised flags."""
        indices = np.flatnonzero(self.bits)[:count]  # each of these bytes has a raised flag
        numbers = [8 * index + bit for index in indices.tolist() for bit in range(8) if self.bits[index] >> bit & 1]
        return numbers[:count]


class Documents:
    """All documents of all shards, numbered in the order of the input. `starts`, int64 `[shards + 1]`, has the number
    of each shard's first document, and the total. The columns stay in the shards' files. `held_out` is the number of
    documents in the first `held_out_shards` shards, which are held out."""

    def __init__(self, shards: Iterable[Shard], held_out_shards: int = 0) -> None:
        self.shards = list(shards)
        self.starts = np.cumsum([0, *(shard.documents for shard in self.shards)], dtype=np.int64)
        self.held_out = int(self.starts[held_out_shards])
        self._sources = functools.lru_cache(16)(Shard.sources)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def source(self, number: int) -> str:
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self._sources(self.shards[shard])[number - int(self.starts[shard])]

    def blocks(self) -> list[DocumentBlock]:
        """Return all documents in blocks of at most `BLOCK_DOCUMENTS`, or of one shard that has more."""
        blocks: list[DocumentBlock] = []
        shards: list[Shard] = []
        first = 0
        for shard, start in zip(self.shards, self.starts.tolist(), strict=False):
            if shards and start + shard.documents - first > BLOCK_DOCUMENTS:
                blocks.append(DocumentBlock(len(blocks), first, start, tuple(shards)))
                shards, first = [], start
            shards.append(shard)
        return [*blocks, DocumentBlock(len(blocks), first, len(self), tuple(shards))]


@dataclass(frozen=True)
class DocumentBlock:
    """The documents of `shards`, with the numbers `first` to `end - 1`."""

    number: int
    first: int
    end: int
    shards: tuple[Shard, ...]

    def column(self, name: str) -> np.ndarray:
        return np.concatenate([shard.column(name) for shard in self.shards])

    def by_shard(self, values: np.ndarray) -> Iterator[tuple[Shard, np.ndarray]]:
        """Yield each shard with the values of its documents."""
        start = 0
        for shard in self.shards:
            yield shard, values[start : start + shard.documents]
            start += shard.documents


def directory_name(kind: str, **decisive: Any) -> str:
    return f"{kind}-{json_digest(decisive)[:40]}"


def result_path(directory: Path, phase: str, number: int) -> Path:
    return directory / f"{phase}-{number:06d}"


@dataclass(frozen=True)
class KeyedRows:
    """The files that `phase` writes, one for each of `blocks` blocks. Each is divided into `parts` parts by the range
    of its rows' keys (`by_range`). `kind` is the dtype of the rows; the key is the first uint64 of the field `key`."""

    directory: Path
    phase: str
    blocks: int
    kind: np.dtype
    parts: int

    def write(self, path: Path, rows: np.ndarray) -> None:
        """Write a block's rows in the order of their parts, preceded by the bounds of the parts."""
        keys = rows["key"]
        part = by_range(keys if keys.ndim == 1 else keys[:, 0], self.parts)
        order = np.argsort(part, kind="stable")
        bounds = np.concatenate(([0], np.cumsum(np.bincount(part, minlength=self.parts)))).astype("<i8")
        with shared_files(path) as (temporary,), open(temporary, "wb") as stream:
            stream.write(memoryview(bounds).cast("B"))
            stream.write(np.ascontiguousarray(rows[order]).tobytes())

    def read(self, part: int) -> np.ndarray:
        """Return the rows of one part from all files, in the order of the files."""
        pieces = [np.empty(0, self.kind)]
        for number in range(self.blocks):
            path = result_path(self.directory, self.phase, number)
            first, last = np.fromfile(path, "<i8", 2, offset=8 * part).tolist()
            offset = 8 * (self.parts + 1) + first * self.kind.itemsize
            pieces.append(np.fromfile(path, self.kind, last - first, offset=offset))
            if pieces[-1].size != last - first:
                raise UserError(f"{path}: shorter than when it was written; delete it and run the same command again")
        return np.concatenate(pieces)


@dataclass(frozen=True)
class Phases:
    """Runs phases for the documents of `blocks`. All machines share `directory`, whose name identifies everything that
    the results depend on. `mapper` calls a function on every task, in any process, and keeps the order."""

    directory: Path
    mapper: Mapper
    blocks: Sequence[DocumentBlock]

    def paths(self, phase: str) -> list[Path]:
        return [result_path(self.directory, phase, block.number) for block in self.blocks]

    def by_block(
        self, phase: str, make: Maker, chosen: Flags | None = None, save: Callable[[Path, Any], None] | None = None
    ) -> None:
        """Save `make(directory, block, rows)` for the blocks that have no result yet, with `save` or else `save_array`.
        `rows` are the positions of the `chosen` documents in the block, int64; None: all documents."""
        tasks = (
            (path, block, None if chosen is None else np.packbits(chosen.between(block.first, block.end)))
            for path, block in zip(self.paths(phase), self.blocks, strict=True)
            if not path.exists()
        )
        self.run(functools.partial(_make_for_block, make, save or save_array), tasks)

    def by_key(
        self, phase: str, keyed: KeyedRows, make: Maker, reduce: Reducer, chosen: Flags | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the array `reduce(rows)` for each part of the rows that `make` returns, as in `by_block`. The rows are
        made only if a result is missing, and removed at the end."""
        results = [result_path(self.directory, phase, part) for part in range(keyed.parts)]
        missing = [(path, part) for part, path in enumerate(results) if not path.exists()]
        if missing:
            self.by_block(keyed.phase, make, chosen, keyed.write)
            self.run(functools.partial(_reduce_part, keyed, reduce), missing)
        for path in results:
            yield np.load(path, allow_pickle=False)
        for path in self.paths(keyed.phase):
            path.unlink(missing_ok=True)

    def keyed(self, phase: str, kind: np.dtype, rows: int) -> KeyedRows:
        """Return files for about `rows` rows. The number of parts depends on nothing else, so all engines agree."""
        return KeyedRows(self.directory, phase, len(self.blocks), kind, max(1, -(-rows // PART_ROWS)))

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> None:
        """Call a function on every task; each writes files in `directory`. `UserError` if that cannot be created."""
        try:
            self.directory.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.directory.parent, error) from error
        for _ in self.mapper(function, tasks):
            pass


def _make_for_block(
    make: Maker, save: Callable[[Path, Any], None], task: tuple[Path, DocumentBlock, np.ndarray | None]
) -> None:
    path, block, chosen = task
    count = block.end - block.first
    rows = np.arange(count) if chosen is None else np.flatnonzero(np.unpackbits(chosen, count=count))
    save(path, make(path.parent, block, rows))


def _reduce_part(keyed: KeyedRows, reduce: Reducer, task: tuple[Path, int]) -> None:
    path, part = task
    save_array(path, reduce(keyed.read(part)))


def by_range(keys: np.ndarray, parts: int) -> np.ndarray:
    """Return the part of each key, uint64: the keys of a part are below those of the next. Keys are hashes, so the
    parts are about equally large."""
    return ((keys >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array for `np.load`, atomically."""
    array = np.ascontiguousarray(array)
    with shared_files(path) as (temporary,), open(temporary, "wb") as stream:
        # Not np.save: on a full disk it may lose the end of an array without an error.
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(memoryview(array.reshape(-1).view(np.uint8)))
