"""What a run that goes on may change: the table, the way out, and data known by its content."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xxhash
from conftest import ROOT, write_dataset

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.schedule import learning_rate
from ms_codegeex.config.values import flattened, merged, parse_overrides
from ms_codegeex.data.datasets import opening as content
from ms_codegeex.data.datasets.opening import content_hashes
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.rank.resumed_schedule import schedule_notes, transition_from
from ms_codegeex.runs.resume import (
    REFUSED,
    UNRECORDED,
    Change,
    changes_since,
    check_allowed,
    check_places,
    is_finished,
    since_moved,
)


@pytest.fixture
def config(tmp_path):
    """Makes the configuration of a run; datasets are named by their folder, changes as on the command line."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text('{"tokenizer": {"fingerprint": "f"}}')

    def make(data, *changes, seed=7, global_batch=4):
        data = {key: str(tmp_path / value) if isinstance(value, str) else value for key, value in data.items()}
        if "blend" in data:
            data["blend"] = [
                {"from_step": step, "weights": {str(tmp_path / name): weight for name, weight in weights.items()}}
                for step, weights in data["blend"]
            ]
        values = {"training": {"steps": 50, "global_batch": global_batch}, "seed": seed, "data": data}
        return build_run_config(merged(values, parse_overrides(changes)))

    return make


@pytest.fixture
def checkpoint(config, tmp_path):
    """Makes a checkpoint at step 20 (sample 80) of a run on two stages."""

    def make(data, **changes):
        state = {"config": config(data).to_dict(), "samples": 80, "tokenizer": {"fingerprint": "f"}, **changes}
        shapes = config(data).model.sizes.parameter_shapes()
        return SimpleNamespace(path=tmp_path / "step-00000020", state=state, names=[*shapes], shape=shapes.get)

    return make


def test_a_moved_run_is_where_it_is_and_finds_what_moved_along(tmp_path, capsys):
    before, gone = tmp_path / "before", tmp_path / "gone"
    for name in ("run", "a", "kept"):
        (before / name).mkdir(parents=True)
    data = {"blend": {str(before / "a"): 2, str(gone): 1}, "validation": str(before / "a")}
    values = {"data": {**data, "held_out": {"x": str(gone)}}, "training": {"steps": 2}}
    run = RunDirectory(before / "run")
    write_config(run, build_run_config({**values, "output": str(run.path)}))
    run.events.touch()
    assert since_moved(run.config, []) == []
    shutil.copytree(before, now := tmp_path / "now")
    copy = [f'output="{now / "run"}"']  # what it names is still there
    assert since_moved(now / "run/config.yaml", []) == copy and since_moved(now / "run/config.yaml", ["output=x"]) == []
    shutil.rmtree(before)
    blend = {str(now / "a"): 2, str(gone): 1}
    found = [*copy, f"data.blend={json.dumps(blend)}", f'data.validation="{now / "a"}"']
    assert since_moved(now / "run/config.yaml", []) == found
    assert since_moved(now / "run/config.yaml", ["data.validation=b"]) == found[:2]
    shutil.copy(now / "run/config.yaml", tmp_path / "config.yaml")  # not in a run
    assert since_moved(tmp_path / "config.yaml", []) == []
    assert f"this run was in {before / 'run'}, so {' '.join(found)}" in capsys.readouterr().err


def test_a_dataset_that_is_gone_is_named_before_anything_else(config, checkpoint, tmp_path):
    check_places(config({"train": "a", "validation": "b"}), checkpoint({"train": "a"}))
    gone = {"train": {"train": "x"}, "validation": {"validation": "x"}, "held_out.py": {"held_out": {"py": "/x"}}}
    for key, data in gone.items():
        with pytest.raises(UserError, match=rf"^data.{key}: .*x is gone; if it was moved, data.{key}=DIR says where"):
            check_places(config({"train": "a", **data}), checkpoint({"train": "a"}))


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
def test_a_blend_may_change_behind_the_checkpoint(config, checkpoint, now):
    changes_since(config(now), checkpoint({"blend": STAGES}))
    changes_since(config({"blend": STAGES}), checkpoint(now))


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
def test_a_blend_that_was_another_is_refused(config, checkpoint, now):
    with pytest.raises(UserError, match=r"^data\.blend: .*, but .*step-00000020 was trained with "):
        changes_since(config(now), checkpoint({"blend": STAGES}))
    with pytest.raises(UserError, match=r"^data\.blend: "):
        changes_since(config({"blend": STAGES}), checkpoint(now))


