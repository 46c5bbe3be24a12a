"""What the converters know about a family: its sizes, its parameters and every layout of its tensors, as data."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.formats.layout import Entry, Foreign, Shape, expand, shown
from ms_codegeex.formats.sizes import Sizes

_TELLING = ("hidden_size", "num_layers", "intermediate_size")  # a preset is meant where all of these are its own


@dataclass(frozen=True)
class Layout:
    """One foreign layout.

    `kind`: "huggingface", "megatron" or "mindspore"; a family's first layout of a kind is the one that is written.
    `entries`: patterns with `{i}` for a layer's number. `skipped`: regular expressions of names (the last part of a
    path) that are there beside the parameters and left out. `whole`: ours that tensor-parallel ranks do not cut here.
    """

    kind: str
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()

    def skips(self, name: Foreign) -> bool:
        """Whether a tensor of this name is no parameter and known not to be one."""
        last = name if isinstance(name, str) else name[-1]
        return any(re.fullmatch(pattern, last) for pattern in self.skipped)


def inside(entries: Iterable[Entry], *path: str) -> tuple[Entry, ...]:
    """The entries of flat names, nested in dictionaries of the names `path`."""
    return tuple(replace(entry, foreign=(*path, entry.foreign)) for entry in entries)


def renamed(entries: Iterable[Entry], rename: Callable[[str], str]) -> tuple[Entry, ...]:
    """The entries under other names."""
    return tuple(replace(entry, foreign=rename(entry.foreign)) for entry in entries)


@dataclass(frozen=True)
class FamilyFormats:
    """A family as the converters see it.

    `shapes`: config -> our parameters and their shapes. `visible`: field -> the tensor of ours and the axis whose
    length it is; a `{i}` stands for block 0. `presets`: the family's, for sizes that leave no trace in the shapes.
    `axes`: our patterns -> the axis that tensor-parallel ranks share; others are held whole by every rank.
    `ranks`: config -> a number that the ranks must divide and what it is. `limits`: config -> sentences that say what
    the original software cannot run of a model of these sizes.
    """

    sizes: Sizes
    shapes: Callable[[Any], dict[str, Shape]]
    presets: Mapping[str, Mapping[str, Any]]
    layouts: tuple[Layout, ...]
    visible: Mapping[str, tuple[str, int]]
    axes: Mapping[str, int]
    ranks: Callable[[Any], tuple[int, str]]
    limits: Callable[[Any], Sequence[str]]

    def layout(self, kind: str) -> Layout:
        """The layout of that kind which we write."""
        return next(layout for layout in self.layouts if layout.kind == kind)

    def recognise(self, names: Collection[Foreign], kind: str | None = None) -> tuple[float, Layout | None]:
        """The layout (of `kind`, or any) that names most of these tensors, and the share of its patterns found."""
        best: tuple[float, Layout | None] = (0.0, None)
        for layout in self.layouts:
            if kind in (None, layout.kind):
                found = sum(entry.numbered(0).foreign in names for entry in layout.entries) / len(layout.entries)
                if found > best[0]:
                    best = found, layout
        return best

    def axis(self, layout: Layout, name: str) -> int | None:
        """The axis along which tensor-parallel ranks share our tensor `name` in this layout."""
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name)
        return None if pattern in layout.whole else self.axes.get(pattern)

    def entries(self, layout: Layout, config: Any, ranks: int = 1) -> tuple[Entry, ...]:
        """Every tensor of the layout for a model of `config`'s sizes, or for one of `ranks` slices of it, in order."""
        return tuple(entry.of_rank(ranks) for entry in expand(layout.entries, config.num_layers))

    def check_ranks(self, config: Any, ranks: int, where: str, remedy: str) -> None:
        """`UserError` unless the heads can be dealt out to `ranks` tensor-parallel ranks."""
        number, what = self.ranks(config)
        if ranks < 1 or number % ranks:
            raise UserError(f"{where}: {ranks} does not divide {number}, the {what}; {remedy}")

    def rank_shapes(self, layout: Layout, config: Any, ranks: int) -> dict[str, Shape]:
        """Our parameters' shapes in one of `ranks` tensor-parallel slices."""
        shapes = self.shapes(config)
        for name, shape in shapes.items() if ranks > 1 else ():
            if (axis := self.axis(layout, name)) is not None:
                if shape[axis] % ranks:
                    raise UserError(f"{name}: shape {list(shape)} cannot be cut into {ranks} slices along axis {axis}")
                shapes[name] = tuple(n // ranks if k == axis else n for k, n in enumerate(shape))
        return shapes

    def guessed(self, known: Collection[str]) -> tuple[str, ...]:
        """The sizes that `infer` takes from a preset: they leave no trace in the shapes, and nobody has said them."""
        return tuple(
            field
            for field in self.sizes.fields
            if field not in known and field not in self.visible and field != "num_layers"
        )

    def infer(
        self, layout: Layout, shapes: Mapping[Foreign, Shape], known: Mapping[str, Any], ranks: int = 1
    ) -> dict[str, Any]:
        """The model's sizes from the shapes of its tensors (of one rank), completed and overridden by `known`.

        What leaves no trace in the shapes (the number of heads) comes from `known` or from the preset of these sizes.
        Raises `UserError` naming a missing tensor, or the size when nothing tells it.
        """
        by_name = {entry.ours: entry for entry in (entry.numbered(0) for entry in layout.entries)}
        fields: dict[str, Any] = {}
        for field, (name, axis) in self.visible.items():
            entry = by_name[(name.replace("{i}", "0"),)]
            shape = shapes.get(entry.foreign, ())
            if len(shape) != 2:
                raise UserError(f"tensor {shown(entry.foreign)}: missing or not a matrix; is the file complete?")
            cut = ranks if axis == self.axis(layout, name) else 1
            fields[field] = entry.transform.shape([shape])[axis] * cut
        repeated = [entry for entry in layout.entries if "{i}" in entry.ours[0]]
        fields["num_layers"] = next(
            i for i in range(len(shapes) + 1) if not any(entry.numbered(i).foreign in shapes for entry in repeated)
        )
        default = vars(self.sizes.build(None, {}))
        for preset in ({**default, **preset} for preset in self.presets.values()):
            if all(preset[key] == fields[key] for key in _TELLING):
                fields |= {key: preset[key] for key in self.sizes.fields if key not in fields}
        fields |= {key: value for key, value in known.items() if key in self.sizes.fields}
        missing = [key for key in self.sizes.required if key not in fields]
        if missing:
            raise UserError(
                f"{missing[0]}: the file does not tell this size, and no preset has "
                f"{', '.join(f'{key} {fields[key]}' for key in _TELLING)}; add --set {missing[0]}=N"
            )
        eos = fields.get("eos_token_id", self.sizes.optional["eos_token_id"])
        if "eos_token_id" not in known and type(eos) is int and eos >= fields["vocab_size"]:
            raise UserError(
                f"eos_token_id: the file does not tell it, and {eos} has no row in a table of {fields['vocab_size']}; "
                "add --set eos_token_id=N, or see whether a file of the model is missing"
            )
        return self.sizes.from_ours(fields)
