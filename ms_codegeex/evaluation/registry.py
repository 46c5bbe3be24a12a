"""Names of tasks -> what builds them. Nothing of a task is imported before it is asked for."""

from __future__ import annotations

from pathlib import Path

from ms_codegeex.errors import UserError
from ms_codegeex.evaluation.recipes import Recipe
from ms_codegeex.evaluation.task import Task


def build_task(recipe: Recipe, data: Path, timeout: float | None = None) -> Task:
    """The task that a recipe is for, over the user's data. `timeout` in seconds is HumanEval-X's; none: calibrated."""
    if not data.exists():
        raise UserError(
            f"--data: {data} does not exist; see docs/evaluation.md for where a benchmark's files come from"
        )
    if recipe.task == "humaneval-x":
        from ms_codegeex.evaluation import humaneval_x

        languages = recipe.languages or None
        return humaneval_x.build(data, languages, recipe.translate_from, recipe.tag, timeout)
    if recipe.task == "mtpb":
        from ms_codegeex.evaluation import mtpb

        return mtpb.build(data, recipe.turns)
    if recipe.task == "ds1000":
        from ms_codegeex.evaluation import ds1000

        return ds1000.build(data, recipe.mode)
    from ms_codegeex.evaluation import humaneval

    return humaneval.build(data)
