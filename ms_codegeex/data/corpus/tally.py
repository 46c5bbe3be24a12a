"""Counts of input that did not become a document, by reason, with the first examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.data.corpus.reading import Rejected

EXAMPLES = 3
REMARKS = 100


def moved(source: str, lines: int) -> str:
    """The source `label:3` with `lines` added to its number."""
    label, _, number = source.rpartition(":")
    return f"{label}:{int(number) + lines}" if lines else source


@dataclass
class Tally:
    """Counts of left-out input. The same input in the same order gives the same counts and examples.

    Attributes:
        dropped: reason -> `documents`, `bytes` and up to three `examples`, for input dropped by a rule or selection.
        problems: the same for broken input.
        noted: the same for input that was kept, by a remark on it.
    """

    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    noted: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def first(self) -> tuple[str, str] | None:
        """The source of the first broken input and its problem, or None."""
        for reason, entry in self.problems.items():
            example = entry["examples"][0]
            return example["source"], f"{reason} ({example['detail']})" if example["detail"] else reason
        return None

    def add(self, item: Rejected) -> None:
        """Count one."""
        example = {"source": item.source, "detail": item.detail, "excerpt": item.excerpt}
        self._add(self.problems if item.problem else self.dropped, item.reason, 1, item.bytes, [example])

    def note(self, remark: str, source: str, detail: str = "") -> None:
        """Count one that was kept, with a remark. At most `REMARKS` different ones: they have names from the input."""
        remark = remark if remark in self.noted or len(self.noted) < REMARKS else "further remarks"
        self._add(self.noted, remark, 1, 0, [{"source": source, "detail": detail, "excerpt": ""}])

    def drop(self, reason: str, documents: int, size: int, examples: list[tuple[str, str]]) -> None:
        """Count several that were left out for one reason; `examples` are sources and details of the first of them."""
        entries = [{"source": source, "detail": detail, "excerpt": ""} for source, detail in examples]
        self._add(self.dropped, reason, documents, size, entries)

    def merge(self, later: Tally, lines: int = 0) -> None:
        """Add the counts of later input. `lines` are added to the line number at the end of every source in it."""
        for name in ("dropped", "problems", "noted"):
            mine, others = getattr(self, name), getattr(later, name)
            for reason, entry in others.items():
                examples = [{**item, "source": moved(item["source"], lines)} for item in entry["examples"]]
                self._add(mine, reason, entry["documents"], entry["bytes"], examples)

    @staticmethod
    def _add(
        entries: dict[str, dict[str, Any]], reason: str, documents: int, size: int, examples: list[dict[str, str]]
    ) -> None:
        entry = entries.setdefault(reason, {"documents": 0, "bytes": 0, "examples": []})
        entry["documents"] += documents
        entry["bytes"] += size
        entry["examples"] += examples[: EXAMPLES - len(entry["examples"])]

    def total(self, name: str) -> int:
        """The sum of `documents` or `bytes` over all reasons."""
        return sum(entry[name] for entries in (self.dropped, self.problems) for entry in entries.values())

    def described(self, unit: str) -> dict[str, dict[str, Any]]:
        """The entry `dropped` of dataset.json: for each reason a count of `unit`, bytes and an example."""
        return {
            reason: {
                unit: entry["documents"],
                "bytes": entry["bytes"],
                "example": entry["examples"][0]["source"],
                "detail": entry["examples"][0]["detail"],
            }
            for reason, entry in sorted({**self.dropped, **self.problems}.items())
        }

    def summary(self) -> str:
        """`reason count, reason count`, by name; empty when nothing was left out."""
        entries = (*self.dropped.items(), *self.problems.items())
        return ", ".join(f"{reason} {count}" for reason, count in sorted((r, e["documents"]) for r, e in entries))
