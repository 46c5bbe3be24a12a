"""The pickle inside PyTorch's `.pt`: a small emitter, and a reader that cannot run anything.

A tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`, its
storage a persistent id `("storage", type, key, location, number of elements)` (PyTorch, torch/serialization.py).
Python's own unpickler makes whatever objects a pickle asks for; ours has what plain data needs and no more."""

from __future__ import annotations

import contextlib
import functools
import math
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.formats.tensors import TORCH_STORAGES, LazyTensor, damaged

MAX_OPERATIONS = 4_000_000  # a pickle of 1000 tensors has 50,000
ROOM = 4_000_000  # limit on the work of all operations that take longer than a step; a model of 1000 tensors: 30,000
MAX_NUMBER_BITS = 1024  # bits
MAX_KEY_LENGTH = 4096  # characters of a text that is a dictionary's key
MAX_KEY_PARTS = 8  # parts of a dictionary's key
SMALL_KEY = 1 << 20  # numbers below it cannot collide on purpose
MAX_CALL_ARGUMENTS = 16
_COST_OF_KEY = 400  # whose hash an attacker can choose: comparisons with the others, at worst
_COST_OF_TENSOR = 20  # in values that take as much memory
MAX_SHOWN_NAME = 200  # characters of a name in a message


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


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(max(1, size) for size in shape[axis + 1 :]) for axis in range(len(shape)))


def _tensor(tensor: LazyTensor, key: str) -> Iterator[bytes]:
    storage_type = _global("torch", TORCH_STORAGES[tensor.dtype])
    yield _global("torch._utils", "_rebuild_tensor_v2") + pickle.MARK
    yield pickle.MARK + _text("storage") + storage_type + _text(key) + _text("cpu") + _integer(tensor.size)
    yield pickle.TUPLE + pickle.BINPERSID + _integer(0)
    for numbers in (tensor.shape, strides(tensor.shape)):
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
    """Pickle a tree of mappings, lists, tuples, numbers, strings and `LazyTensor`s. Returns the pickle and the tensors
    in the order of their storage keys "0", "1", ..."""
    tensors: list[LazyTensor] = []

    def key_of(tensor: LazyTensor) -> str:
        tensors.append(tensor)
        return str(len(tensors) - 1)

    body = b"".join(_emit(tree, key_of))
    return pickle.PROTO + b"\x02" + body + pickle.STOP, tensors


@dataclass(eq=False, slots=True)
class _InertObject:
    """An object of a class that is not part of a model: the class's name, and its state. Nothing of the class exists
    here, so nothing of it can run: the `args` of a training program, a random generator's state."""

    name: str
    state: Any = None


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle asks for; it is looked up in tables of ours and never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def _is_inert(reference: _Global) -> bool:
    whole = reference.module.split(".")[0] in shipped_table(_NAMES)["whole"]
    return whole or reference in _known("inert") or reference in _known("programs")


