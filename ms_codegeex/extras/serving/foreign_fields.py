"""Fields of other servers' requests that this server does not support.

A field that would change the answer is refused, because the client would otherwise misinterpret the answer.
`foreign_fields.yaml` lists the values that are accepted. Null means that a field is absent.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.shipped import shipped_table

FILE = Path(__file__).with_suffix(".yaml")
DISABLED = (False, 0, "", [], {})  # values that turn a feature off


@dataclass(frozen=True)
class ForeignField:
    """A foreign field and the values of it that have no effect, from a row of `foreign_fields.yaml`."""

    source: str
    reason: str
    instead: str
    values: Sequence[Any]
    unused: Mapping[str, Sequence[Any]]

    def accepted(self, value: Any, body: Mapping[str, Any]) -> bool:
        """Return whether this value has no effect on the request `body`."""
        if value is None or self.reason or _among(value, self.values):
            return True
        return bool(self.unused) and not self.needed(body)

    def needed(self, body: Mapping[str, Any]) -> list[str]:
        return [name for name, values in self.unused.items() if not _among(body.get(name), values)]

    def refusal(self, body: Mapping[str, Any]) -> str:
        """Return why a value is not accepted, and a remedy."""
        needed = "".join(f" with {name}" for name in self.needed(body)[:1] if body.get(name) is not None)
        shown = "".join(f", or send {json.dumps(value)}" for value in self.values[:1] if self.values != DISABLED)
        return f"not supported{needed}; {self.instead or f'leave it out{shown}'}"

    @property
    def description(self) -> str:
        return f"no effect: {self.reason or 'this server does not have other values'} ({self.source})"


def _among(value: Any, known: Sequence[Any]) -> bool:
    return any(_same(value, each) for each in known)


def _same(value: Any, other: Any) -> bool:
    match other:
        case {"above": limit} | {"below": limit}:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return number and (value > limit if "above" in other else value < limit)
        case {"of": known} if isinstance(value, dict):
            return all(each is None or known.get(name) in (each, "any") for name, each in value.items())
    return value == other and isinstance(value, bool) == isinstance(other, bool)


@functools.cache
def fields_of(table: str) -> Mapping[str, ForeignField]:
    """Return a table of `foreign_fields.yaml`, by field name. The table "" is empty."""
    found = dict[str, ForeignField]()
    for row in shipped_table(FILE)[table] if table else ():
        if other := row.get("all_of"):
            found.update(fields_of(other))
            continue
        values = (*row.get("values", ()), *(DISABLED if row.get("disabled") else ()))
        unused = row.get("unused", {})
        one = ForeignField(row["source"], row.get("reason", ""), row.get("instead", ""), values, unused)
        found.update(dict.fromkeys(row["names"].split(), one))
    return found
