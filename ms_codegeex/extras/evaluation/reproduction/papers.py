"""The papers that can be reproduced, and the evaluations that make up each: `papers.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.yaml_reading import read_yaml_file
from ms_codegeex.extras.evaluation.recipe import Recipe

FILE = Path(__file__).with_name("papers.yaml")
PaperName = Literal["codegeex", "codegen", "codegeex2"]
PAPERS: tuple[str, ...] = get_args(PaperName)
QUICK_PROBLEMS, QUICK_SAMPLES = 8, 2  # for each language; for each problem
CHECKPOINT_SAMPLES = 10  # at most, for each problem: a run may have many checkpoints


@dataclass(frozen=True)
class PaperPart:
    """One evaluation of a paper."""

    name: str  # also its directory's
    title: str
    data: str  # which of the benchmarks' files it needs: `humaneval_x`, `humaneval`, `mtpb` or `ds1000`
    recipe: str  # a name in configs/evaluation
    translate_from: str | None = None
    languages: tuple[str, ...] = ()  # the targets of a translation; none: all that the data has
    perplexity: bool = False  # whether the paper has the perplexity of its prompts

    def settings(self, quick: bool) -> Recipe:
        """The recipe as it is drawn."""
        from ms_codegeex.extras.evaluation.sampling import recipes

        recipe = recipes.load(self.recipe)
        n = min(recipe.n, QUICK_SAMPLES) if quick else None
        return recipes.over(recipe, n=n, translate_from=self.translate_from, languages=self.languages or None)

    def words(self, data: Path, output: Path, quick: bool, local: bool) -> list[str]:
        """The words of `evaluate`, without those of the model. `local`: it can score prompts, as no server can."""
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
    """A paper. `compared`: the published model that ours is compared with; `precisions`: its memory by precision."""

    name: str
    title: str
    compared: str
    parts: tuple[PaperPart, ...]
    precisions: Mapping[str, str] = field(default_factory=dict)

    def chosen(self, names: Iterable[str]) -> tuple[PaperPart, ...]:
        """The parts of these names, in the paper's order; all if there are none. An unknown one is a `UserError`."""
        names, known = list(names), [part.name for part in self.parts]
        if absent := [name for name in names if name not in known]:
            raise UserError(f"--only: {self.name} has no part {absent[0]}; choose from {', '.join(known)}")
        return tuple(part for part in self.parts if not names or part.name in names)


@cache
def _papers() -> Mapping[str, Any]:
    return read_yaml_file(FILE)


def paper(name: str) -> Paper:
    """The paper of a name."""
    values, parts = _papers()[name], []
    for key, given in values["parts"].items():
        source = given.get("translate_from")
        targets = tuple(each for each in values.get("languages", ()) if source and each != source)
        parts.append(PaperPart(key, **{**given, "languages": targets}))
    return Paper(name, values["title"], values["compared"], tuple(parts), values.get("precisions", {}))
