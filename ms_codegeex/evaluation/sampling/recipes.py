"""Recipes: every setting that influences what a model writes, in one YAML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic import ConfigDict

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import check_ranges
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config.validation import Natural, Positive, check_tree, validated
from ms_codegeex.config.values import read_yaml
from ms_codegeex.generation.sampling import Drawing

TaskName = Literal["humaneval-x", "multipl-e", "mtpb", "ds1000", "humaneval", "evalplus", "sql"]
ONLY_OF: dict[str, tuple[str, ...]] = {  # keys that only these tasks have
    "languages": ("humaneval-x", "multipl-e"),
    "translate_from": ("humaneval-x",),
    "tag": ("humaneval-x",),
    "rules": ("humaneval-x",),
    "turns": ("mtpb",),
    "mode": ("ds1000",),
    "cut": ("humaneval",),
    "strip": ("humaneval",),
}
LanguageName = Literal["python", "cpp", "java", "js", "go", "rust", "bash", "ts", "lua"]


@dataclass(frozen=True)
class Recipe(Drawing):
    """The settings of one evaluation: how tokens are drawn, and these. Keys that `ONLY_OF` gives to other tasks have
    their defaults."""

    task: TaskName
    n: Positive = 1  # samples of a problem; MTPB: of each of its test cases
    max_new_tokens: Positive = 512
    max_length: Positive | None = None  # of prompt and answer together; None: the model's
    seed: Natural = 42
    stops: tuple[str, ...] = ()  # texts that end an answer, in addition to the task's rule; not part of it
    languages: tuple[LanguageName, ...] = ()  # HumanEval-X, MultiPL-E; empty: every language in the data
    translate_from: LanguageName | None = None  # HumanEval-X: translation instead of generation
    tag: bool = False  # HumanEval-X: CodeGeeX's language tag before the prompt
    rules: Literal["codegeex", "codegeex2"] | None = None  # HumanEval-X: where an answer ends; None: by the tag
    turns: Literal["multi", "single"] = "multi"  # MTPB
    mode: Literal["completion", "insertion"] = "completion"  # DS-1000
    cut: Literal["stops", "codegen", "none"] = "stops"  # HumanEval: at the usual stop words, by CodeGen's rule, nowhere
    strip: bool = False  # HumanEval: strip white space from the prompt's end

    def over(self, **values: Any) -> Recipe:
        """The recipe with other values; `None` leaves a key unchanged."""
        given = {key: value for key, value in values.items() if value is not None}
        _check_keys(self.task, given)
        return build({**asdict(self), **given}) if given else self


Recipe.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]


def build(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values; an unknown key or a wrong value is a `UserError` that names it."""
    if "task" not in values:
        raise UserError("task: missing; a recipe says which task it is for")
    check_tree(Recipe, values)
    recipe = validated(Recipe, values)
    check_ranges(recipe)
    _check_keys(recipe.task, {name for name in ONLY_OF if getattr(recipe, name) != getattr(Recipe, name)})
    return replace(recipe, stops=tuple(recipe.stops), languages=tuple(recipe.languages))


def _check_keys(task: str, given: Iterable[str]) -> None:
    """`UserError` for a key that the task does not have."""
    for key in given:
        if task not in ONLY_OF.get(key, (task,)):
            raise UserError(f"{key}: {task} has no such setting, only {' and '.join(ONLY_OF[key])}; leave it out")


def load(name: str) -> Recipe:
    """The recipe in a YAML file (`base: other.yaml` inherits), or the shipped one of that name."""
    path = find_config(name, "evaluation", "--recipe")
    values = read_yaml(path)
    try:
        recipe = build(values)
        _check_keys(recipe.task, values)  # also for keys with their defaults
        return recipe
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def for_task(task: str, name: str | None) -> Recipe:
    """The recipe for a task: the named one, which must be for that task, or the defaults."""
    if name is None:
        return Recipe(task)  # type: ignore[arg-type]
    recipe = load(name)
    if recipe.task != task:
        raise UserError(f"--recipe: {name} is for {recipe.task}, not for {task}; choose another recipe or task")
    return recipe
