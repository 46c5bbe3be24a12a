"""Published results, to compare with: the tables in `published.yaml`, and figures in a user's own YAML or JSON files:

CodeGen-Mono 350M:
  source: CodeGen (ICLR 2023), table 1
  pass@1: 12.76                          # per cent; "pass rate" is the same
  pass@10: 23.11
  "language: python": {pass@1: 12.76}    # of a group, as the comparison names it
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.extras.evaluation.recipe import Recipe

FILE = Path(__file__).with_name("published.yaml")
RATE = re.compile(r"pass@([1-9]\d{0,5})|pass rate")
EXPECTED = "source, pass@1, pass@10, … in per cent, or the name of a group with these"


def tables(recipe: Recipe) -> list[Mapping[str, Any]]:
    """The tables about a recipe's task: title, source, columns, and rows of cells. A cell is the source's text,
    with a ~ before it if it was not verified."""
    kinds = (None, "translation") if recipe.translate_from else (None, "generation", "budget")
    found = (table for table in shipped_table(FILE) if table["task"] == recipe.task and table.get("kind") in kinds)
    return [table for table in found if table.get("from") in (None, recipe.translate_from)]


@dataclass(frozen=True)
class PublishedRow:
    """Rates by name of a group ("all" for the whole benchmark) and k, as shares."""

    name: str
    source: str
    rates: Mapping[str, Mapping[str, float]]


def read_published(paths: Iterable[Path]) -> list[PublishedRow]:
    """The rows of the files, in order. An invalid row, or a name that occurs twice, is a `UserError`."""
    rows: dict[str, PublishedRow] = {}
    for path in paths:
        for name, values in _mapping(path).items():
            row = _row(str(name), values, f"{path}: {name}")
            if row.name in rows:
                raise UserError(f"{path}: {name} occurs twice; give each row a different name")
            rows[row.name] = row
    return list(rows.values())


def _mapping(path: Path) -> dict[Any, Any]:
    try:
        values = read_yaml_file(path, pipe=True)
    except (UserError, FileNotFoundError) as error:
        raise UserError(f"--published: {path} cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: found {type(values).__name__}, expected names of rows, each with {EXPECTED}")
    return values


def _row(name: str, values: Any, where: str) -> PublishedRow:
    if not isinstance(values, dict):
        raise UserError(f"{where}: found {type(values).__name__}, expected {EXPECTED}")
    source = values.get("source")
    if not isinstance(source, str) or not source.strip():
        raise UserError(f"{where}: source is missing; say where the figures are from, such as a paper's table")
    own = {key: value for key, value in values.items() if key != "source" and not isinstance(value, dict)}
    groups = {str(key): value for key, value in values.items() if isinstance(value, dict)}
    rates = {"all": own, **groups} if own else groups
    if not rates:
        raise UserError(f"{where}: no rates, expected {EXPECTED}")
    return PublishedRow(name, source, {group: _rates(entries, where) for group, entries in rates.items()})


def _rates(values: Mapping[Any, Any], where: str) -> dict[str, float]:
    rates = {}
    for key, value in values.items():
        match = RATE.fullmatch(str(key))
        if match is None:
            raise UserError(f"{where}: {key}: unknown key, expected {EXPECTED}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise UserError(f"{where}: {key} is {value!r}, expected a number from 0 to 100 (per cent)")
        rates[match[1] or "1"] = value / 100
    return rates
