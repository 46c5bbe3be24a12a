"""The layouts of users' records, from `layouts.yaml`: what records of fine-tuning data and corpora look like, and how
each of their fields is used.

A field counts as absent if it is null, NaN, or an empty list or object: tables have such values in columns that a
record does not use. A field that no list names is not used, but reported with the number of records that have it."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.shipped import shipped_table

FILE = Path(__file__).with_name("layouts.yaml")


@dataclass(frozen=True)
class RecordLayout:
    """One form of record: `name` for users, and `source`, the programs that use it. Fields are separated by spaces, as
    in `layouts.yaml`. `task`: completion, chat, translation or corpus; other records are not prepared, and `remedy`
    says what to do. `by`: the keys of `uses` that a record of this layout must have, with `[]` as a list, with `[{}]`
    as a list of objects. `uses` maps what we use a field for to the fields' names, preferred ones first. `refused`:
    fields that change what is trained: `fields`, `why`, and perhaps `neutral`, the values that change nothing, or
    `only`, the values that change something; others are reported. `harmless`: fields that change nothing."""

    name: str
    source: str
    by: tuple[str, ...]
    uses: Mapping[str, str]
    task: str = ""
    refused: tuple[Mapping[str, Any], ...] = ()
    harmless: str = ""
    remedy: str = ""

    def values(self, record: Mapping[str, Any], use: str) -> dict[str, Any]:
        """Return the present fields of a record that hold `use`, by name. An empty string is no list."""
        nothing = "" if use in ("messages", "history") else None
        present = [name for name in self._names.get(use, ()) if name in record or "." in name]
        return {name: it for name in present if not absent(it := value_of(record, name)) and it != nothing}

    def used(self, record: Mapping[str, Any]) -> list[str]:
        used, _, _ = self._lists
        return [name for name, value in record.items() if name in used and not absent(value) and value != ""]

    def fits(self, record: Mapping[str, Any]) -> bool:
        for key in self.by:
            use, _, form = key.partition("[")
            found = self.values(record, use).values()
            if form:
                found = [it for it in found if isinstance(it, list) and (form == "]" or isinstance(it[0], dict))]
            if not found:
                return False
        return True

    def advice(self, record: Mapping[str, Any]) -> str:
        field = next(iter(self.values(record, self.by[0].partition("[")[0])), "FIELD")
        return self.remedy.replace(".FIELD", f".{field}")

    def further(self, record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the unused fields of a record, each with the reason to refuse the record ("": only report it)."""
        used, harmless, refused = self._lists
        for name, value in record.items():
            if name in used or name in harmless or absent(value) or value == "":
                continue
            if (entry := refused.get(name)) is not None:
                if changes(entry, value):
                    yield name, entry["why"]
                elif "only" in entry and value not in entry.get("neutral", ()):
                    yield name, ""
            elif not any(each.endswith("*") and name.startswith(each[:-1]) for each in harmless):
                yield name, ""

    @functools.cached_property
    def _names(self) -> Mapping[str, Sequence[str]]:
        return {use: listed.split() for use, listed in self.uses.items()}

    @functools.cached_property
    def _lists(self) -> tuple[frozenset[str], frozenset[str], Mapping[str, Mapping[str, Any]]]:
        used = frozenset(name.partition(".")[0] for listed in self.uses.values() for name in listed.split())
        refused = {name: entry for entry in self.refused for name in entry["fields"].split()}
        return used, frozenset(self.harmless.split()), refused


def changes(entry: Mapping[str, Any], value: Any) -> bool:
    value = value.lower() if isinstance(value, str) else value
    return value in entry["only"] if "only" in entry else value not in entry.get("neutral", ())


def absent(value: Any) -> bool:
    return value is None or value != value or (not value and isinstance(value, list | dict))


def value_of(record: Mapping[str, Any], name: str) -> Any:
    """Return a field of a record or, if its name has dots, of an object in it; None if there is none."""
    if "." not in name:
        return record.get(name)
    head, _, rest = name.partition(".")
    inner = record.get(head)
    return inner.get(rest) if isinstance(inner, dict) else None


@dataclass(frozen=True)
class Table:
    """All layouts. `message` is that of a message in a conversation, `roles` maps the role names of datasets to ours,
    and `texts` lists the fields that may hold a corpus's text, in order of preference."""

    layouts: tuple[RecordLayout, ...]
    message: RecordLayout
    roles: Mapping[str, str]
    texts: tuple[str, ...]

    def of(self, record: Mapping[str, Any], task: str = "") -> RecordLayout | None:
        """Return the first layout that fits a record, preferably one of `task`, or None."""
        wanted = (layout for layout in self.layouts if layout.task == task and layout.fits(record))
        return next(wanted, None) or next((layout for layout in self.layouts if layout.fits(record)), None)

    def names(self, task: str, use: str) -> tuple[str, ...]:
        """Return the fields that hold `use` in the layouts of a task, in the table's order."""
        listed = (name for layout in self.layouts if layout.task == task for name in layout.uses.get(use, "").split())
        return tuple(dict.fromkeys(listed))


@functools.cache
def table() -> Table:
    """Return the content of `layouts.yaml`."""
    content = shipped_table(FILE)
    roles = {name: role for role, listed in content["roles"].items() for name in listed.split()}
    layouts = tuple(_layout(name, entry) for name, entry in content["layouts"].items())
    return Table(layouts, _layout("message", content["message"]), roles, tuple(content["texts"].split()))


def _layout(name: str, entry: Mapping[str, Any]) -> RecordLayout:
    lists = {key: tuple(entry.get(key, ())) for key in ("by", "refused")}
    return RecordLayout(name, **{**entry, **lists})
