from types import SimpleNamespace

import pytest

from ms_codegeex.config import build_run_config
from ms_codegeex.errors import UserError
from ms_codegeex.training import launch


@pytest.mark.parametrize(
    ("family", "parameters"), [("codegeex", "12,873"), ("codegen", "356,712"), ("codegeex2", "6,243")]
)
def test_a_model_too_large_for_the_memory_is_named_by_its_size(monkeypatch, family, parameters):
    """Whatever the family's default preset is, none has been named here."""
    config = build_run_config({"model": {"family": family}, "training": {"steps": 1}})
    monkeypatch.setattr(launch.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    with pytest.raises(UserError, match=rf"model.preset: {parameters},\d\d\d.* parameters .* 1\.0 GB are free"):
        launch.check_memory(config)


@pytest.fixture
def started(tmp_path):
    """A checkpoint at step 20 (sample 80) of a run on two stages, and the same configuration."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text('{"tokenizer": {"fingerprint": "f"}}')

    def config(data, seed=7, global_batch=4):
        data = {key: str(tmp_path / value) if isinstance(value, str) else value for key, value in data.items()}
        if "blend" in data:
            data["blend"] = [
                {"from_step": step, "weights": {str(tmp_path / name): weight for name, weight in weights.items()}}
                for step, weights in data["blend"]
            ]
        values = {"training": {"steps": 50, "global_batch": global_batch}, "seed": seed, "data": data}
        return build_run_config(values)

    def checkpoint(data, **changes):
        state = {"config": config(data).to_dict(), "samples": 80, "tokenizer": {"fingerprint": "f"}, **changes}
        return SimpleNamespace(path=tmp_path / "step-00000020", state=state)

    return config, checkpoint


STAGES = [(0, {"a": 1}), (10, {"b": 0.7, "a": 0.3})]


@pytest.mark.parametrize(
    "now",
    [
        {"blend": STAGES},
        {"blend": [(0, {"a": 5}), (10, {"b": 7, "a": 3})]},  # the same shares
        {"blend": [*STAGES, (20, {"c": 1})]},  # begins with the next sample
        {"blend": [*STAGES, (35, {"c": "1/3", "a": 1})]},
    ],
    ids=str,
)
def test_a_blend_may_change_behind_the_checkpoint(started, now):
    config, checkpoint = started
    launch.check_same_data(config(now), checkpoint({"blend": STAGES}))
    launch.check_same_data(config({"blend": STAGES}), checkpoint(now))


@pytest.mark.parametrize(
    "now",
    [
        {"blend": [(0, {"a": 1}), (10, {"b": 0.6, "a": 0.4})]},
        {"blend": [(0, {"a": 1}), (10, {"a": 0.3, "b": 0.7})]},  # in turn the other way round
        {"blend": [(0, {"a": 1}), (11, {"b": 0.7, "a": 0.3})]},
        {"blend": [*STAGES, (19, {"c": 1})]},
        {"blend": [(0, {"a": 1})]},
        {"blend": [(0, {"c": 1}), (10, {"b": 0.7, "a": 0.3})]},
    ],
    ids=str,
)
def test_a_blend_that_was_another_is_refused(started, now):
    config, checkpoint = started
    with pytest.raises(UserError, match=r"^data\.blend: .*, but .*step-00000020 was trained with "):
        launch.check_same_data(config(now), checkpoint({"blend": STAGES}))
    with pytest.raises(UserError, match=r"^data\.blend: "):
        launch.check_same_data(config({"blend": STAGES}), checkpoint(now))


def test_a_run_on_one_corpus_goes_on_as_a_blend_that_begins_with_it(started):
    config, checkpoint = started
    launch.check_same_data(config({"blend": [(0, {"a": 1}), (20, {"b": 1})]}), checkpoint({"train": "a"}))
    launch.check_same_data(config({"train": "a"}), checkpoint({"blend": [(0, {"a": 1}), (20, {"b": 1})]}))
    with pytest.raises(UserError, match=r"^data\.blend: "):
        launch.check_same_data(config({"blend": [(0, {"b": 1})]}), checkpoint({"train": "a"}))
    with pytest.raises(UserError, match=r"^data\.train: "):
        launch.check_same_data(config({"train": "b"}), checkpoint({"train": "a"}))


def test_another_batch_moves_the_stages(started):
    config, checkpoint = started
    launch.check_same_data(config({"train": "a"}, global_batch=8), checkpoint({"train": "a"}))
    with pytest.raises(UserError, match=r"^data\.blend: .*sample 80.*sample 40"):
        launch.check_same_data(
            config({"blend": [*STAGES, (30, {"c": 1})]}, global_batch=8), checkpoint({"blend": STAGES}, samples=81)
        )


def test_another_seed_or_tokenizer_is_refused(started):
    config, checkpoint = started
    with pytest.raises(UserError, match=r"^seed: 8"):
        launch.check_same_data(config({"blend": STAGES}, seed=8), checkpoint({"blend": STAGES}))
    other = checkpoint({"blend": STAGES}, tokenizer={"fingerprint": "g"})
    with pytest.raises(UserError, match=r"^data\.blend: tokenizer fingerprint: f, but"):
        launch.check_same_data(config({"blend": STAGES}), other)


def test_checkpoints_from_before_there_were_blends_go_on(started):
    config, checkpoint = started
    old = checkpoint({"train": "a"})
    del old.state["config"]["data"]["blend"], old.state["config"]["data"]["workers"]
    launch.check_same_data(config({"train": "a"}), old)
