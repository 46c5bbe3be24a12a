"""What of a recipe and of the command line reaches which task."""

import inspect
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks import ds1000, humaneval, humaneval_x, mtpb, registry
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS, build_task
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling.recipes import load, over

PYTHON = Path("/usr/bin/python3")


@pytest.fixture
def built(monkeypatch, tmp_path):
    """Build with a module's `build` replaced; its arguments by name."""

    def call(module, recipe, **options):
        signature, given = inspect.signature(module.build), {}

        def remember(*words, **named):
            bound = signature.bind(*words, **named)
            bound.apply_defaults()
            given.update(bound.arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, "build", remember)
            build_task(recipe, tmp_path, **options)
        assert given.pop("data") == tmp_path
        return given

    return call


def test_humaneval_x(built):
    given = built(humaneval_x, over(load("codegeex_translation"), languages=["js", "go"]), timeout=7.0)
    assert (given["languages"], given["translate_from"], given["tag"]) == (("js", "go"), "python", False)
    assert (given["timeout"], given["rules"]) == (7.0, "codegeex")
    assert built(humaneval_x, load("codegeex_humaneval_x"))["tag"] is True
    given = built(humaneval_x, load("codegeex2_humaneval_x"))
    assert (given["languages"], given["rules"], given["timeout"]) == ((), "codegeex2", None)


def test_the_others(built):
    assert built(mtpb, load("codegen_mtpb_single_t02"), python=PYTHON) == {"turns": "single", "python": PYTHON}
    assert built(ds1000, Recipe("ds1000", mode="insertion"))["mode"] == "insertion"
    given = built(humaneval, Recipe("humaneval", cut="codegen", strip=True), timeout=4.0, python=PYTHON)
    assert (given["cut"], given["strip"], given["timeout"], given["python"]) == ("codegen", True, 4.0, PYTHON)
    assert built(humaneval, Recipe("humaneval"))["timeout"] is None


def test_what_a_task_does_not_take(tmp_path):
    with pytest.raises(UserError, match="--timeout: mtpb has no such option"):
        build_task(Recipe("mtpb"), tmp_path, timeout=3.0)
    with pytest.raises(UserError, match="--python: humaneval-x has no such option"):
        build_task(Recipe("humaneval-x"), tmp_path, python=PYTHON)


def test_every_file_with_a_task_is_a_benchmark():
    files = Path(registry.__file__).parent.glob("*.py")
    built = [path.stem.replace("_", "-") for path in files if "\nbuild = " in path.read_text()]
    assert sorted(built) == sorted(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_says_what_it_is_and_which_settings_it_has(name):
    """A row that lacks something would fail here, and nowhere else before a user names it."""
    found = BENCHMARKS[name]
    assert found.summary and set(found.options) <= {"timeout", "python", "prompt_perplexity"}
    assert set(found.keys) <= {each.name for each in fields(Recipe)} - {"task", "n", "seed", "temperature"}
    module = import_module(f"ms_codegeex.extras.evaluation.benchmarks.{name.replace('-', '_')}")
    taken = inspect.signature(module.build).parameters.keys()
    assert taken - {"cache"} == {"data", *found.keys, *found.options} - {"prompt_perplexity"}
