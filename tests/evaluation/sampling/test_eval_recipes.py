from dataclasses import asdict

import pytest
from conftest import ROOT, write_config

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_names
from ms_codegeex.evaluation.benchmarks.registry import benchmark, names, with_key
from ms_codegeex.evaluation.recipe import Recipe
from ms_codegeex.evaluation.sampling.recipes import build, for_task, load, over

PATHS = sorted((ROOT / "configs" / "evaluation").glob("*.yaml"))
PUBLISHED = {  # samples, temperature, top-p, tag, prompt and answer together: facts of the three papers
    "codegeex_humaneval_x": ("humaneval-x", 200, 0.8, 0.95, True, None),
    "codegeex_translation": ("humaneval-x", 200, 0.8, 0.95, False, None),
    "codegeex2_humaneval_x": ("humaneval-x", 20, 0.2, 0.95, False, 1024),
    "codegeex2_humaneval_x_pass100": ("humaneval-x", 200, 0.8, 0.95, False, 1024),
    "codegeex2_humaneval_x_greedy": ("humaneval-x", 1, 0.0, 1.0, False, 1024),
    "codegen_humaneval_t02": ("humaneval", 200, 0.2, 0.95, False, None),
    "codegen_humaneval_t06": ("humaneval", 200, 0.6, 0.95, False, None),
    "codegen_humaneval_t08": ("humaneval", 200, 0.8, 0.95, False, None),
    "codegen_mtpb_t02": ("mtpb", 40, 0.2, 0.95, False, None),
    "codegen_mtpb_t06": ("mtpb", 40, 0.6, 0.95, False, None),
    "codegen_mtpb_t08": ("mtpb", 40, 0.8, 0.95, False, None),
    "codegen_mtpb_single_t02": ("mtpb", 40, 0.2, 0.95, False, None),
    "codegen_mtpb_single_t06": ("mtpb", 40, 0.6, 0.95, False, None),
    "codegen_mtpb_single_t08": ("mtpb", 40, 0.8, 0.95, False, None),
    "multipl_e": ("multipl-e", 20, 0.2, 0.95, False, None),
    "evalplus": ("evalplus", 1, 0.0, 1.0, False, None),
    "codegeex2_ds1000": ("ds1000", 40, 0.2, 0.5, False, 1024),
    "codex_ds1000": ("ds1000", 40, 0.2, 0.95, False, 1024),
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_every_shipped_recipe_says_what_was_published(path):
    recipe = load(str(path))
    assert recipe == load(path.stem) == build(asdict(recipe))
    assert recipe.top_k == 0  # a top-k that nobody asked for cost CodeGeeX2's users five points
    reported = (recipe.task, recipe.n, recipe.temperature, recipe.top_p, recipe.tag, recipe.max_length)
    assert reported == PUBLISHED[path.stem]
    assert recipe.turns == ("single" if "single" in path.stem else "multi")
    assert (recipe.translate_from is not None) == ("translation" in path.stem)


def test_all_of_them_are_there():
    assert shipped_names("evaluation") == sorted(PUBLISHED) == [path.stem for path in PATHS]


@pytest.mark.parametrize(
    "text, words",
    [
        ("task: mtpb\ntemprature: 0.2", "r.yaml: temprature: unknown key; did you mean 'temperature'?"),
        ("task: mtpb\ntemperature: -1", "r.yaml: temperature: -1.0 is out of range"),
        ("task: mtpb\ntop_p: 0", "top_p: 0.0 is out of range"),
        ("task: mtpb\nn: 1.5", "n: found 1.5"),
        ("task: mtpb\ntemperature: .nan", "temperature: found nan"),
        ("task: mbpp", "task: found 'mbpp'"),
        ("task: humaneval-x\nlanguages: [cobol]", "languages.0: found 'cobol'"),
        ("task: humaneval-x\nrules: codegex", "rules: found 'codegex'"),
        ("task: humaneval\ncut: cut", "cut: found 'cut'"),
        ("task: mtpb\nturns: both", "turns: found 'both'"),
        ("task: ds1000\nmode: fill", "mode: found 'fill'"),
        ("task: perplexity", "task: found 'perplexity'"),
        ("task: humaneval\nturns: single", "r.yaml: turns: humaneval has no such setting, only mtpb"),
        ("task: humaneval\nmode: completion", "r.yaml: mode: humaneval has no such setting, only ds1000"),
        ("n: 1", "task: missing"),
        ("- n", "found list"),
        ("task: [", "not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, words):
    path = tmp_path / "r.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert words in str(caught.value)


def test_names_files_and_tasks(tmp_path):
    with pytest.raises(UserError, match="shipped: codegeex2_ds1000"):
        load("codegex")
    with pytest.raises(UserError, match=r"none\.yaml is neither a file"):
        load(str(tmp_path / "none.yaml"))
    with pytest.raises(UserError, match="is for mtpb, not for humaneval"):
        for_task("humaneval", "codegen_mtpb_t02")
    assert for_task("humaneval", None) == Recipe("humaneval")


def test_values_from_the_command_line_are_checked_too():
    recipe = load("codegeex_humaneval_x")
    assert over(recipe, n=None, temperature=0.2, languages=["js"]).languages == ("js",)
    assert over(recipe) is recipe
    with pytest.raises(UserError, match=r"top_p: 2.* is out of range"):
        over(recipe, top_p=2)


@pytest.mark.parametrize("key", sorted({key for name in names() for key in benchmark(name).keys}))
def test_a_setting_of_another_task_is_refused(tmp_path, key):
    value = {"languages": ["cpp"], "translate_from": "cpp", "tag": True, "rules": "codegeex", "turns": "single"}.get(
        key, {"mode": "insertion", "cut": "none", "strip": True}.get(key)
    )
    for task in names():
        path = write_config(tmp_path / f"{task}.yaml", {"task": task, key: value})
        if task in with_key(key):
            assert load(str(path)) == over(Recipe(task), **{key: value})
            continue
        for refused in (lambda path=path: load(str(path)), lambda task=task: over(Recipe(task), **{key: value})):
            with pytest.raises(UserError, match=f"{key}: {task} has no such setting"):
                refused()
