"""Quantised model directories: `quantised.json`, `quantised.safetensors` and the tokenizer's files. The safetensors
file uses the package's own parameter names. A quantised matrix NAME [n, k] is int8 [n, k], or for 4 bits uint8
[n, ceil(k / 2)] in two's complement with the earlier number in the low half; NAME.scales is FP32 [n], or for 4 bits
[n, ceil(k / group)]. Lookup tables, biases and norms keep their dtypes. Tensors are read and written one at a time."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.quarantine import admit, read_json_inside
from ms_codegeex.formats.chunks import content_hash
from ms_codegeex.formats.family import FamilyFormats, check_layers
from ms_codegeex.formats.rounding import QuantisedMatrix, check_bits, stored_as, whole
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.generation import matrices
from ms_codegeex.generation.matrices import WHOLE, PackedMatrix, pack, packed_shape, stored
from ms_codegeex.models.parameters import SCALES
from ms_codegeex.models.registry import Family, family

DESCRIPTION, TENSORS, FORMAT = "quantised.json", "quantised.safetensors", 1
PACKED_FROM = 1 << 26  # minimum size in bytes of a model's file for which a packed copy is cached
UNUSED = 30 * 86400  # seconds without use after which a cached copy may be removed


def is_quantised(path: Path) -> bool:
    return (Path(path) / DESCRIPTION).is_file()


class QuantisedModel:
    """An opened and checked quantised model directory: its `family` and its weights. `config` holds the sizes of these
    weights, `original` those of the model before rounding. Raises `UserError` for a directory that is not valid."""

    def __init__(self, path: Path):
        self.path, where = Path(path), Path(path) / DESCRIPTION
        admit(self.path)
        description = read_json_inside(self.path, DESCRIPTION)
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise UserError(f"{where}: expected format {FORMAT}; quantise the model again with this version")
        bits, group, sizes = (description.get(key) for key in ("bits", "group", "sizes"))
        if type(bits) is not int or bits not in (8, 4) or type(group) is not int or not isinstance(sizes, dict):
            raise UserError(f"{where}: expected bits 8 or 4, a group and sizes; quantise the model again")
        try:
            check_bits(bits, group)
        except UserError as error:
            raise UserError(f"{where}: {error}; quantise the model again") from None
        self.bits, self.group = bits, group
        self.family: Family = family(str(description.get("family")))
        self._file = SafetensorsFile(self.path / TENSORS)
        self._mapped = SafetensorsFile(self.path / TENSORS, whole=True)  # for arrays that live as long as the model
        self._copies = lru_cache(2)(self._packed_copy)
        try:
            self.fields = FamilyFormats(self.family).from_ours(sizes)
            self.original = self.family.config.build_config(None, self.fields)
        except UserError as error:
            raise UserError(f"{where}: sizes: {error}; quantise the model again") from None
        check_layers(self.original, self._file.tensors, str(where))
        rounded = self.original.rounded()  # files of earlier versions have no separate matrix for a tied head
        self.config = rounded if rounded.parameter_shapes().keys() <= self._file.tensors.keys() else self.original
        self._shapes = self.config.parameter_shapes()  # computed once: each of hundreds of layers looks it up
        self._check()

    def _check(self) -> None:
        """Raise `UserError` unless the file has exactly the tensors that the model's sizes require."""
        expected: dict[str, tuple[str | None, tuple[int, ...]]] = {}
        products = self.config.product_names()
        for name, shape in self._shapes.items():
            expected |= stored_as(name, shape, self.bits, self.group) if name in products else {name: (None, shape)}
        present = set(self._file.tensors)
        if odd := sorted(present ^ expected.keys()):
            what = "is not one of the model's" if odd[0] in present else "is missing"
            raise UserError(f"{self.path / TENSORS}: tensor {odd[0]} {what}; quantise the model again")
        for name, (dtype, shape) in expected.items():
            given = self._file.tensors[name].dtype, self._file.tensors[name].shape
            if given[1] != shape or dtype not in (None, given[0]):
                wrong = f"{name} is {given[0]} {given[1]}, not {dtype} {shape}"
                raise UserError(f"{self.path / TENSORS}: {wrong}; quantise the model again")

    def matrix(self, name: str, rows: slice = WHOLE, columns: slice = WHOLE) -> QuantisedMatrix:
        """Return a matrix [n, k], or the given part of it."""
        if name + SCALES not in self._file.tensors:
            return stored(self._file.tensors[name], rows, columns)
        values, scales = (self._file.tensors[key].array()[rows] for key in (name, name + SCALES))
        if self.bits == 8:
            matrix = QuantisedMatrix(values, 8, scales)
        else:
            matrix = QuantisedMatrix(whole(values, self._shapes[name][1]), 4, scales, self.group)
        return matrix if (rows, columns) == (WHOLE, WHOLE) else matrix.part(WHOLE, columns)

    def vector(self, name: str, rows: slice = WHOLE) -> np.ndarray:
        """Return a vector, FP32 [n], or the given part of it."""
        return self._file.tensors[name].window((rows,)).float32()

    def packed(self, name: str, blocks: bool = False) -> PackedMatrix:
        """Return a matrix in the layout of `pack`, memory-mapped if possible: from the model's file, or from a packed
        copy in the user's cache. Mapped data has been verified against its checksum."""
        scales, shape = name + SCALES, self._shapes[name]
        if scales not in self._file.tensors:
            return pack(stored(self._mapped.tensors[name]))
        if self.bits == 8 and not blocks and packed_shape(8, *shape) == shape:
            return pack(QuantisedMatrix(self._mapped.tensors[name].array(), 8, self._mapped.tensors[scales].array()))
        if (copy := self._copies(blocks)) is not None:
            try:
                data, factors = (copy.tensors[key].array() for key in (name, scales))
                return PackedMatrix(*shape, self.bits, self.group if self.bits == 4 else 0, data, factors, blocks)
            except UserError:  # the copy is damaged; the next start makes a new one
                copy.path.unlink(missing_ok=True)
        return pack(self.matrix(name), blocks)

    def _packed_copy(self, blocks: bool) -> SafetensorsFile | None:
        if not self._file.identified or self._file.path.stat().st_size < PACKED_FROM:
            return None
        of = [self._file.header_hash, str(blocks), str(self.group), Path(matrices.__file__).read_text(encoding="utf-8")]
        name, size = f"{content_hash([' '.join(of).encode()])}.safetensors", self._file.path.stat().st_size
        with suppress(OSError, UserError):  # the cache is not writable
            copy = user_cache() / "packed" / name
            if not copy.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                for other in copy.parent.glob("*.safetensors"):
                    if time.time() - other.stat().st_mtime > UNUSED:
                        other.unlink(missing_ok=True)
                if shutil.disk_usage(copy.parent).free < 2 * size:
                    return None
                with atomic_file(copy) as temporary:
                    write_safetensors(temporary, dict(self._all_packed(blocks)), checksums=True)
            os.utime(copy)
            try:
                return SafetensorsFile(copy, whole=True)
            except UserError:  # damaged
                copy.unlink(missing_ok=True)
        return None

    def _all_packed(self, blocks: bool) -> Iterator[tuple[str, LazyTensor]]:
        @lru_cache(1)
        def packed(name: str) -> PackedMatrix:
            return pack(self.matrix(name), blocks)

        for name, shape in self._shapes.items():
            if name + SCALES in self._file.tensors:
                rows, width = packed_shape(self.bits, *shape)
                dtype, columns = ("int8", width) if self.bits == 8 else ("int32", width // 8)
                factors = (rows,) if self.bits == 8 else (rows, width // self.group)
                yield name, LazyTensor(dtype, (rows, columns), lambda name=name: packed(name).data)
                yield name + SCALES, LazyTensor("float32", factors, lambda name=name: packed(name).scales)
