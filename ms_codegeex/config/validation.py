"""Build dataclasses from plain values, checked against their annotations. Every `UserError` names the key."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ms_codegeex.base.errors import UserError, suggestion


def _whole(value: Any) -> Any:
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and not value.isdecimal():  # digits alone are text only if quoted
            value = float(value) if re.fullmatch(r"[0-9.]+[eE]\+?[0-9]+", value) else int(value, 0)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def matching(pattern: str, expected: str) -> AfterValidator:
    """Return a validator that the whole text matches `pattern`; `expected` describes the form in errors."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise PydanticCustomError("form", "expected {expected}", {"expected": expected})
        return text

    return AfterValidator(check)


Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Positive = Annotated[Whole, Field(gt=0)]
Natural = Annotated[Whole, Field(ge=0)]
Text = Annotated[str, BeforeValidator(_text)]


def _no_truth_value(value: Any) -> Any:
    """Reject bools, which pydantic would take for 0 or 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "input should be a valid number")
    return value


Number = Annotated[float, BeforeValidator(_no_truth_value)]
Rate = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]


def check_keys(section: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise `UserError`, with a suggestion, for a key of `section` that is not in `known`."""
    for key in given:
        if key not in known:
            name = f"{section}.{key}" if section else key
            raise UserError(f"{name}: unknown key; {suggestion(str(key), known)}")


def _paths(cls: type, prefix: str = "") -> Iterator[str]:
    for f in dataclasses.fields(cls):
        yield prefix + f.name
        if dataclasses.is_dataclass(f.default_factory):
            yield from _paths(f.default_factory, f"{prefix}{f.name}.")


def _remedy(key: str, prefix: str, known: Sequence[str], paths: Sequence[str]) -> str:
    if "." in key and key in paths:
        section, _, last = key.rpartition(".")
        return f"in a file, write {last} below {section.replace('.', ' and ')}"
    last = key.replace("-", "_").lower()
    same = [path for path in paths if path.rpartition(".")[2] == last]
    near = [path for path in same if path.rpartition(".")[0] == prefix] or same
    if 0 < len(near) < 4 and (near != same or not difflib.get_close_matches(last, known, 1, 0.8)):
        return f"did you mean {' or '.join(map(repr, near))}?"
    return suggestion(key, known)


def check_tree(
    cls: type, given: Mapping[str, Any], prefix: str = "", paths: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return `given`, the values for `cls`, without empty sections. `UserError`, with a suggestion, for an unknown key
    at any depth. `paths`: the keys of the whole tree."""
    known, paths = {f.name: f for f in dataclasses.fields(cls)}, [*_paths(cls)] if paths is None else paths
    result = {}
    for key, value in given.items():
        name = f"{prefix}.{key}" if prefix else key
        if key not in known:
            raise UserError(f"{name}: unknown key; {_remedy(str(key), prefix, [*known], paths)}")
        section = known[key].default_factory
        if not dataclasses.is_dataclass(section):
            result[key] = value
        elif value is not None:
            if not isinstance(value, Mapping):
                keys = ", ".join(f.name for f in dataclasses.fields(section))
                raise UserError(f"{name}: found {value!r}, expected a section with keys {keys}")
            result[key] = check_tree(section, value, name, paths)
    return result


@cache  # building an adapter takes a millisecond
def _adapter(cls: type) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def validated(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Build the dataclass `cls` from plain values, checked against its annotations. `UserError` for the first value
    that does not fit; the message starts with `prefix` and its key."""
    try:
        return _adapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(part for part in map(str, first["loc"]) if "[" not in part)  # skip union members
        given, kind = first["input"], first["type"]
        remedy = "; write {NAME: VALUE}" if kind == "dict_type" else ""
        if kind == "string_type" and isinstance(given, bool | float | Mapping):
            remedy = "; put it in quotes (in a shell '\"…\"')"
        elif kind in ("list_type", "tuple_type") and isinstance(given, str | int | float):
            remedy = f"; write [{given}]"
        raise UserError(f"{key}: found {given!r:.200}; {first['msg'][0].lower()}{first['msg'][1:]}{remedy}") from None
