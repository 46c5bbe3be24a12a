"""Derive command-line options from the fields of a frozen dataclass, so that each is declared once.

    @dataclass(frozen=True)
    class Sampling:
        top_k: int = option("only the K likeliest tokens", "K", 0, ge=0, off=0)

`add_options(parser, Sampling)` adds `--top-k K`, and `given(Sampling, arguments)` builds the instance from the parsed
arguments. tyro and jsonargparse do this for whole programs, but they cannot keep this package's help, errors and
exclusive groups, and importing either takes longer than `--help` may.
"""

from __future__ import annotations

import argparse
import math
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ms_codegeex.base.errors import UserError

Settings = TypeVar("Settings")
OPTION = "option"  # key of the `Option` in a field's metadata
REQUIRED = MISSING  # the default of an option that must be given


@dataclass(frozen=True)
class Option:
    """The command-line option of a field.

    Args:
        help: what it is for, without its default.
        metavar: the value's name, or one word for each of several values; None for a switch, or if there are choices.
        ge, gt, le, lt: the range of a number.
        off: the value that turns the option off.
        in_requests: the field's default in requests, as in OpenAI's API; None: requests have no such field.
        either: options with the same word here exclude each other.
        repeated: a tuple's values are given one at a time; otherwise any number of values follows the option.
        extended: repeating the option adds its values to the earlier ones.
        positional: given without the option's name.
        negatable: a switch that `--no-...` turns off.
        flag: the option's name, if it differs from the field's.
        words: other spellings.
        convert: turns a word into the value, before it is compared with the choices.
    """

    help: str
    metavar: str | None = None
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    off: float | None = None
    in_requests: float | None = None
    either: str = ""
    repeated: bool = False
    extended: bool = False
    positional: bool = False
    negatable: bool = False
    flag: str = ""
    words: tuple[str, ...] = ()
    convert: Callable[[str], Any] | None = None

    def field(self, default: Any, kw_only: Any = MISSING) -> Any:
        return field(default=default, metadata={OPTION: self}, kw_only=kw_only)

    def check(self, name: str, value: Any) -> None:
        """Raise `UserError`, naming `name`, if a number is out of range."""
        low = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        high = (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)
        if not (low and high):
            raise UserError(f"{name}: {value} is out of range; give {self.expected()}")

    def expected(self) -> str:
        """Return the range in words."""
        low, high = self.gt if self.ge is None else self.ge, self.lt if self.le is None else self.le
        above, to = ("above ", " and at most ") if self.ge is None else ("", " to ")
        words = f"{above}{_number(low)}"
        if high is not None and math.isfinite(high):
            words += f"{to}{_number(high)}" if self.lt is None else f"{to}less than {_number(high)}"
        elif self.ge is not None:
            words += " or more"
        return words if self.off is None else f"{words} ({_number(self.off)}: off)"

    def default_in_words(self, default: Any) -> str:
        """Return the end of the help text: default and off value. "" without a default, or for a switch."""
        if default in (None, (), MISSING) or default is False or "(default: " in self.help:
            return ""
        off = "" if self.off is None else ", off" if default == self.off else f"; {_number(self.off)}: off"
        return f" (default: {_number(default)}{off})"


def _number(value: Any) -> str:
    if isinstance(value, int) and value >= 1 << 20 and value & (value - 1) == 0:
        return f"2^{value.bit_length() - 1}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def option(help: str, metavar: str | None = None, default: Any = None, **more: Any) -> Any:
    return Option(help, metavar, **more).field(default)


@dataclass(frozen=True)
class DeclaredOption:
    """An option of a dataclass: the name, type (without `None`) and default of its field."""

    name: str
    option: Option
    type: Any
    default: Any
    optional: bool  # the field's type includes None

    @property
    def flag(self) -> str:
        return "--" + (self.option.flag or self.name).replace("_", "-")


def declared(kind: type, names: Iterable[str] | None = None) -> list[DeclaredOption]:
    """Return the options of a dataclass, or only those in `names`: required ones first, otherwise in field order.
    Fields without an `Option` are omitted."""
    hints, options = typing.get_type_hints(kind), []
    chosen = None if names is None else set(names)
    for each in fields(kind):  # type: ignore[arg-type]
        if OPTION not in each.metadata or (chosen is not None and each.name not in chosen):
            continue
        hint = hints[each.name]
        kinds = typing.get_args(hint)
        optional = types.NoneType in kinds
        if optional:
            hint = typing.Union[tuple(kind for kind in kinds if kind is not types.NoneType)]  # noqa: UP007
        options.append(DeclaredOption(each.name, each.metadata[OPTION], hint, each.default, optional))
    return sorted(options, key=lambda each: each.default is not MISSING)


