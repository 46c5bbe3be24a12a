"""Counts of the input: each file and each record is counted once. The verbs print the counts, JSON files hold them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.extras.corpus.events import Event, remedies
from ms_codegeex.extras.corpus.reading import Document, Unit, read_unit
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.shared.records import ReturnKeeper

EXAMPLES = 3
REMARKS = 100
SUFFIXES = 10
BY_NAME = ("other language", "unknown language")  # reasons in a file itself, not in its directory
Entries = dict[str, dict[str, Any]]


def moved(source: str, lines: int) -> str:
    label, _, number = source.rpartition(":")
    return f"{label}:{int(number) + lines}" if lines else source


@dataclass
class Tally:
    """Counts of events by kind and reason. An entry has the number of `documents`, how many of these are `records`,
    their `bytes`, up to three `examples` and, for files that are not read, the number of files by suffix. `kept` counts
    the documents that the input gave, `records` those of them that are records."""

    dropped: Entries = field(default_factory=dict)
    problems: Entries = field(default_factory=dict)
    unread: Entries = field(default_factory=dict)
    archives: Entries = field(default_factory=dict)
    changed: Entries = field(default_factory=dict)
    noted: Entries = field(default_factory=dict)
    kept: int = 0
    records: int = 0

    @property
    def first(self) -> tuple[str, str] | None:
        """The source and the problem of the first broken input, or None."""
        return next((_first(reason, entry) for reason, entry in self.problems.items()), None)

    @property
    def left(self) -> Entries:
        """What was read but not kept, by reason: dropped or broken."""
        return {**self.dropped, **self.problems}

    def add(self, event: Event, records: bool = False) -> None:
        """Count an event. `records` says whether it is about records or about a file."""
        example = {"source": event.source, "detail": event.detail, "excerpt": event.excerpt}
        counts = {"documents": event.count, "records": event.count * records, "bytes": event.bytes}
        suffixes = {event.detail: event.count} if event.kind == "unread" and event.detail else {}
        self._add(event.kind, event.reason, {**counts, "examples": [example], "suffixes": suffixes})

    def drop(self, reason: str, counts: Mapping[str, int], examples: Iterable[tuple[str, str]]) -> None:
        """Count the `documents`, `records` and `bytes` that were dropped for one reason; `examples` are sources and
        details of the first of them."""
        first = [{"source": source, "detail": detail, "excerpt": ""} for source, detail in examples]
        self._add("dropped", reason, {**counts, "examples": first, "suffixes": {}})

    def keep(self, records: bool) -> None:
        self.kept, self.records = self.kept + 1, self.records + records

    def merge(self, later: Tally, lines: int = 0) -> None:
        """Add the counts of later input, with `lines` added to the line number at the end of every source in it."""
        for kind, entries in vars(later).items():
            for reason, entry in entries.items() if isinstance(entries, dict) else ():
                examples = [{**item, "source": moved(item["source"], lines)} for item in entry["examples"]]
                self._add(kind, reason, {**entry, "examples": examples})

    def _add(self, kind: str, reason: str, more: Mapping[str, Any]) -> None:
        entries = getattr(self, kind)
        if kind == "noted" and reason not in entries and len(entries) >= REMARKS:  # reasons have names from the input
            reason = "others"
        entry = entries.setdefault(reason, {"documents": 0, "records": 0, "bytes": 0, "examples": [], "suffixes": {}})
        for name in ("documents", "records", "bytes"):
            entry[name] += more[name]
        entry["examples"] += more["examples"][: EXAMPLES - len(entry["examples"])]
        for suffix, count in more["suffixes"].items():
            known = suffix in entry["suffixes"] or len(entry["suffixes"]) < REMARKS
            entry["suffixes"][suffix if known else "others"] = entry["suffixes"].get(suffix, 0) + count

    def total(self, name: str) -> int:
        """Return the sum of `documents`, `records` or `bytes` over all that was read but not kept."""
        return sum(entry[name] for entry in self.left.values())

    def described(self) -> dict[str, dict[str, Any]]:
        names, left = ("documents", "bytes"), sorted(self.left.items())
        return {name: {**{it: entry[it] for it in names}, "example": _first("", entry)[0]} for name, entry in left}

    def summed(self, kept: int, read: int | None = None) -> dict[str, Any]:
        """Return what `print_tally` prints and JSON files hold: how many were read (`read`, or if None those kept or
        dropped) and kept, the same for `files` and `records`, and for each reason and remark a count, the first source
        and its detail. In `files`, `found` is the sum of the other counts."""

        def first(entries: Entries) -> dict[str, Any]:
            found = {}
            for name, it in sorted(entries.items()):
                example = {"first": it["examples"][0]["source"], "detail": it["examples"][0]["detail"]}
                found[name] = {"count": it["documents"], "records": it["records"], **example}
            return found

        unread = {
            name: {**entry, "suffixes": dict(Counter(self.unread[name]["suffixes"]).most_common(SUFFIXES))}
            for name, entry in first(self.unread).items()
        }
        records = {"kept": min(kept, self.records), "dropped": self.total("records")}
        files = {
            "kept": kept - records["kept"],
            "dropped": self.total("documents") - records["dropped"],
            "holding_records": sum(entry["documents"] for entry in self.archives.values()),
            "unread": sum(entry["documents"] for entry in self.unread.values()),
        }
        return {
            "read": kept + self.total("documents") if read is None else read,
            "kept": kept,
            "files": {"found": sum(files.values()), **files},
            "records": {"read": sum(records.values()) if read is None else read, **records},
            "dropped": first(self.left),
            "unread": unread,
            "noted": first({**self.changed, **self.noted}),
        }

    def nothing_left(self, otherwise: str, of: str = "corpora", **values: object) -> str:
        """Return the message if nothing is left: the most frequent reason and what helps against it, one of the
        `remedies` with these values, or else `otherwise`."""
        unread = {name: entry for name, entry in self.unread.items() if name in BY_NAME or name in remedies(of)}
        entries = {**unread, **self.left} or self.unread
        if not entries:
            return f"all is empty; {otherwise}"
        reason, most = max(entries.items(), key=lambda item: item[1]["documents"])
        source, why = _first(reason, most)
        suffix = max(most["suffixes"], key=most["suffixes"].__getitem__, default="")
        counts = ", ".join(f"{name} {it['documents']}" for name, it in sorted({**self.left, **self.unread}.items()))
        others = f" (all reasons: {counts})" if "," in counts else ""
        kind = "files of another kind" if most["suffixes"] and of != "corpora" else reason
        detail = most["examples"][0]["detail"]
        by_detail = next((said for begin, said in remedies("details").items() if detail.startswith(begin)), None)
        remedy = by_detail or remedies("unpacked").get(suffix) or remedies(of).get(kind, otherwise).format(**values)
        return f"{most['documents']} times {why}, first {source}{others}; {remedy}"


def _first(reason: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    example = entry["examples"][0]
    return example["source"], f"{reason} ({example['detail']})" if example["detail"] else reason


def read_documents(units: Iterable[Unit], reading: ReadingSettings, tally: Tally) -> Iterator[Document]:
    """Yield the documents of units, of which those of a file must be consecutive. `tally` counts the rest, and what
    `prepare` would drop."""
    lines, seen = 0, set[bytes]()
    for unit in units:
        records = unit.part is not None
        span = unit.part and unit.part.span
        lines = lines if span and span[0] else 0
        items = ReturnKeeper(read_unit(unit, reading))
        for item in items:
            item = item._replace(source=moved(item.source, lines))
            if not isinstance(item, Document):
                tally.add(item, records)
                continue
            yield item
            tally.keep(records)
            digest = hashlib.blake2b(item.data, digest_size=16).digest()
            if digest in seen:
                tally.add(Event(item.source, "noted", "exact duplicate, kept here; `prepare` drops it"))
            seen.add(digest)
            if not item.language:
                remark = "unknown language, kept here; `prepare` needs --all-text for it"
                tally.add(Event(item.source, "noted", remark))
        lines += items.value if span else 0
