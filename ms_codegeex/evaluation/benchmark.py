"""What the command line and the recipes have to know of a benchmark before it is built: its `BENCHMARK`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """A folder in `benchmarks/` is a benchmark. Its `__init__.py` has `BENCHMARK`, which is one of these, and
    `from_recipe(recipe, data, timeout, python)`, which gives the `Task`; it imports the rest only there, so that
    `--help` is fast.

    Args:
        summary: a line of `evaluate --help`.
        keys: the keys of recipes that it has and not every benchmark (`recipe.py`).
        options: those of `timeout`, `python` and `prompt_perplexity` that it has.
        references_first: its canonical solutions are judged before anything else.
    """

    summary: str
    keys: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    references_first: bool = False
