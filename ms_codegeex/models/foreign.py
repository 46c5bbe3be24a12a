"""The names of a family's tensors and sizes in files of other programs, as data.

A family's `weights.py` is such a table; `ms_codegeex/formats` reads and writes by it and knows no family's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

ForeignName = str | tuple[str, ...]  # a flat name, or the path through nested dictionaries
_BLOCK = re.compile(r"\.(0|[1-9]\d{0,8})\.")
# parts that programs insert anywhere in a name; a prefix may be anything
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module")
_MAX_PARTS = 8  # of a prefix


@dataclass(frozen=True)
class Packing:
    """How tensors of ours make one foreign tensor. copy: unchanged. transpose: axes exchanged. stack: the rows of one
    below those of the other. group: the rows of equal tensors in `groups` groups, each with a run of rows of every
    tensor, in the order of `Entry.ours`; tensor-parallel ranks share the groups. halves: rows of heads of `head`
    channels, where rotary positions turn a channel of the first half of the `turned` ones with one of the second; ours
    turn neighbours. Renumbered in queries and keys alike, channels give the same scores."""

    kind: Literal["copy", "transpose", "stack", "group", "halves"] = "copy"
    groups: int = 0
    head: int = 0
    turned: int = 0

    def sized(self, config: Any) -> Packing:
        return replace(self, head=config.head_dim, turned=config.rotary_dim) if self.kind == "halves" else self

    def order(self) -> list[int]:
        return [*range(0, self.turned, 2), *range(1, self.turned, 2), *range(self.turned, self.head)]


# fields that every family requires in a `config.json`
SIZES = ("vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")
COPY, TRANSPOSE, STACK, HALVES = Packing(), Packing("transpose"), Packing("stack"), Packing("halves")


@dataclass(frozen=True)
class Entry:
    """One foreign tensor and the tensors of ours that make it; `{i}` in the names stands for a block's number."""

    ours: tuple[str, ...]
    foreign: ForeignName
    packing: Packing = COPY

    def numbered(self, i: int) -> Entry:
        """Return the entry of block `i`."""

        def inserted(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(name.replace("{i}", str(i)) for name in names)

        foreign = self.foreign.replace("{i}", str(i)) if isinstance(self.foreign, str) else inserted(self.foreign)
        return replace(self, ours=inserted(self.ours), foreign=foreign)

    def of_rank(self, ranks: int) -> Entry:
        return replace(self, packing=replace(self.packing, groups=self.packing.groups // ranks))


def spellings(name: ForeignName) -> Iterator[str]:
    parts = [part for part in ".".join((name,) if isinstance(name, str) else name).split(".") if part not in WRAPPERS]
    yield from (".".join(parts[first:]) for first in range(min(len(parts), _MAX_PARTS + 1)))


def plain_name(name: ForeignName) -> str:
    return ".".join((name,) if isinstance(name, str) else name).removeprefix("module.")


def added_parts(name: ForeignName, own: ForeignName) -> list[str]:
    """Return the parts of a flat name that the layout's `own` form lacks. Nested dictionaries' keys do not count."""
    parts = (name if isinstance(name, str) else name[-1]).split(".")
    kept = {*(own if isinstance(own, str) else ".".join(own)).split(".")}
    return [f"{part}." for part in parts if part not in kept]


@dataclass(frozen=True)
class ForeignLayout:
    """One foreign layout. `kind`: "huggingface", "gptj", "megatron" or "mindspore"; a family's first layout of a kind
    is the one that is written. `entries`: patterns with `{i}` for a block's number. `skipped`: regular expressions for
    names (the last part of a path) of tensors that are not parameters and are left out. `axes`: parameters that
    tensor-parallel ranks of this layout share along another axis than the family's table says. `config`: what
    `config.json` says of another architecture, whose names these are."""

    kind: Literal["huggingface", "gptj", "megatron", "mindspore"]
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...] = ()
    axes: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def skips(self, name: ForeignName) -> bool:
        return any(re.fullmatch(pattern, each) for pattern in self.skipped for each in spellings(name))

    def own_names(self, names: Iterable[ForeignName]) -> dict[ForeignName, ForeignName]:
        """Map the names in a file, which may be nested or wrapped differently, to this layout's names. Unknown ones are
        left out."""
        known = {plain_name(entry.foreign): entry.foreign for entry in self.entries}
        # a network without its head
        known |= {name.removeprefix("transformer."): own for name, own in known.items()}
        owned: dict[ForeignName, ForeignName] = {}
        for name in names:
            for plain in spellings(name):
                block = _BLOCK.search(plain)
                own = known.get(plain if block is None else f"{plain[: block.start(1)]}{{i}}{plain[block.end(1) :]}")
                if own is not None:
                    owned[name] = Entry((), own).numbered(int(block[1]) if block else 0).foreign
                    break
        return owned


def inside(entries: Iterable[Entry], *path: str) -> tuple[Entry, ...]:
    return tuple(replace(entry, foreign=(*path, entry.foreign)) for entry in entries)


def renamed(entries: Iterable[Entry], rename: Callable[[str], str]) -> tuple[Entry, ...]:
    return tuple(replace(entry, foreign=rename(entry.foreign)) for entry in entries)


def in_our_names(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(Entry((name,), name) for entry in entries for name in entry.ours)


@dataclass(frozen=True)
class SizeKeys:
    """What a family's sizes, the fields of its configuration, are called in its `config.json`, and what else that file
    must state. `required`: positive whole numbers that must be given; others have their defaults. `keys`: the key in
    `config.json` of each field whose name differs there. `only`: keys with the one value that our network computes,
    written, and checked on reading. `written`: config -> what the other software needs in addition. `read`: fills in
    missing keys. `counted`: how many more of a field that file counts; `read` takes them off again. `synonyms`: other
    values of keys in `only` that mean the same."""

    model_type: str
    required: tuple[str, ...]
    keys: Mapping[str, str]
    only: Mapping[str, Any]
    written: Callable[[Any], Mapping[str, Any]]
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda config_json: config_json
    counted: Mapping[str, int] = field(default_factory=dict)
    synonyms: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class ForeignFormats:
    """A family in files of other programs. `visible`: field -> the parameter and the axis whose length it is, besides
    those of every family. `ranks`: config -> a number that the number of tensor-parallel ranks must divide, and what it
    is. `limits`: config -> sentences that state why the original software cannot run a model of these sizes. `classes`:
    files in `formats/exported/` with classes for transformers that run a model of any sizes; a model directory gets
    them."""

    sizes: SizeKeys
    layouts: tuple[ForeignLayout, ...]
    ranks: Callable[[Any], tuple[int, str]]
    limits: Callable[[Any], Sequence[str]]
    visible: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
