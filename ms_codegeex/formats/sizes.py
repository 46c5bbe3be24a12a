"""A model's sizes: in our own names, and as the keys of a Hugging Face `config.json`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.models.foreign import SizeKeys

MISSPELT = 0.85  # how similar an unknown key is to one that is absent, if it stands for that one


@dataclass(frozen=True)
class Sizes:
    """Reads and writes a family's sizes, which are all fields of its configuration. `build`: the family's
    `build_config`."""

    data: SizeKeys
    build: Callable[[None, dict[str, Any]], Any]

    @property
    def defaults(self) -> dict[str, Any]:
        """Every size in our names, with the value that it has where a file does not record it."""
        return {field.name: field.default for field in fields(self.build(None, {}))}

    @property
    def fields(self) -> tuple[str, ...]:
        """All of them, in our names."""
        return tuple(self.defaults)

    @property
    def optional(self) -> dict[str, Any]:
        """Those that a file need not record, with their defaults."""
        return {name: value for name, value in self.defaults.items() if name not in self.data.required}

    def _checked(self, values: Mapping[str, Any], keys: Mapping[str, str], where: str) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name in self.data.required:
            key = keys.get(name, name)
            value = values.get(key)
            if type(value) is not int or value < 1:
                raise UserError(f"{where}: {key} is {value!r}, expected a positive whole number")
            fields[name] = value
        for name, default in self.optional.items():
            key = keys.get(name, name)
            value = values.get(key, default)
            types = (int, float) if type(default) is float else (type(default),)
            if type(value) not in types or not (isinstance(value, str) or 0 <= value < float("inf")):
                raise UserError(f"{where}: {key} is {value!r}, expected a value like {default!r}")
            fields[name] = value
        try:
            self.build(None, fields)
        except UserError as error:  # it names the keys of a run's configuration
            text = re.sub(r"model\.(\w+)", lambda match: keys.get(match[1], match[1]), str(error))
            raise UserError(f"{where}: {text}") from None
        return fields

    def from_ours(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes, checked, from a mapping in our own names. `UserError` for one that the family does not have:
        without it, the model may be another one."""
        known = self.fields
        for name in values:
            if name not in known:
                near = "".join(f", whose nearest is {each}" for each in difflib.get_close_matches(str(name), known, 1))
                raise UserError(
                    f"model configuration: {name} is not among the family's sizes{near}; a newer version may have "
                    "written it: use that one"
                )
        return self._checked(values, {}, "model configuration")

    def from_json(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The sizes in our names from a `config.json`; `UserError` naming the key that is missing or invalid."""
        found = values.get("model_type")
        if found != self.data.model_type:
            raise UserError(f"config.json: model_type is {found!r}, expected {self.data.model_type!r}")
        for key, expected in self.data.only.items():
            if key in values and values[key] != expected:
                raise UserError(f"config.json: {key} is {values[key]!r}, but only {expected!r} is supported")
        read = self.data.read(values)
        absent = [key for name in self.fields if (key := self.data.keys.get(name, name)) not in read]
        for key in values:  # most others are of other programs
            if near := difflib.get_close_matches(str(key), absent, 1, MISSPELT):
                raise UserError(
                    f"config.json: {key} is unknown, and {near[0]} is not there; rename the key, or remove it"
                )
        return self._checked(read, self.data.keys, "config.json")

    def to_json(self, config: Any, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """`config.json` of a model directory with parameters like ours, float32; keys of `base` we do not know stay."""
        data = self.data
        return {
            "model_type": data.model_type,
            **data.written(config),
            **{key: value for key, value in (base or {}).items() if key != "dtype"},  # the newer name of torch_dtype
            **{data.keys.get(name, name): getattr(config, name) for name in self.fields},
            **data.only,
            "torch_dtype": "float32",
        }
