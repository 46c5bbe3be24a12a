"""HumanEval-X: 164 problems in Python, C++, Java, JavaScript, Go and Rust (CodeGeeX, KDD 2023, section 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.benchmarks.humaneval_x.task import HumanEvalX
    from ms_codegeex.evaluation.recipe import Recipe

BENCHMARK = Benchmark(
    "HumanEval-X: 164 problems in six languages, and their translation",
    keys=("languages", "translate_from", "tag", "rules"),
    options=("timeout",),
    references_first=True,
)


def from_recipe(recipe: Recipe, data: Path, timeout: float | None, python: Path | None) -> HumanEvalX:
    """The task; see its `build`."""
    from ms_codegeex.evaluation.benchmarks.humaneval_x.task import build

    return build(data, recipe.languages or None, recipe.translate_from, recipe.tag, timeout, recipe.rules)
