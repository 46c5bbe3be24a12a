"""Recipes in YAML files: read, checked, changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.options import check_ranges, declared
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.config.values import read_yaml
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS, with_key
from ms_codegeex.extras.evaluation.output_directory import RecordedSettings
from ms_codegeex.extras.evaluation.recipe import Recipe

INTEGERS = tuple(each.name for each in declared(Recipe) if each.type is int)


def over(recipe: Recipe, **values: Any) -> Recipe:
    """The recipe with other values; `None` leaves a key unchanged."""
    given = {key: value for key, value in values.items() if value is not None}
    _check_keys(recipe.task, given)
    return build({**asdict(recipe), **given}) if given else recipe


def build(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; an unknown key or a wrong value is a `UserError` that names it."""
    if "task" not in values:
        raise UserError("task: missing; add the benchmark that the recipe is for")
    values = check_tree(Recipe, values)
    if values["task"] not in [*BENCHMARKS]:  # it may be of any type
        raise UserError(f"task: found {values['task']!r}, expected one of {', '.join(BENCHMARKS)}")
    for key in INTEGERS:
        if not isinstance(values.get(key), int | None) or isinstance(values.get(key), bool):
            raise UserError(f"{key}: found {values[key]!r}, expected a whole number")
    recipe = validated(Recipe, values)
    check_ranges(recipe)
    _check_keys(recipe.task, {each.name for each in fields(Recipe) if getattr(recipe, each.name) != each.default})
    return replace(recipe, stops=tuple(recipe.stops), languages=tuple(recipe.languages))


def _check_keys(task: str, given: Iterable[str]) -> None:
    """`UserError` for a key that the task does not have."""
    for key in given:
        having = with_key(key)
        if having and task not in having:
            raise UserError(f"{key}: {task} has no such setting, only {' and '.join(having)}; leave it out")


def load(name: str) -> Recipe:
    """The recipe in a YAML file (`base: other.yaml` inherits), or the shipped one of that name."""
    path = find_config(name, "evaluation", "--recipe")
    values = read_yaml(path)
    with located(path):
        recipe = build(values)
        _check_keys(recipe.task, values)  # also for keys with their defaults
        return recipe


def for_task(task: str, name: str | None) -> Recipe:
    """The recipe for a task: the named one, which must be for that task, or the defaults."""
    if name is None:
        return Recipe(task)
    recipe = load(name)
    if recipe.task != task:
        raise UserError(f"--recipe: {name} is for {recipe.task}, not for {task}; choose another recipe or task")
    return recipe


def to_continue(task: str, name: str | None, output: Path) -> tuple[Recipe, int | None]:
    """The recipe and the limit of problems of the evaluation in `output`, if no other recipe is named and it has begun;
    otherwise the recipe `for_task`, and no limit."""
    recorded = dict(RecordedSettings(output).values.get("recipe") or {}) if name is None else {}
    if not recorded:
        return for_task(task, name), None
    limit = recorded.pop("limit", None)
    recipe = build(recorded)
    if recipe.task != task:
        raise UserError(f"--output: {output} is an evaluation of {recipe.task}; choose another directory")
    return recipe, limit
