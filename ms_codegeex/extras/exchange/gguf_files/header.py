"""The beginning of a GGUF file, read within limits: its keys, and where its tensors are.

The format (https://github.com/ggml-org/ggml, docs/exchange.md): magic, version, two counts, keys with typed values,
then name, shape, type and offset of every tensor, then their data, each padded to the alignment. The `gguf` package's
reader trusts a file; this one does not. It reads no tensor."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import opened
from ms_codegeex.formats.files import GGUF_MAGIC
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, damaged, map_bytes

_VERSIONS = (2, 3)  # the first has counts of 32 bits and was replaced within weeks
_MAX_HEADER_BYTES = 64 << 20  # bytes; a vocabulary of 250,000 tokens with its merges takes 20 million
_MAX_LIST_VALUES = 1 << 22  # values
_MAX_KEY_BYTES = 1 << 10  # bytes of a key; the format allows more than anybody uses
_MAX_TENSOR_NAME = 64  # llama.cpp's own limit
_MAX_AXES = 4  # likewise
_MAX_COUNT = 1 << 16  # keys, tensors; the largest models have a few thousand
_ALIGNMENT, _MAX_ALIGNMENT = 32, 1 << 16
_NUMBERS = dict(enumerate(("<u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?"))) | {10: "<u8", 11: "<i8", 12: "<f8"}
_STRING, _ARRAY = 8, 9
_READ = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
QUANTISED = ("Q8_0", "Q4_0")  # what we write, and read as FP32
# what llama-quantize writes besides, and we read as FP32; its Q4_0 files have an output matrix of Q6_K
_DEQUANTISED = (*QUANTISED, "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's `type` (ggml's name of it), `shape` (rows first, as in NumPy), and its bytes in the file."""

    type: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class _Parser:
    """Takes values from the beginning of a file. `ValueError` says what is wrong with it."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self.position, self._limit = stream, 0, min(size, _MAX_HEADER_BYTES)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self._limit - self.position:
            cut = self._limit < _MAX_HEADER_BYTES
            reason = "ends in its header" if cut else "its header is longer than any model's"
            raise ValueError(f"{reason} (at byte {self.position:,})")
        self.position += count
        data = self._stream.read(count)
        if len(data) != count:
            raise ValueError("became shorter while it was read")
        return data

    def number(self, form: str) -> Any:
        dtype = np.dtype(form)
        return np.frombuffer(self.take(dtype.itemsize), dtype)[0].item()

    def count(self, what: str, most: int = _MAX_COUNT) -> int:
        """A number of things that follow."""
        if (count := self.number("<u8")) > most:
            raise ValueError(f"{count:,} {what}, more than {most:,}")
        return count

    def text(self, longest: int = _MAX_HEADER_BYTES) -> str:
        """A string; bytes that are not UTF-8 stay recognisable."""
        return self.take(self.count("bytes in a name", longest)).decode("utf-8", "backslashreplace")

    def value(self) -> Any:
        """A typed value: a number, truth value, text, or list of one kind of these."""
        kind = self.number("<u4")
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise ValueError(f"a value of the unknown type {kind}")
        kind, count = self.number("<u4"), self.count("values in a list", _MAX_LIST_VALUES)
        if kind == _STRING:  # 8 bytes at least: `take` ends a list that is longer than the file
            return [self.text() for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"a list of the type {kind}, which no model needs")
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()


class GGUFHeader:
    """The header of a GGUF file: `metadata`, and `infos` of every tensor in the file's order.

    Raises `UserError` naming the file, and the tensor, unless the file is complete and its tensors follow each other
    without a gap or an overlap.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            with opened(self.path) as stream:
                self.size = os.fstat(stream.fileno()).st_size
                self._read(_Parser(stream, self.size))
        except (ValueError, OverflowError, struct.error) as error:
            raise damaged(self.path, f"not a sound GGUF file: {error}") from None

    def _read(self, parser: _Parser) -> None:
        if parser.take(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise ValueError("it does not begin like one")
        version = parser.number("<u4")
        if version not in _VERSIONS:
            swapped = " (big-endian, which is not read)" if version in (2 << 24, 3 << 24) else ""
            raise ValueError(f"version {version}{swapped}, expected 2 or 3")
        tensors, keys = parser.count("tensors"), parser.count("keys")
        self.metadata: dict[str, Any] = {}
        for _ in range(keys):
            if (key := parser.text(_MAX_KEY_BYTES)) in self.metadata:
                raise ValueError(f"key {key} is there twice")
            self.metadata[key] = parser.value()
        raw: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(tensors):
            if (name := parser.text(_MAX_TENSOR_NAME)) in raw:
                raise ValueError(f"tensor {name} is there twice")
            axes = parser.number("<u4")
            if not 1 <= axes <= _MAX_AXES:
                raise ValueError(f"tensor {name} has {axes} axes")
            shape = tuple(parser.number("<u8") for _ in range(axes))[::-1]
            raw[name] = parser.number("<u4"), shape, parser.number("<u8")
        self.infos = self._placed(raw, parser.position)

    def _placed(self, raw: Mapping[str, tuple[int, tuple[int, ...], int]], header: int) -> dict[str, TensorInfo]:
        """Where each tensor is; `ValueError` unless all of them are in the file, one after the other."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        alignment = self.metadata.get("general.alignment", _ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= _MAX_ALIGNMENT or alignment % 8:
            raise ValueError(f"its alignment is {alignment!r}")
        infos, place, start = {}, 0, header + -header % alignment
        for name, (number, shape, offset) in raw.items():
            try:
                kind = GGMLQuantizationType(number)
            except ValueError:
                raise ValueError(f"tensor {name} has the unknown type {number}") from None
            block, size = GGML_QUANT_SIZES[kind]
            if not all(shape) or shape[-1] % block:
                raise ValueError(f"tensor {name} has shape {list(shape)}, which {kind.name} cannot have")
            if offset != place:
                raise ValueError(f"tensor {name} begins at byte {offset}, expected {place}: a gap, or inside another")
            nbytes = prod(shape) // block * size
            if start + place + nbytes > self.size:
                raise ValueError(f"tensor {name} ends after the file's {self.size:,} bytes")
            infos[name] = TensorInfo(kind.name, shape, start + place, nbytes)
            place += nbytes + -nbytes % alignment
        if self.size > max(start + place, header):
            raise ValueError(f"{self.size - start - place:,} bytes follow the last tensor")
        return infos

    def tensor(self, name: str) -> LazyTensor:
        """A tensor whose numbers are read when they are needed; quantised ones come as FP32. `UserError` for a type
        that is not read."""
        info = self.infos[name]
        if info.type in _READ:
            return LazyTensor(_READ[info.type], info.shape, partial(self._view, info))
        if info.type not in _DEQUANTISED:
            readable = ", ".join((*_READ, *_DEQUANTISED))
            raise UserError(f"{self.path}: tensor {name} is {info.type}, which is not read; expected {readable}")
        return LazyTensor("float32", info.shape, partial(self._dequantised, info))

    def bytes_of(self, info: TensorInfo) -> np.ndarray:
        """A tensor's bytes as they are in the file, one axis."""
        return map_bytes(self.path, info.start, info.nbytes)

    def _view(self, info: TensorInfo) -> np.ndarray:
        return self.bytes_of(info).view(NUMPY_DTYPES[_READ[info.type]]).reshape(info.shape)

    def _dequantised(self, info: TensorInfo) -> np.ndarray:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        rows = self.bytes_of(info).reshape(prod(info.shape[:-1]), -1)
        return dequantize(rows, GGMLQuantizationType[info.type]).reshape(info.shape)
