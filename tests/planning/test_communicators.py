"""Communicators and their buffers, counted by hand; what tells the engine their sizes, read as its plugin reads it."""

import math

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.planning.communicators import NCCL_BYTES, buffer_variables, communicators_of

MIB = 2**20
PAPER = ROOT / "configs" / "codegeex_13b.yaml"
SERVER = ["devices=8", "parallel.optimizer_shard=1", "parallel.sequence=true", "training.micro_batch=4"]
STAGES = ["parallel.tensor=1", "parallel.pipeline=2"]


def found(config, rank=0):
    return {x.groups: (x.ranks, x.buffer) for x in communicators_of(config, rank)}


def test_the_papers_mesh_by_hand():
    """Data 192 x tensor 8, 16 optimizer shards, four buckets of ten blocks, micro-batches of 16."""
    config = load_config(PAPER)
    matrices = 40 * 12 * 5120**2 // 8  # elements of all blocks on a device, before sharding
    replica = math.ceil(4 * matrices // 16 / 4 / MIB)  # FP32 gradients of a shard of a bucket
    words = math.ceil(4 * 52224 * 5120 / 8 / MIB)  # FP32 gradient of the word table, alone larger than a bucket
    assert (replica, words) == (94, 128)
    assert found(config, 9) == {
        ("tensor",): (tuple(range(8, 16)), 200),  # 320 MiB of activations, more than a buffer
        ("data",): (tuple(range(1, 1536, 8)), words),
        ("stage", "world"): (tuple(range(1536)), 40),  # FP32 gradient of the positions, 2,048 x 5,120
        ("optimizer",): (tuple(range(1, 129, 8)), 200),
        ("replica",): (tuple(range(9, 1536, 128)), replica),
    }
    (memory,) = make_plan(config).memory
    assert memory.communication == 2 * (200 + words + 40 + 200 + replica) * MIB


def test_a_pipeline_has_one_communicator_for_all_stages():
    """Data 1 x tensor 2 x pipeline 4: no gradient crosses replicas, and the tied table lies on both ends."""
    config = load_config(PAPER, [*SERVER, "parallel.tensor=2", "parallel.pipeline=4"])
    hidden, tied = 4 * 2048 * 5120 * 2 // MIB, 200  # 80; a half word table in FP32 has 510 MiB
    middle = {
        ("tensor", "stage"): ((2, 3), hidden),
        ("world",): (tuple(range(8)), 16),
        ("pipeline",): ((0, 2, 4, 6), hidden // 2),  # with sequence parallelism each device sends its rows
    }
    assert found(config, 2) == middle
    assert found(config, 7)[("tied",)] == ((1, 7), tied) and found(config, 7)[("pipeline",)][0] == (1, 3, 5, 7)
    stages = make_plan(config).memory
    assert stages[1].communication == stages[2].communication == 2 * (hidden + 16 + hidden // 2) * MIB
    words = 4 * 2048 * 5120 * 4 // MIB  # vectors of the shards of the word table, summed in FP32
    assert stages[0].communication == 2 * (words + 16 + hidden // 2 + tied) * MIB


def test_a_pipeline_whose_shards_have_replicas_has_one_that_nothing_uses():
    """`cluster/rehearsal/test_first_contact.py` counts the engine's own, in every shipped configuration."""
    words = ["parallel.pipeline=4", "training.micro_batch=8"]  # data 48 x tensor 8, 16 optimizer shards
    assert found(load_config(PAPER, words), 130)[()] == (tuple(range(128, 256)), 16)
    for other in ("parallel.pipeline=1", "parallel.optimizer_shard=1", "parallel.tensor=1 training.micro_batch=1"):
        assert () not in found(load_config(PAPER, [*words, *other.split()]), 130)
    assert () not in found(load_config(ROOT / "configs/recipes/codegeex_13b_910_512.yaml"))  # no replicas


def test_the_two_communicators_of_the_same_ranks_have_the_larger_messages_buffer():
    """Two stages: the tied table and the activations go between the same ranks."""
    config = load_config(PAPER, [*SERVER, "parallel.tensor=4", "parallel.pipeline=2"])
    ranks = [x.ranks for x in communicators_of(config, 1)]
    assert ranks.count((1, 5)) == 2
    assert found(config, 1)[("tied",)] == found(config, 1)[("pipeline",)] == ((1, 5), 200)


def test_stages_of_one_device_send_over_the_communicator_of_all():
    config = load_config(PAPER, ["devices=2", "parallel.optimizer_shard=1", "training.micro_batch=4", *STAGES])
    assert found(config) == {("tied",): ((0, 1), 200), ("pipeline", "world"): ((0, 1), 200)}


@pytest.mark.parametrize("size", [None, 64])
def test_one_size_for_all(size):
    words = [] if size is None else [f"cluster.buffer_size={size}"]
    config = load_config(PAPER, words)
    buffers = {x.buffer for x in communicators_of(config, 0)}
    assert buffers == {64} if size else len(buffers) > 2


def test_one_device_has_none_and_nccl_chooses_itself():
    alone = load_config(ROOT / "configs" / "finetune_lora_13b.yaml")
    assert communicators_of(alone, 0) == [] and buffer_variables(alone, [0]) == {}
    words = ["device=gpu", "parallel.hardware=a100", "devices=512", "parallel.tensor=4", "parallel.optimizer_shard=64"]
    gpus = load_config(PAPER, [*words, "training.global_batch=3072", "training.micro_batch=4"])
    listed = communicators_of(gpus, 0)
    assert len(listed) == 5 and sum(x.bytes for x in listed) == make_plan(gpus).memory[0].communication
    assert {x.bytes for x in listed} == {NCCL_BYTES} and 200 < NCCL_BYTES / MIB < 250


def told(variables, ranks):
    """The MiB that MindSpore's plugin takes for a communicator of these ranks (`GetHcclBufferSize` in its `utils.cc`):
    those of a list or stride with the same members, otherwise those of HCCL_BUFFSIZE."""
    settings = dict(x.split(":", 1) for x in variables.get("MS_DEV_HCCL_CONF", "").split(",") if x)
    assert not settings or settings["enable_hccl_config"] == "True"
    for entry in settings.get("hccl_stride_config", "").split("|"):
        members, _, size = entry.partition("=")
        first, last, step = map(int, members.replace(":", "-").split("-")) if members else (0, -1, 1)
        if size and tuple(range(first, last + 1, step)) == tuple(sorted(ranks)):
            return int(size.removesuffix("MB"))
    return int(variables["HCCL_BUFFSIZE"])


@pytest.mark.parametrize(
    "words",
    [[], ["parallel.pipeline=4", "training.micro_batch=8"], ["parallel.tensor=1"], ["cluster.buffer_size=33"]],
    ids=" ".join,
)
@pytest.mark.parametrize("first", [0, 768])
def test_the_engine_is_told_what_is_planned(words, first):
    config = load_config(PAPER, words)
    server = range(first, first + 8)
    variables = buffer_variables(config, server)
    for rank in server:
        listed = communicators_of(config, rank)
        assert len(listed) >= 3
        assert [told(variables, x.ranks) for x in listed] == [x.buffer for x in listed]
    assert ("MS_DEV_HCCL_CONF" in variables) != ("cluster.buffer_size=33" in words)


@pytest.mark.parametrize("words", [[], ["parallel.pipeline=4", "training.micro_batch=8"]], ids=["data", "pipeline"])
def test_all_members_of_a_communicator_have_equal_buffers(words):
    """HCCL creates a communicator only if they agree."""
    config = load_config(PAPER, [*words, "devices=128", "training.global_batch=1024", "parallel.optimizer_shard=2"])
    sizes = {}
    for rank in range(128):
        for x in communicators_of(config, rank):
            sizes.setdefault((x.groups == ("pipeline",), x.ranks), set()).add(x.buffer)
    assert len(sizes) > 20 and all(len(found) == 1 for found in sizes.values())
