"""Read and write DS-1000's results as plain data: values of Python and the benchmark's libraries, and no code.

A pickle may name any class or function, and unpickling calls them. Here only data types are allowed, so loading runs no
code of the program, and a loaded value cannot fake equality. Tensors, whose own pickles contain code, travel as arrays.
"""

from __future__ import annotations

import importlib
import pickle
import sys

BUILTINS = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set",
    "slice", "str", "tuple",
)  # fmt: skip
EXACT = {
    ("_codecs", "encode"),
    ("copyreg", "_reconstructor"),
    *(("builtins", name) for name in BUILTINS),
    *(("collections", name) for name in ("Counter", "OrderedDict", "defaultdict", "deque")),
    *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
    ("decimal", "Decimal"),
    ("fractions", "Fraction"),
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
# Beginnings of the names of their functions that reconstruct such values.
MAKERS = ("_reconstruct", "_frombuffer", "scalar", "_mareconstruct", "_new_", "_p")
ACTIVE = ("memmap", "DataSource", "vectorize", "HDFStore")  # these open files or call functions


def allowed(module: str, name: str, found: object) -> bool:
    """Whether a pickle may name this."""
    library = module.partition(".")[0]
    places = MODULES.get(library, ())
    if isinstance(found, type):
        return name not in ACTIVE and any(module == place or module.startswith(place + ".") for place in places)
    return bool(places) and callable(found) and (name.startswith(MAKERS) or "unpickle" in name)


class Unpickler(pickle.Unpickler):
    """Loads plain data; anything else is an UnpicklingError."""

    def find_class(self, module: str, name: str) -> object:
        """A class or function that a pickle names, if it is allowed."""
        if (module, name) in EXACT:
            return super().find_class(module, name)
        if "." not in name and module.partition(".")[0] in MODULES:
            found = super().find_class(module, name)
            if allowed(module, name, found):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no plain data")

    def persistent_load(self, pid: tuple) -> object:
        """A tensor that travels as an array."""
        kind, array = pid
        if kind == "torch":
            return importlib.import_module("torch").from_numpy(array)
        if kind == "tensorflow":
            return importlib.import_module("tensorflow").constant(array)
        raise pickle.UnpicklingError(f"{kind!r} is no kind of tensor")


class Pickler(pickle.Pickler):
    """Writes what `Unpickler` reads."""

    def persistent_id(self, value: object) -> tuple | None:
        """For a tensor its library and its array, for anything else None."""
        torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
        if torch is not None and isinstance(value, torch.Tensor):
            return "torch", value.detach().cpu().numpy()
        if tensorflow is not None and isinstance(value, (tensorflow.Tensor, tensorflow.Variable)):
            return "tensorflow", value.numpy()
        return None
