"""A recipe: every setting that influences what a model writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ms_codegeex.base.options import option
from ms_codegeex.generation.sampling import Drawing

LanguageName = Literal["python", "cpp", "java", "js", "go", "rust", "bash", "ts", "lua"]
ALIASES = {
    "c++": "cpp", "javascript": "js", "golang": "go", "sh": "bash", "rs": "rust", "py": "python", "typescript": "ts",
}  # fmt: skip


def language(name: str) -> str:
    return ALIASES.get(name.lower(), name.lower())


@dataclass(frozen=True)
class Recipe(Drawing):
    """The settings of one evaluation: how tokens are drawn, and these. A task has the defaults of the keys that only
    other benchmarks have (`Benchmark.keys`)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}
    task: str
    """The benchmark that it is for."""
    n: int = option("samples of each problem (MTPB: of each test case)", "N", 1, ge=1)
    max_new_tokens: int = option("longest answer in tokens", "N", 512, ge=1)
    max_length: int | None = option("longest prompt and answer together in tokens", "N", ge=1)
    seed: int = option("the same seed gives the same samples", "N", 42, ge=0)
    stops: tuple[str, ...] = ()
    """Texts that end an answer, in addition to the task's rule, and are not part of it."""
    languages: tuple[LanguageName, ...] = option(
        "programming languages, such as cpp java (default: all that the data has)",
        "L",
        (),
        flag="language",
        convert=language,
    )
    translate_from: LanguageName | None = option("translate from this language", "L", convert=language)
    tag: bool = option("CodeGeeX's language tag before the prompt", default=False, negatable=True)
    rules: Literal["codegeex", "codegeex2"] | None = None
    """Where an answer ends: by whose rule; none: by the tag."""
    form: Literal["comment", "titled"] | None = option(
        "how a summary is asked for: by a comment after the code, or under headings (default: comment)"
    )
    turns: Literal["multi", "single"] = option("turn by turn, or all turns as one prompt", default="multi")
    mode: Literal["completion", "insertion"] = option("which of its two forms", default="completion")
    cut: Literal["stops", "codegen", "none"] = "stops"
    """Where an answer is cut: at `stops`, by `codegen`'s rule, or `none`."""
    strip: bool = False
    """Strip white space from the prompt's end."""