def test_a_run_on_one_corpus_goes_on_as_a_blend_that_begins_with_it(config, checkpoint):
    changes_since(config({"blend": [(0, {"a": 1}), (20, {"b": 1})]}), checkpoint({"train": "a"}))
    changes_since(config({"train": "a"}), checkpoint({"blend": [(0, {"a": 1}), (20, {"b": 1})]}))
    with pytest.raises(UserError, match=r"^data\.blend: "):
        changes_since(config({"blend": [(0, {"b": 1})]}), checkpoint({"train": "a"}))
    with pytest.raises(UserError, match=r"^data\.train: "):
        changes_since(config({"train": "b"}), checkpoint({"train": "a"}))


def test_another_batch_moves_the_stages(config, checkpoint):
    allowed = ["training.global_batch"]
    with pytest.raises(UserError, match=r"^training\.global_batch: 8, but .* --allow-change training\.global_batch$"):
        changes_since(config({"train": "a"}, global_batch=8), checkpoint({"train": "a"}))
    changes_since(config({"train": "a"}, global_batch=8), checkpoint({"train": "a"}), allowed)
    now = config({"blend": [*STAGES, (30, {"c": 1})]}, global_batch=8)
    with pytest.raises(UserError, match=r"^data\.blend: .*sample 80.*sample 40"):
        changes_since(now, checkpoint({"blend": STAGES}, samples=81), allowed)


def test_another_seed_or_tokenizer_is_refused(config, checkpoint):
    with pytest.raises(UserError, match=r"^seed: 8"):
        changes_since(config({"blend": STAGES}, seed=8), checkpoint({"blend": STAGES}))
    other = checkpoint({"blend": STAGES}, tokenizer={"fingerprint": "g"})
    with pytest.raises(UserError, match=r"^data\.blend: tokenizer fingerprint: f, but"):
        changes_since(config({"blend": STAGES}), other)


def test_checkpoints_from_before_there_were_blends_go_on(config, checkpoint):
    old = checkpoint({"train": "a"})
    del old.state["config"]["data"]["blend"], old.state["config"]["data"]["workers"]
    changes_since(config({"train": "a"}), old)


def documented(row):
    """The keys and sections of a row of the table in docs/run_directory.md."""
    lines = (ROOT / "docs" / "run_directory.md").read_text(encoding="utf-8").splitlines()
    rows = {words[1].strip(): words[2] for line in lines if len(words := line.split("|")) > 3}
    return sorted(word.strip(" `") for word in rows[row].split(","))


def test_every_key_is_in_exactly_one_list():
    lists = (REFUSED, documented("recorded"), UNRECORDED)
    for key in (key for key in flattened(RunConfig().to_dict()) if not key.startswith("model.")):
        found = [[s for s in sections if key == s or key.startswith(f"{s}.")] for sections in lists]
        in_others = ("parallel.fusion.dropout", "training.loss_scale.initial")  # of a section in another list
        assert sum(map(bool, found)) == 1 or key in in_others, key


def test_the_documented_table_is_the_one_that_decides():
    assert documented("refused") == sorted(REFUSED)


@pytest.mark.parametrize(
    "change",
    [
        "training.dropout=0.25",
        "training.loss_scale.window=7",
        "parallel.fusion.dropout=True",
        "training.optimizer.beta2=0.99",
        "data.reset_at_eos=False",
        "model.init_std=0.5",
        "seed=8",
    ],
)
def test_what_decides_the_weights_is_refused_unless_allowed(config, checkpoint, change):
    key, _, value = change.partition("=")
    other, old = config({"train": "a"}, change), checkpoint({"train": "a"})
    with pytest.raises(UserError, match=rf"^{key}: {value}, but .* --allow-change {key}$"):
        changes_since(other, old)
    for way_out in {key, key.rpartition(".")[0]} - {"", "training", "data", "parallel.fusion"}:
        assert [change.key for change in changes_since(other, old, [way_out])] == [key]


def test_a_resumed_run_does_not_depend_on_the_first_loss_scale(config, checkpoint):
    now = config({"train": "a"}, "training.loss_scale.initial=4294967296.0")  # the default of earlier versions
    assert changes_since(now, checkpoint({"train": "a"})) == []


@pytest.mark.parametrize("change", ["data.validation=/v", "training.evaluate_samples=3"])
def test_losses_that_patience_compares_are_of_the_same_text(config, checkpoint, change):
    (key, _, value), old = change.partition("="), checkpoint({"train": "a"})
    for patience in (0, 2):
        words = (change, f"training.patience={patience}", "training.evaluate_every=5")
        changed = config({"train": "a"}, *words)
        if patience:
            with pytest.raises(UserError, match=f"{key}: {value}, but .* was trained with .*--allow-change {key}"):
                changes_since(changed, old)
        assert key in [change.key for change in changes_since(changed, old, [key] if patience else [])]
    with pytest.raises(UserError, match=f"--allow-change {key}: changing this key is never refused"):
        check_allowed(config({"train": "a"}), [key])


