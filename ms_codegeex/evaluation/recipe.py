"""A recipe: every setting that influences what a model writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ms_codegeex.base.options import Option
from ms_codegeex.generation.sampling import Drawing

LanguageName = Literal["python", "cpp", "java", "js", "go", "rust", "bash", "ts", "lua"]
ALIASES = {
    "c++": "cpp",
    "javascript": "js",
    "golang": "go",
    "sh": "bash",
    "rs": "rust",
    "py": "python",
    "typescript": "ts",
}


def language(name: str) -> str:
    """A language by one of its usual names."""
    return ALIASES.get(name.lower(), name.lower())


@dataclass(frozen=True)
class Recipe(Drawing):
    """The settings of one evaluation: how tokens are drawn, and these. A task has the defaults of the keys that only
    other benchmarks have (`Benchmark.keys`)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "allow_inf_nan": False}
    task: str
    """The benchmark that it is for."""
    n: Annotated[int, Option("samples of each problem (MTPB: of each test case)", "N", ge=1)] = 1
    max_new_tokens: Annotated[int, Option("longest answer in tokens", "N", ge=1)] = 512
    max_length: Annotated[int | None, Option("longest prompt and answer together in tokens", "N", ge=1)] = None
    seed: Annotated[int, Option("the same seed gives the same samples", "N", ge=0)] = 42
    stops: tuple[str, ...] = ()
    """Texts that end an answer, in addition to the task's rule, and are not part of it."""
    languages: Annotated[
        tuple[LanguageName, ...],
        Option(
            "programming languages, such as cpp java (default: all that the data has)",
            "L",
            flag="language",
            convert=language,
        ),
    ] = ()
    translate_from: Annotated[LanguageName | None, Option("translate from this language", "L", convert=language)] = None
    tag: Annotated[bool, Option("CodeGeeX's language tag before the prompt", negatable=True)] = False
    rules: Literal["codegeex", "codegeex2"] | None = None
    """Where an answer ends: by whose rule; none: by the tag."""
    turns: Annotated[Literal["multi", "single"], Option("turn by turn, or all turns as one prompt")] = "multi"
    mode: Annotated[Literal["completion", "insertion"], Option("which of its two forms")] = "completion"
    cut: Literal["stops", "codegen", "none"] = "stops"
    """Where an answer is cut: at `stops`, by `codegen`'s rule, or `none`."""
    strip: bool = False
    """Strip white space from the prompt's end."""
