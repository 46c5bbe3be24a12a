"""Fields of other servers' requests that this server does not have; those in `foreign_fields.yaml` change nothing.

A field that would change the answer is refused, because its client would take the answer for something that it is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ms_codegeex.base.yaml_reading import read_yaml_file

FILE = Path(__file__).with_suffix(".yaml")
INCLUDED = {"chat": "generation", "llama.cpp": "generation", "translation": "generation", "message": "content_part"}


@dataclass(frozen=True)
class Foreign:
    """A field that changes nothing, as a row of the file describes it. Null stands for a field's absence."""

    source: str
    reason: str = ""
    values: Sequence[Any] = ()
    unused: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def accepted(self, value: Any, body: Mapping[str, Any]) -> bool:
        """Whether this value changes nothing in a request."""
        if self.reason or _among(value, self.values):
            return True
        return bool(self.unused) and not self._needed(body)

    def _needed(self, body: Mapping[str, Any]) -> list[str]:
        return [name for name, values in self.unused.items() if not _among(body.get(name), values)]

    def refusal(self, body: Mapping[str, Any]) -> str:
        """Why a value is not accepted, and what to do."""
        needed = "".join(f" with {name}" for name in self._needed(body)[:1] if body.get(name) is not None)
        shown = "".join(f", or send {json.dumps(value)}" for value in self.values[:1])
        return f"not supported{needed}; leave it out{shown}"

    @property
    def description(self) -> str:
        """For the description of the API."""
        return f"no effect: {self.reason or 'this server does not have other values'} ({self.source})"


def _among(value: Any, known: Sequence[Any]) -> bool:
    return any(_same(value, each) for each in known)


def _same(value: Any, other: Any) -> bool:
    if isinstance(other, str) and other[:2] in ("> ", "< "):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (value > float(other[2:]) if other[0] == ">" else value < float(other[2:]))
    return value == other and isinstance(value, bool) == isinstance(other, bool)


@cache
def fields(table: str) -> Mapping[str, Foreign]:
    """A table of the file, by name; "" for none."""
    if not table:
        return {}
    content = read_yaml_file(FILE)
    found = dict(fields(INCLUDED.get(table, "")))
    for names, row in content[table].items():
        values: list[Any] = []
        for value in row.get("values", ()):
            values += value if value == content["nothing"] else [value]
        found |= dict.fromkeys(names.split(), Foreign(**{**row, "values": values}))
    return found
