"""What of a recipe and of the command line reaches which task."""

import inspect
from pathlib import Path

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.benchmarks import ds1000, humaneval, humaneval_x, mtpb
from ms_codegeex.evaluation.benchmarks.registry import build_task
from ms_codegeex.evaluation.sampling.recipes import Recipe, load

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
    given = built(humaneval_x, load("codegeex_translation").over(languages=["js", "go"]), timeout=7.0)
    assert (tuple(given["languages"]), given["source_language"], given["tag"]) == (("js", "go"), "python", False)
    assert (given["timeout"], given["rules"]) == (7.0, "codegeex")
    assert built(humaneval_x, load("codegeex_humaneval_x"))["tag"] is True
    given = built(humaneval_x, load("codegeex2_humaneval_x"))
    assert (given["languages"], given["rules"], given["timeout"]) == (None, "codegeex2", None)


def test_the_others(built):
    assert built(mtpb, load("codegen_mtpb_single_t02"), python=PYTHON) == {"turns": "single", "python": PYTHON}
    assert built(ds1000, Recipe("ds1000", mode="insertion"))["mode"] == "insertion"
    given = built(humaneval, Recipe("humaneval", cut="codegen", strip=True), timeout=4.0, python=PYTHON)
    assert (given["cut"], given["strip"], given["timeout"], given["python"]) == ("codegen", True, 4.0, PYTHON)
    assert built(humaneval, Recipe("humaneval"))["timeout"] == 3.0


def test_what_a_task_does_not_take(tmp_path):
    with pytest.raises(UserError, match="--timeout: mtpb has the seconds of its benchmark"):
        build_task(Recipe("mtpb"), tmp_path, timeout=3.0)
    with pytest.raises(UserError, match="--python: humaneval-x takes the machine's tool chains"):
        build_task(Recipe("humaneval-x"), tmp_path, python=PYTHON)
