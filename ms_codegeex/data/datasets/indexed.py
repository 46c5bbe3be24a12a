"""Token ids in Megatron's memory-mapped format: `PREFIX.bin` holds ids, `PREFIX.idx` the bounds of documents.

Layout of `.idx`, little-endian, as Megatron-LM's `indexed_dataset.py` writes it:

    magic b"MMIDIDX\\0\\0" | version u64 = 1 | dtype code u8 | sequences u64 | documents + 1 u64 |
    sizes int32[sequences] (ids) | pointers int64[sequences] (bytes into .bin) | document starts int64[documents + 1]"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
_HEADER = struct.Struct("<9sQBQQ")
_SMALL_VOCABULARY = 1 << 16
_SCAN = 1 << 22  # ids checked at a time when the whole file is checked
_PIECE = 1 << 18  # documents of an index that are written at a time
AGAIN = "prepare it again with --replace"  # what to do with a damaged dataset


def token_dtype(vocab_size: int) -> np.dtype:
    """The dtype of ids on disk: uint16 where they fit, int32 otherwise."""
    return np.dtype("<u2" if vocab_size <= _SMALL_VOCABULARY else "<i4")


def _file(prefix: Path, ending: str) -> Path:
    return prefix.with_name(prefix.name + ending)


class IndexedWriter(contextlib.ExitStack):
    """Write documents one by one; both files appear only if the `with` block ends without an error. `prefix` is their
    path without ending, `dtype` is `uint16` or `int32`, and `lowest` the least value that is accepted: below 0 only for
    values that are not ids, such as labels of -100."""

    def __init__(self, prefix: Path | str, dtype: np.typing.DTypeLike = np.uint16, lowest: int = 0) -> None:
        super().__init__()
        self.prefix, self.lowest = Path(prefix), lowest
        self.dtype = np.dtype(dtype).newbyteorder("<")
        codes = [code for code, known in DTYPE_CODES.items() if known == self.dtype]
        if not codes:
            raise ValueError(f"dtype {np.dtype(dtype)}: the format here takes uint16 or int32")
        self._code = codes[0]
        self._documents = 0

    def __enter__(self) -> IndexedWriter:
        # The .idx is opened first and so renamed last: there is never an index without its .bin.
        index_path = self.enter_context(atomic_file(_file(self.prefix, ".idx")))
        # Sizes go to their position in the file at once: a large corpus has hundreds of millions.
        self._index = self.enter_context(open(index_path, "w+b", buffering=1 << 20))
        self._index.seek(_HEADER.size)
        data_path = self.enter_context(atomic_file(_file(self.prefix, ".bin")))
        self._stream = self.enter_context(open(data_path, "wb", buffering=1 << 20))
        self.push(self._complete_index)
        return self

    def add(self, ids: np.ndarray | list[int]) -> None:
        """Append one document, a non-empty one-dimensional sequence of ids that fit the dtype (else ValueError)."""
        values = np.asarray(ids)
        limits = np.iinfo(self.dtype)
        if values.ndim != 1 or not values.size or values.min() < self.lowest or values.max() > limits.max:
            ids = f"ids {self.lowest}..{limits.max}"
            raise ValueError(f"a document is a non-empty row of {ids}, got shape {values.shape}")
        self.add_run(np.ascontiguousarray(values, self.dtype), np.array([values.size]))

    def add_run(self, ids: np.ndarray, sizes: np.ndarray) -> None:
        """Append documents of `sizes` ids each, int64 `[documents]`. `ids` holds them concatenated in the writer's
        dtype (else ValueError). The ids are not checked: another writer has done that."""
        if ids.dtype != self.dtype or ids.size != sizes.sum():
            raise ValueError(f"{ids.size} ids of dtype {ids.dtype} for {sizes.sum()} of {self.dtype}")
        self._stream.write(memoryview(ids).cast("B"))
        self._index.write(sizes.astype("<i4").tobytes())
        self._documents += sizes.size

    def _complete_index(self, *error: object) -> None:
        if error[0] is not None:
            return
        stream, count, offset = self._index, self._documents, 0
        for start in range(0, count, _PIECE):
            stream.seek(_HEADER.size + 4 * start)
            sizes = np.frombuffer(stream.read(4 * min(_PIECE, count - start)), "<i4")
            ends = offset + np.cumsum(sizes, dtype=np.int64) * self.dtype.itemsize
            stream.seek(_HEADER.size + 4 * count + 8 * start)
            stream.write(np.concatenate(([offset], ends[:-1])).astype("<i8").tobytes())
            offset = int(ends[-1])
        stream.seek(_HEADER.size + 12 * count)
        for start in range(0, count + 1, _PIECE):
            stream.write(np.arange(start, min(start + _PIECE, count + 1), dtype="<i8").tobytes())
        stream.seek(0)
        stream.write(_HEADER.pack(MAGIC, VERSION, self._code, count, count + 1))


class IndexedDataset:
    """A memory-mapped dataset, checked when it is opened; `UserError` if its files are missing, truncated or do not
    match. `prefix` is their path without `.bin` and `.idx`, `dtype` is `uint16` or `int32`, `sizes` int64 `[documents]`
    the number of ids of each document, and `tokens` a read-only map of all ids."""

    def __init__(self, prefix: Path | str) -> None:
        self.prefix = Path(prefix)
        self._index_path, data_path = _files(self.prefix)
        self.dtype, sequences, documents = _read_header(self._index_path)
        with open(self._index_path, "rb") as stream:
            stream.seek(_HEADER.size)
            sizes = np.fromfile(stream, "<i4", sequences)
            pointers = np.fromfile(stream, "<i8", sequences)
            starts = np.fromfile(stream, "<i8", documents)
        self._bounds = self._check(sizes.astype(np.int64), pointers, starts, data_path.stat().st_size)
        self.sizes = np.diff(self._bounds)
        self.tokens = _map(data_path, self.dtype, int(self._bounds[-1]))

    def __len__(self) -> int:
        return self.sizes.size

    def document(self, number: int) -> np.ndarray:
        """Ids of document `number` (0-based), a read-only view `[size]` of `tokens`; IndexError when out of range."""
        if not 0 <= number < len(self):
            raise IndexError(f"document {number}: {self.prefix} has documents 0..{len(self) - 1}")
        return self.tokens[self._bounds[number] : self._bounds[number + 1]]

    def check_ids(self, limit: int) -> None:
        """Read every id; one outside 0..limit-1 is a `UserError` that names its document."""
        for start in range(0, self.tokens.size, _SCAN):
            block = self.tokens[start : start + _SCAN]
            wrong = np.flatnonzero((block < 0) | (block >= limit))
            if wrong.size:
                position = start + int(wrong[0])
                number = int(np.searchsorted(self._bounds, position, side="right")) - 1
                found = f"id {self.tokens[position]} in document {number} is outside 0..{limit - 1}"
                raise UserError(f"{_file(self.prefix, '.bin')}: {found}, so another tokenizer made it; {AGAIN}")

    def _check(self, sizes: np.ndarray, pointers: np.ndarray, starts: np.ndarray, data_bytes: int) -> np.ndarray:
        """Document boundaries in ids, int64 `[documents + 1]`, after checking that the files are consistent."""
        if sizes.size and sizes.min() <= 0:
            raise damaged_dataset(self._index_path, f"sequence {int(sizes.argmin())} has size {int(sizes.min())}")
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        wrong = np.flatnonzero(pointers != bounds[:-1] * self.dtype.itemsize)
        if wrong.size:
            pointer, expected = int(pointers[wrong[0]]), int(bounds[wrong[0]]) * self.dtype.itemsize
            problem = f"sequence {int(wrong[0])} starts at byte {pointer} instead of {expected}"
            raise damaged_dataset(self._index_path, problem)
        if not starts.size or starts[0] != 0 or starts[-1] != sizes.size or (np.diff(starts) <= 0).any():
            raise damaged_dataset(self._index_path, f"the document starts do not rise from 0 to {sizes.size}")
        if data_bytes != bounds[-1] * self.dtype.itemsize:
            expected = int(bounds[-1]) * self.dtype.itemsize
            raise damaged_dataset(self._index_path, f"describes {expected} bytes but its .bin has {data_bytes}")
        return bounds[starts]


def open_tokens(prefix: Path | str) -> np.ndarray:
    """`IndexedDataset(prefix).tokens` without its index, which takes 20 bytes of memory per document. Only the header,
    the last document and the sizes of both files are checked (`UserError`)."""
    index_path, data_path = _files(Path(prefix))
    dtype, sequences, _ = _read_header(index_path)
    total = 0
    if sequences:
        with open(index_path, "rb") as stream:
            stream.seek(_HEADER.size + 4 * (sequences - 1))
            size = int.from_bytes(stream.read(4), "little", signed=True)
            stream.seek(_HEADER.size + 4 * sequences + 8 * (sequences - 1))
            total = int.from_bytes(stream.read(8), "little", signed=True) + size * dtype.itemsize
    if total != data_path.stat().st_size:
        raise damaged_dataset(index_path, f"describes {total} bytes but its .bin has {data_path.stat().st_size}")
    return _map(data_path, dtype, total // dtype.itemsize)


def _files(prefix: Path) -> tuple[Path, Path]:
    paths = _file(prefix, ".idx"), _file(prefix, ".bin")
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; {AGAIN}")
    return paths


def _map(path: Path, dtype: np.dtype, total: int) -> np.ndarray:
    return np.memmap(path, dtype, "r", shape=(total,)) if total else np.empty(0, dtype)


def damaged_dataset(path: Path, problem: str) -> UserError:
    """The error for a file of a dataset that is not as `prepare` left it."""
    return UserError(f"{path}: {problem}; {AGAIN}")


def _read_header(path: Path) -> tuple[np.dtype, int, int]:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        data = stream.read(_HEADER.size)
    if len(data) < _HEADER.size:
        raise damaged_dataset(path, f"{len(data)} bytes, the header alone has {_HEADER.size}")
    magic, version, code, sequences, starts = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise damaged_dataset(path, f"starts with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        raise damaged_dataset(path, f"version {version}, this program reads version {VERSION}")
    if code not in DTYPE_CODES:
        raise damaged_dataset(path, f"dtype code {code}, known are 4 (int32) and 8 (uint16)")
    expected = _HEADER.size + sequences * 12 + starts * 8
    if size != expected:
        raise damaged_dataset(path, f"{size} bytes instead of {expected} for {sequences} sequences")
    return DTYPE_CODES[code], sequences, starts
