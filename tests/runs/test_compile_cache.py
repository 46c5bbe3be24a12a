"""MindSpore's compile cache: used for equal graphs, never for others."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, small_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import sha256
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.schedule import Transition
from ms_codegeex.config.values import flattened
from ms_codegeex.runs import worker as module
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.worker import HASHES, WITHOUT_EFFECT, compile_cache, digest, graph_inputs


@pytest.fixture
def config(run_values):
    return build_run_config({**run_values, "compile_cache": True})


@pytest.fixture
def engine(monkeypatch):
    """Stands in for the engine's cache; the folders that it was given."""
    folders = []

    class Cache:
        def __init__(self, folder):
            folders.append(folder)

        def __enter__(self):
            (folders[-1] / "graph.mindir").touch()

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(module, "_engine_cache", Cache)
    return folders


def used(config, run, rank=0):
    with compile_cache(config, run, rank) as found:
        return found


CHANGES = {  # one of each section, and those that a stale graph has been seen for
    "seed": 8,
    "devices": 2,
    "model.num_layers": 2,
    "model.init_std": 0.2,
    "data.seq_length": 16,
    "data.reset_at_eos": False,
    "training.steps": 11,
    "training.global_batch": 8,
    "training.micro_batch": 2,
    "training.precision": "fp16",
    "training.dropout": 0.5,
    "training.clip_norm": 0.5,
    "training.schedule.learning_rate": 0.02,
    "training.optimizer.beta1": 0.8,
    "lora.alpha": 8.0,
    "parallel.fusion.norm": True,
    "faults.policy": "skip",
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_setting_is_a_miss(run_values, config, engine, tmp_path, key):
    values, section = {**run_values, "compile_cache": True}, run_values
    *path, last = key.split(".")
    for name in path:
        section = section.setdefault(name, {})
    section[last] = CHANGES[key]
    changed, run = build_run_config({**run_values, "compile_cache": True}), RunDirectory(tmp_path)
    assert values["training"] is run_values["training"] and flattened(changed.to_dict()) != flattened(config.to_dict())
    assert [used(each, run) for each in (config, config, changed, changed, config)] == [False, True, False, True, False]


def test_every_setting_counts_unless_it_is_named(config):
    inputs = graph_inputs(config)
    assert set(inputs["settings"]) | set(WITHOUT_EFFECT) == set(config.to_dict())
    first = digest(inputs)
    for key in inputs["settings"]:
        changed = {**inputs, "settings": {**inputs["settings"], key: "another"}}
        assert digest(changed) != first


@pytest.mark.parametrize("key", ["kernels", "mindspore", "numpy", "python", "machine"])
def test_a_changed_kernel_version_or_processor_is_a_miss(config, key):
    inputs = graph_inputs(config)
    assert digest({**inputs, key: "another"}) != digest(inputs)


def test_another_transition_of_the_learning_rate_is_a_miss(config):
    found = [digest(graph_inputs(config, transition=line)) for line in (None, Transition(10, 1e-3, 4))]
    assert found[0] == digest(graph_inputs(config)) != found[1]


def test_a_changed_new_or_missing_source_file_is_a_miss(config, tmp_path):
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "layers.py"
    digests = []
    for content in ("a = 1", "a = 2", None, "a = 1"):
        file.unlink(missing_ok=True)
        if content:
            file.write_text(content)
        digests.append(digest(graph_inputs(config, tmp_path)))
    assert len(set(digests)) == 3 and digests[0] == digests[3]
    assert str(file.relative_to(tmp_path)) in graph_inputs(config, tmp_path)["sources"]
    assert "training/step.py" in graph_inputs(config)["sources"]


def test_ranks_do_not_share_a_graph_and_other_digests_are_deleted(config, engine, tmp_path):
    run = RunDirectory(tmp_path)
    (run.compile_cache / "old").mkdir(parents=True)
    assert not used(config, run, 1) and (run.compile_cache / "old").exists()
    assert not used(config, run, 0) and not (run.compile_cache / "old").exists()
    assert used(config, run, 1) and used(config, run, 0) and len(set(engine)) == 4


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "hashes"])
def test_a_damaged_folder_is_made_again(config, engine, tmp_path, damage):
    run = RunDirectory(tmp_path)
    used(config, run)
    (folder,) = run.compile_cache.glob("*/rank_0")
    graph = folder / "graph.mindir"
    graph.write_bytes(b"0123")
    hashes = {"graph.mindir": sha256(graph)}
    (folder / HASHES).write_text(json.dumps(hashes))
    assert used(config, run)
    damages = {
        "flip": lambda: graph.write_bytes(b"0133"),
        "truncate": lambda: graph.write_bytes(b"012"),
        "remove": graph.unlink,
        "hashes": lambda: (folder / HASHES).write_text("{"),
    }
    damages[damage]()
    assert [used(config, run), used(config, run)] == [False, True]


