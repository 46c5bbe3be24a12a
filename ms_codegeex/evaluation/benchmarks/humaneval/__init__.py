"""HumanEval: Python functions from their docstrings (Chen et al., 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.benchmarks.humaneval.task import HumanEval
    from ms_codegeex.evaluation.recipe import Recipe

BENCHMARK = Benchmark(
    "HumanEval: Python functions from their docstrings",
    keys=("cut", "strip"),
    options=("timeout", "python", "prompt_perplexity"),
)


def from_recipe(recipe: Recipe, data: Path, timeout: float | None, python: Path | None) -> HumanEval:
    """The task; see its `build`."""
    from ms_codegeex.evaluation.benchmarks.humaneval.task import build

    return build(data, recipe.cut, strip=recipe.strip, timeout=timeout, python=python)
