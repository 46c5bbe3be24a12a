"""Task names and their builders. A task's modules are imported only when it is built."""

from __future__ import annotations

from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.sampling.recipes import Recipe
from ms_codegeex.evaluation.task import Task


def build_task(recipe: Recipe, data: Path, timeout: float | None = None, python: Path | None = None) -> Task:
    """The task that a recipe is for, over the user's data.

    `timeout` in seconds is only for tasks whose benchmark leaves it open (None: their default). `python` is the
    interpreter of the programs in Python and of SQL (None: this process's), but not of HumanEval-X and MultiPL-E.
    """
    if timeout is not None and recipe.task in ("mtpb", "ds1000"):
        raise UserError(f"--timeout: {recipe.task} has the seconds of its benchmark; leave it out")
    if python is not None and recipe.task in ("humaneval-x", "multipl-e"):
        raise UserError(f"--python: {recipe.task} takes the machine's tool chains; leave it out")
    if not data.exists():
        raise UserError(
            f"--data: {data} does not exist; see docs/evaluation.md for where a benchmark's files come from"
        )
    if recipe.task == "humaneval-x":
        from ms_codegeex.evaluation.benchmarks import humaneval_x

        languages = recipe.languages or None
        return humaneval_x.build(data, languages, recipe.translate_from, recipe.tag, timeout, recipe.rules)
    if recipe.task == "multipl-e":
        from ms_codegeex.evaluation.benchmarks import multipl_e

        return multipl_e.build(data, recipe.languages or None, timeout)
    if recipe.task == "mtpb":
        from ms_codegeex.evaluation.benchmarks import mtpb

        return mtpb.build(data, recipe.turns, python)
    if recipe.task == "ds1000":
        from ms_codegeex.evaluation.benchmarks import ds1000

        return ds1000.build(data, recipe.mode, python)
    seconds = {} if timeout is None else {"timeout": timeout}
    if recipe.task == "sql":
        from ms_codegeex.evaluation.benchmarks import sql

        return sql.Sql(data, python=python, **seconds)
    if recipe.task == "evalplus":
        from ms_codegeex.evaluation.benchmarks import evalplus

        return evalplus.build(data, python=python, **({} if timeout is None else {"seconds": timeout}))
    if recipe.task == "humaneval":
        from ms_codegeex.evaluation.benchmarks import humaneval

        return humaneval.build(data, cut=recipe.cut, strip=recipe.strip, python=python, **seconds)
    raise UserError(f"task: {recipe.task} has no problems to judge; `evaluate {recipe.task}` takes no recipe")
