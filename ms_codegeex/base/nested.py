"""Helpers for nested plain values."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any


def flattened(tree: Mapping[str, Any], whole: Collection[str] = (), prefix: str = "") -> dict[str, Any]:
    """Return the tree with dotted keys: `{"training": {"steps": 40}}` -> `{"training.steps": 40}`. An empty mapping
    counts as a value, and so do the mappings of the dotted keys in `whole`. `prefix` is put in front of every key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value and name not in whole
        flat |= flattened(value, whole, f"{name}.") if nested else {name: value}
    return flat


def finite(value: Any) -> Any:
    """Return a JSON value with None for each number that is not finite, since JSON cannot express those."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
