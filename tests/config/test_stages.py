"""Files with `stages`: what each stage's configuration is, and mistakes in them."""

import pytest
import yaml

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config, load_staged_run

COMMON = {"output": "out", "devices": 1, "model": {"preset": "tiny"}, "training": {"steps": 5, "global_batch": 4}}
STAGES = [
    {"name": "nl", "data": {"train": "pile"}},
    {"name": "multi", "data": {"train": "bigquery"}, "training": {"steps": 7}},
    {"name": "mono", "data": {"train": "bigpython"}},
]


def written(path, stages=STAGES, **common):
    path.write_text(yaml.safe_dump({**COMMON, **common, "stages": stages}, sort_keys=False))
    return path


def staged(tmp_path, stages=STAGES, overrides=(), **common):
    return load_staged_run(written(tmp_path / "s.yaml", stages, **common), overrides)


def test_a_stage_lies_on_top_of_the_files_other_keys(tmp_path):
    found = staged(tmp_path)
    assert [stage.name for stage in found.stages] == ["nl", "multi", "mono"] == list(found.chosen)
    assert [stage.after for stage in found.stages] == [None, "nl", "multi"]
    assert [stage.config.training.steps for stage in found.stages] == [5, 7, 5]
    assert [stage.config.data.train for stage in found.stages] == ["pile", "bigquery", "bigpython"]
    assert [stage.config.output for stage in found.stages] == ["out/nl", "out/multi", "out/mono"]
    assert [stage.config.stage for stage in found.stages] == ["nl", "multi", "mono"]


def test_overrides_are_for_all_stages_or_for_one(tmp_path):
    found = staged(tmp_path, overrides=["training.steps=9", "stages.mono.training.steps=2", "output=else"])
    assert [stage.config.training.steps for stage in found.stages] == [9, 9, 2]
    assert str(found.output) == "else" and found.stages[2].config.output == "else/mono"