def test_another_optimizer_is_refused_in_any_case(config, checkpoint):
    """Its moments are not in the checkpoint."""
    now = config({"train": "a"}, "training.optimizer.name=muon")
    message = r"^training\.optimizer\.name: muon, but .* has the moments of adamw; keep it, or .* with --from "
    for allowed in ([], ["training.optimizer"], ["training.optimizer.name"]):
        with pytest.raises(UserError, match=message):
            changes_since(now, checkpoint({"train": "a"}), allowed)


def test_what_does_not_decide_them_is_only_reported(config, checkpoint):
    words = ["logging.every=7", "training.micro_batch=2", "training.recompute=full", "training.steps=99"]
    now = config({"train": "a"}, *words, "output=elsewhere", "checkpoint.resume=auto")
    found = changes_since(now, checkpoint({"train": "a"}))
    assert [change.key for change in found] == [word.partition("=")[0] for word in words]
    assert found[-1] == Change("training.steps", 50, 99)


@pytest.mark.parametrize(("key", "value"), [("hidden_size", 1280), ("num_layers", 3)])
def test_other_shapes_are_refused_whatever_is_allowed(config, checkpoint, key, value):
    """The checkpoint's numbers would not fit."""
    now, message = config({"train": "a"}, f"model.{key}={value}"), "same, or choose another output without --resume"
    with pytest.raises(UserError, match=rf"^model\.{key}: {value}, but .* {message}$"):
        changes_since(now, checkpoint({"train": "a"}), [f"model.{key}"])


def at(step, steps, given, transition=None):
    """A checkpoint at a step of a run of `steps`, and a function that gives configurations of other lengths."""

    def config(steps, **schedule):
        return build_run_config({"training": {"steps": steps, "schedule": schedule}, "data": {"train": None}})

    state = {"config": config(steps, **given).to_dict(), "optimizer_step": step}
    state["schedule"] = {"steps": steps, "transition": transition and asdict(transition)}
    return SimpleNamespace(path=Path("step"), step=step, state=state), config


def test_the_same_length_has_no_transition_and_a_longer_one_has():
    checkpoint, config = at(240, 240, {})
    assert transition_from(config(240), checkpoint) is None
    found = transition_from(config(480), checkpoint)
    assert (found.step, found.rate, found.steps) == (240, pytest.approx(1e-6), 24)
    longer, _ = at(250, 480, {}, found)
    assert transition_from(config(480), longer) == found
    again = transition_from(config(960), longer)
    assert (again.step, again.steps) == (250, 71)
    planned = config(480).schedule
    assert again.rate == learning_rate(250, planned, found) < 0.5 * learning_rate(250, planned)


@pytest.mark.parametrize(("decay", "curve"), [("cosine", "cosine"), ("linear", "line")])
def test_a_longer_run_is_said_to_follow_the_curve_that_it_has(decay, curve):
    checkpoint, config = at(240, 240, {"decay": decay})
    (note,) = schedule_notes(config(480, decay=decay), checkpoint)
    assert note.endswith(f"at step 264, and then follows the {curve} of 480 steps")


def test_numbers_that_a_run_states_and_other_rates_count_at_once():
    checkpoint, config = at(240, 240, {"decay_steps": 240, "warmup_steps": 20})
    for now in ({"decay_steps": 240, "warmup_steps": 20}, {"decay_steps": 480}, {"learning_rate": 1e-5}):
        assert transition_from(config(480, **now), checkpoint) is None
    assert transition_from(config(480, decay_steps=None), checkpoint).step == 240


def test_numbers_that_are_what_the_length_gives_are_no_change(config, checkpoint):
    """A checkpoint of a version that had to be given them goes on with the shipped file that no longer states them."""
    old = checkpoint({"train": "a"})
    old.state["config"]["training"]["schedule"].update(warmup_steps=5, decay_steps=50)
    assert changes_since(config({"train": "a"}), old) == []
    old.state["config"]["training"]["schedule"].update(decay_steps=40)
    with pytest.raises(UserError, match=r"training\.schedule\.decay_steps: None, but .* was trained with 40"):
        changes_since(config({"train": "a"}), old)


def test_a_way_out_that_names_nothing_is_a_mistake():
    config = build_run_config({"training": {"steps": 1}})
    check_allowed(config, ["training.schedule", "training.schedule.learning_rate", "model.layer_norm_eps", "seed"])
    with pytest.raises(UserError, match=r"^--allow-change training\.droput: .*did you mean training\.dropout\?"):
        check_allowed(config, ["training.droput"])
    with pytest.raises(UserError, match=r"^--allow-change training\.steps: changing this key is never refused"):
        check_allowed(config, ["training.steps"])


@pytest.fixture
def trained(tmp_path):
    """A configuration on a real dataset directory, and the checkpoint of a run on it."""
    write_dataset(tmp_path / "a", 30)

    def config(name):
        return build_run_config({"training": {"steps": 50}, "data": {"train": str(tmp_path / name)}})

    state = {"config": config("a").to_dict(), "samples": 80, "datasets": content_hashes(config("a").data)}
    return config, SimpleNamespace(path=tmp_path / "step-00000020", state=state)


