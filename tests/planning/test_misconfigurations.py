"""Seeded mistakes: each is refused in one line that starts with the key to change and says what to do.

What starts from a right configuration and changes what is written here. `ms_codegeex/config/rules.py` holds the
rules of meshes; taking any of them away lets a line of this table through.
"""

import pytest
from conftest import ROOT, command, write_config

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import LARGEST_WORLD, Mesh
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config, check_mesh
from ms_codegeex.planning.planner import make_plan, problems
from ms_codegeex.rehearsal.shrink import parse_mesh
from ms_codegeex.runs.node import resolve_node
from ms_codegeex.runs.rank_table import check_against_config, make_rank_table, parse_rank_table

CLUSTER = ROOT / "configs" / "codegeex_13b.yaml"  # 1,536 devices: data 192 x tensor 8, optimizer shards 16
PIPELINE = ROOT / "configs" / "codegeex_13b_pipeline.yaml"  # data 48 x tensor 8 x pipeline 4
SERVER = ROOT / "configs" / "codegeex_2.6b_8.yaml"  # 8 devices: data 4 x tensor 2, 32 heads
TINY = ROOT / "configs" / "codegeex_tiny_release.yaml"  # a CPU; 4 heads, 3 layers

# configuration, overrides, the key the message starts with, what was found, the remedy
MISTAKES = [
    # sizes of the mesh
    (SERVER, "parallel.tensor=3", "parallel.tensor", "3 x pipeline 1 = 3 does not divide devices: 8", "or devices"),
    (CLUSTER, "parallel.pipeline=5", "parallel.tensor", "= 40 does not divide devices: 1536", "parallel.pipeline"),
    (SERVER, "devices=9", "parallel.tensor", "does not divide devices: 9", "change"),
    (SERVER, "devices=1", "parallel.tensor", "does not divide devices: 1", "change"),
    (SERVER, "parallel.data=2", "parallel.data", "2 replicas x 2 do not use devices: 8", "set it to 4"),
    (SERVER, "parallel.data=8", "parallel.data", "8 replicas x 2", "leave parallel.data out"),
    (PIPELINE, "parallel.data=192", "parallel.data", "192 replicas x 32", "set it to 48"),
    (SERVER, "devices=12", "devices", "cannot partition for 12 devices", "multiple of 8"),
    (SERVER, "devices=6 training.global_batch=240", "devices", "6 devices, only for 2, 4 or", "choose such a number"),
    (CLUSTER, "devices=6144", "devices", "6144 devices", "up to 4096"),
    (SERVER, "devices=0", "devices", "found 0", "greater than 0"),
    (SERVER, "parallel.tensor=0", "parallel.tensor", "found 0", "greater than 0"),
    (SERVER, "parallel.pipeline=-2", "parallel.pipeline", "found -2", "greater than 0"),
    (SERVER, "parallel.data=1.5", "parallel.data", "found 1.5", "integer"),
    (SERVER, "parallel.optimizer_shard=all", "parallel.optimizer_shard", "found 'all'", "integer"),
    (SERVER, "parallel.server_devices=0", "parallel.server_devices", "found 0", "greater than 0"),
    (SERVER, "parallel.tensors=2", "parallel.tensors", "unknown key", "did you mean 'tensor'?"),
    # what tensor parallelism cuts
    (SERVER, "model.num_heads=5", "parallel.tensor", "2 does not divide model.num_heads 5", "or model.num_heads"),
    (CLUSTER, "model.num_heads=20", "parallel.tensor", "8 does not divide model.num_heads 20", "change"),
    (SERVER, "model.hidden_size=2576", "model.num_heads", "32 does not divide model.hidden_size 2576", "divisor"),
    (CLUSTER, "model.intermediate_size=20484", "parallel.tensor", "model.intermediate_size 20484", "change"),
    (CLUSTER, "model.vocab_size=50400 parallel.tensor=64", "parallel.tensor", "model.num_heads 40", "change"),
    (CLUSTER, "model.vocab_size=52220", "parallel.tensor", "8 does not divide model.vocab_size 52220", "change"),
    (CLUSTER, "parallel.server_devices=4", "parallel.tensor", "8 devices, whose traffic", "choose a divisor"),
    (CLUSTER, "parallel.server_devices=12", "parallel.tensor", "parallel.server_devices 12", "stay inside a server"),
    (SERVER, "parallel.tensor=1 parallel.sequence=true", "parallel.sequence", "parallel.tensor, which is 1", "false"),
    # batches
    (SERVER, "training.global_batch=255", "training.global_batch", "255 does not divide by the 4", "or change devices"),
    (CLUSTER, "training.global_batch=100", "training.global_batch", "100 does not divide by the 192", "change"),
    (SERVER, "training.micro_batch=6", "training.micro_batch", "6 does not divide the 64 sequences", "divisor"),
    (
        SERVER,
        "training.micro_batch=128",
        "training.micro_batch",
        "128 does not divide the 64",
        "set training.micro_batch=64",
    ),
    (
        SERVER,
        "training.micro_batch=1",
        "training.micro_batch",
        "2 devices that load them (parallel.tensor)",
        "multiple",
    ),
    (CLUSTER, "training.micro_batch=4", "training.micro_batch", "4 sequences of a replica", "choose a multiple"),
    (SERVER, "parallel.micro_batches=8", "parallel.micro_batches", "8 of training.micro_batch 4", "leave one"),
    (
        SERVER,
        "parallel.micro_batches=3 training.micro_batch=null",
        "parallel.micro_batches",
        "3 does not divide the 64 sequences",
        "choose a divisor",
    ),
    # pipelines
    (PIPELINE, "model.num_layers=3", "parallel.pipeline", "4 stages for model.num_layers 3", "choose that"),
    (PIPELINE, "training.micro_batch=32", "parallel.micro_batches", "2 cannot fill parallel.pipeline 4", "at least"),
    (PIPELINE, "training.micro_batch=null", "parallel.micro_batches", "1 cannot fill", "as many micro-batches"),
    (PIPELINE, "parallel.stage_layers=[20,20]", "parallel.stage_layers", "2 numbers for parallel.pipeline 4", "leave"),
    (PIPELINE, "parallel.stage_layers=[9,10,10,10]", "parallel.stage_layers", "has 40: model.num_layers 39", "sum"),
    (PIPELINE, "parallel.stage_layers=[0,20,10,10]", "parallel.stage_layers.0", "found 0", "greater than 0"),
    (SERVER, "parallel.stage_layers=[40]", "parallel.stage_layers", "parallel.pipeline 1, which is no pipeline", "out"),
    (
        SERVER,
        "parallel.virtual_stages=2",
        "parallel.virtual_stages",
        "parallel.pipeline 1, which is no pipeline",
        "out",
    ),
    (PIPELINE, "parallel.virtual_stages=0", "parallel.virtual_stages", "found 0", "greater than 0"),
    (
        PIPELINE,
        "parallel.virtual_stages=3",
        "parallel.virtual_stages",
        "4 x 3 = 12 parts do not divide the 40",
        "other",
    ),
    (
        PIPELINE,
        "parallel.virtual_stages=2 parallel.stage_layers=[11,10,10,9]",
        "parallel.virtual_stages",
        "parallel.stage_layers [11, 10, 10, 9] cannot be given too",
        "leave one",
    ),
    (
        PIPELINE,
        "parallel.virtual_stages=2 training.global_batch=2304",
        "parallel.micro_batches",
        "6 is no multiple of parallel.pipeline 4",
        "choose a multiple",
    ),
    (
        PIPELINE,
        "parallel.virtual_stages=2 parallel.overlap.parts=2",
        "parallel.virtual_stages",
        "never executed together with parallel.overlap.parts: 2",
        "leave one",
    ),
    (
        PIPELINE,
        "parallel.virtual_stages=2 parallel.overlap.recompute_collectives=false",
        "parallel.virtual_stages",
        "never executed together with parallel.overlap.recompute_collectives: false",
        "leave one",
    ),
    (
        PIPELINE,
        "parallel.virtual_stages=2 training.recompute_blocks=[1,1,1,1]",
        "parallel.virtual_stages",
        "never executed together with training.recompute_blocks: [1, 1, 1, 1]",
        "leave one",
    ),
    # gradients
    (
        SERVER,
        "parallel.short_gradients=true training.precision=fp32",
        "parallel.short_gradients",
        "training.precision is fp32",
        "choose fp16 or bf16",
    ),
    # overlap
    (SERVER, "parallel.overlap.parts=3", "parallel.overlap.parts", "3 does not divide the 4", "divisor"),
    (
        SERVER,
        "parallel.tensor=1 parallel.optimizer_shard=1 parallel.overlap.parts=2",
        "parallel.overlap.parts",
        "parallel.tensor 1",
        "leave it out",
    ),
    (
        SERVER,
        "parallel.overlap.recompute_collectives=false training.recompute=selective",
        "parallel.overlap.recompute_collectives",
        "not possible with training.recompute: selective",
        "change that key",
    ),
    (
        SERVER,
        "parallel.overlap.recompute_collectives=false parallel.sequence=true training.recompute=full",
        "parallel.overlap.recompute_collectives",
        "parallel.sequence",
        "leave it out",
    ),
    # optimizer shards
    (SERVER, "parallel.optimizer_shard=3", "parallel.optimizer_shard", "3 does not divide the 4", "divisor"),
    (SERVER, "parallel.optimizer_shard=8", "parallel.optimizer_shard", "the 4 data-parallel replicas", "or change"),
    (CLUSTER, "parallel.optimizer_shard=192", "parallel.optimizer_shard", "640 rows", "Choose a divisor"),
    (
        CLUSTER,
        "model.intermediate_size=20424",
        "parallel.optimizer_shard",
        "16 does not divide the 2553 rows",
        "Choose a divisor",
    ),
    # kernels and numerics
    (SERVER, "training.loss_chunk=256", "training.loss_chunk", "256, but ascend forms", "set it to 0"),
    (TINY, "training.precision=fp16 training.loss_chunk=8", "training.loss_chunk", "FP32 only", "fp32"),
    (
        SERVER,
        "parallel.fusion.attention=true parallel.hardware=ascend910b",
        "parallel.fusion.attention",
        "no dropout",
        "set training.dropout",
    ),
    (
        SERVER,
        "parallel.fusion.attention=true training.dropout=0 parallel.hardware=ascend910",
        "parallel.fusion.attention",
        "parallel.hardware: ascend910 has no such kernel",
        "leave the key out",
    ),
    (
        SERVER,
        "parallel.fusion.attention=true training.dropout=0 device=gpu",
        "parallel.fusion.attention",
        "no such kernel for device: gpu",
        "leave the key out",
    ),
    (SERVER, "parallel.fusion.dropout=true", "parallel.fusion.dropout", "copies of an activation", "leave the key out"),
    (SERVER, "parallel.fusion.allreduce_groups=-1", "parallel.fusion.allreduce_groups", "found -1", "greater"),
    (SERVER, "parallel.hardware=ascend911 training.dropout=0", "parallel.hardware", "'ascend911'", "did you mean"),
    (
        SERVER,
        "parallel.hardware=tpu training.dropout=0",
        "parallel.hardware",
        "'tpu' is unknown",
        "known here: ascend910,",
    ),
    (SERVER, "training.loss_scale.initial=.inf", "training.loss_scale.initial", "found inf", "finite"),
    (SERVER, "training.loss_scale.initial=1e39", "training.loss_scale.initial", "found", "less than or equal"),
    (SERVER, "training.schedule.learning_rate=.nan", "training.schedule.learning_rate", "found nan", "finite"),
    (SERVER, "model.init_std=.nan", "model.init_std", "found nan", "finite"),
    (SERVER, "model.layer_norm_eps=.inf", "model.layer_norm_eps", "found inf", "finite"),
    (SERVER, "data.seq_length=4096", "data.seq_length", "4096 is longer", "set data.seq_length=2048"),
    (SERVER, "training.precision=fp8", "training.precision", "found 'fp8'", "'fp16' or 'bf16'"),
    (
        SERVER,
        "training.precision=bf16 parallel.hardware=ascend910",
        "training.precision",
        "ascend910 has no bf16",
        "choose fp16 or fp32, or another parallel.hardware",
    ),
    (TINY, "training.precision=bf16 training.loss_scale.window=7", "training.loss_scale", "bf16", "leave"),
    (TINY, "training.precision=bf16 training.loss_chunk=8", "training.loss_chunk", "FP32 only", "fp32"),
    (TINY, "training.optimizer.name=mu", "training.optimizer.name", "found 'mu'", "'adamw' or 'muon'"),
    (SERVER, "training.optimizer.name=muon", "training.optimizer.name", "ascend and devices: 8", "adamw"),
    (TINY, "training.optimizer.name=muon lora.rank=4", "training.optimizer.name", "lora.rank: 4", "adamw"),
    (TINY, "training.precision=bf16 parallel.fusion.dropout=true", "parallel.fusion.dropout", "bf16", "leave the key"),
    (
        TINY,
        "training.precision=bf16 parallel.fusion.graph_kernel=true",
        "parallel.fusion.graph_kernel",
        "bf16",
        "leave",
    ),
]


