import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.batches import Batch
from ms_codegeex.extras.cluster.rehearsal.job import local_rows
from ms_codegeex.extras.cluster.rehearsal.stubs import simulation_environment
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.parallel import sharding
from ms_codegeex.parallel.sharding import Placement
from ms_codegeex.training import trainer
from ms_codegeex.training.first_values import first_values, initial_weight

VALUES = {
    "device": "ascend",
    "devices": 8,
    "model": {
        **{"preset": "tiny", "vocab_size": 64, "hidden_size": 32, "num_layers": 3, "num_heads": 4},
        **{"intermediate_size": 64, "max_position_embeddings": 8, "eos_token_id": 1},
    },
    "training": {"steps": 1, "global_batch": 16, "dropout": 0.0},
    "parallel": {"tensor": 2, "pipeline": 2, "optimizer_shard": 2, "micro_batches": 2},
}


@pytest.mark.parametrize("virtual_stages", [1, 2])
def test_the_writers_parts_cover_every_weight_exactly_once(virtual_stages):
    config = build_run_config({**VALUES, "parallel": {**VALUES["parallel"], "virtual_stages": virtual_stages}})
    placements = [Placement(config, rank) for rank in range(8)]
    for name, layout in placements[0].layouts.items():
        written = np.zeros(layout.shape, int)
        for place in placements:
            if place.writes(name):
                assert place.here(name)
                written[place.window(name)] += 1
        assert (written == (0 if layout.copy_of else 1)).all(), name
        assert placements[0].stored_name(f"optimizer.m.{name}") == f"optimizer.m.{layout.copy_of or name}"


@pytest.mark.parametrize("name", ["embedding.word.weight", "blocks.0.attention.query.weight"])
def test_initial_weights_do_not_depend_on_who_makes_which_part(name):
    whole = initial_weight(name, (24, 16), 0.02, 7)
    part = initial_weight(name, (24, 16), 0.02, 7, (slice(6, 12), slice(8, 16)))
    np.testing.assert_array_equal(part, whole[6:12, 8:16])
    assert not np.array_equal(whole, initial_weight(name, (24, 16), 0.02, 8))
    assert not np.array_equal(whole, initial_weight(name + "x", (24, 16), 0.02, 7))
    large = initial_weight(name, (500, 400), 0.02, 7)
    assert large.std() == pytest.approx(0.02, rel=0.01) and abs(large.mean()) < 2e-4
    assert abs(np.corrcoef(large[0], large[1])[0, 1]) < 0.2


def test_initial_norms_and_biases():
    assert (initial_weight("blocks.0.attention_norm.weight", (5,), 0.02, 7) == 1).all()
    assert (initial_weight("blocks.0.attention_norm.bias", (5,), 0.02, 7, (slice(1, 3),)) == np.zeros(2)).all()


def held(tmp_path, rank, checkpoint="none", values=VALUES):
    config, parts = tmp_path / "config.json", tmp_path / f"parts_{rank}.npz"
    config.write_text(json.dumps(values))
    words = [sys.executable, Path(__file__).with_name("simulated_rank.py"), config, str(rank), checkpoint, parts]
    environment = {**os.environ, **simulation_environment(rank, values["devices"])}
    subprocess.run(words, env=environment, cwd=tmp_path, check=True, capture_output=True)
    with np.load(parts) as file:
        arrays = dict(file)
    return arrays, json.loads(Path(f"{parts}.json").read_text())


@pytest.mark.slow  # the executed rehearsals restore and start too
@pytest.mark.parametrize("how", ["restored", "started"])
def test_a_simulated_rank_starts_from_and_restores_its_part_of_a_whole_checkpoint(tmp_path, how):
    config = build_run_config(VALUES)
    whole = {}
    for name, layout in Placement(config, 0).layouts.items():
        if not layout.copy_of:
            for prefix in ("", "optimizer.m.", "optimizer.v."):
                whole[prefix + name] = np.random.default_rng(len(whole)).random(layout.shape, np.float32)
    state = {"optimizer_step": 3, "samples": 48, "tokens": 99, "loss_scale": {"scale": 1.0, "good_steps": 0}}
    slices = {name: Slice(v.shape, (0,) * v.ndim, v) for name, v in whole.items()}
    path = write_checkpoint(tmp_path, 3, slices, {**state, "config": config.to_dict()})
    if how == "restored":
        arrays, offsets = held(tmp_path, 7, str(path))  # last stage, second replica, second shard
    else:
        values = {**VALUES, "model": {**VALUES["model"], "weights": str(path)}}
        arrays, offsets = held(tmp_path, 7, values=values)
        whole |= {name: np.zeros_like(value) for name, value in whole.items() if name.startswith("optimizer.")}
    placement = Placement(config, 7)
    assert "held:head.weight" in arrays and "held:embedding.word.weight" not in arrays
    for key, value in arrays.items():
        name = key.removeprefix("held:")
        np.testing.assert_array_equal(value, whole[placement.stored_name(name)][placement.window(name)], err_msg=name)
    assert offsets and all(placement.writes(name) for name in offsets)
    assert all(offsets[name][0] == [part.start for part in placement.window(name)] for name in offsets)


