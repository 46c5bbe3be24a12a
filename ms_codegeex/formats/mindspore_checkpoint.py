"""MindSpore's `.ckpt` files read and written tensor by tensor, without MindSpore.

The file is a protocol buffer, `Checkpoint`: a run of `Value`s, each with a name (`tag`) and a tensor (dims, type, raw
little-endian elements); several neighbours of one name are the pieces of a large tensor. `save_checkpoint(...,
crc_check=True)` appends `crc_num` and the CRC-32 of everything before it (MindSpore,
python/mindspore/train/checkpoint.proto and train/serialization.py)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.json_reading import MalformedText, parse_json
from ms_codegeex.base.reading import opened
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.formats.chunks import Checksum, write_checked
from ms_codegeex.formats.safetensors_file import SafetensorsFile, is_safetensors
from ms_codegeex.formats.tensors import (
    MINDSPORE_TYPES,
    NUMPY_DTYPES,
    LazyTensor,
    byte_blocks,
    checked_shape,
    damaged,
    map_bytes,
)
from ms_codegeex.formats.wire import Value, WireError, WireReader, length_field, number_field, only

DTYPES = {kind: name for name, kind in MINDSPORE_TYPES.items()}
_WRITER = "ms-codegeex"
TEXT = "str"  # an entry of append_dict that is not a tensor
PIECE_BYTES = 512 << 20  # MindSpore's own limit of one Value; a protocol buffer's field must stay below 2 GiB
METADATA_CRC, MAX_ZEROS = "crc_num", 1 << 28  # see `_Safetensors`
TRAILER, TRAILER_BYTES = b"crc_num", 17  # the marker, then the checksum as 10 bytes, big-endian

# Numbers of fields in the messages Checkpoint, Value and TensorProto.
VALUE = 1
ORIGIN = 1000  # who wrote the file, and of which model; unknown to MindSpore, which ignores it
_MAX_ORIGIN_BYTES = 1 << 24
TAG, TENSOR, MAP_TENSOR = 1, 2, 3
DIMS, TYPE, CONTENT = 1, 2, 3


def state_table() -> Mapping[str, Any]:
    return shipped_table(Path(__file__).with_name("training_state.yaml"))


def is_training_state(kind: str, name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in state_table()[kind])


def is_weight(name: str) -> bool:
    state = state_table()["mindspore"]
    return not name.startswith((*state["prefixes"].split(),)) and name.rpartition(".")[2] not in state["parts"].split()


def is_extra(tensor: LazyTensor, name: str = ".") -> bool:
    return tensor.size == 1 or "float" not in tensor.dtype or (len(tensor.shape) == 1 and "." not in name)


@dataclass(frozen=True)
class _StoredTensor:
    """A tensor in the file: MindSpore's name of its type, its dims as written, and the byte ranges of its pieces."""

    kind: str
    dims: tuple[int, ...]
    pieces: list[range]


def _origin(text: str) -> dict[str, Any]:
    """Our mark of origin; `WireError` if it is not one of ours."""
    try:
        origin = parse_json(text)
    except MalformedText:
        origin = None
    if not isinstance(origin, dict) or origin.pop("writer", None) != _WRITER:
        raise WireError(f"an unknown field {ORIGIN}")
    return origin