def refused(found: Exception | str, key: str, what: str, remedy: str) -> None:
    text = str(found)
    assert text.startswith(f"{key}:") and what in text and remedy in text and "\n" not in text, text


@pytest.mark.parametrize("path", [CLUSTER, PIPELINE, SERVER, TINY], ids=lambda path: path.stem)
def test_what_the_mistakes_are_seeded_in_is_right(path):
    check_mesh(load_config(path))


@pytest.mark.parametrize("path,words,key,what,remedy", MISTAKES, ids=[f"{m[0].stem} {m[1]}" for m in MISTAKES])
def test_a_wrong_configuration_names_the_key_and_the_remedy(path, words, key, what, remedy):
    with pytest.raises(UserError) as error:
        load_config(path, words.split())
    refused(error.value, key, what, remedy)


def test_there_are_enough_of_them():
    assert len({words for _, words, *_ in MISTAKES}) == len(MISTAKES) >= 45


RIGHT = [  # what lies just inside the rules
    (SERVER, "model.vocab_size=52221 parallel.vocabulary=false"),
    (SERVER, "parallel.sequence=true"),
    (SERVER, "parallel.optimizer_shard=2"),
    (SERVER, "devices=4 parallel.optimizer_shard=2"),
    (
        SERVER,
        "devices=24 parallel.optimizer_shard=3 training.global_batch=384 model.hidden_size=1920 "
        "model.intermediate_size=7680",
    ),
    (SERVER, "devices=4096 training.global_batch=8192"),
    (SERVER, "parallel.micro_batches=16"),
    (PIPELINE, "training.micro_batch=16"),
    (PIPELINE, "model.num_layers=4"),
    (TINY, "devices=3 training.global_batch=12"),  # CPU processes: nothing is partitioned
]


