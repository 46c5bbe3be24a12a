"""Dataclasses from plain values, checked against their annotations. Every error is a `UserError` that names the key."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ms_codegeex.base.errors import UserError, suggestion

Positive = Annotated[int, Field(gt=0, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]


def _no_truth_value(value: Any) -> Any:
    """pydantic would take it for 0 or 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a valid number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth_value)]
Rate = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]


def check_keys(section: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise a `UserError` with a suggestion for a key of `section` that is not in `known`."""
    for key in given:
        if key not in known:
            name = f"{section}.{key}" if section else key
            raise UserError(f"{name}: unknown key; {suggestion(str(key), known)}")


def check_tree(cls: type, given: Mapping[str, Any], prefix: str = "") -> None:
    """Raise a `UserError` with a suggestion for an unknown key at any depth of `given`, the values for `cls`."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    check_keys(prefix, given, list(known))
    for key, value in given.items():
        section = known[key].default_factory
        if dataclasses.is_dataclass(section):
            name = f"{prefix}.{key}" if prefix else key
            if not isinstance(value, Mapping):
                keys = ", ".join(f.name for f in dataclasses.fields(section))
                raise UserError(f"{name}: found {value!r}, expected a section with keys {keys}")
            check_tree(section, value, name)


@cache  # building one takes a millisecond
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def validated(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build the dataclass `cls` from plain values, checked against its annotations. `UserError` for the first value
    that does not fit; the message starts with `prefix` and its key."""
    try:
        return _adapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        raise UserError(f"{key}: found {first['input']!r:.200}; {first['msg'][0].lower()}{first['msg'][1:]}") from None
