"""The benchmarks: the folders next to this file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmark import Benchmark

if TYPE_CHECKING:
    from ms_codegeex.evaluation.recipe import Recipe
    from ms_codegeex.evaluation.task import Task


def names() -> tuple[str, ...]:
    """All benchmarks, as the command line names them."""
    folder = str(Path(__file__).parent)
    return tuple(sorted(each.name.replace("_", "-") for each in pkgutil.iter_modules([folder]) if each.ispkg))


def benchmark(name: str) -> Benchmark:
    """What a benchmark says of itself."""
    return _module(name).BENCHMARK


@cache
def with_key(key: str) -> tuple[str, ...]:
    """The benchmarks that have a key of recipes; none if all have it."""
    return tuple(name for name in names() if key in benchmark(name).keys)


def build_task(recipe: Recipe, data: Path, timeout: float | None = None, python: Path | None = None) -> Task:
    """The task that a recipe is for, over the user's data.

    `timeout` in seconds is only for tasks whose benchmark leaves it open (None: their default). `python` is the
    interpreter of the programs in Python and of SQL (None: this process's), where a benchmark has one.
    """
    for option, value in (("timeout", timeout), ("python", python)):
        if value is not None and option not in benchmark(recipe.task).options:
            raise UserError(f"--{option}: {recipe.task} has no such option; leave it out")
    if not data.exists():
        raise UserError(
            f"--data: {data} does not exist; see docs/evaluation.md for where a benchmark's files come from"
        )
    return _module(recipe.task).from_recipe(recipe, data, timeout, python)


def _module(name: str) -> Any:
    """Its folder, which imports little."""
    return importlib.import_module(f"ms_codegeex.evaluation.benchmarks.{name.replace('-', '_')}")
