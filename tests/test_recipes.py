"""docs/recipes.md is what its script writes from configs/recipes, whose files are the plans that it names."""

import re

import pytest
from conftest import load_script

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.rules import check_kernels


@pytest.fixture(scope="module")
def script():
    return load_script("docs/recipes.py")


def test_the_page_is_current(script, capsys):
    assert script.main(["--check"]) == 0, capsys.readouterr().out


def test_every_file_is_a_plan_of_its_name_that_fits(script):
    listed = {recipe.file: recipe for recipe in script.recipes()}
    files = set(script.FOLDER.rglob("*.yaml"))
    assert files <= set(listed) and len(files) > 0.8 * len(listed)
    for file in files:
        recipe = listed[file]
        plan = recipe.plan()
        assert plan.roomy and plan.config.devices == recipe.devices and plan.chip.name == recipe.hardware
        check_kernels(plan.config)


def test_a_page_that_differs_is_seen(script, tmp_path, capsys):
    (tmp_path / "recipes.md").write_text(script.page().replace("device-hours", "hours"))
    assert script.main(["--check"], tmp_path) == 1
    assert "differs" in capsys.readouterr().out


def test_a_recipe_that_was_not_searched_is_not_called_infeasible(script, monkeypatch):
    missing = [recipe for recipe in script.recipes() if not recipe.file.exists()]
    assert {recipe.file.stem for recipe in missing} == set(script.NOTHING_FITS)
    assert all(recipe.plan() is None for recipe in missing)
    monkeypatch.setattr(script, "NOTHING_FITS", ())
    with pytest.raises(SystemExit, match=f"--only {missing[0].file.stem};"):
        script.page()


def test_every_recipe_has_its_step_its_share_and_its_hours_on_the_page(script):
    shown = re.findall(r"\[(\S+) s, (\d+) %, (\S+) h\]\(\S+/(\w+)\.yaml\)", script.page())
    shown = {stem: figures for *figures, stem in shown}
    for recipe in script.recipes():
        plan, stem = recipe.plan(), recipe.file.stem
        if plan is None:
            continue
        step, share, device_hours = shown[stem]
        assert (float(step), int(share)) == (pytest.approx(plan.step_seconds, rel=0.006), round(100 * plan.mfu)), stem
        assert plan.estimate.low < plan.estimate.seconds == plan.step_seconds < plan.estimate.high
        limits = plan.estimate.low / plan.step_seconds, plan.estimate.high / plan.step_seconds
        assert limits == pytest.approx((0.88, 1.21), abs=0.006)  # as the page says
        tokens = plan.config.training.global_batch * plan.config.seq_length
        hours = recipe.model.tokens / tokens * plan.step_seconds / 3600
        assert script.hours_of(plan, recipe.model.tokens) == pytest.approx(hours)
        assert int(device_hours.replace(",", "")) == round(hours * recipe.devices), stem


def test_a_search_leaves_what_was_chosen_by_hand(script, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    chosen = script.KEPT[0]
    before = (script.FOLDER / f"{chosen}.yaml").read_bytes()
    assert script.main(["--search", "--only", chosen], tmp_path) == 0
    assert "not searched" in capsys.readouterr().out and (script.FOLDER / f"{chosen}.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--check", "--search"], "--check writes nothing"), (["--only", "codegeex"], "add --search")],
)
def test_arguments_that_contradict_each_other_are_refused(script, arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        script.main(arguments)
    assert exit_.value.code == 2 and message in capsys.readouterr().err


def test_errors_are_one_line(script, monkeypatch, capsys):
    def fails():
        raise UserError("a mistake")

    monkeypatch.setattr(script, "page", fails)
    assert script.main(["--check"]) == 2 and capsys.readouterr().err == "error: a mistake\n"
