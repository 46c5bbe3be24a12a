"""One comparison of a compiled graph with the plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanCheck:
    """One property of a compiled graph: what the plan says and what was found."""

    name: str
    expected: str
    found: str

    @property
    def ok(self) -> bool:
        """Whether found is what was expected."""
        return self.expected == self.found
