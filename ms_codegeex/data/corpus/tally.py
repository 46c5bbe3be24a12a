"""Counts of input that did not become a document, by reason, with the first examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.data.corpus.reading import Rejected

EXAMPLES = 3


def moved(source: str, lines: int) -> str:
    """The source `label:3` with `lines` added to its number."""
    label, _, number = source.rpartition(":")
    return f"{label}:{int(number) + lines}"


@dataclass
class Tally:
    """Counts of left-out input. The same input in the same order gives the same counts and examples.

    Attributes:
        dropped: reason -> `documents`, `bytes` and up to three `examples`, for input dropped by a rule or selection.
        problems: the same for broken input.
        first: the source of the first broken input and its problem, or None.
    """

    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    first: tuple[str, str] | None = None

    def add(self, item: Rejected) -> None:
        """Count one."""
        if item.problem and self.first is None:
            self.first = item.source, f"{item.reason} ({item.detail})" if item.detail else item.reason
        example = {"source": item.source, "detail": item.detail, "excerpt": item.excerpt}
        self._add(self.problems if item.problem else self.dropped, item.reason, 1, item.bytes, [example])

    def drop(self, reason: str, documents: int, size: int, examples: list[dict[str, str]]) -> None:
        """Count several that were left out for one reason; `examples` are the first of them."""
        self._add(self.dropped, reason, documents, size, examples)

    def merge(self, later: Tally) -> None:
        """Add the counts of later input."""
        for mine, others in ((self.dropped, later.dropped), (self.problems, later.problems)):
            for reason, entry in others.items():
                self._add(mine, reason, entry["documents"], entry["bytes"], entry["examples"])
        self.first = self.first or later.first

    def moved(self, lines: int) -> Tally:
        """The tally with `lines` added to the line number at the end of every source."""

        def entries(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
            return {
                reason: {
                    **entry,
                    "examples": [{**item, "source": moved(item["source"], lines)} for item in entry["examples"]],
                }
                for reason, entry in given.items()
            }

        first = self.first and (moved(self.first[0], lines), self.first[1])
        return Tally(entries(self.dropped), entries(self.problems), first)

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

    def summary(self) -> str:
        """`reason count, reason count`, by name; empty when nothing was left out."""
        counts = [
            (reason, entry["documents"]) for part in (self.dropped, self.problems) for reason, entry in part.items()
        ]
        return ", ".join(f"{reason} {count}" for reason, count in sorted(counts))

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON holds them."""
        return {"dropped": self.dropped, "problems": self.problems, "first": self.first and list(self.first)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Tally:
        """The tally that `to_json` wrote."""
        first = content["first"]
        return cls(content["dropped"], content["problems"], first and (first[0], first[1]))