class _Checkpoint:
    """A `.ckpt` file whose structure has been read. Its checksum, if it has one, is verified before the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.origin: dict[str, Any] | None = None
        self.texts: list[str] = []
        try:
            with opened(path) as stream:
                self._size = os.fstat(stream.fileno()).st_size
                expected = self._trailer(stream)
                self.found = self._scan(stream)
        except WireError as error:
            remedy = "copy it again, or save it again with mindspore.save_checkpoint without a key"
            what = f"damaged, cut off, encrypted, or not a MindSpore checkpoint ({error})"
            raise UserError(f"{path}: {what}; {remedy}") from None
        self._checksum = Checksum(expected, lambda wrong: damaged(path, f"damaged ({wrong})"))
        if not self.found:
            raise UserError(f"{path}: holds no tensors ({self._size} bytes); expected a MindSpore checkpoint")

    def _trailer(self, stream: BinaryIO) -> int | None:
        stream.seek(max(0, self._size - TRAILER_BYTES))
        tail = stream.read(TRAILER_BYTES)
        if not tail.startswith(TRAILER) or len(tail) < TRAILER_BYTES:
            return None
        self._size -= TRAILER_BYTES
        return int.from_bytes(tail[len(TRAILER) :], "big")

    def _scan(self, stream: BinaryIO) -> dict[str, _StoredTensor]:
        reader, tensors, last = WireReader(stream), {}, None
        for number, value in reader.fields(range(self._size)):
            if number == ORIGIN:
                self.origin = _origin(reader.text(value, _MAX_ORIGIN_BYTES))
                continue
            if number != VALUE:
                raise WireError(f"an unknown field {number}")
            name, kind, dims, content = self._value(reader, value)
            if kind == TEXT:
                self.texts.append(name)
                last = None
                continue
            if name != last:
                if name in tensors:
                    raise UserError(f"{self.path}: tensor {name} occurs twice; expected once, save the file again")
                tensors[name] = _StoredTensor(kind, dims, [])
            elif (kind, dims) != (tensors[name].kind, tensors[name].dims):
                first, later = f"{tensors[name].kind} {list(tensors[name].dims)}", f"{kind} {list(dims)}"
                raise damaged(self.path, f"tensor {name} is {first} in its first piece and {later} in a later one")
            tensors[name].pieces.append(content)
            last = name
        return tensors

    def _value(self, reader: WireReader, value: Value) -> tuple[str, str, tuple[int, ...], range]:
        fields = reader.message(value, (TAG, TENSOR, MAP_TENSOR))
        name = reader.text(only(fields[TAG], "the name of a tensor"))
        if fields[MAP_TENSOR]:
            raise UserError(f"{self.path}: {name} is a hash table (MapParameter), which is not supported; remove it")
        tensor = reader.message(only(fields[TENSOR], f"the tensor of {name}"), (DIMS, TYPE, CONTENT))
        kind = reader.text(only(tensor[TYPE], f"the type of {name}"))
        content = only(tensor[CONTENT], f"the content of {name}")
        if not isinstance(content, range):
            raise WireError(f"a number as content of {name}")
        return name, kind, reader.integers(tensor[DIMS]), content

    def tensor(self, name: str) -> LazyTensor:
        """The tensor, to be loaded later; its type and size are checked now."""
        stored = self.found[name]
        if stored.kind not in DTYPES:
            known = ", ".join(DTYPES)
            raise UserError(f"{self.path}: tensor {name} has type {stored.kind}; convert it to one of {known}")
        try:
            shape = checked_shape(() if stored.dims == (0,) else stored.dims, name)  # how MindSpore marks a scalar
        except ValueError as error:
            raise damaged(self.path, str(error)) from None
        size = sum(map(len, stored.pieces))
        dtype = DTYPES[stored.kind]
        part = (lambda index: self._load(name, dtype, shape)[index]) if len(stored.pieces) == 1 else None
        tensor = LazyTensor(dtype, shape, lambda: self._load(name, dtype, shape), part)
        if size != tensor.nbytes:
            raise damaged(self.path, f"tensor {name} has {size} bytes, {dtype} {list(shape)} takes {tensor.nbytes}")
        return tensor

    def _load(self, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        self._checksum.compare(byte_blocks(map_bytes(self.path, 0, self._size)))
        pieces = [map_bytes(self.path, piece.start, len(piece)) for piece in self.found[name].pieces]
        flat = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return flat.view(NUMPY_DTYPES[dtype]).reshape(shape)


class _Safetensors(SafetensorsFile):
    """MindSpore's other format. With `crc_check=True`, its metadata has the CRC-32 of names and numbers, sorted by
    name; of a whole number without axes it is that of as many zeros, which `bytes(array)` gives."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        recorded = self.metadata.get(METADATA_CRC, "") if self.metadata.get("format") == "ms" else ""
        expected = int(recorded) if re.fullmatch("[0-9]{1,10}", recorded) else None
        self._whole = Checksum(expected, lambda wrong: damaged(path, f"damaged, or edited in place ({wrong})"))

    def _blocks(self) -> Iterator[bytes | memoryview]:
        room = MAX_ZEROS
        for name, tensor in sorted(self.tensors.items()):
            yield name.encode("utf-8", "surrogatepass")
            data = super()._view(name)
            if not tensor.shape and "int" in tensor.dtype:
                data = np.zeros(min(max(int(data), 0), room), np.uint8)
                room -= data.size
            yield from byte_blocks(data)

    def _view(self, name: str) -> np.ndarray:
        self._whole.compare(self._blocks())
        return super()._view(name)

    def _rows(self, name: str, count: int) -> Iterator[np.ndarray]:
        self._whole.compare(self._blocks())
        return super()._rows(name, count)


