"""Fields of other servers' requests that this server does not have.

A field that would change the answer is refused, because its client would take the answer for something that it is not.
`foreign_fields.yaml` lists the others. Null stands for a field's absence.
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
DISABLED = (False, 0, "", [], {})  # a feature that is not wanted


@dataclass(frozen=True)
class ForeignField:
    """A field that changes nothing, as a row of `foreign_fields.yaml` describes it."""

    source: str
    reason: str
    instead: str
    values: Sequence[Any]
    unused: Mapping[str, Sequence[Any]]

    def accepted(self, value: Any, body: Mapping[str, Any]) -> bool:
        """Whether this value changes nothing in a request."""
        if value is None or self.reason or _among(value, self.values):
            return True
        return bool(self.unused) and not self.needed(body)

    def needed(self, body: Mapping[str, Any]) -> list[str]:
        return [name for name, values in self.unused.items() if not _among(body.get(name), values)]

    def refusal(self, body: Mapping[str, Any]) -> str:
        """Why a value is not accepted, and what to do."""
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
    """A table of `foreign_fields.yaml`, by the names of the fields; "" is an empty one."""
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
