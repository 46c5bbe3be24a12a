"""Read and write results as plain data: values of Python and of the libraries that results come from, and no code.

A pickle may name any class or function, call whatever it has built, and set attributes of it. Here it may name only
data types, call only what it has named, and change only instances. So loading runs no code of the program, and a
loaded value cannot fake equality. Tensors, whose own pickles contain code, travel as arrays.
"""

from __future__ import annotations

import importlib
import io
import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import ClassVar

# Module -> what may be named of it.
EXACT = {
    "_codecs": "encode",
    "copyreg": "_reconstructor",
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
    "collections": "Counter OrderedDict defaultdict deque",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
}
# Library -> modules whose classes contain data.
MODULES = {
    "numpy": ("numpy", "numpy.dtypes", "numpy.ma"),
    "pandas": ("pandas.core", "pandas._libs"),
    "scipy": ("scipy.sparse",),
    "sklearn": ("sklearn",),
    "pytz": ("pytz",),
    "dateutil": ("dateutil.tz", "dateutil.relativedelta"),
}
# Their functions that reconstruct such values: names, and parts of names.
MAKERS = ("_reconstruct", "_frombuffer", "scalar", "_mareconstruct", "_p")
MAKERS_LIKE = ("_new_", "unpickle")
MAX_ITERATOR_ITEMS = 1_000_000
ACTIVE = ("memmap", "DataSource", "vectorize", "HDFStore")  # these open files or call functions


def allowed(module: str, name: str, value: object) -> bool:
    """Whether a pickle may name this: a class or function that the library itself has defined there."""
    library = module.partition(".")[0]
    packages = MODULES.get(library, ())
    if (getattr(value, "__module__", None) or "").partition(".")[0] != library:
        return False
    if isinstance(value, type):
        return name not in ACTIVE and any(module == package or module.startswith(package + ".") for package in packages)
    return callable(value) and (name in MAKERS or any(part in name for part in MAKERS_LIKE))


class IteratorItems(list):
    """The items of an iterator, which equals nothing."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True


class Unpickler(pickle._Unpickler):
    """Loads plain data; anything else is an UnpicklingError. Python's own implementation, because in C the calls and
    changes that a pickle asks for cannot be checked."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.named = []  # classes and functions

    def find_class(self, module: str, name: str) -> object:
        """A class or function that a pickle names, if it is allowed."""
        exact = name in EXACT.get(module, "").split()
        if exact or ("." not in name and module.partition(".")[0] in MODULES):
            value = super().find_class(module, name)
            if exact or allowed(module, name, value):
                self.named.append(value)
                return value
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")

    def load_call(self, load: Callable, index: int) -> None:
        """An operation that calls what lies at this index of the stack, if a pickle may name it."""
        function = self.stack[index]
        if not any(function is known for known in self.named):
            raise pickle.UnpicklingError(f"{function!r} is not plain data and cannot be called")
        load(self)

    def load_build(self) -> None:
        """Set the state of an instance; a class would be another one from then on."""
        instance = self.stack[-2]
        if isinstance(instance, type) or any(instance is known for known in self.named):
            raise pickle.UnpicklingError(f"{instance!r} is not an instance and cannot be changed")
        pickle._Unpickler.load_build(self)

    def load_obj(self) -> None:
        """An operation of protocol 1 that `Pickler` never writes."""
        raise pickle.UnpicklingError("an object of protocol 1 is not plain data")

    dispatch: ClassVar[dict] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: lambda self: self.load_call(pickle._Unpickler.load_reduce, -2),
        pickle.NEWOBJ[0]: lambda self: self.load_call(pickle._Unpickler.load_newobj, -2),
        pickle.NEWOBJ_EX[0]: lambda self: self.load_call(pickle._Unpickler.load_newobj_ex, -3),
        pickle.BUILD[0]: load_build,
        pickle.OBJ[0]: load_obj,
        pickle.INST[0]: load_obj,
    }

    def persistent_load(self, pid: tuple) -> object:
        """A tensor that travels as an array, or an iterator's items."""
        kind, array = pid
        if kind == "iterator":
            return IteratorItems(array)
        makers = {"torch": "from_numpy", "tensorflow": "constant"}
        if kind not in makers:
            raise pickle.UnpicklingError(f"{kind!r} is not a kind of tensor")
        return getattr(importlib.import_module(kind), makers[kind])(array)


class Pickler(pickle.Pickler):
    """Writes what `Unpickler` reads."""

    def persistent_id(self, value: object) -> tuple | None:
        """For a tensor its library and its array, for an iterator its items, for anything else None."""
        if isinstance(value, Iterator):
            return "iterator", list(itertools.islice(value, MAX_ITERATOR_ITEMS))
        torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
        if torch is not None and isinstance(value, torch.Tensor):
            return "torch", value.detach().cpu().numpy()
        if tensorflow is not None and isinstance(value, (tensorflow.Tensor, tensorflow.Variable)):
            return "tensorflow", value.numpy()
        return None