class _Machine:
    """Runs the operations of a pickle that make plain data and tensors. There is no other operation, and no object that
    a pickle could alter: containers are plain ones, and names stand for classes and functions."""

    def __init__(self, make_tensor: Callable[..., LazyTensor], where: str) -> None:
        self._make_tensor, self._where = make_tensor, where
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stack under each mark
        self.memo: dict[int, Any] = {}
        self._room = ROOM

    def run(self, data: bytes) -> Any:
        """The object that the pickle describes."""
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if count == MAX_OPERATIONS:
                raise ValueError(f"more than {MAX_OPERATIONS} operations")
            if operation.name == "STOP":
                (result,) = self.stack
                return result
            if (perform := _OPERATIONS.get(operation.name)) is None:
                raise ValueError(f"the operation {operation.name}, which no state dict needs")
            perform(self, argument)
        raise ValueError("no end")

    def _spend(self, cost: int) -> None:
        """Before an operation that takes more than a step. The memo repeats an operand of any length in two bytes."""
        self._room -= cost
        if self._room < 0:
            many = "more copies, or more large numbers as keys, than a state dict has"
            raise UserError(f"{self._where}: refused, because it holds {many}; save the state dict alone")

    def _key(self, key: Any) -> Any:
        """A dictionary's key: text or a number, or a short tuple of them. Hashing anything nested may take forever, and
        so may comparing long texts; large numbers can be chosen so that each is compared with all others."""
        parts = key if type(key) is tuple else (key,)
        if len(parts) > MAX_KEY_PARTS or any(type(part) is str and len(part) > MAX_KEY_LENGTH for part in parts):
            raise ValueError("a dictionary with a longer key than any state dict's")
        if not all(part is None or type(part) in (str, int, float, bool, _Global) for part in parts):
            raise ValueError("a dictionary whose keys are neither texts nor numbers")
        if not all(type(part) is str or (type(part) is int and abs(part) < SMALL_KEY) for part in parts):
            self._spend(_COST_OF_KEY)
        return key

    def push(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > MAX_NUMBER_BITS:
            raise ValueError(f"a number of {value.bit_length()} bits")
        self.stack.append(value)

    def take(self, count: int) -> list[Any]:
        """The objects on top, which are removed."""
        if len(self.stack) < count:
            raise ValueError("an operation on nothing")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def mark(self, _: None) -> None:
        self._below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items of something that is not a list")
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        """Put keys and values, which take turns, into the dictionary on top."""
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise ValueError("keys of something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][self._key(key)] = value

    def dictionary(self, _: None) -> None:
        items = self.marked()
        self.push({})
        self.fill(items)

    def find(self, module: Any, name: Any) -> None:
        if type(name) is not str or type(module) is not str:
            raise ValueError("a global whose name is not a text")
        reference = _Global(module, name)
        if not (reference in _calls() or reference in _STORAGE_TYPES or _is_inert(reference)):
            called = str(reference)[:MAX_SHOWN_NAME]
            why = f"loading it would call {called}; only plain state dicts of tensors, numbers and strings are read. "
            why += "Save the state dict alone"
            rows = shipped_table(_NAMES)["refused"]
            own = (said for names, said in rows if called.startswith((*names.split(),)))
            raise UserError(f"{self._where}: refused, because {next(own, why)}")
        if len(module) + len(name) > MAX_SHOWN_NAME:
            raise ValueError(f"a name of {len(module) + len(name)} characters")
        self.push(reference)

    def call(self, function: Any, arguments: Any) -> None:
        if type(function) is not _Global or type(arguments) is not tuple:
            raise ValueError("a call of something that is not a function")
        if function in _calls() and len(arguments) > MAX_CALL_ARGUMENTS:
            raise ValueError(f"a call with {len(arguments)} arguments")
        if function in _calls():
            self.push(_calls()[function](self, *arguments))
        elif _is_inert(function):
            self.push(_InertObject(str(function)))
        else:
            raise ValueError(f"a call of {function.name}")

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if type(target) is _InertObject:
            target.state = state
        elif type(target) is not dict:  # attributes of a dictionary, such as a state dict's _metadata, are not needed
            raise ValueError(f"a {type(target).__name__} cannot be altered")

    def storage(self, kind: Any, storage_type: Any, key: Any, _location: Any, numel: Any) -> Storage:
        known = type(storage_type) is _Global and _STORAGE_TYPES.get(storage_type)
        if kind != "storage" or not known or type(key) is not str or type(numel) is not int:
            raise ValueError("unknown persistent id")
        if len(key) > MAX_SHOWN_NAME:
            raise ValueError(f"a storage's key of {len(key)} characters")
        return Storage(known, key, numel)

    def rebuild_tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *others: Any) -> LazyTensor:
        """`torch._utils._rebuild_tensor_v2` without torch; `others`: requires_grad, hooks, metadata."""
        if type(storage) is not Storage:
            raise ValueError("a tensor without a storage")
        if any(others[2:]):
            raise ValueError("a tensor that stands for other numbers than its storage holds")
        if type(shape) not in (tuple, list) or type(stride) not in (tuple, list):
            raise ValueError("a tensor without a shape")
        self._spend(_COST_OF_TENSOR + len(shape) + len(stride))
        return self._make_tensor(storage, offset, tuple(shape), tuple(stride))

    def rebuild_parameter(self, tensor: Any, *_unused: Any) -> LazyTensor:
        """`torch._utils._rebuild_parameter`: the tensor itself."""
        if type(tensor) is not LazyTensor:
            raise ValueError("a parameter without a tensor")
        return tensor

    def rebuild_typed(self, function: Any, _type: Any, arguments: Any, *_state: Any) -> LazyTensor:
        """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes, which are not needed."""
        call = _calls().get(function)
        if call not in (_Machine.rebuild_tensor, _Machine.rebuild_parameter) or type(arguments) is not tuple:
            raise ValueError("a tensor that no function rebuilds")
        if len(arguments) > MAX_CALL_ARGUMENTS:
            raise ValueError(f"a call with {len(arguments)} arguments")
        return call(self, *arguments)

    def ordered(self, pairs: Any = ()) -> dict[Any, Any]:
        """`collections.OrderedDict` and similar classes: a dictionary."""
        if type(pairs) not in (list, tuple, dict):
            raise ValueError("a dictionary without pairs")
        self._spend(len(pairs))
        return {self._key(key): value for key, value in (pairs.items() if type(pairs) is dict else pairs)}

    def default(self, _factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
        return self.ordered(pairs)

    def items(self, items: Any = (), _limit: Any = None) -> list[Any]:
        """A set, a deque or a `torch.Size`: a list is enough here."""
        if type(items) not in (list, tuple):
            raise ValueError("a collection without items")
        self._spend(len(items))
        return list(items)


class _Auditor(_Machine):
    """Remembers the names that it refuses, and goes on with a stand-in."""

    def __init__(self, make_tensor: Callable[..., LazyTensor], where: str) -> None:
        super().__init__(make_tensor, where)
        self.refused: dict[str, None] = {}

    def find(self, module: Any, name: Any) -> None:
        try:
            super().find(module, name)
        except UserError:
            self.refused[f"{module}.{name}"[:MAX_SHOWN_NAME]] = None
            self.push(_Global(shipped_table(_NAMES)["whole"][0], "refused"))


def _globals(rows: Iterable[Sequence[str]]) -> Iterator[_Global]:
    return (_Global(module, name) for modules, names in rows for module in modules.split() for name in names.split())


@functools.cache
def _calls() -> dict[_Global, Callable[..., Any]]:
    methods = ((getattr(_Machine, method), rows) for method, rows in shipped_table(_NAMES)["calls"].items())
    return {reference: method for method, rows in methods for reference in _globals(rows)}


@functools.cache
def _known(kind: str) -> frozenset[_Global]:
    return frozenset(_globals(shipped_table(_NAMES)[kind]))


_NAMES = Path(__file__).with_name("pickle_names.yaml")
_STORAGE_TYPES = {_Global("torch", storage): dtype for dtype, storage in TORCH_STORAGES.items()}
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], object]] = {  # all there are, with the argument in the pickle
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), _Machine.push),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"), _Machine.push),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": _Machine.mark,
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda machine, _: machine.push([])),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda machine, _: machine.push(machine.marked())),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.marked())),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.marked())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "DICT": _Machine.dictionary,
    "SETITEM": lambda machine, _: machine.fill(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.fill(machine.marked()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, key: machine.memo.update({key: machine.stack[-1]})),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, key: machine.push(machine.memo[key])),
    "GLOBAL": lambda machine, names: machine.find(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.find(*machine.take(2)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.call(*machine.take(2))),
    "BINPERSID": lambda machine, _: machine.push(machine.storage(*machine.stack.pop())),
    "BUILD": lambda machine, _: machine.build(machine.stack.pop()),
}