@pytest.mark.parametrize("path,words", RIGHT, ids=[words for _, words in RIGHT])
def test_what_is_right_is_not_refused(path, words):
    load_config(path, words.split())


def test_the_engine_numbers_ranks_up_to_4095():
    assert LARGEST_WORLD == 4096  # global_rank of MindSpore's parallel context


# --- where the mistake is not in the configuration alone ---


TOO_LARGE = [
    (CLUSTER, "training.recompute=none", "training.recompute", "fits with training.recompute=full"),
    (CLUSTER, "parallel.optimizer_shard=1", "parallel.optimizer_shard", "fits with"),
    (SERVER, "training.micro_batch=64", "training.micro_batch", "fits with training.micro_batch="),
    (SERVER, "model.preset=200b training.micro_batch=2", "parallel.tensor", "no single change fits; try --search"),
]


@pytest.mark.parametrize("path,words,key,remedy", TOO_LARGE, ids=[words for _, words, *_ in TOO_LARGE])
def test_a_plan_that_needs_too_much_memory(path, words, key, remedy):
    plan = make_plan(load_config(path, words.split()))
    (line,) = problems(plan)
    assert not plan.fits
    refused(line, key, "GiB, a run on ascend910 may use 30.0 GiB", remedy)


LAUNCHES = [  # overrides, servers, the key or flag, what was found, the remedy
    (TINY, "devices=2 parallel.tensor=2", None, "parallel.tensor", "2 on device: cpu", "ms-codegeex rehearse"),
    (TINY, "devices=2 parallel.pipeline=2 parallel.micro_batches=2", None, "parallel.pipeline", "2 on", "ascend"),
    (TINY, "devices=2 parallel.optimizer_shard=2", None, "parallel.optimizer_shard", "2 on", "set device: ascend"),
    (CLUSTER, "", None, "devices", "1536 on 1 server of 8", "--nodes N"),
    (CLUSTER, "", 7, "--nodes", "7 servers cannot share devices: 1536", "change one of them"),
    (SERVER, "parallel.tensor=8 training.micro_batch=8 parallel.optimizer_shard=1", 2, "--nodes", "4 devices", "fewer"),
]


