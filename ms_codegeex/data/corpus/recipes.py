"""Recipes of corpora: the settings of `prepare` that a paper published, in YAML."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config.validation import check_tree, validated
from ms_codegeex.config.values import read_yaml
from ms_codegeex.data.corpus.filters import Rules


@dataclass(frozen=True)
class CorpusRecipe:
    """Settings as the options of `prepare` have them; None: the option's default. `rules` are what `--filters` names;
    each that is not given is as in `--filters default`."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}
    tokenizer: str | None = None
    tags: str | None = None
    languages: tuple[str, ...] | None = None
    strip_licences: Literal["files", "all", "none"] | None = None
    near_duplicates: float | None = None
    near_duplicates_by: Literal["words", "tokens"] | None = None
    licences: tuple[str, ...] | None = None
    unknown_licences: Literal["drop", "keep"] | None = None
    redact: tuple[Literal["email", "real-email", "secrets"], ...] | None = None
    rules: Rules = field(default_factory=Rules)

    def values(self) -> dict[str, Any]:
        """The settings that it has, apart from the rules."""
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "rules"}
        return {name: value for name, value in found.items() if value is not None}


def read_recipe(name: str) -> CorpusRecipe:
    """The recipe in a YAML file, or the shipped one of that name. `UserError` if there is none, or a key is wrong."""
    path = find_config(name, "corpora", "--recipe")
    values = read_yaml(path)
    try:
        check_tree(CorpusRecipe, values)
        return validated(CorpusRecipe, values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