def read_mindspore(path: Path, keep: Callable[[str], bool] | None = None) -> dict[str, LazyTensor]:
    """The tensors of a `.ckpt` file in the file's order, numbers such as `epoch_num` with shape (), texts left out; or
    of a safetensors file, MindSpore's other format. `keep(name)` chooses tensors; None is all. Only the structure is
    read now, and a checksum is compared when the first tensor is loaded. Without one, changed elements and tensors
    missing at the end go unnoticed: check the names against the model. `UserError` for a damaged file, or a tensor that
    occurs twice or has a wrong size or an unknown type."""
    if is_safetensors(path):
        return {name: tensor for name, tensor in _Safetensors(path).tensors.items() if keep is None or keep(name)}
    checkpoint = _Checkpoint(Path(path))
    return {name: checkpoint.tensor(name) for name in checkpoint.found if keep is None or keep(name)}


def read_texts(path: Path) -> list[str]:
    return [] if is_safetensors(path) else _Checkpoint(Path(path)).texts


def read_origin(path: Path) -> dict[str, Any] | None:
    """What `write_mindspore` was given as `origin` for the file at `path`; None if it did not write it."""
    return None if is_safetensors(path) else _Checkpoint(Path(path)).origin


def _pieces(name: str, tensor: LazyTensor) -> Iterator[bytes | memoryview]:
    tag = name.encode()
    kind = MINDSPORE_TYPES[tensor.dtype].encode()
    head = b"".join(number_field(DIMS, size) for size in tensor.shape) + length_field(TYPE, len(kind)) + kind
    label = length_field(TAG, len(tag)) + tag
    array = tensor.array()
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, max(1, tensor.nbytes), PIECE_BYTES):
        piece = flat[start : start + PIECE_BYTES]
        inner = head + length_field(CONTENT, piece.nbytes)
        outer = label + length_field(TENSOR, len(inner) + piece.nbytes)
        yield length_field(VALUE, len(outer) + len(inner) + piece.nbytes) + outer + inner
        yield from byte_blocks(piece)


def write_mindspore(
    path: Path,
    tensors: Mapping[str, LazyTensor],
    check: Callable[[Path], object] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Write a `.ckpt` file for `mindspore.load_checkpoint`, one tensor in memory at a time. It appears only when it is
    complete and `check(temporary)` raises nothing. `origin` marks this program as the writer and holds JSON values;
    MindSpore ignores it. `UserError` for an empty vector, which MindSpore would take for the number 0."""
    for name, tensor in tensors.items():
        if tensor.shape == (0,):
            raise UserError(f"{path}: tensor {name} has no elements, which a MindSpore checkpoint cannot hold; drop it")
    with atomic_file(path, check) as temporary, open(temporary, "wb") as stream:
        crc = 0
        for name, tensor in tensors.items():
            crc = write_checked(stream, _pieces(name, tensor), crc)
        if origin is not None:
            mark = json.dumps({"writer": _WRITER, **origin}).encode()
            crc = write_checked(stream, [length_field(ORIGIN, len(mark)) + mark], crc)
        stream.write(TRAILER + crc.to_bytes(TRAILER_BYTES - len(TRAILER), "big"))
