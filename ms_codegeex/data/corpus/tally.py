"""Counts of input that did not become a document, by reason, with the first examples: all that the verbs say of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.base.errors import escaped
from ms_codegeex.base.printing import print_error
from ms_codegeex.data.corpus.archives import Returning, remedies
from ms_codegeex.data.corpus.reading import Document, Noted, Rejected, Unit, read_unit
from ms_codegeex.data.corpus.settings import ReadingSettings

EXAMPLES = 3
REMARKS = 100
NOT_ENTERED = frozenset({"hidden directory", "node_modules", "symbolic link"})  # reasons of the search
Entries = dict[str, dict[str, Any]]


def moved(source: str, lines: int) -> str:
    """The source `label:3` with `lines` added to its number."""
    label, _, number = source.rpartition(":")
    return f"{label}:{int(number) + lines}" if lines else source


@dataclass
class Tally:
    """Counts of left-out input: reason -> `documents`, `bytes` and up to three `examples`, for input dropped by a rule
    or selection; the same for broken input (`problems`), for input that was kept, by a remark on it (`noted`), and for
    files that nothing reads, by their endings (`passed`). `kept` counts what `read_documents` gave."""

    dropped: Entries = field(default_factory=dict)
    problems: Entries = field(default_factory=dict)
    noted: Entries = field(default_factory=dict)
    passed: Entries = field(default_factory=dict)
    kept: int = 0

    @property
    def first(self) -> tuple[str, str] | None:
        """The source of the first broken input and its problem, or None."""
        return next((_first(reason, entry) for reason, entry in self.problems.items()), None)

    def add(self, item: Rejected | Noted) -> None:
        """Count one, or what a remark says of several."""
        example = {"source": item.source, "detail": item.detail, "excerpt": ""}
        if isinstance(item, Noted):
            entries, name = self.passed if item.passed else self.noted, item.remark
            name = name if name in entries or len(entries) < REMARKS else "others"  # names are from the input
            _add(entries, name, item.count, 0, [example])
        else:
            entries, example = self.problems if item.problem else self.dropped, example | {"excerpt": item.excerpt}
            _add(entries, item.reason, 1, item.bytes, [example])

    def drop(self, reason: str, documents: int, size: int, examples: list[tuple[str, str]]) -> None:
        """Count several that were left out for one reason; `examples` are sources and details of the first of them."""
        entries = [{"source": source, "detail": detail, "excerpt": ""} for source, detail in examples]
        _add(self.dropped, reason, documents, size, entries)

    def merge(self, later: Tally, lines: int = 0) -> None:
        """Add the counts of later input. `lines` are added to the line number at the end of every source in it."""
        for name in ("dropped", "problems", "noted", "passed"):
            mine, others = getattr(self, name), getattr(later, name)
            for reason, entry in others.items():
                examples = [{**item, "source": moved(item["source"], lines)} for item in entry["examples"]]
                _add(mine, reason, entry["documents"], entry["bytes"], examples)

    def total(self, name: str) -> int:
        """The sum of `documents` or `bytes` over all reasons."""
        return sum(entry[name] for entries in (self.dropped, self.problems) for entry in entries.values())

    def described(self, unit: str) -> dict[str, dict[str, Any]]:
        """The entry `dropped` of dataset.json: for each reason a count of `unit`, bytes and an example."""
        return {
            reason: {unit: entry["documents"], "bytes": entry["bytes"], "example": entry["examples"][0]["source"]}
            for reason, entry in sorted({**self.dropped, **self.problems}.items())
        }

    def summed(self, kept: int, read: int | None = None) -> dict[str, Any]:
        """What `print_tally` prints and JSON files hold: how many were read (None: those that were kept or left out)
        and kept, and for each reason, remark and ending a count, the first source and its detail."""

        def first(entries: Mapping[str, Any]) -> dict[str, Any]:
            pairs = ((name, it["documents"], it["examples"][0]) for name, it in sorted(entries.items()))
            return {name: {"count": n, "first": it["source"], "detail": it["detail"]} for name, n, it in pairs}

        read = kept + self.total("documents") if read is None else read
        noted = {"noted": first(self.noted), "passed_over": first(self.passed)}
        return {"read": read, "kept": kept, "dropped": first({**self.dropped, **self.problems}), **noted}

    def nothing_left(self, otherwise: str, of: str = "corpora", **values: object) -> str:
        """What to say if nothing is left: the most frequent reason, and what helps against it, one of the `remedies`
        with these values, or else `otherwise`."""
        entries = {**self.dropped, **self.problems}
        if not entries.keys() - NOT_ENTERED and self.passed:
            entries = {f"files passed over, {name}": it for name, it in self.passed.items()}
        if not entries:
            return f"all is empty; {otherwise}"
        reason, most = max(entries.items(), key=lambda item: item[1]["documents"])
        source, why = _first(reason, most)
        counts = ", ".join(f"{name} {it['documents']}" for name, it in sorted(entries.items()))
        others = f" (all reasons: {counts})" if len(entries) > 1 else ""
        kind, _, ending = reason.partition(", ")
        remedy = remedies("unpacked").get(ending) or remedies(of).get(kind, otherwise).format(**values)
        return f"{most['documents']} times {why}, first {source}{others}; {remedy}"


def _add(entries: Entries, reason: str, documents: int, size: int, examples: list[dict[str, str]]) -> None:
    entry = entries.setdefault(reason, {"documents": 0, "bytes": 0, "examples": []})
    entry["documents"] += documents
    entry["bytes"] += size
    entry["examples"] += examples[: EXAMPLES - len(entry["examples"])]


def _first(reason: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    """The first source of an entry, and the reason with its detail."""
    example = entry["examples"][0]
    return example["source"], f"{reason} ({example['detail']})" if example["detail"] else reason


def read_documents(units: Iterable[Unit], reading: ReadingSettings, tally: Tally) -> Iterator[Document]:
    """The documents of units, in which files stay together. `tally` counts the rest, and what `prepare` would drop."""
    lines, seen = 0, set[bytes]()
    for unit in units:
        span = unit.part and unit.part.span
        lines = lines if span and span[0] else 0
        items = Returning(read_unit(unit, reading))
        for item in items:
            item = item._replace(source=moved(item.source, lines))
            if not isinstance(item, Document):
                tally.add(item)
                continue
            yield item
            tally.kept += 1
            digest = hashlib.blake2b(item.data, digest_size=16).digest()
            if digest in seen:
                tally.add(Noted(item.source, "exact duplicate, kept here; `prepare` drops it"))
            seen.add(digest)
            if not item.language:
                tally.add(Noted(item.source, "unknown language, kept here; `prepare` needs --all-text for it"))
        lines += items.value if span else 0


def tally_lines(tally: Mapping[str, Any]) -> list[str]:
    """The content of `Tally.summed` in lines for people."""
    examples = f", which give {tally['examples']} examples" if "examples" in tally else ""
    lines = [f"read: {tally['read']}; kept: {tally['kept']}{examples}"]
    for part, word in (("dropped", "dropped, "), ("noted", "")):
        for name, it in tally[part].items():
            detail = f" ({escaped(it['detail'])})" if it["detail"] else ""
            lines.append(f"{word}{escaped(name)}: {it['count']}, for example {escaped(it['first'])}{detail}")
    if passed := {name: it["count"] for name, it in tally["passed_over"].items()}:
        most = sorted(passed, key=lambda name: (-passed[name], name))
        shown = ", ".join(f"{escaped(name)} {passed[name]}" for name in most[:8]) + (", …" if len(most) > 8 else "")
        lines.append(f"passed over: {sum(passed.values())} files ({shown})")
    return lines


def print_tally(tally: Mapping[str, Any] | None) -> None:
    """Print what became of the input on standard error, as every verb that reads users' texts does at the end. None: of
    a dataset that an earlier version made."""
    for line in tally_lines(tally) if tally is not None else ():
        print_error(line)
