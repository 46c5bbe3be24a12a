"""How one graph is compiled, as a value and as the word that the command line of a worker has for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CompileMode:
    """How one graph is compiled.

    Attributes:
        inline: every block is inlined as in a run; otherwise what is repeated is compiled once and called.
        operators: write the operators of the graph, too.
        target: the engine's.
        backend: also run the back end, up to the assignment of streams; only for Ascend.
    """

    inline: bool = False
    operators: bool = False
    target: Literal["gpu", "ascend"] = "gpu"
    backend: bool = False

    def to_word(self) -> str:
        """One word that `from_word` reads."""
        words = ["inline" if self.inline else "once", self.target]
        return ",".join(words + ["operators"] * self.operators + ["backend"] * self.backend)

    @staticmethod
    def from_word(word: str) -> CompileMode:
        """The inverse of `to_word`."""
        repeated, target, *more = word.split(",")
        return CompileMode(repeated == "inline", "operators" in more, target, "backend" in more)