def add_options(
    parser: argparse._ActionsContainer, kind: type, names: Iterable[str] | None = None, over: bool = False
) -> None:
    """Add the options of a dataclass, or only those in `names`. `over`: the options override values from elsewhere and
    have no defaults of their own."""
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    for each in declared(kind, names):
        option = each.option
        if option.either not in groups:
            groups[option.either] = parser.add_mutually_exclusive_group()
        into = groups[option.either]
        default = None if over or each.default in (MISSING, ()) else each.default  # `append` cannot extend a tuple
        text = option.help + ("" if over else option.default_in_words(each.default))
        words = _kind(each)
        if option.positional:
            into.add_argument(each.name, help=text, default=default, **words)
            continue
        if each.default is MISSING and not over:
            words["required"] = True
        into.add_argument(each.flag, *option.words, dest=each.name, help=text, default=default, **words)


@dataclass(frozen=True)
class OptionGroup:
    """Options of a dataclass in a verb's help; `names` and `over` as in `add_options`. Groups with the same `title` are
    shown together, below that title and `text`."""

    kind: type
    names: Iterable[str] | None = None
    over: bool = False
    title: str = ""
    text: str | None = None


def _kind(each: DeclaredOption) -> dict[str, Any]:
    if each.type is bool:
        negatable = each.optional or each.option.negatable
        return {"action": argparse.BooleanOptionalAction if negatable else "store_true"}
    words: dict[str, Any] = {"metavar": each.option.metavar} if each.option.metavar else {}
    item = each.type
    if typing.get_origin(item) is tuple:
        item, *others = typing.get_args(item)
        if others != [...]:
            words = {"metavar": tuple(each.option.metavar.split()), "nargs": 1 + len(others)}
        elif each.option.positional:
            words["nargs"] = "+" if each.default is MISSING else "*"
        elif each.option.repeated:
            words["action"] = "append"
        else:
            words |= {"action": "extend" if each.option.extended else "store", "nargs": "+"}
    elif each.option.positional and each.default is not MISSING:
        words["nargs"] = "?"
    if typing.get_origin(item) is typing.Literal:
        words["choices"] = typing.get_args(item)
        item = type(words["choices"][0])
    assert each.option.convert or item in (int, float, str, Path), f"{each.name}: no option has the type {each.type}"
    return {**words, "type": each.option.convert or item}


def given(kind: type[Settings], arguments: argparse.Namespace, **others: Any) -> Settings:
    """Build the dataclass from parsed arguments and `others`; a field without a value keeps its default. Raises
    `UserError` as `given_values` does."""
    return kind(**{**given_values(kind, arguments), **others})


def given_values(kind: type, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the given options' values by field name. `UserError`, naming the option, for a number out of range."""
    values = {}
    for each in declared(kind):
        if (value := getattr(arguments, each.name, None)) is not None:
            each.option.check(each.flag, value)
            values[each.name] = tuple(value) if isinstance(value, list) else value
    return values


def refuse(
    arguments: argparse.Namespace, kind: type, reason: str, names: Iterable[str] | None = None, over: bool = False
) -> None:
    """Raise `UserError` for the first given option of a dataclass. An option whose value equals the default counts as
    given only with `over`, as in `add_options`."""
    for each in declared(kind, names):
        value = getattr(arguments, each.name, None)
        if value is not None and value is not False and (over or value != each.default):
            raise UserError(f"{each.flag}: {reason}; leave it out")


def check_ranges(settings: Any, flags: bool = False) -> None:
    """Raise `UserError` for a dataclass's first number out of range, naming the field, or with `flags` the option."""
    for each in _with_ranges(type(settings)):
        if (value := getattr(settings, each.name)) is not None:
            each.option.check(each.flag if flags else each.name, value)


@cache
def _with_ranges(kind: type) -> tuple[DeclaredOption, ...]:
    return tuple(each for each in declared(kind) if each.type in (int, float))
