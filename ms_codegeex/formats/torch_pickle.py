"""The pickle inside PyTorch's `.pt`: a small emitter, and an unpickler that cannot run anything.

Only what a state dict needs is written, in pickle protocol 2 as `torch.save` does. A tensor is a call of
`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`, its storage a persistent id
`("storage", type, key, location, number of elements)` (PyTorch, torch/serialization.py).
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.formats.tensors import LazyTensor

STORAGES: Mapping[str, str] = MappingProxyType(
    {
        "float64": "DoubleStorage",
        "float32": "FloatStorage",
        "float16": "HalfStorage",
        "bfloat16": "BFloat16Storage",
        "int64": "LongStorage",
        "int32": "IntStorage",
        "int16": "ShortStorage",
        "int8": "CharStorage",
        "uint8": "ByteStorage",
        "bool": "BoolStorage",
    }
)


@dataclass(frozen=True, slots=True)
class StorageType:
    """Stands for a class like `torch.FloatStorage` while reading."""

    dtype: str


@dataclass(frozen=True, slots=True)
class Storage:
    """One record `data/<key>` of the archive: `numel` elements of `dtype`."""

    dtype: str
    key: str
    numel: int


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return pickle.BINUNICODE + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _integer(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return pickle.BININT + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return pickle.LONG1 + struct.pack("<B", len(data)) + data


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _tensor(tensor: LazyTensor, key: str) -> Iterator[bytes]:
    storage_type = _global("torch", STORAGES[tensor.dtype])
    yield _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK
    yield pickle.MARK + _text("storage") + storage_type + _text(key) + _text("cpu") + _integer(tensor.size)
    yield pickle.TUPLE + pickle.BINPERSID + _integer(0)
    for numbers in (tensor.shape, _strides(tensor.shape)):
        yield pickle.MARK + b"".join(map(_integer, numbers)) + pickle.TUPLE
    yield pickle.NEWFALSE + _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    yield pickle.TUPLE + pickle.REDUCE


def _emit(value: Any, key_of: Callable[[LazyTensor], str]) -> Iterator[bytes]:
    if isinstance(value, LazyTensor):
        yield from _tensor(value, key_of(value))
    elif isinstance(value, Mapping):
        yield pickle.EMPTY_DICT + pickle.MARK
        for key, item in value.items():
            yield from _emit(key, key_of)
            yield from _emit(item, key_of)
        yield pickle.SETITEMS
    elif isinstance(value, list | tuple):
        is_list = isinstance(value, list)
        yield (pickle.EMPTY_LIST if is_list else b"") + pickle.MARK
        for item in value:
            yield from _emit(item, key_of)
        yield pickle.APPENDS if is_list else pickle.TUPLE
    elif isinstance(value, str):
        yield _text(value)
    elif value is None or isinstance(value, bool):
        yield {None: pickle.NONE, True: pickle.NEWTRUE, False: pickle.NEWFALSE}[value]
    elif isinstance(value, int):
        yield _integer(value)
    elif isinstance(value, float):
        yield pickle.BINFLOAT + struct.pack(">d", value)
    else:
        raise ValueError(f"a {type(value).__name__} cannot be written to a .pt file")


def dump(tree: Any) -> tuple[bytes, list[LazyTensor]]:
    """Pickle a tree of mappings, lists, tuples, numbers, strings and `LazyTensor`s.

    Returns the pickle and the tensors in the order of their storage keys "0", "1", ...
    """
    tensors: list[LazyTensor] = []

    def key_of(tensor: LazyTensor) -> str:
        tensors.append(tensor)
        return str(len(tensors) - 1)

    body = b"".join(_emit(tree, key_of))
    return pickle.PROTO + b"\x02" + body + pickle.STOP, tensors


class _Unpickler(pickle.Unpickler):
    """Knows the few globals of a state dict. Its callables are bound methods, which a pickle cannot alter."""

    def __init__(self, data: bytes, make_tensor: Callable[..., LazyTensor], where: str):
        super().__init__(io.BytesIO(data))
        self._make_tensor, self._where = make_tensor, where

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): self.rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): self.rebuild_parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        known |= {("torch", storage): StorageType(dtype) for dtype, storage in STORAGES.items()}
        if (module, name) not in known:
            raise UserError(
                f"{self._where}: refused, because loading it would call {module}.{name}; only plain state "
                "dicts of tensors, numbers and strings are read. Save the state dict alone"
            )
        return known[module, name]

    def persistent_load(self, identity: Any) -> Storage:
        kind, storage_type, key, _location, numel = identity
        if kind != "storage" or not isinstance(storage_type, StorageType) or not isinstance(key, str):
            raise ValueError("unknown persistent id")
        return Storage(storage_type.dtype, key, int(numel))

    def rebuild_tensor(
        self, storage: Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *others: Any
    ) -> LazyTensor:
        """`torch._utils._rebuild_tensor_v2` without torch; `others`: requires_grad, hooks, metadata."""
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        if any(others[2:]):
            raise ValueError(f"a tensor that stands for other numbers than its storage holds ({others[2]})")
        return self._make_tensor(storage, offset, tuple(shape), tuple(stride))

    def rebuild_parameter(self, tensor: LazyTensor, *_unused: Any) -> LazyTensor:
        """`torch._utils._rebuild_parameter`: the tensor itself."""
        return tensor


def load(data: bytes, make_tensor: Callable[..., LazyTensor], where: str) -> Any:
    """Unpickle a state dict; `make_tensor(storage, offset, shape, stride)` makes its tensors (units: elements).

    Raises `UserError` naming `where`, and the global if the pickle asks for any but those that rebuild tensors.
    """
    try:
        return _Unpickler(data, make_tensor, where).load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{where}: its data.pkl is damaged ({type(error).__name__}: {error}); copy it again") from None
