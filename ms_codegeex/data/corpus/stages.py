"""Work on all documents in stages: tasks that any process on any machine may do, each with one file as its result.

The files are in one directory that all machines share. They are written atomically, so an interrupted run continues
where it stopped. Documents are taken in blocks of complete shards. If documents with equal keys have to be compared,
each block's rows are written in parts, by the remainder or the range of the key, and a second stage reads one part from
the files of all blocks. No task holds more than a block or a part, however many documents there are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import shared_files, unwritable
from ms_codegeex.data.corpus.joining import Documents
from ms_codegeex.data.corpus.shards import Shard

BLOCK_DOCUMENTS = 1 << 17
PART_ROWS = 1 << 20
Mapper = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@dataclass(frozen=True)
class DocumentBlock:
    """Documents `first` to `end - 1`: those of `shards`."""

    number: int
    first: int
    end: int
    shards: tuple[Shard, ...]

    def column(self, name: str) -> np.ndarray:
        """A column of these documents."""
        return np.concatenate([shard.columns[name] for shard in self.shards])

    def parts(self) -> Iterator[tuple[Shard, int, int]]:
        """Each shard with the places of its documents in the block: the first, and the one after the last."""
        start = 0
        for shard in self.shards:
            yield shard, start, start + shard.documents
            start += shard.documents


def blocks_of(documents: Documents) -> list[DocumentBlock]:
    """All documents in blocks of at most `BLOCK_DOCUMENTS`, or of one shard that has more."""
    blocks: list[DocumentBlock] = []
    shards: list[Shard] = []
    first = 0
    for shard, start, end in documents.parts():
        if shards and end - first > BLOCK_DOCUMENTS:
            blocks.append(DocumentBlock(len(blocks), first, start, tuple(shards)))
            shards, first = [], start
        shards.append(shard)
    return [*blocks, DocumentBlock(len(blocks), first, len(documents), tuple(shards))]


def result_path(directory: Path, stage: str, number: int) -> Path:
    """The file of a task's result, for a block or a part with this number."""
    return directory / f"{stage}-{number:06d}"


@dataclass(frozen=True)
class Stages:
    """Runs stages in a directory.

    Attributes:
        directory: shared by all machines; its name identifies everything that the results depend on.
        mapper: calls a function on every task, in any process, and returns the results in order.
        blocks: the documents.
    """

    directory: Path
    mapper: Mapper
    blocks: Sequence[DocumentBlock]

    def path(self, stage: str, number: int) -> Path:
        """The result of a task."""
        return result_path(self.directory, stage, number)

    def by_block(
        self, stage: str, function: Callable[[Path, DocumentBlock, Any], None], extra: Callable[[DocumentBlock], Any]
    ) -> None:
        """Call `function(result, block, extra(block))` for the blocks that have no result yet."""
        tasks = (
            (self.path(stage, b.number), b, extra(b)) for b in self.blocks if not self.path(stage, b.number).exists()
        )
        self._run(functools.partial(_call, function), tasks)

    def by_part(
        self, stage: str, parts: int, function: Callable[[Path, int], None], before: Callable[[], None]
    ) -> Iterator[np.ndarray]:
        """Call `function(result, part)` for the parts that have no result yet, after `before()` if there are any.
        Return the arrays of all results."""
        missing = [part for part in range(parts) if not self.path(stage, part).exists()]
        if missing:
            before()
            self._run(functools.partial(_call, function), ((self.path(stage, part), part) for part in missing))
        for part in range(parts):
            yield np.load(self.path(stage, part), allow_pickle=False)

    def paths(self, stage: str) -> list[Path]:
        """The results of a stage by blocks."""
        return [self.path(stage, block.number) for block in self.blocks]

    def remove(self, stage: str) -> None:
        """Remove the results of a stage by blocks that is no longer needed."""
        for block in self.blocks:
            self.path(stage, block.number).unlink(missing_ok=True)

    def _run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> None:
        try:
            self.directory.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(self.directory.parent, error) from error
        for _ in self.mapper(function, tasks):
            pass


def _call(function: Callable[..., None], task: tuple) -> None:
    function(*task)


def parts_for(rows: int) -> int:
    """The number of parts for this many rows. It depends on nothing else, so that all engines do the same."""
    return max(1, -(-rows // PART_ROWS))


def by_remainder(keys: np.ndarray, parts: int) -> np.ndarray:
    """The part of each key, uint64, so that parts are about as large as each other."""
    return (keys % np.uint64(parts)).astype(np.int64)


def by_range(keys: np.ndarray, parts: int) -> np.ndarray:
    """The part of each key, uint64, so that the keys of a part are below those of the next. Keys are hashes, so parts
    are about as large as each other."""
    return ((keys >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def write_parted(path: Path, part: np.ndarray, rows: np.ndarray, parts: int) -> None:
    """Write `rows` in the order of their `part`, int64 `[rows]`, with the position of each part."""
    order = np.argsort(part, kind="stable")
    bounds = np.concatenate(([0], np.cumsum(np.bincount(part, minlength=parts)))).astype("<i8")
    with shared_files(path) as (temporary,), open(temporary, "wb") as stream:
        stream.write(memoryview(bounds).cast("B"))
        stream.write(np.ascontiguousarray(rows[order]).tobytes())


def read_part(paths: Iterable[Path], part: int, parts: int, dtype: np.dtype) -> np.ndarray:
    """The rows of one part from the files that `write_parted` wrote, in the order of the files."""
    found = []
    for path in paths:
        first, last = np.fromfile(path, "<i8", 2, offset=8 * part).tolist()
        rows = np.fromfile(path, dtype, last - first, offset=8 * (parts + 1) + first * dtype.itemsize)
        if rows.size != last - first:
            raise UserError(f"{path}: shorter than when it was written; delete it and run the same command again")
        found.append(rows)
    return np.concatenate(found) if found else np.empty(0, dtype)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as `by_part` reads it, atomically."""
    array = np.ascontiguousarray(array)
    with shared_files(path) as (temporary,), open(temporary, "wb") as stream:
        # Not np.save: on a full disk it may lose the end of an array without an error.
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
        stream.write(memoryview(array.reshape(-1).view(np.uint8)))
