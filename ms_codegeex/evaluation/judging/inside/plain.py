"""DS-1000's results as plain data: values of Python and of the benchmark's libraries, and no code.

A pickle may name any class or function, and unpickling it calls them. What is loaded here names data types only, so it
runs nothing of the program's and equals nothing but its like. Tensors, whose own pickles are programs, travel as
arrays.
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
# Library -> modules whose classes hold data.
MODULES = {
    "numpy": ("numpy", "numpy.dtypes", "numpy.ma"),
    "pandas": ("pandas.core", "pandas._libs"),
    "scipy": ("scipy.sparse",),
    "sklearn": ("sklearn",),
    "pytz": ("pytz",),
    "dateutil": ("dateutil.tz", "dateutil.relativedelta"),
}
# Their functions that make such a value of its parts.
MAKERS = ("_reconstruct", "_frombuffer", "scalar", "_mareconstruct", "_new_", "_p")
ACTIVE = ("memmap", "DataSource", "vectorize", "HDFStore")  # open files or call functions


def allowed(module, name, found):
    """Whether a pickle may name this."""
    library = module.partition(".")[0]
    places = MODULES.get(library, ())
    if isinstance(found, type):
        return name not in ACTIVE and any(module == place or module.startswith(place + ".") for place in places)
    return bool(places) and callable(found) and (name.startswith(MAKERS) or "unpickle" in name)


class Unpickler(pickle.Unpickler):
    """Loads plain data; anything else is an UnpicklingError."""

    def find_class(self, module, name):
        if (module, name) in EXACT:
            return super().find_class(module, name)
        if "." not in name and module.partition(".")[0] in MODULES:
            found = super().find_class(module, name)
            if allowed(module, name, found):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no plain data")

    def persistent_load(self, pid):
        kind, array = pid
        if kind == "torch":
            return importlib.import_module("torch").from_numpy(array)
        if kind == "tensorflow":
            return importlib.import_module("tensorflow").constant(array)
        raise pickle.UnpicklingError(f"{kind!r} is no kind of tensor")


class Pickler(pickle.Pickler):
    """Writes what `Unpickler` reads, if the value is that."""

    def persistent_id(self, value):
        torch, tensorflow = sys.modules.get("torch"), sys.modules.get("tensorflow")
        if torch is not None and isinstance(value, torch.Tensor):
            return "torch", value.detach().cpu().numpy()
        if tensorflow is not None and isinstance(value, (tensorflow.Tensor, tensorflow.Variable)):
            return "tensorflow", value.numpy()
        return None