def test_a_stage_has_a_base_of_its_own_below_its_keys(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.yaml").write_text("output: elsewhere\ntraining: {steps: 11, global_batch: 8}\nseed: 3\n")
    first = {"name": "a", "base": "parts/a.yaml", "training": {"steps": 12}}
    stages = [first, {"name": "b", "base": "codegeex_tiny_release"}]
    a, b = (stage.config for stage in staged(tmp_path, stages).stages)
    assert (a.training.steps, a.training.global_batch, a.seed, a.output) == (12, 8, 3, "out/a")
    assert b.training == load_config("codegeex_tiny_release", ["devices=1"]).training  # a shipped name


def test_stages_may_branch_and_only_the_first_has_the_files_weights(tmp_path):
    stages = [*STAGES[:2], {"name": "java", "start": {"stage": "nl"}}, {"name": "other", "model": {"weights": "there"}}]
    found = staged(tmp_path, stages, ["model.weights=begin"])
    assert [stage.after for stage in found.stages] == [None, "nl", "nl", None]
    assert [stage.config.model.weights for stage in found.stages] == ["begin", None, None, "there"]


def test_the_best_checkpoint_is_taken_from_a_stage_that_keeps_it(tmp_path):
    training = {"steps": 5, "patience": 2, "evaluate_every": 1}
    stages = [{**STAGES[0], "training": training}, STAGES[1], {**STAGES[2], "start": {"stage": "nl"}}]
    assert [stage.best for stage in staged(tmp_path, stages).stages] == [False, True, True]
    stages[2]["start"]["checkpoint"] = "last"
    assert [stage.best for stage in staged(tmp_path, stages).stages] == [False, True, False]
    with pytest.raises(UserError, match=r"stages\.multi\.start\.checkpoint: best, but stage nl keeps no best"):
        staged(tmp_path, [STAGES[0], {**STAGES[1], "start": {"checkpoint": "best"}}])


def test_one_stage_is_chosen_by_name(tmp_path):
    assert staged(tmp_path, overrides=["stage=multi"]).chosen == ("multi",)
    assert load_config(tmp_path / "s.yaml", ["stage=multi"]).data.train == "bigquery"
    with pytest.raises(UserError, match=r"stages: .* has several; choose one with stage=NAME, of nl, multi, mono"):
        load_config(tmp_path / "s.yaml")
    with pytest.raises(UserError, match="stage: found 'java', expected one of nl, multi, mono"):
        staged(tmp_path, overrides=["stage=java"])


def test_a_file_without_stages_is_one_run(tmp_path):
    (tmp_path / "run.yaml").write_text("training: {steps: 3}\n")
    assert load_staged_run(tmp_path / "run.yaml") is None
    with pytest.raises(UserError, match=r"stages: .*run\.yaml has no stages"):
        load_config(tmp_path / "run.yaml", ["stages.nl.training.steps=3"])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], r"stages: found \[\], expected a list of stages"),
        ({"nl": {}}, r"stages: found \{'nl': \{\}\}, expected a list"),
        (["nl"], r"stages\[0\]: found 'nl', expected a name and keys"),
        ([{"data": {}}], r"stages\[0\]\.name: found None, expected a name for a folder"),
        ([{"name": "../up"}], r"stages\[0\]\.name: found '\.\./up'"),
        ([{"name": "a"}, {"name": "a"}], r"stages\[1\]\.name: a is the name of an earlier stage too"),
        ([{"name": "a", "output": "x"}], r"stages\.a\.output: a stage's run is in OUTPUT/a; leave it out"),
        ([{"name": "a", "trainin": {}}], r"stages\.a: trainin: unknown key; did you mean 'training'\?"),
        ([{"name": "a", "training": {"steps": -1}}], r"stages\.a: training\.steps: found -1"),
        ([{"name": "a", "base": "gone.yaml"}], r"gone\.yaml: no such configuration file"),
        ([{"name": "a", "base": "codegeex_tin"}], r"stages\.a\.base: codegeex_tin is neither a file nor"),
        ([{"name": "a", "start": "nl"}], r"stages\.a\.start: found 'nl', expected the keys stage and checkpoint"),
        ([{"name": "a", "start": {"stag": "b"}}], r"stages\.a\.start\.stag: unknown key; did you mean 'stage'\?"),
        ([{"name": "a", "start": {"stage": "b"}}], r"stages\.a\.start\.stage: b is not an earlier stage; known"),
        ([{"name": "abc"}, {"name": "b", "start": {"stage": "abd"}}], r"abd is not .* did you mean 'abc'\?"),
        ([{"name": "a", "start": {"checkpoint": "best"}}], r"stages\.a\.start\.checkpoint: no stage is before"),
        (
            [{"name": "a"}, {"name": "b", "start": {"stage": "a"}, "model": {"weights": "x"}}],
            r"stages\.b\.start: model\.weights is given too",
        ),
    ],
)
def test_mistakes_are_named_with_their_stage(tmp_path, stages, message):
    with pytest.raises(UserError, match=message):
        staged(tmp_path, stages)


def test_an_override_of_a_stage_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"stages\.mno: no such stage; did you mean 'mono'\?"):
        staged(tmp_path, overrides=["stages.mno.seed=3"])
    with pytest.raises(UserError, match="stages: they are not given on the command line"):
        staged(tmp_path, overrides=["stages=[1]"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.mono=5", r"stages\.mono: found 5; write stages\.mono\.key=value"),
        ("stages.mono=[1]", r"stages\.mono: found \[1\]; write"),
        ("stages.mono=null", r"stages\.mono: found None; write"),
        ("stages.mono.output=x", r"stages\.mono\.output: cannot be overridden; leave it out: a stage"),
        ("stages.mono.stage=x", r"stages\.mono\.stage: cannot be overridden"),
        ("stages.mono.start.checkpoint=last", r"stages\.mono\.start: cannot be overridden; change it in .*\.yaml"),
        ("output=[1]", r"output: found \[1\]; input should be a valid string"),
    ],
)
def test_an_override_that_a_stage_cannot_take_is_named(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        staged(tmp_path, overrides=[override])


def test_a_stage_cannot_be_based_on_a_file_with_stages(tmp_path):
    written(tmp_path / "inner.yaml")
    with pytest.raises(UserError, match=r"stages\.a: has stages itself"):
        staged(tmp_path, [{"name": "a", "base": "inner.yaml"}])
