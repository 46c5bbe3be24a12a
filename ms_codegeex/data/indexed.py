"""Token ids on disk in Megatron's memory-mapped format: `PREFIX.bin` holds ids, `PREFIX.idx` says where documents lie.

Layout of `.idx`, little-endian, as Megatron-LM's `indexed_dataset.py` writes it:

    magic b"MMIDIDX\\0\\0" | version u64 = 1 | dtype code u8 | sequences u64 | documents + 1 u64 |
    sizes int32[sequences] (ids) | pointers int64[sequences] (bytes into .bin) | document starts int64[documents + 1]
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ms_codegeex.errors import UserError
from ms_codegeex.files import atomic_file

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES = {4: np.dtype("<i4"), 8: np.dtype("<u2")}
_HEADER = struct.Struct("<9sQBQQ")
_SCAN = 1 << 22  # ids looked at per step when the whole file is checked


def _file(prefix: Path, ending: str) -> Path:
    return prefix.with_name(prefix.name + ending)


class IndexedWriter:
    """Write documents one by one; both files appear when the `with` block ends well and not otherwise.

    Args:
        prefix: path without `.bin` and `.idx`.
        dtype: `uint16` (ids up to 65535) or `int32`.
        lowest: least value that is taken; below 0 only for what is no id, such as labels of -100.
    """

    def __init__(self, prefix: Path | str, dtype: np.typing.DTypeLike = np.uint16, lowest: int = 0) -> None:
        self.prefix, self.lowest = Path(prefix), lowest
        self.dtype = np.dtype(dtype).newbyteorder("<")
        codes = [code for code, known in DTYPE_CODES.items() if known == self.dtype]
        if not codes:
            raise ValueError(f"dtype {np.dtype(dtype)}: the format here takes uint16 or int32")
        self._code = codes[0]
        self._sizes: list[int] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> IndexedWriter:
        # The .idx is opened first and so renamed last: an index never stands beside a missing .bin.
        self._index_path = self._stack.enter_context(atomic_file(_file(self.prefix, ".idx")))
        self._stream = self._stack.enter_context(_bin_stream(_file(self.prefix, ".bin")))
        return self

    def add(self, ids: np.ndarray | list[int]) -> None:
        """Append one document, a non-empty one-dimensional sequence of ids that fit the dtype (else ValueError)."""
        values = np.asarray(ids)
        limits = np.iinfo(self.dtype)
        if values.ndim != 1 or not values.size or values.min() < self.lowest or values.max() > limits.max:
            raise ValueError(
                f"a document is a non-empty row of ids {self.lowest}..{limits.max}, got shape {values.shape}"
            )
        self._stream.write(values.astype(self.dtype, copy=False).tobytes())
        self._sizes.append(values.size)

    def __exit__(self, *error: object) -> bool | None:
        if error[0] is None:
            sizes = np.asarray(self._sizes, dtype="<i8")
            pointers = (np.cumsum(sizes) - sizes) * self.dtype.itemsize
            with open(self._index_path, "wb") as stream:
                stream.write(_HEADER.pack(MAGIC, VERSION, self._code, sizes.size, sizes.size + 1))
                stream.write(sizes.astype("<i4").tobytes() + pointers.astype("<i8").tobytes())
                stream.write(np.arange(sizes.size + 1, dtype="<i8").tobytes())
        return self._stack.__exit__(*error)


@contextlib.contextmanager
def _bin_stream(path: Path) -> Iterator:
    with atomic_file(path) as temporary, open(temporary, "wb", buffering=1 << 20) as stream:
        yield stream
        stream.flush()


class IndexedDataset:
    """A memory-mapped dataset, checked when it is opened.

    Attributes:
        prefix: path without `.bin` and `.idx`.
        dtype: `uint16` or `int32`, little-endian.
        sizes: int64 `[documents]`, ids per document.
        tokens: read-only flat map of the whole `.bin`, `[total ids]`.

    Raises:
        UserError: the files are missing, cut short, or do not fit each other.
    """

    def __init__(self, prefix: Path | str) -> None:
        self.prefix = Path(prefix)
        self._index_path = _file(self.prefix, ".idx")
        data_path = _file(self.prefix, ".bin")
        for path in (self._index_path, data_path):
            if not path.is_file():
                raise UserError(f"{path}: no such file; run `ms-codegeex prepare` to make the dataset")
        sizes, pointers, starts = self._read_index(self._index_path.read_bytes())
        self._bounds = self._check(sizes.astype(np.int64), pointers, starts, data_path.stat().st_size)
        self.sizes = np.diff(self._bounds)
        total = int(self._bounds[-1])
        self.tokens = np.memmap(data_path, self.dtype, "r", shape=(total,)) if total else np.empty(0, self.dtype)

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
                place = start + int(wrong[0])
                number = int(np.searchsorted(self._bounds, place, side="right")) - 1
                raise UserError(
                    f"{_file(self.prefix, '.bin')}: id {self.tokens[place]} in document {number} is "
                    f"outside 0..{limit - 1}; it was made with another tokenizer, prepare it again "
                    "with --replace"
                )

    def _bad(self, problem: str) -> UserError:
        return UserError(
            f"{self._index_path}: {problem}; the dataset is damaged, prepare it again with "
            "`ms-codegeex prepare --replace`"
        )

    def _read_index(self, data: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(data) < _HEADER.size:
            raise self._bad(f"{len(data)} bytes, the header alone has {_HEADER.size}")
        magic, version, code, sequences, starts = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise self._bad(f"starts with {magic!r} instead of {MAGIC!r}")
        if version != VERSION:
            raise self._bad(f"version {version}, this program reads version {VERSION}")
        if code not in DTYPE_CODES:
            raise self._bad(f"dtype code {code}, known are 4 (int32) and 8 (uint16)")
        self.dtype = DTYPE_CODES[code]
        expected = _HEADER.size + sequences * 12 + starts * 8
        if len(data) != expected:
            raise self._bad(f"{len(data)} bytes instead of {expected} for {sequences} sequences")
        place = _HEADER.size
        return (
            np.frombuffer(data, "<i4", sequences, place),
            np.frombuffer(data, "<i8", sequences, place + sequences * 4),
            np.frombuffer(data, "<i8", starts, place + sequences * 12),
        )

    def _check(self, sizes: np.ndarray, pointers: np.ndarray, starts: np.ndarray, data_bytes: int) -> np.ndarray:
        """Document boundaries in ids, int64 `[documents + 1]`, once everything fits together."""
        if sizes.size and sizes.min() <= 0:
            raise self._bad(f"sequence {int(sizes.argmin())} has size {int(sizes.min())}")
        bounds = np.concatenate(([0], np.cumsum(sizes)))
        wrong = np.flatnonzero(pointers != bounds[:-1] * self.dtype.itemsize)
        if wrong.size:
            raise self._bad(
                f"sequence {int(wrong[0])} starts at byte {int(pointers[wrong[0]])} instead of "
                f"{int(bounds[wrong[0]]) * self.dtype.itemsize}"
            )
        if not starts.size or starts[0] != 0 or starts[-1] != sizes.size or (np.diff(starts) <= 0).any():
            raise self._bad(f"the document starts do not rise from 0 to {sizes.size}")
        if data_bytes != bounds[-1] * self.dtype.itemsize:
            raise self._bad(
                f"describes {int(bounds[-1]) * self.dtype.itemsize} bytes but the .bin beside it has {data_bytes}"
            )
        return bounds[starts]
