"""The papers that can be reproduced, and the evaluations that make up each: `papers.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.evaluation.recipe import Recipe

FILE = Path(__file__).with_name("papers.yaml")
PaperName = Literal["codegeex", "codegen", "codegeex2"]
PAPERS: tuple[str, ...] = get_args(PaperName)
QUICK_PROBLEMS, QUICK_SAMPLES = 8, 2  # of each language; of each problem
CHECKPOINT_SAMPLES = 10  # of each problem at most, of each checkpoint of a run: there may be many


@dataclass(frozen=True)
class PaperPart:
    """One evaluation of a paper.

    Args:
        name: of its directory.
        title: for readers.
        data: which of the benchmarks' files it needs: `humaneval_x`, `humaneval`, `mtpb` or `ds1000`.
        recipe: a name in configs/evaluation.
        translate_from: the source language of a translation.
        languages: the targets of a translation; none: all that the data has.
        perplexity: whether the paper has the perplexity of its prompts.
    """

    name: str
    title: str
    data: str
    recipe: str
    translate_from: str | None = None
    languages: tuple[str, ...] = ()
    perplexity: bool = False

    def settings(self, quick: bool) -> Recipe:
        """The recipe as it is drawn."""
        from ms_codegeex.evaluation.sampling import recipes

        recipe = recipes.load(self.recipe)
        n = min(recipe.n, QUICK_SAMPLES) if quick else None
        return recipes.over(recipe, n=n, translate_from=self.translate_from, languages=self.languages or None)

    def words(self, data: Path, output: Path, quick: bool, local: bool) -> list[str]:
        """The words of `evaluate`, without those of the model. `local`: it is no server's, so it can score prompts."""
        recipe = self.settings(quick)
        words = ["evaluate", recipe.task, "--data", str(data), "--output", str(output), "--recipe", self.recipe]
        if self.translate_from:
            words += ["--translate-from", self.translate_from, "--language", *self.languages]
        if self.perplexity and local:
            words.append("--prompt-perplexity")
        if quick:
            words += ["--n", str(recipe.n), "--limit", str(QUICK_PROBLEMS)]
        return words


@dataclass(frozen=True)
class Paper:
    """A paper: `compared` names the published model that ours is compared with. `precisions`: published memory by
    precision, where the paper has it."""

    name: str
    title: str
    compared: str
    parts: tuple[PaperPart, ...]
    precisions: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, names: Iterable[str]) -> tuple[PaperPart, ...]:
        """The parts of these names, in the paper's order; all if there are none. An unknown one is a `UserError`."""
        names = list(names)
        known = [part.name for part in self.parts]
        for name in names:
            if name not in known:
                raise UserError(f"--only: {self.name} has no part {name}; choose of {', '.join(known)}")
        return tuple(part for part in self.parts if not names or part.name in names)


@cache
def _papers() -> Mapping[str, Any]:
    return read_yaml_file(FILE)


def paper(name: str) -> Paper:
    """The paper of a name."""
    values = _papers()[name]
    between = tuple(values.get("languages", ()))

    def part(key: str, given: Mapping[str, Any]) -> PaperPart:
        source = given.get("translate_from")
        targets = tuple(each for each in between if each != source) if source else ()
        prompts = given.get("perplexity", False)
        return PaperPart(key, given["title"], given["data"], given["recipe"], source, targets, prompts)

    parts = tuple(part(*each) for each in values["parts"].items())
    return Paper(name, values["title"], values["compared"], parts, values.get("precisions", {}))
