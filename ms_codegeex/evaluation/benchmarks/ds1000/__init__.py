"""DS-1000: data science problems for seven libraries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.benchmarks.ds1000.task import Ds1000
    from ms_codegeex.evaluation.recipe import Recipe

BENCHMARK = Benchmark("DS-1000: data science problems for seven libraries", keys=("mode",), options=("python",))


def from_recipe(recipe: Recipe, data: Path, timeout: float | None, python: Path | None) -> Ds1000:
    """The task; see its `build`."""
    from ms_codegeex.evaluation.benchmarks.ds1000.task import build

    return build(data, recipe.mode, python)
