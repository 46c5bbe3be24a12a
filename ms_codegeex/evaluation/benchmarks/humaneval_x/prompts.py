"""HumanEval-X's prompts."""

from __future__ import annotations

from ms_codegeex.evaluation.benchmarks.humaneval_x.languages import LANGUAGES
from ms_codegeex.evaluation.benchmarks.humaneval_x.problems import HumanEvalXProblem


def generation(row: HumanEvalXProblem, tag: bool) -> str:
    """CodeGeeX's prompt with the tag line, or CodeGeeX2's: no tag, stripped at both ends."""
    return f"{LANGUAGES[row.language].tag}\n{row.prompt}" if tag else row.prompt.strip()


def translation(source: HumanEvalXProblem, target: HumanEvalXProblem) -> str:
    """CodeGeeX's translation prompt: declaration and solution in one language, the declaration in another."""
    parts = [
        "code translation",
        f"{LANGUAGES[source.language].title}:",
        f"{source.declaration}\n{source.solution.rstrip()}",
        f"{LANGUAGES[target.language].title}:",
        target.declaration,
    ]
    return "\n".join(parts)
