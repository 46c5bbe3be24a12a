"""The benchmarks: the folders next to this file, and what each says of itself."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.errors import UserError

if TYPE_CHECKING:
    from ms_codegeex.evaluation.recipe import Recipe
    from ms_codegeex.evaluation.task import Task


@dataclass(frozen=True)
class Benchmark:
    """What the command line and the recipes have to know of a benchmark before it is built: its `BENCHMARK`.

    A folder here is a benchmark. Its `__init__.py` has `BENCHMARK` and imports nothing else, so that `--help` is fast.
    Its `task.py` has `build`, which gives the `Task` for the user's data. `build` takes by their names the keys below,
    and of the options `timeout` (seconds; None: its default) and `python` (an interpreter; None: ours).

    Args:
        summary: a line of `evaluate --help`.
        keys: the keys of recipes that it has and not every benchmark (`recipe.py`).
        options: those of `timeout`, `python` and `prompt_perplexity` that it has.
        references_first: all of its canonical solutions are judged before anything else, not one of each language.
        places: where its files are without `--data`, in this order: `package:MODULE/PATH` in an installed package, or
            `cache:PATH` in the user's cache.
        install: the command after which the first of these places has them.
    """

    summary: str
    keys: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    references_first: bool = False
    places: tuple[str, ...] = ()
    install: str = ""


def names() -> tuple[str, ...]:
    """All benchmarks, as the command line names them."""
    folder = str(Path(__file__).parent)
    return tuple(sorted(each.name.replace("_", "-") for each in pkgutil.iter_modules([folder]) if each.ispkg))


def benchmark(name: str) -> Benchmark:
    """What a benchmark says of itself."""
    return importlib.import_module(_module(name)).BENCHMARK


@cache
def with_key(key: str) -> tuple[str, ...]:
    """The benchmarks that have a key of recipes; none if all have it."""
    return tuple(name for name in names() if key in benchmark(name).keys)


def find_data(name: str) -> Path:
    """A benchmark's files where another package has put them; `UserError` if there are none."""
    description = benchmark(name)
    for place in description.places:
        kind, _, path = place.partition(":")
        if kind == "package":
            module, _, path = path.partition("/")
            spec = importlib.util.find_spec(module)
            folders = list(spec.submodule_search_locations or ()) if spec else []
        else:
            cache = user_cache()
            folders = (
                [str(cache.parent)] if cache.name == "ms_codegeex" else []
            )  # not in a folder that all may write to
        for folder in folders:
            if (found := Path(folder, path)).exists():
                return found
    looked = " and ".join(each.replace(":", " ", 1) for each in description.places)
    remedy = f", or install them: {description.install}" if description.install else ""
    raise UserError(f"--data: missing, and there is nothing in {looked}; give the file or directory{remedy}")


def build_task(recipe: Recipe, data: Path, timeout: float | None = None, python: Path | None = None) -> Task:
    """The task that a recipe is for, over the user's data; `UserError` for an option that its benchmark lacks."""
    description = benchmark(recipe.task)
    settings = {key: getattr(recipe, key) for key in description.keys}
    for option, value in (("timeout", timeout), ("python", python)):
        if option in description.options:
            settings[option] = value
        elif value is not None:
            raise UserError(f"--{option}: {recipe.task} has no such option; leave it out")
    if not data.exists():
        raise UserError(
            f"--data: {data} does not exist; see docs/evaluation.md for where a benchmark's files come from"
        )
    return importlib.import_module(f"{_module(recipe.task)}.task").build(data, **settings)


def _module(name: str) -> str:
    return f"ms_codegeex.evaluation.benchmarks.{name.replace('-', '_')}"