def namespace(value: Any) -> dict[str, Any] | None:
    """The attributes of an `argparse.Namespace` or its like in a tree that `load` gave; None if it is anything else."""
    names = ("argparse.Namespace", "types.SimpleNamespace")
    attributes = value.state if type(value) is _InertObject and value.name in names else None
    return {key: item for key, item in attributes.items() if type(key) is str} if type(attributes) is dict else None


def load(data: bytes, make_tensor: Callable[..., LazyTensor], where: str) -> Any:
    """The tree of plain dictionaries, lists, tuples, texts, numbers and tensors that a state dict's pickle describes;
    `make_tensor(storage, offset, shape, stride)` makes its tensors (units: elements). Containers may be shared, so walk
    the tree with a limit. Raises `UserError` naming `where`, and the global if the pickle asks for any that neither
    rebuilds tensors nor is known to be saved along with them by training programs."""
    try:
        return _Machine(make_tensor, where).run(data)
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = f"{type(error).__name__}: {error}"[:MAX_SHOWN_NAME]
        raise damaged(where, f"its data.pkl is damaged ({reason})") from None


def refused_names(data: bytes, make_tensor: Callable[..., LazyTensor]) -> list[str]:
    """The globals for which `load` refuses a pickle, in its order, up to where it is damaged."""
    auditor = _Auditor(make_tensor, "")
    with contextlib.suppress(Exception):  # as in `load`, whose reason is the one to show
        auditor.run(data)
    return [*auditor.refused]
