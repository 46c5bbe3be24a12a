import pytest

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.runs.attempts import on_fewer_devices

MODEL = {"family": "codegeex", "hidden_size": 64, "num_heads": 8, "num_layers": 3, "vocab_size": 64, "eos_token_id": 1}


def config(devices, device="ascend", training=None, **parallel):
    training = {"steps": 1, "global_batch": 96, **(training or {})}
    return build_run_config(
        {"device": device, "devices": devices, "model": MODEL, "training": training, "parallel": parallel}
    )


def sizes(devices, minimum=1, **settings):
    """Devices of each smaller configuration in turn."""
    found, current = [], config(devices, **settings)
    while (current := on_fewer_devices(current, minimum)) is not None:
        found.append(current.devices)
    return found


@pytest.mark.parametrize(
    "devices,settings,expected",
    [
        (4, {"device": "cpu"}, [3, 2, 1]),
        (8, {"device": "cpu", "training": {"global_batch": 40}}, [5, 4, 2, 1]),
        (32, {"training": {"global_batch": 480}}, [24, 16, 8, 4, 2, 1]),  # 2, 4 or a multiple of 8
        (32, {"tensor": 2, "training": {"global_batch": 480, "micro_batch": 2}}, [24, 16, 8, 4, 2]),
        (32, {"tensor": 2, "pipeline": 2, "training": {"global_batch": 480, "micro_batch": 2}}, [24, 16, 8, 4]),
        (2, {"pipeline": 2, "micro_batches": 2}, []),
    ],
)
def test_only_legal_meshes_are_left(devices, settings, expected):
    assert sizes(devices, **settings) == expected


def test_no_mesh_is_smaller_than_asked_for():
    assert sizes(32, 16, training={"global_batch": 480}) == [24, 16]
    assert sizes(4, 4) == [] and sizes(8, 5, device="cpu", training={"global_batch": 24}) == [6]


def test_the_batch_stays_and_no_replica_holds_more_at_once():
    before = config(8, tensor=2, training={"global_batch": 96, "micro_batch": 8})
    assert (before.mesh.data, before.accumulation) == (4, 3)
    after = on_fewer_devices(before)
    assert (after.devices, after.mesh.data, after.mesh.tensor) == (4, 2, 2)
    assert (after.training.global_batch, after.micro_batch, after.accumulation) == (96, 8, 6)


def test_micro_batches_are_smaller_where_the_old_ones_do_not_fit():
    before = config(4, device="cpu", training={"global_batch": 12})  # three sequences at once
    after = on_fewer_devices(before)
    assert (after.devices, after.micro_batch, after.accumulation) == (3, 2, 2)


def test_ranks_that_no_longer_exist_are_not_recorded():
    profiled = {"profile": {"steps": "1..1", "ranks": [0, 3]}}
    before = build_run_config({**config(4, device="cpu").to_dict(), **profiled})
    after = on_fewer_devices(before)
    assert (after.devices, after.profile.ranks) == (3, [0]) and on_fewer_devices(after).profile.ranks == [0]
    only = build_run_config({**before.to_dict(), "profile": {**profiled["profile"], "ranks": [3]}})
    assert on_fewer_devices(only).profile.ranks is None


def test_settings_that_count_devices_follow():
    before = config(8, data=8, optimizer_shard=8, micro_batches=3)
    after = on_fewer_devices(before)
    assert (after.devices, after.parallel.data, after.parallel.optimizer_shard) == (4, 4, 4)
    assert (after.micro_batch, after.accumulation, after.parallel.micro_batches) == (before.micro_batch, 6, None)
    assert before.seed == after.seed and before.model == after.model
