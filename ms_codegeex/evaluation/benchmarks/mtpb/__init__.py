"""MTPB, the Multi-Turn Programming Benchmark of the CodeGen paper (ICLR 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.benchmarks.mtpb.task import Mtpb
    from ms_codegeex.evaluation.recipe import Recipe

BENCHMARK = Benchmark(
    "MTPB: programs in several turns, CodeGen's benchmark",
    keys=("turns",),
    options=("python", "prompt_perplexity"),
)


def from_recipe(recipe: Recipe, data: Path, timeout: float | None, python: Path | None) -> Mtpb:
    """The task; see its `build`."""
    from ms_codegeex.evaluation.benchmarks.mtpb.task import build

    return build(data, recipe.turns, python)
