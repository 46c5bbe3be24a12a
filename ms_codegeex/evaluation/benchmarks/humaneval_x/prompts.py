"""What a model is given."""

from __future__ import annotations

from ms_codegeex.evaluation.benchmarks.humaneval_x.data import Row
from ms_codegeex.evaluation.benchmarks.humaneval_x.languages import LANGUAGES


def generation(row: Row, tag: bool) -> str:
    """With the tag line as CodeGeeX was evaluated, or without it and stripped at both ends as CodeGeeX2 was."""
    return f"{LANGUAGES[row.language].tag}\n{row.prompt}" if tag else row.prompt.strip()


def translation(source: Row, target: Row) -> str:
    """Declaration and solution in one language, the declaration in another; no description, no tag (CodeGeeX)."""
    parts = [
        "code translation",
        f"{LANGUAGES[source.language].title}:",
        f"{source.declaration}\n{source.solution.rstrip()}",
        f"{LANGUAGES[target.language].title}:",
        target.declaration,
    ]
    return "\n".join(parts)