def test_a_dataset_that_only_moved_is_the_same(trained, tmp_path):
    config, checkpoint = trained
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert changes_since(config("moved"), checkpoint) == []


def test_another_dataset_at_the_same_path_is_refused(trained, tmp_path):
    config, checkpoint = trained
    write_dataset(tmp_path / "a", 30, seed=1)
    message = r"^data\.train: [^ ]*/a with the content xxh3:[0-9a-f]{12}…, but .* with [^ ]*/a with the"
    with pytest.raises(UserError, match=message):
        changes_since(config("a"), checkpoint)
    assert [change.key for change in changes_since(config("a"), checkpoint, ["data.train"])] == ["data.train"]


def test_the_hash_is_of_what_the_files_hold_whatever_is_recorded(tmp_path):
    directory = write_dataset(tmp_path / "a", 30)
    data = build_run_config({"training": {"steps": 1}, "data": {"train": str(directory)}}).data
    info = json.loads((directory / "dataset.json").read_text())

    def hashed(files):
        (directory / "dataset.json").write_text(json.dumps({**info, "files": files}))
        return content_hashes(data)[str(directory)]

    recorded = {name: {"sha256": name * 3} for name in ("train.bin", "train.idx", "validation.bin")}
    plain = hashed({})
    assert plain == hashed(recorded) == hashed({name: recorded[name] for name in ("train.bin", "train.idx")})
    for odd in ([1], "text", {"train.bin": "text"}, {"train.documents.parquet": {}}, None):
        assert hashed(odd) == plain
    content = bytearray((directory / "train.bin").read_bytes())
    content[len(content) // 2] ^= 1  # as long as before, under the same recorded hashes
    (directory / "train.bin").write_bytes(content)
    assert hashed(recorded) != plain
    (directory / "train.idx").unlink()
    with pytest.raises(UserError, match=r"train\.idx: not readable"):
        hashed(recorded)


def large(tmp_path):
    """A dataset directory whose samples leave most of its bytes out, and those bytes."""
    content = np.random.default_rng(0).integers(0, 50_000, 6_000_000, np.uint16)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "train.bin").write_bytes(content.tobytes())
    (tmp_path / "a" / "train.idx").write_bytes(b"index")
    write_json(tmp_path / "a" / "dataset.json", {"vocab_size": 50_000, "eos_id": 0, "files": {}})
    return tmp_path / "a", content


def test_every_change_in_place_is_seen(tmp_path):
    """20,000 tokens reversed, at forty places; size, time and recorded hashes stay as they are."""
    directory, tokens = large(tmp_path)
    path = directory / "train.bin"
    before, times = content.content_hash(directory), path.stat()
    for start in np.random.default_rng(1).integers(0, len(tokens) - 20_000, 40):
        changed = tokens.copy()
        changed[start : start + 20_000] = changed[start : start + 20_000][::-1]
        path.write_bytes(changed.tobytes())
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert content.content_hash(directory) != before
    assert before.startswith("xxh3:")
    expected = xxhash.xxh3_128(b"train.bin 12000000\n" + tokens.tobytes() + b"train.idx 5\nindex").hexdigest()
    assert before == f"xxh3:{expected}"


def test_a_dataset_that_takes_longer_is_sampled_with_sizes_and_times(tmp_path, monkeypatch):
    directory, _ = large(tmp_path)
    assert content.WHOLE == 10 * content.RATE  # ten seconds
    size = sum((directory / name).stat().st_size for name in ("train.bin", "train.idx"))
    monkeypatch.setattr(content, "WHOLE", size)
    assert content.content_hash(directory).startswith("xxh3:")
    monkeypatch.setattr(content, "WHOLE", size - 1)
    before = content.content_hash(directory)
    assert before.startswith("xxh3-samples:") and before == content.content_hash(directory)
    path = directory / "train.bin"
    times = path.stat()
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert content.content_hash(directory) != before
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content.content_hash(directory) == before
    info = read_json(directory / "dataset.json")
    write_json(directory / "dataset.json", {**info, "files": {"train.bin": {"sha256": "1"}}})
    assert content.content_hash(directory) != before


def test_a_run_is_finished_by_its_tokens_or_steps():
    def finished(training, **state):
        config = build_run_config({"training": training})
        return is_finished(config, SimpleNamespace(step=state["step"], state=state))

    assert finished({"steps": 5}, step=5, tokens=0) and not finished({"steps": 6}, step=5, tokens=10**9)
    assert finished({"tokens": 100}, step=1, tokens=100) and not finished({"tokens": 101}, step=99, tokens=100)