@pytest.mark.slow
def test_first_and_last_stage_start_from_the_same_word_table(tmp_path):
    first, last = held(tmp_path, 0)[0], held(tmp_path, 4)[0]
    np.testing.assert_array_equal(first["held:embedding.word.weight"], last["held:head.weight"])
    std = build_run_config(VALUES).model.sizes.init_std
    whole = initial_weight("embedding.word.weight", (64, 32), std, build_run_config(VALUES).seed)
    np.testing.assert_array_equal(first["held:embedding.word.weight"], whole[:32])
    assert not first["held:optimizer.m.embedding.word.weight"].any()


@pytest.mark.slow
def test_a_partitioned_rank_begins_with_its_part_of_the_first_values(tmp_path):
    initial = {"outputs": "zero", "positions": "sinusoid", "attention": "previous"}
    model = {**VALUES["model"], "hidden_size": 64, "num_heads": 2}
    values = {**VALUES, "model": model, "training": {**VALUES["training"], "initial": initial}}
    config, found = build_run_config(values), set()
    whole = {name: tensor.array() for name, tensor in first_values(config).items()}
    for rank in (0, 7):  # of the first stage, and of the last with the second shard of both kinds
        placement, arrays = Placement(config, rank), held(tmp_path, rank, values=values)[0]
        for name in whole.keys() & {key.removeprefix("held:") for key in arrays}:
            np.testing.assert_array_equal(arrays[f"held:{name}"], whole[name][placement.window(name)], err_msg=name)
            found.add(name)
    assert found == whole.keys()


@pytest.mark.slow
def test_a_rank_without_a_pipeline_can_evaluate(tmp_path):
    parallel = {"tensor": 2, "optimizer_shard": 2}
    arrays, _ = held(tmp_path, 3, values={**VALUES, "devices": 4, "parallel": parallel})
    assert arrays["held:blocks.0.attention.query.weight"].shape == (8, 32)


def test_trainer_and_rehearsal_load_the_same_rows(monkeypatch):
    """Devices of a stage share a batch; what the trainer slices is what an executed plan is given."""
    config = build_run_config(VALUES)
    loaded = [sharding.loaded_rows(config, rank) for rank in range(8)]
    assert [(rows.start, rows.stop) for rows in loaded] == [(0, 4), (4, 8), (8, 12), (12, 16)] * 2
    stand_in, asked = types.SimpleNamespace(config=config, rank=6), []
    rows = Batch(*(np.zeros((2, 4), np.int32) for _ in range(3)), np.array([35, 36]))
    stand_in.data = types.SimpleNamespace(training_batch=lambda *given: asked.append(given) or rows)
    monkeypatch.setattr(sharding, "loaded_rows", lambda config, rank: slice(3, 5))
    monkeypatch.setattr(trainer, "loaded_rows", sharding.loaded_rows)
    assert trainer.Trainer._local_batch(stand_in, 32).first == 32  # of the step's batch, not of this rank's rows
    assert asked == [(35, 2)]
    assert local_rows(config, 6, np.arange(16)).tolist() == [3, 4]


def test_micro_batches_are_the_batch_in_order():
    batch = Batch(*(np.arange(6) * factor for factor in (1, 2, 3, 4)))
    parts = batch.parts(3)
    assert [part.samples.tolist() for part in parts] == [[0, 4], [8, 12], [16, 20]]
    assert batch.parts(1)[0].inputs.tolist() == batch.inputs.tolist()
