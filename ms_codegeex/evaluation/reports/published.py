"""Published results, to compare with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.evaluation.recipe import Recipe

FILE = Path(__file__).with_name("published.yaml")


@cache
def _all_tables() -> list[Mapping[str, Any]]:
    return read_yaml_file(FILE)


def tables(recipe: Recipe) -> list[Mapping[str, Any]]:
    """The tables about a recipe's task: title, source, columns, and rows of cells. A cell is the source's text,
    with a ~ before it if it was not verified."""
    kinds = ("translation",) if recipe.translate_from else ("generation", "budget")
    return [
        table
        for table in _all_tables()
        if table["task"] == recipe.task
        and table.get("kind") in (None, *kinds)
        and table.get("from") in (None, recipe.translate_from)
    ]
