"""Text to SQL: questions about databases, judged by the rows that the queries return."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.benchmarks.sql.task import Sql
    from ms_codegeex.evaluation.recipe import Recipe

BENCHMARK = Benchmark("questions about databases, answered in SQL", options=("timeout", "python"))


def from_recipe(recipe: Recipe, data: Path, timeout: float | None, python: Path | None) -> Sql:
    """The task; see its `build`."""
    from ms_codegeex.evaluation.benchmarks.sql.task import build

    return build(data, timeout, python)
