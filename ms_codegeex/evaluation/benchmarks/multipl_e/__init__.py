"""MultiPL-E: HumanEval and MBPP translated to other languages by compilers (Cassano et al., IEEE TSE 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.benchmarks.multipl_e.task import MultiPlE
    from ms_codegeex.evaluation.recipe import Recipe

BENCHMARK = Benchmark(
    "MultiPL-E: HumanEval and MBPP translated to other languages",
    keys=("languages",),
    options=("timeout",),
)


def from_recipe(recipe: Recipe, data: Path, timeout: float | None, python: Path | None) -> MultiPlE:
    """The task; see its `build`."""
    from ms_codegeex.evaluation.benchmarks.multipl_e.task import build

    return build(data, recipe.languages or None, timeout)
