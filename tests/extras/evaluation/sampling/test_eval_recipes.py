import re
from dataclasses import asdict

import pytest
from conftest import ROOT, write_config

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_names
from ms_codegeex.extras.evaluation.benchmarks.registry import BENCHMARKS, with_key
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling.recipes import build, for_task, load, over

PATHS = sorted((ROOT / "configs" / "evaluation").glob("*.yaml"))
PUBLISHED = {  # samples, temperature, top-p, length of prompt and answer together: facts of the papers
    "codegeex_humaneval_x": (200, 0.8, 0.95, None),
    "codegeex2_humaneval_x": (20, 0.2, 0.95, 1024),
    "codegen_humaneval_t02": (200, 0.2, 0.95, None),
    "codegen_mtpb_t02": (40, 0.2, 0.95, None),
    "codegeex2_ds1000": (40, 0.2, 0.5, 1024),
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_what_its_name_says(path):
    recipe = load(str(path))
    assert recipe == load(path.stem) == build(asdict(recipe)) and path.stem in shipped_names("evaluation")
    assert recipe.top_k == 0  # a top-k that nobody asked for cost CodeGeeX2's users five points
    assert recipe.task.replace("-", "_") in path.stem or "translation" in path.stem
    warmth = re.search(r"_t(\d)(\d)$", path.stem)
    assert not warmth or recipe.temperature == float(f"{warmth[1]}.{warmth[2]}")
    assert recipe.turns == ("single" if "single" in path.stem else "multi")
    assert (recipe.translate_from is not None) == ("translation" in path.stem)
    assert recipe.tag == (path.stem in ("codegeex_humaneval_x", "humaneval_x_summary"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_of_the_papers(name):
    recipe = load(name)
    assert (recipe.n, recipe.temperature, recipe.top_p, recipe.max_length) == PUBLISHED[name]


@pytest.mark.parametrize(
    "text, words",
    [
        ("task: mtpb\ntemprature: 0.2", "r.yaml: temprature: unknown key; did you mean 'temperature'?"),
        ("task: mtpb\ntemperature: -1", "r.yaml: temperature: -1.0 is out of range"),
        ("task: mtpb\ntop_p: 0", "top_p: 0.0 is out of range"),
        ("task: mtpb\nn: 1.5", "n: found 1.5"),
        ("task: mtpb\ntemperature: .nan", "temperature: found nan"),
        ("task: no-such-task", "task: found 'no-such-task'"),
        ("task: humaneval-x\nlanguages: [cobol]", "languages.0: found 'cobol'"),
        ("task: humaneval-x\nrules: codegex", "rules: found 'codegex'"),
        ("task: humaneval\ncut: cut", "cut: found 'cut'"),
        ("task: mtpb\nturns: both", "turns: found 'both'"),
        ("task: ds1000\nmode: fill", "mode: found 'fill'"),
        ("task: perplexity", "task: found 'perplexity'"),
        ("task: humaneval\nturns: single", "r.yaml: turns: humaneval has no such setting, only mtpb"),
        ("n: 1", "task: missing"),
        ("- n", "found a list"),
        ("task: [", "not valid YAML"),
        (lambda: load("codegex"), "shipped: bigcode_humaneval, codegeex2_ds1000"),
        (lambda: load("none.yaml"), "none.yaml is neither a file"),
        (lambda: for_task("humaneval", "codegen_mtpb_t02"), "is for mtpb, not for humaneval"),
        (lambda: over(load("codegeex_humaneval_x"), top_p=2), "top_p: 2.0 is out of range"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    path = tmp_path / "r.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(UserError) as caught:
        text() if callable(text) else load(str(path))
    assert words in str(caught.value)


def test_recipes_of_tasks_and_values_of_the_command_line():
    assert for_task("humaneval", None) == Recipe("humaneval")
    recipe = load("codegeex_humaneval_x")
    assert over(recipe, n=None, temperature=0.2, languages=["js"]).languages == ("js",)
    assert over(recipe) is recipe


@pytest.mark.parametrize("key", sorted({key for name in BENCHMARKS for key in BENCHMARKS[name].keys}))
def test_a_setting_of_another_task_is_refused(tmp_path, key):
    value = {"languages": ["cpp"], "translate_from": "cpp", "tag": True, "rules": "codegeex", "turns": "single"}.get(
        key, {"mode": "insertion", "cut": "none", "strip": True, "form": "titled"}.get(key)
    )
    for task in BENCHMARKS:
        path = write_config(tmp_path / f"{task}.yaml", {"task": task, key: value})
        if task in with_key(key):
            assert load(str(path)) == over(Recipe(task), **{key: value})
            continue
        for refused in (lambda path=path: load(str(path)), lambda task=task: over(Recipe(task), **{key: value})):
            with pytest.raises(UserError, match=f"{key}: {task} has no such setting"):
                refused()
