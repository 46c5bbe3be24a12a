"""HumanEval-X's prompts."""

from __future__ import annotations

from ms_codegeex.data.finetuning.examples import translation_prompt
from ms_codegeex.evaluation.benchmarks.humaneval_x.languages import LANGUAGES
from ms_codegeex.evaluation.benchmarks.humaneval_x.problems import HumanEvalXProblem


def generation(row: HumanEvalXProblem, tag: bool) -> str:
    """CodeGeeX's prompt with the tag line, or CodeGeeX2's: no tag, stripped at both ends."""
    return f"{LANGUAGES[row.language].tag}\n{row.prompt}" if tag else row.prompt.strip()


def translation(source: HumanEvalXProblem, target: HumanEvalXProblem) -> str:
    """CodeGeeX's translation prompt: declaration and solution in one language, the declaration in another."""
    titles = (LANGUAGES[row.language].title for row in (source, target))
    return translation_prompt(*titles, f"{source.declaration}\n{source.solution}") + target.declaration
