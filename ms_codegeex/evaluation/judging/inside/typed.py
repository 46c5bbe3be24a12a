"""Values as JSON that includes their types. Imports next to nothing: it is part of every start. Compatible with Python
3.7."""

from __future__ import annotations

import sys

DEPTH, NODES, CHARACTERS = 60, 200_000, 1 << 18  # the most that a reported value may have


class ValueEncoder:
    """Encodes a value as JSON that includes its types: [kind, content]. What is too large, too deep or of another
    type is ["other", type name].

    NumPy's numbers become Python's, at any depth; arrays and series are "array" with the content of a list.
    """

    def __init__(self):
        self.nodes, self.characters = NODES, CHARACTERS

    def __call__(self, value: object) -> list:
        """The encoded value."""
        try:
            return self.encode(value, DEPTH)
        except Exception:
            return ["other", type(value).__name__]

    def encode(self, value: object, depth: int) -> list:
        """The encoded value, at most `depth` levels deep; ValueError if it is too large."""
        self.nodes -= 1
        if depth == 0 or self.nodes < 0:
            raise ValueError("too large")
        value = plain(value)
        if value is None:
            return ["none", None]
        if isinstance(value, bool):
            return ["bool", value]
        if isinstance(value, int):
            return ["int", self.text(hex(int(value)))]
        if isinstance(value, float):
            return ["float", float.hex(float(value))]
        if isinstance(value, str):
            return ["str", self.text(str.__str__(value))]
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                name = "set" if kind is frozenset else kind.__name__
                return [name, [self.encode(item, depth - 1) for item in kind.__iter__(value)]]
        if isinstance(value, dict):
            pairs = dict.items(value)
            return ["dict", [[self.encode(key, depth - 1), self.encode(item, depth - 1)] for key, item in pairs]]
        array = as_array(value)
        if array is not None:
            kind, content = self.encode(array.tolist(), depth - 1)
            return ["array" if kind == "list" else kind, content]
        return ["type", value.__name__] if isinstance(value, type) else ["other", type(value).__name__]

    def text(self, text: str) -> str:
        """The text; ValueError if all texts of the value together are too long."""
        self.characters -= len(text)
        if self.characters < 0:
            raise ValueError("too large")
        return text


def decoded(encoded: list) -> object:
    """The value that `ValueEncoder` has encoded, of Python's own types only. ValueError or TypeError for anything else:
    nobody has checked what `encoded` is."""
    kind, content = encoded
    if kind == "none" and content is None:
        return None
    if (kind == "bool" and type(content) is bool) or (kind == "str" and type(content) is str):
        return content
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    if kind in ("list", "tuple", "set"):
        return {"list": list, "tuple": tuple, "set": set}[kind]([decoded(item) for item in content])
    if kind == "dict":
        return {decoded(key): decoded(item) for key, item in content}
    raise ValueError(f"{kind} is no plain data")


def of_library(value: object, library: str, *names: str) -> bool:
    """Whether a value is an instance of one of a library's types. If the program has not imported the library, it
    is not."""
    module = sys.modules.get(library)
    kinds = tuple(kind for kind in (getattr(module, name, None) for name in names) if isinstance(kind, type))
    return isinstance(value, kinds)


def plain(value: object) -> object:
    """NumPy's scalars as Python's."""
    return value.item() if of_library(value, "numpy", "integer", "floating", "bool_") else value


def as_array(value: object) -> object:
    """A NumPy array, or a Pandas series as one; None for any other value."""
    if of_library(value, "pandas", "Series"):
        return value.to_numpy()
    return value if of_library(value, "numpy", "ndarray") else None
