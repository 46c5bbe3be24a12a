"""EvalPlus: HumanEval+ and MBPP+, the same problems with many more tests (Liu et al., NeurIPS 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.benchmarks.evalplus.task import EvalPlus
    from ms_codegeex.evaluation.recipe import Recipe

BENCHMARK = Benchmark(
    "HumanEval+ and MBPP+: the problems of both with many more tests",
    options=("timeout", "python"),
)


def from_recipe(recipe: Recipe, data: Path, timeout: float | None, python: Path | None) -> EvalPlus:
    """The task; see its `build`."""
    from ms_codegeex.evaluation.benchmarks.evalplus.task import build

    return build(data, timeout, python)