@pytest.mark.parametrize("path,words,nodes,key,what,remedy", LAUNCHES, ids=[f"{m[1]} {m[2]}" for m in LAUNCHES])
def test_a_launch_that_does_not_suit_the_devices(path, words, nodes, key, what, remedy):
    with pytest.raises(UserError) as error:
        resolve_node(load_config(path, words.split()), nodes=nodes, node_rank=0, master="10.0.0.11:8118")
    refused(error.value, key, what, remedy)


def rank_table(servers=1, devices=8):
    addresses = [{i: f"192.168.{100 + i}.{11 + server}" for i in range(devices)} for server in range(servers)]
    return make_rank_table([(f"10.0.0.{11 + server}", ports) for server, ports in enumerate(addresses)])


def test_a_rank_table_with_another_number_of_devices():
    with pytest.raises(UserError) as error:
        check_against_config(rank_table(servers=2), load_config(SERVER))
    refused(error.value, "devices", "8, but the rank table has 16", "set devices=16")


def test_a_rank_table_whose_servers_cut_tensor_parallel_groups():
    config = load_config(SERVER, ["parallel.tensor=8", "training.micro_batch=8", "parallel.optimizer_shard=1"])
    with pytest.raises(UserError) as error:
        check_against_config(rank_table(servers=2, devices=4), config)
    refused(error.value, "server_list[0].device", "split the tensor-parallel group of ranks 0 to 7", "parallel.tensor")