def test_a_compilation_that_fails_leaves_nothing(config, engine, tmp_path):
    run = RunDirectory(tmp_path)
    for error in (RuntimeError, UserError):
        with pytest.raises(error), compile_cache(config, run, 0):
            raise error("no such operator")
    assert not list(run.compile_cache.glob("*/*"))


def test_what_a_killed_attempt_left_is_removed(config, engine, tmp_path):
    run = RunDirectory(tmp_path)
    left = run.compile_cache / digest(graph_inputs(config)) / ".rank_0.4194305.tmp"  # no process has this number
    left.mkdir(parents=True)
    assert not used(config, run) and not left.exists() and used(config, run)


def test_a_full_disk_does_not_end_the_run(config, engine, tmp_path, monkeypatch):
    def full(*arguments):
        raise UserError("no space")

    monkeypatch.setattr(module, "write_json", full)
    run = RunDirectory(tmp_path)
    assert not used(config, run) and not list(run.compile_cache.glob("*/*"))


def test_a_partitioned_run_has_no_cache(run_values):
    run_values.update(device="ascend", devices=2, compile_cache=True)
    with pytest.raises(UserError, match="compile_cache: not for partitioned runs"):
        build_run_config(run_values)


PROGRAM = """
import json, sys
from pathlib import Path
import mindspore as ms
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.runs.worker import compile_cache
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.training.observers import Callback
from ms_codegeex.training.trainer import Trainer

class Keep(Callback):
    def step(self, trainer, record):
        losses.append([record.loss, record.gradient_norm, record.loss_scale])

losses, (values, run, how) = [], sys.argv[1:]
config = build_run_config(json.loads(values))
ms.set_context(mode=ms.GRAPH_MODE)
ms.set_device("CPU")
trainer = Trainer(config, training_data(config), validation_data(config), callbacks=[Keep()])
before = trainer.evaluation.loss() if how == "evaluates first" else None
found = False
if how != "plain":
    with compile_cache(config, RunDirectory(Path(run)), 0) as found:
        trainer.compile()
trainer.run()
weights = {name: p.asnumpy().tobytes().hex() for name, p in trainer.rank_state.tensors().items()}
print(json.dumps([found, losses, trainer.evaluation.loss(), weights, before]))
"""


@pytest.mark.slow  # four processes that compile, one after the other
def test_a_run_with_cached_graphs_is_the_same_to_the_bit(dataset, tmp_path):
    values = small_run(dataset, tmp_path / "run")
    values["training"].update(steps=8, dropout=0.2, micro_batch=2, precision="fp16")
    values["training"]["loss_scale"] = {"initial": 2.0**20, "window": 2}
    values["compile_cache"] = True
    program = tmp_path / "program.py"  # the engine reads the script to look for what it depends on
    program.write_text(PROGRAM)

    def result(how, **changed):
        content = {**values, "training": {**values["training"], **changed}}
        words = [sys.executable, str(program), json.dumps(content), str(tmp_path / "run"), how]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    plain, cold, warm = (result(how) for how in ("plain", "cached", "evaluates first"))
    assert [each[0] for each in (plain, cold, warm)] == [False, False, True]
    assert plain[1:4] == cold[1:4] == warm[1:4]
    assert len(plain[1]) == 8 and warm[4] > plain[2]
    # the engine itself would not notice: with the folder of other settings, it drops what these do not
    (folder,) = (tmp_path / "run" / "compile_cache").iterdir()
    changed = build_run_config({**values, "training": {**values["training"], "dropout": 0.0}})
    folder.rename(folder.with_name(digest(graph_inputs(changed))))
    stale = result("cached", dropout=0.0)
    assert stale[0] and stale[1] == plain[1]
