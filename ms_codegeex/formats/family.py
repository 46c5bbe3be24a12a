"""A family as the converters need it: its sizes, its parameters and every foreign layout of its tensors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.layout import WHOLE, Shape, expand, packed_shape, shown
from ms_codegeex.models.foreign import Entry, ForeignFormats, ForeignLayout, ForeignName, plain_name, spellings
from ms_codegeex.models.registry import FAMILIES, Family, family

MISSPELT = 0.85  # similarity from which an unknown key counts as a misspelling of an absent one
_VISIBLE = {  # sizes of every family: the parameter, `{i}` for any block, and the axis whose length it is
    "vocab_size": ("embedding.word.weight", 0),
    "hidden_size": ("embedding.word.weight", 1),
    "intermediate_size": ("blocks.{i}.feed_forward.down.weight", 1),
}
_HEAD = ("head.weight",)  # which a tied model lacks
_SQUARE = "blocks.{i}.attention.output.weight"  # in every family; ranks share its columns
# a model that agrees with a preset in these has its other sizes, too
_TELLING = ("hidden_size", "num_layers", "intermediate_size")
# What a family rotates by, unless its base is a size, whether `config.json` says so at the top, as `rope_scaling` or,
# since transformers 5, as `rope_parameters`. Where it is a size, transformers takes this base for a missing one, too.
_ROPE = {"rope_theta": 10_000, "rope_type": "default", "type": "default"}
QUANTISED_KEYS = ("quantization_config", "quantization", "compression_config")
# other keys of a size, in classes and versions of transformers, that count where the family's own is missing or null
RENAMED = {
    "hidden_size": ("hidden_size",),
    "num_layers": ("num_hidden_layers", "num_layers"),
    "num_heads": ("num_attention_heads",),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_position_embeddings", "n_ctx"),
    "layer_norm_eps": ("layer_norm_eps",),
}


def model_types() -> dict[str, tuple[Family, ForeignLayout]]:
    """Return family and layout of a model directory, by the `model_type` in its `config.json`."""
    types: dict[str, tuple[Family, ForeignLayout]] = {}
    for its in map(family, FAMILIES):
        for layout in FamilyFormats(its).data.layouts:
            if layout.kind == "huggingface" or "model_type" in layout.config:
                stated = layout.config.get("model_type", its.weights.FORMATS.sizes.model_type)
                types.setdefault(stated, (its, layout))
    return types


class UnknownSize(UserError):
    """A size of the model that is in neither the file nor a preset."""


@dataclass(frozen=True)
class FamilyFormats:
    """A family as the converters see it: its table of parameters, its tables of foreign names, and its sizes, which are
    all fields of its configuration."""

    family: Family

    @property
    def data(self) -> ForeignFormats:
        return self.family.weights.FORMATS

    @property
    def defaults(self) -> dict[str, Any]:
        return {field.name: field.default for field in fields(self.family.config.build_config(None, {}))}

    def _checked(self, values: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name in self.data.sizes.required:
            value = values.get(key := keys.get(name, name))
            if type(value) is not int or value < 1:
                stated = {telling: values.get(keys.get(telling, telling)) for telling in _TELLING}
                presets = ((its, vars(self.family.config.build_config(its, {}))) for its in self.family.config.PRESETS)
                like = ((its, sizes) for its, sizes in presets if all(stated[t] in (None, sizes[t]) for t in _TELLING))
                of = (f", such as {sizes[name]} of {preset}" for preset, sizes in like if name in sizes)
                remedy = f"write it there{next(of, '')}"
                raise UserError(f"{where}: {key} is {value!r}, expected a positive whole number; {remedy}")
            fields[name] = value
        for name, default in self.defaults.items():
            if name in fields:
                continue
            value = values.get(key := keys.get(name, name), default)
            types = (int, float) if type(default) is float else (type(default),)
            if type(value) not in types or not (isinstance(value, str) or 0 <= value < float("inf")):
                raise UserError(f"{where}: {key} is {value!r}; give a value like {default!r}")
            fields[name] = value
        try:
            self.family.config.build_config(None, fields)
        except UserError as error:  # the message names keys of a run's configuration
            text = re.sub(r"model\.(\w+)", lambda match: keys.get(match[1], match[1]), str(error))
            raise UserError(f"{where}: {text}") from None
        return fields

    def from_ours(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes, checked, from a mapping in our own names. `UserError` for one that the family does not have:
        without it, the model may be another one."""
        known = self.defaults
        for name in values:
            if name not in known:
                near = "".join(f", whose nearest is {each}" for each in difflib.get_close_matches(str(name), known, 1))
                remedy = "a newer version may have written it: use that one"
                raise UserError(f"model configuration: {name} is not among the family's sizes{near}; {remedy}")
        return self._checked(values, {}, "model configuration")

    def from_json(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes in our names from a `config.json`; `UserError` naming the key that is missing or invalid. null
        and [] count as absent; the first of several end tokens counts."""
        model_type = values.get("model_type")
        if model_type != self.data.sizes.model_type:
            raise UserError(f"config.json: model_type is {model_type!r}; set it to {self.data.sizes.model_type!r}")
        values = {key: value for key, value in values.items() if value not in (None, [])}
        for key in filter(values.get, QUANTISED_KEYS):
            raise UserError(f"config.json: {key} is {values[key]!r:.80}; give the model before it was quantised")
        for key, expected in self.data.sizes.only.items():
            if key in values and values[key] not in (expected, *self.data.sizes.synonyms.get(key, ())):
                said = f"{key} is {values[key]!r}, expected {expected!r}"
                raise UserError(f"config.json: {said}; give a model that has it")
        for place in values.keys() & {"rope_theta", "rope_scaling", "rope_parameters"}:
            stated = values[place] if isinstance(values[place], dict) else {place: values[place]}
            of_layer_kinds = [each for each in stated.values() if isinstance(each, dict)]
            for (key, expected), table in product(_ROPE.items(), (stated, *of_layer_kinds)):
                if key == self.data.sizes.keys.get("rotary_base"):
                    values = values if table.get(key) is None else {key: table[key], **values}
                elif table.get(key, expected) != expected:
                    where = key if place == key else f"{key} of {place}"
                    said = f"{where} is {table[key]!r:.80}, expected {expected!r}"
                    raise UserError(f"config.json: {said}; give a model that has it")
        for name in self.defaults:
            other = next((other for other in RENAMED.get(name, ()) if other in values), None)
            if (key := self.data.sizes.keys.get(name, name)) not in values and other is not None:
                values |= {key: values[other]}
        if isinstance(ends := values.get("eos_token_id"), list) and ends:
            values |= {"eos_token_id": ends[0]}
        read = self.data.sizes.read(values)
        absent = [key for name in self.defaults if (key := self.data.sizes.keys.get(name, name)) not in read]
        for key in values:  # most unknown keys belong to other programs
            if not key.endswith("_token_id") and (near := difflib.get_close_matches(str(key), absent, 1, MISSPELT)):
                raise UserError(f"config.json: {key} is unknown, and {near[0]} is not there; rename or remove the key")
        return self._checked({**_ROPE, **read}, self.data.sizes.keys, "config.json")

    def to_json(self, config: Any, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`config.json` of a model directory with parameters like ours, float32; keys of `base` we do not know stay."""
        data = self.data.sizes
        return {
            "model_type": data.model_type,
            **data.written(config),
            **{key: value for key, value in (base or {}).items() if key != "dtype"},  # newer name of torch_dtype
            **{data.keys.get(name, name): getattr(config, name) for name in self.defaults if name not in data.counted},
            **{data.keys[name]: getattr(config, name) + more for name, more in data.counted.items()},
            **data.only,
            "torch_dtype": "float32",
        }

    def layout(self, kind: str) -> ForeignLayout:
        """The layout of that kind which we write; `UserError` if the family has none."""
        found = next((layout for layout in self.data.layouts if layout.kind == kind), None)
        if found is None:
            raise UserError(f"--to {kind}: no model of {self.family.name} is one; choose --to hf")
        return found

    def own_config(self, layout: ForeignLayout, config_json: Mapping[str, Any]) -> Mapping[str, Any]:
        """The `config.json` of a directory in a layout of another architecture, as that of the family itself would be;
        `UserError` for a setting of that architecture which the family does not have."""
        for key in layout.config.keys() & config_json.keys() - {"model_type", "architectures", "tokenizer_class"}:
            if (value := config_json[key]) != layout.config[key]:
                said = f"{key} is {value!r}, expected {layout.config[key]!r}"
                raise UserError(f"config.json: {said}; give a model that has it")
        kept = {key: value for key, value in config_json.items() if key not in layout.config}
        return {**kept, "model_type": self.data.sizes.model_type}

    def recognise(self, names: Collection[ForeignName], kind: str | None = None) -> tuple[float, ForeignLayout | None]:
        """The layout (of `kind`, or any) that names most of these tensors, and the share of its patterns found. Of two
        that differ in nesting alone it is the one that the file has."""
        best: tuple[float, int, ForeignLayout | None] = (0.0, 0, None)
        known = {plain_name(entry.numbered(0).foreign) for layout in self.data.layouts for entry in layout.entries}
        plain = {each for name in names for each in spellings(name) if each in known}
        for layout in self.data.layouts:
            if kind in (None, layout.kind):
                first = [
                    entry.numbered(0).foreign
                    for entry in layout.entries
                    if entry.ours != _HEAD or "tied_head" not in self.defaults or plain_name(entry.foreign) in plain
                ]
                share = sum(plain_name(name) in plain for name in first) / len(first)
                exact = sum(name in names for name in first)
                if share and (share, exact) > best[:2]:
                    best = share, exact, layout
        return best[0], best[2]

    def axis(self, layout: ForeignLayout, name: str) -> int | None:
        """Return the axis along which tensor-parallel ranks split our tensor `name` in this layout."""
        if name in layout.axes:
            return layout.axes[name]
        layer, _, part = name.rpartition(".")
        role = self.family.table.layer(layer).role
        return role.weight_axis if part == "weight" else role.bias_axis

    def entries(self, layout: ForeignLayout, config: Any, ranks: int = 1) -> tuple[Entry, ...]:
        return tuple(entry.of_rank(ranks) for entry in expand(layout.entries, config))

    def rank_shapes(
        self, layout: ForeignLayout, config: Any, ranks: int, where: str = "ranks", remedy: str = "choose a divisor"
    ) -> dict[str, Shape]:
        """Our parameters' shapes in one of `ranks` tensor-parallel slices. `UserError`, which says `where` their number
        is, if the heads, or a tensor, do not divide evenly among them."""
        number, what = self.data.ranks(config)
        if ranks < 1 or number % ranks:
            raise UserError(f"{where}: {ranks} does not divide {number}, the {what}; {remedy}")
        shapes = config.parameter_shapes()
        for name, shape in shapes.items() if ranks > 1 else ():
            if (axis := self.axis(layout, name)) is not None:
                if shape[axis] % ranks:
                    uneven = f"does not divide by {ranks} ranks along axis {axis}"
                    raise UserError(f"{name}: shape {list(shape)} {uneven}; {remedy}")
                shapes[name] = tuple(n // ranks if k == axis else n for k, n in enumerate(shape))
        return shapes

    def guessed(self, known: Collection[str]) -> tuple[str, ...]:
        """The sizes that `infer` takes from a preset, because neither the shapes nor `known` give them."""
        given = {*known, *_VISIBLE, *self.data.visible, "num_layers", "init_std", "tied_head"}
        return tuple(field for field in self.defaults if field not in given)

    def is_whole(self, layout: ForeignLayout, shapes: Mapping[ForeignName, Shape]) -> bool:
        entries = (entry.numbered(0) for entry in layout.entries if entry.ours == (_SQUARE,))
        return any(len({*shapes.get(entry.foreign, ())}) == 1 for entry in entries)

    def infer(
        self, layout: ForeignLayout, shapes: Mapping[ForeignName, Shape], known: Mapping[str, Any], ranks: int = 1
    ) -> dict[str, Any]:
        """The model's sizes from the shapes of its tensors (of one rank), completed and overridden by `known`. Sizes
        that the shapes do not show (the number of heads) come from `known` or from the preset of these sizes. Raises
        `UserError` naming a missing tensor, `UnknownSize` naming a size that cannot be inferred."""
        by_name = {entry.ours: entry for entry in (entry.numbered(0) for entry in layout.entries)}
        fields: dict[str, Any] = {}
        for field, (name, axis) in (_VISIBLE | self.data.visible).items():
            entry = by_name[(name.replace("{i}", "0"),)]
            shape = shapes.get(entry.foreign, ())
            if len(shape) != 2:
                raise UserError(f"tensor {shown(entry.foreign)}: missing or not a matrix; {WHOLE}")
            ranks_share = ranks if axis == self.axis(layout, name) else 1
            fields[field] = packed_shape(entry.packing, [shape])[axis] * ranks_share
        if "tied_head" in self.defaults:
            fields["tied_head"] = by_name[_HEAD].foreign not in shapes
        repeated = [entry for entry in layout.entries if "{i}" in entry.ours[0]]
        there = (any(entry.numbered(i).foreign in shapes for entry in repeated) for i in range(len(shapes) + 1))
        fields["num_layers"] = next(i for i, layer in enumerate(there) if not layer)
        default = vars(self.family.config.build_config(None, {}))
        for preset in ({**default, **preset} for preset in self.family.config.PRESETS.values()):
            if all(preset[key] == fields[key] for key in _TELLING):
                fields |= {key: preset[key] for key in self.defaults if key not in fields}
        fields |= {key: value for key, value in known.items() if key in self.defaults}
        sizes = ", ".join(f"{key} {fields[key]}" for key in _TELLING)
        missing = {key: f"no preset has {sizes}" for key in self.data.sizes.required if key not in fields}
        eos = fields.get("eos_token_id", self.defaults["eos_token_id"])
        if "eos_token_id" not in known and type(eos) is int and eos >= fields["vocab_size"]:
            missing["eos_token_id"] = f"{eos} has no row in a table of {fields['vocab_size']}"
        for key, reason in missing.items():
            settings = " ".join(f"--set {name}=N" for name in missing)
            raise UnknownSize(f"{key}: the file does not record it, and {reason}; add {settings}")
        return self.from_ours(fields)


def check_layers(config: Any, tensors: Collection[ForeignName], where: str) -> None:
    """`UserError` for more layers than tensors: a damaged number would make lists of names that fill the memory."""
    if config.num_layers > len(tensors):
        requested = f"the model's configuration asks for {config.num_layers} layers"
        raise UserError(f"{where}: {requested}, but only {len(tensors)} tensors are there; restore either")
