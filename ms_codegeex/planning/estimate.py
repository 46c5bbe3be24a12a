"""A step's time and MFU as one figure with a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step and model FLOPs utilisation, each with the limits between which eight of ten runs should lie.
    `source`: where the range comes from, in words."""

    seconds: float
    low: float
    high: float
    mfu: float
    mfu_low: float
    mfu_high: float
    source: str

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "step_seconds": self.seconds,
            "step_seconds_low": self.low,
            "step_seconds_high": self.high,
            "mfu": self.mfu,
            "mfu_low": self.mfu_low,
            "mfu_high": self.mfu_high,
            "range_from": self.source,
        }

    @property
    def step(self) -> str:
        """`41.9 (36.1 to 48.5)`, in seconds."""
        digits = 1 if self.seconds >= 20 else 2 if self.seconds >= 1 else 4
        return f"{self.seconds:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"

    @property
    def share(self) -> str:
        """`51 % (44 to 60)`: of the peak."""
        digits = 0 if self.mfu >= 0.1 else 1
        return f"{100 * self.mfu:.{digits}f} % ({100 * self.mfu_low:.{digits}f} to {100 * self.mfu_high:.{digits}f})"

    def text(self) -> str:
        """One line."""
        return f"a step takes {self.step} s, MFU {self.share}; range: {self.source}"
