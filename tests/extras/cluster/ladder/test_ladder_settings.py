"""Which runs a ladder consists of, and what is wrong with one."""

import pytest
from conftest import write_config

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.cluster.ladder.settings import load_ladder

LADDER = {
    "run": "codegeex_tiny_release",
    "tokens": [40960, 81920],
    "seeds": [1, 2],
    "sizes": [{"hidden_size": 64, "num_heads": 2}, {"hidden_size": 96, "num_heads": 2}],
    "vary": {"key": "data.reset_at_eos", "values": [True, False]},
    "settings": {"training": {"global_batch": 8}},
}


def test_every_combination_is_a_run_and_the_smallest_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_config(tmp_path / "run.yaml", {"base": LADDER["run"], "data": {"train": "~/data"}})
    path = write_config(tmp_path / "ladder.yaml", {**LADDER, "run": "~/run.yaml"})
    settings, found = load_ladder(path, [f"output={tmp_path}"])
    assert len(found) == len({rung.directory for rung in found}) == 16
    first, last = found[0], found[-1]
    assert (first.size, first.tokens, last.size, last.tokens) == (0, 40960, 1, 81920)
    for rung in found:
        config = rung.config
        assert config.steps == rung.tokens // (8 * 256) == config.schedule.decay_steps
        assert config.schedule.warmup_steps == config.steps // 10
        assert config.training.schedule.learning_rate == 4e-3  # the run's
        assert (config.seed, config.data.reset_at_eos) == (rung.seed, rung.value)
        assert config.model.sizes.hidden_size == settings.sizes[rung.size]["hidden_size"]
        assert config.devices == 1 and not config.checkpoint.export and config.data.train == str(tmp_path / "data")
        assert rung.directory.parent == tmp_path / "runs"


def test_a_run_keeps_its_directory_only_as_long_as_nothing_about_it_changes(tmp_path):
    path = write_config(tmp_path / "ladder.yaml", LADDER)
    names = {rung.directory for rung in load_ladder(path, [])[1]}
    assert {rung.directory for rung in load_ladder(path, ["seeds=[2]"])[1]} < names
    changed = load_ladder(path, ["settings.training.clip_norm=0.5"])[1]
    assert not names & {rung.directory for rung in changed}


@pytest.mark.parametrize(
    "overrides,message",
    [
        (["tokens=null"], "tokens: missing; a ladder needs run, tokens and sizes"),
        (["tokens=[many]"], "tokens.0: found 'many'"),
        (["size=[]"], "size: unknown key; did you mean 'sizes'?"),
        (["run=codegex_tiny"], "run: codegex_tiny is neither a file nor a shipped name; did you mean 'codegeex_tiny'?"),
        (["sizes=[{hidden_sise: 3}]"], "model.hidden_sise: unknown key; did you mean 'hidden_size'?"),
        (["vary.values=[]"], "vary: give both key and values"),
        (["vary.key=data.reset"], "data.reset: unknown key; did you mean 'reset_at_eos'?"),
        (["seeds=[]"], "seeds: an empty list"),
        (["seeds=[1,1]"], "seeds: 1 equals one before it"),
        (["tokens=[40960,81920,40960]"], "tokens: 40960 equals one before it"),
        (["vary.values=[1,true,false]"], "vary.values: true equals one before it"),
        (["vary={key: training.steps, values: [10, 20]}"], "two runs are the same (sizes[0], 40960 tokens, seed 1, "),
        (["tokens=[40960,40961]"], "40960 tokens, seed 1, value true; sizes[0], 40961 tokens, seed 1, value true)"),
        (["settings.training.precision=fp8"], "training.precision: found 'fp8'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_mistakes_name_the_key_in_one_line(tmp_path, overrides, message):
    with pytest.raises(UserError) as error:
        load_ladder(write_config(tmp_path / "ladder.yaml", LADDER), overrides)
    assert message in str(error.value) and "\n" not in str(error.value)