@pytest.mark.parametrize(
    "place,value,what", [("rank_id", "0", "again"), ("rank_id", "9", "below 8"), ("device_ip", "10.0.0", "IPv4")]
)
def test_a_rank_table_with_a_wrong_value(place, value, what):
    table = rank_table().to_json()
    table["server_list"][0]["device"][3][place] = value
    with pytest.raises(UserError) as error:
        parse_rank_table(table)
    refused(error.value, f"server_list[0].device[3].{place}", what, "")


MESHES = [
    ("nonsense", "found 'nonsense', expected axis=size"),
    ("data", "found 'data'"),
    ("data=two", "found 'data=two'"),
    ("data=-2", "found 'data=-2'"),
    ("data=2;tensor=2", "found 'data=2;tensor=2'"),
    ("rows=2", "found 'rows=2'"),
    ("data=2,", "found ''"),
    ("", "found ''"),
    ("tensor=0", "tensor is 0; give 1 or more"),
    ("data=2,data=4", "data is given twice"),
    ("data=1", "1 rank has nothing to communicate; give an axis above 1"),
    ("data=3", "cannot partition for 3 devices"),
    ("data=4104", "cannot partition for 4104 devices"),
]


@pytest.mark.parametrize("text,message", MESHES, ids=[text or "nothing" for text, _ in MESHES])
def test_a_mesh_to_execute_that_is_none(text, message):
    with pytest.raises(UserError) as error:
        parse_mesh(text)
    refused(error.value, "--mesh", message, "")


def test_a_mesh_to_execute():
    assert parse_mesh("pipeline=2,data=4,optimizer_shard=2") == Mesh(4, 1, 2, 2)


def test_a_mistake_ends_the_command_with_one_line_and_2(tmp_path):
    config = write_config(tmp_path / "run.yaml", {"base": str(SERVER), "parallel": {"optimizer_shard": 3}})
    for verb in ("plan", "rehearse", "train"):
        result = command(verb, "--config", config)
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith(f"ms-codegeex {verb}: parallel.optimizer_shard: 3 does not divide the 4")
        assert result.stderr.count("\n") == 1


def test_axes_that_nobody_gave_devices_to():
    with pytest.raises(UserError, match=r"^parallel\.tensor: tensor 2 x pipeline 1 = 2 does not divide devices: 1;"):
        build_run_config({"device": "ascend", "parallel": {"tensor": 2}, "training": {"steps": 1}})
