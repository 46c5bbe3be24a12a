"""Compile rehearsals: what the engine partitions equals the plan, and what does not is seen."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from compiled_graphs import compiled_graphs
from conftest import ROOT

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import check_mesh
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.extras.cluster.rehearsal import compile as compile_module
from ms_codegeex.extras.cluster.rehearsal import job as job_module
from ms_codegeex.extras.cluster.rehearsal.compile import CompileReport, PlanCheck, compile_ranks, distinct_ranks
from ms_codegeex.extras.cluster.rehearsal.coverage import memory_of_stages
from ms_codegeex.extras.cluster.rehearsal.job import CompileMode, RehearsalJob
from ms_codegeex.extras.cluster.rehearsal.plan_checks import called_blocks, found_calls, joined, planned_calls

PAPER = ROOT / "configs" / "codegeex_13b.yaml"
SMALL = ["model.hidden_size=64", "model.num_layers=3", "model.num_heads=4", "model.intermediate_size=128"]
SMALL += ["model.vocab_size=256", "model.max_position_embeddings=32", "model.eos_token_id=1", "data.seq_length=32"]
PARTS = "training.global_batch=8 training.micro_batch=2 parallel.pipeline=2"
MESHES = {  # a step calls its graph twice
    "dp2 tp2 pp2, optimizer shards": """devices=8 model.num_layers=2 training.global_batch=16 training.micro_batch=2
        parallel.pipeline=2 parallel.optimizer_shard=2 parallel.graph_micro_batches=2 faults.policy=skip"""
}
MORE = {
    "dp2 tp2, sequence": "devices=4 training.global_batch=8 parallel.sequence=true",
    "dp4 tp2, partial optimizer shards": "devices=8 training.global_batch=16 parallel.optimizer_shard=2",
    "dp2, accumulation, selective": """devices=2 parallel.tensor=1 training.global_batch=8 training.micro_batch=2
        training.recompute=selective""",
    "tp2, whole vocabulary, fp32": """devices=2 training.global_batch=4 parallel.vocabulary=false
        training.precision=fp32 training.recompute=none""",
    "tp2 pp2, sequence, no dropout": f"""devices=4 {PARTS} training.dropout=0 parallel.fusion.attention=false
        parallel.sequence=true""",
    "dp2 tp2 pp2, virtual stages, optimizer shards": f"""{PARTS} devices=8 training.global_batch=16
        parallel.virtual_stages=2 parallel.optimizer_shard=2""",
    "tp2 pp2, virtual stages of two blocks": f"devices=4 model.num_layers=7 {PARTS} parallel.virtual_stages=2",
    "dp2 tp2, bf16, fused attention": """devices=4 training.global_batch=8 training.precision=bf16 training.dropout=0
        parallel.hardware=ascend910b parallel.optimizer_shard=2""",
    "dp4, level 3": """devices=4 parallel.tensor=1 training.global_batch=8 parallel.optimizer_shard=4
        parallel.optimizer_level=3""",
    "tp2, documents run on": "devices=2 training.global_batch=4 data.reset_at_eos=false",
}


# The sizes of the other families' small models, in addition to `SMALL`.
FAMILIES = {
    "codegen": ["model.family=codegen", "model.preset=tiny", "model.rotary_dim=4", "training.dropout=0"],
    "codegeex2": ["model.family=codegeex2", "model.preset=tiny", "model.rotary_dim=8", "training.dropout=0"],
    "qwen2": ["model.family=qwen2", "model.preset=tiny", "training.dropout=0"],
}
RECOMPUTED, NOT_RECOMPUTED = "training.recompute=full", "training.recompute=none"
ONE_REPLICA, TWO_REPLICAS = "devices=2 training.global_batch=4", "devices=4 training.global_batch=8"
LEVELS = "devices=8 training.global_batch=32 training.micro_batch=2 parallel.optimizer_shard=2"
FOUR_WAYS = "training.global_batch=16 parallel.tensor=4 parallel.optimizer_shard=2"
OF_EACH_FAMILY = (
    f"{TWO_REPLICAS} parallel.sequence=true {NOT_RECOMPUTED}",
    f"{TWO_REPLICAS} parallel.sequence=true training.dropout=0.1 {RECOMPUTED}",
    f"{ONE_REPLICA} parallel.vocabulary=false training.precision=fp32",
    """devices=4 training.global_batch=16 training.micro_batch=4 training.dropout=0.1 training.recompute=selective
        parallel.pipeline=2""",
    f"devices=2 training.global_batch=8 training.micro_batch=2 parallel.tensor=1 {NOT_RECOMPUTED}",
)
FAMILY_MESHES = [
    *((family, overrides) for family in FAMILIES for overrides in OF_EACH_FAMILY),
    ("codegeex2", f"{TWO_REPLICAS} parallel.optimizer_shard=2 {RECOMPUTED}"),
    ("codegen", f"{ONE_REPLICA} {NOT_RECOMPUTED}"),
    ("codegen", f"{TWO_REPLICAS} parallel.optimizer_shard=2 {RECOMPUTED}"),
    ("codegen", f"{ONE_REPLICA} parallel.sequence=true {NOT_RECOMPUTED}"),
    ("codegeex2", f"{ONE_REPLICA} {NOT_RECOMPUTED}"),
    ("codegen", f"{LEVELS} parallel.optimizer_level=2 parallel.pipeline=2"),
    ("codegen", f"{LEVELS} parallel.optimizer_level=3 parallel.graph_micro_batches=2"),
    ("codegeex2", f"{LEVELS} parallel.optimizer_level=3 parallel.tensor=1 {NOT_RECOMPUTED}"),
    ("codegeex2", f"{TWO_REPLICAS} parallel.tensor=4 {NOT_RECOMPUTED}"),
    ("codegeex2", f"{TWO_REPLICAS} parallel.tensor=4 parallel.hardware=ascend910b"),
    ("codegen", f"{ONE_REPLICA} parallel.hardware=ascend910b model.scores_fp32=false"),
    ("codegeex2", f"{FOUR_WAYS} devices=16 training.global_batch=32 {NOT_RECOMPUTED}"),
    ("codegeex2", f"{FOUR_WAYS} devices=8 {RECOMPUTED}"),
]


def small(*overrides):
    """The 13B's recipe with a small model."""
    return load_config(PAPER, [*SMALL, "parallel.tensor=2", "parallel.optimizer_shard=1", *overrides])


def broken(monkeypatch, fault):
    program = Path(__file__).with_name("broken_compile_program.py")
    monkeypatch.setattr(job_module, "COMPILE_PROGRAM", (str(program), fault))


def test_distinct_ranks_are_the_ends_of_stages_and_groups():
    assert distinct_ranks(Mesh(data=2)) == [0, 1]
    assert distinct_ranks(Mesh(data=192, tensor=8, optimizer_shard=16)) == [0, 7, 120, 1408, 1528, 1535]
    assert distinct_ranks(Mesh(data=2, tensor=2, pipeline=3)) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]


def holds(config, ranks):
    reported = []
    report = compile_ranks(config, ranks, lambda done, total: reported.append((done, total)))
    assert report.ok, report.problems
    assert reported[0][0] == 0 and reported[-1][0] == reported[-1][1] == len(report.ranks)
    assert all(rank.peak_memory_bytes > 10**8 and rank.nodes > 100 for rank in report.ranks)
    return report


@pytest.mark.parametrize("overrides", MESHES.values(), ids=MESHES)
def test_the_compiled_graph_is_the_planned_one(overrides):
    config = small(*overrides.split())
    mesh = config.mesh
    report = holds(config, [mesh.rank(stage, 0, 0) for stage in range(mesh.pipeline)])
    names = {check.name.rpartition(", ")[2] for check in report.checks}
    assert {"local parameters", "shapes of parameters", "FLOPs of matrix products", "collectives", "fusion"} < names
    assert "parameters: all shards over their replication" in names and "planned memory of a device" in names
    values = json.loads(json.dumps(report.to_json()))
    assert values["ok"] and len(values["ranks"]) == len(report.ranks) and values["problems"] == []
    assert values["not_executed"] and f"not checked: {values['not_executed'][0]}" in report.text()
    assert f"all {len(report.checks)} checks hold" in report.text() and "ReduceScatter" in report.text()
    assert sum(line.startswith("  ok  ") for line in report.text().splitlines()) == len(report.checks)


def test_gpus_that_share_the_batch_compile_the_planned_graph_from_cells_of_their_own():
    """Every gradient is summed once, also those of biases, which only a cell with its own gradient adds; and such a
    gradient has the rows of one device."""
    words = ["device=gpu", "devices=4", "parallel.tensor=1", "training.global_batch=16", "training.micro_batch=2"]
    config = small(*FAMILIES["codegeex2"], *words, "model.num_layers=1", NOT_RECOMPUTED)
    _, (program,) = compiled_graphs(config, [3])
    operators = program.operators
    assert {"LogSoftmaxGrad", "BiasAdd"} <= {each.op for each in operators}
    assert not {"BiasAddGrad", "OneHot"} & {each.op for each in operators}
    rows = {x.shape[0] for each in operators if each.op == "BatchMatMul" for x in each.outputs}
    assert rows == {config.micro_batch}


@pytest.mark.parametrize("name", ["codegeex_13b_910_1536", "codegeex2_6b_910b_512", "codegen_16b_910b_512"])
def test_a_graph_with_few_layers_recomputes_some_of_them(name):
    """Recipes of one micro-batch that recompute in 33 of 40, in 8 of 28, and in no blocks."""
    config = load_config(ROOT / "configs" / "recipes" / f"{name}.yaml")
    few = compile_module.inlined_config(config)
    check_mesh(few)
    assert few.model.sizes.num_layers == 4 and config.accumulation == 1
    given, blocks = config.training.recompute_blocks, few.training.recompute_blocks
    assert (blocks is None) == (given is None)
    assert given is None or 0 < blocks[0] < few.model.sizes.attention_layers


RECOMPUTED_PART = "recompute_Default/"  # begins the engine's names of what a backward pass repeats


@pytest.mark.slow  # compiles two graphs
def test_only_the_chosen_blocks_of_a_graph_recompute():
    """And a step without micro-batches is checked with blocks that are called, and with inlined ones."""
    mesh = ["devices=2", "parallel.tensor=2", "parallel.optimizer_shard=1", "training.global_batch=4"]
    config = small(*mesh, "training.recompute=full", "training.recompute_blocks=[2]", "model.num_layers=3")
    report, (program,) = compiled_graphs(config, [0])
    assert config.accumulation == 1 and [rank.inlined for rank in report.ranks] == [False, True]
    assert {"rank 0, FLOPs of matrix products", "3 layers inlined, fusion"} <= {check.name for check in report.checks}
    assert "rank 0, 3 layers, all inlined as in a run" in report.text()
    again = {place: [] for place in ("0-Block", "1-Block", "2-Block", "top_query_layer")}
    casts = dict.fromkeys(again, 0)
    for operator in program.operators:
        place = next((x for x in again if f"/{x}" in operator.scope), None)
        if place and operator.scope.startswith(RECOMPUTED_PART):
            again[place].append(operator.op)
        if place and operator.op == "Cast" and "norm-FusedLayerNorm/Cast" in operator.scope:
            casts[place] += 1
    assert [kinds.count("MatMul") for kinds in again.values()] == [6 + 5, 6 + 5, 0, 0]  # forward, and all but the last
    assert all("Softmax" in kinds for kinds in again.values())
    # two norms cast up and down; blocks 0 and 1 do all of it twice, block 2 keeps the input that block 1 made
    assert casts == {"0-Block": 8, "1-Block": 8, "2-Block": 5, "top_query_layer": 6}


@pytest.mark.slow
@pytest.mark.parametrize(("family", "overrides"), FAMILY_MESHES)
def test_the_graphs_of_other_families_are_the_planned_ones(family, overrides):
    config = small(*FAMILIES[family], *overrides.split())
    mesh = config.mesh
    holds(config, [mesh.rank(stage, 0, 0) for stage in range(mesh.pipeline)])


GPUS = {
    "codegeex": "training.global_batch=4 training.recompute=selective",
    "codegeex2": """devices=4 training.global_batch=16 training.micro_batch=2 parallel.optimizer_shard=2
        training.recompute=full training.dropout=0.1 data.reset_at_eos=false""",
    "codegen": f"training.global_batch=4 {NOT_RECOMPUTED}",
}


@pytest.mark.slow
@pytest.mark.parametrize("family", GPUS)
def test_graphs_of_gpus_that_share_the_batch_are_the_planned_ones(family):
    words = ["device=gpu", "devices=2", "parallel.tensor=1", *GPUS[family].split()]
    holds(small(*FAMILIES.get(family, ()), *words), [0])


@pytest.mark.slow
@pytest.mark.parametrize("overrides", MORE.values(), ids=MORE)
def test_more_compiled_graphs_are_the_planned_ones(overrides):
    config = small(*overrides.split())
    mesh = config.mesh
    holds(config, [mesh.rank(stage, mesh.data - 1, mesh.tensor - 1) for stage in range(mesh.pipeline)])


@pytest.mark.slow
def test_each_open_micro_batch_has_its_own_16_bit_copies():
    """Two stages and two micro-batches, no optimizer shards: the first stage casts its weights in both before it runs
    backward. The tied word table has a communicator of its own; stages of one device send over that of all ranks."""
    words = ["devices=2", "parallel.tensor=1", "parallel.pipeline=2", "training.global_batch=4"]
    config = small(*words, "training.micro_batch=2", "training.recompute=none", "model.num_layers=3")
    report, programs = compiled_graphs(config, [0, 1])
    assert [rank.communicators for rank in report.ranks] == [[[0, 1]] * 2] * 2
    for stage, (program, memory) in enumerate(zip(programs, make_plan(report.config).memory, strict=True)):
        weights = {name for name, size in program.parameters.items() if size >= 4 * 64 * 64}
        casts = Counter()
        for operator in program.operators:
            source = operator.reads[0] if operator.reads else None
            while isinstance(source, int) and program.operators[source].op in ("Load", "Depend"):
                source = program.operators[source].reads[0]
            if operator.op == "Cast" and source in weights and operator.outputs[0].dtype == "float16":
                casts[operator.micro] += operator.outputs[0].bytes
        assert casts[0] == casts[1] > 0
        assert memory.gathered_weights == casts[0] * (2 - stage), stage


LORA = ["lora.rank=8", "lora.targets=[attention, feed_forward]"]
LORA_MESHES = {
    "one device": ["devices=1", "parallel.tensor=1", "training.global_batch=1"],
    "dp2 tp2, optimizer shards": ["devices=4", "training.global_batch=8", "parallel.optimizer_shard=2"],
    "dp2, accumulation": ["devices=2", "parallel.tensor=1", "training.global_batch=8", "training.micro_batch=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("overrides", LORA_MESHES.values(), ids=LORA_MESHES)
def test_adapters_alone_have_gradients_and_moments(overrides, recompute):
    config = small(*overrides, *LORA, f"training.recompute={recompute}")
    report = holds(config, [0])
    for rank in report.ranks:
        moments = {name.split(".", 2)[2] for name in rank.parameters if name.startswith("optimizer.m.")}
        adapters = {name for name in rank.weights if name.endswith((".lora_a", ".lora_b"))}
        assert moments == adapters and len(adapters) == 2 * 6 * (rank_layers(rank) + 1)


@pytest.mark.slow
def test_adapters_of_rank_1_on_gpus_are_products_beside_norms_made_of_products():
    words = ["device=gpu", "devices=2", "parallel.tensor=1", "training.global_batch=4", *LORA, "lora.rank=1"]
    holds(small(*FAMILIES["codegeex2"], *words), [0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("codegen", f"{ONE_REPLICA} parallel.sequence=true"),
        ("codegeex2", "devices=4 training.global_batch=16 training.micro_batch=4 parallel.optimizer_shard=2"),
    ],
)
def test_fused_layers_compute_what_their_adapters_share_once(family, overrides):
    """FLOPs and collectives are those of one factor A; with sequence parallelism, narrow tensors are scattered."""
    report = holds(small(*FAMILIES[family], *overrides.split(), *LORA), [0])
    shared = {name for rank in report.ranks for name in rank.weights if name.endswith(".lora_a")}
    assert not any(".key." in name or ".value." in name for name in shared)
    assert "blocks.0.attention.query.lora_a" in shared


def rank_layers(rank):
    return len({name.split(".")[1] for name in rank.weights if name.startswith("blocks.")})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["finetune_lora_13b", "finetune_13b_8"])
def test_fine_tuning_of_the_13b_is_planned_and_compiled(name):
    config = load_config(name)
    assert config.model.sizes.parameter_count() == 12_873_943_040
    plan = make_plan(config)
    assert plan.fits and plan.chip.memory == 64 * 2**30
    holds(config, [0])


@pytest.mark.slow
def test_optimizer_shards_that_did_not_happen_are_seen(monkeypatch):
    broken(monkeypatch, "unsharded")  # twelve replicas do not divide 32 rows
    report = compile_ranks(small("devices=24", "training.global_batch=48", "parallel.optimizer_shard=2"), [0])
    assert not report.ok
    failed = {check.name for check in report.checks if not check.ok}
    assert {"rank 0, local parameters", "rank 0, shapes of parameters"} <= failed
    assert any("AllGather" in name for name in failed)
    assert "FAIL" in report.text() and len(report.to_json()["problems"]) == len(failed)


PIPELINE = ["devices=2", "parallel.tensor=1", "parallel.pipeline=2", "training.global_batch=8"]
PIPELINE += ["training.micro_batch=2"]
BF16 = [*ONE_REPLICA.split(), "training.precision=bf16", "parallel.hardware=ascend910b"]
FAULTS = {  # configuration, and the checks that fail
    "gpipe": ([*PIPELINE, "parallel.virtual_stages=2"], {"rank 0, schedule", "rank 1, schedule"}),
    "swapped_tags": (PIPELINE, {"messages between ranks 0 and 1"}),
    "scaled_bf16": (BF16, {"rank 0, loss scale", "rank 1, loss scale", "3 layers inlined, loss scale"}),
}


def failed_with(monkeypatch, fault, overrides):
    broken(monkeypatch, fault)
    report = compile_ranks(small(*overrides, "training.dropout=0"))
    return {check.name for check in report.checks if not check.ok}


@pytest.mark.slow
def test_a_graph_with_virtual_stages_runs_interleaved_1f1b():
    report = holds(small(*FAULTS["gpipe"][0], "training.dropout=0"), [0])
    assert {check.found for check in report.checks if check.name.endswith("schedule")} == {"interleaved 1F1B"}


@pytest.mark.slow  # by default their checks are tested with wrong reports
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_graph_is_seen(monkeypatch, fault):
    overrides, expected = FAULTS[fault]
    assert failed_with(monkeypatch, fault, overrides) == expected


@pytest.mark.slow
def test_weights_that_are_not_frozen_beside_adapters_are_seen(monkeypatch):
    mesh = ["devices=2", "parallel.tensor=1", "parallel.optimizer_shard=2", "training.global_batch=4"]
    failed = failed_with(monkeypatch, "thawed", [*mesh, *LORA])
    assert {"rank 0, moments", "rank 0, shapes of moments", "rank 0, FLOPs of matrix products"} < failed
    assert any("ReduceScatter" in name for name in failed)


def test_a_worker_that_fails_is_reported_in_one_line(monkeypatch):
    broken(monkeypatch, "stumbling")
    with pytest.raises(RunFailure, match=r"compile of rank 1.*model\.hidden_size: a message for the user") as failure:
        compile_ranks(small("devices=2", "training.global_batch=4"), [1])
    assert "\n" not in str(failure.value)


def test_what_cannot_be_compiled_is_refused():
    alone = load_config(PAPER, ["device=cpu", "devices=1", "parallel.tensor=1", "parallel.optimizer_shard=1"])
    with pytest.raises(UserError, match="device"):
        compile_ranks(alone)
    with pytest.raises(UserError, match="--ranks: 1536"):
        compile_ranks(load_config(PAPER), [1536])


@pytest.mark.slow
def test_a_network_compiled_once_communicates_as_one_inlined_for_each_micro_batch(tmp_path):
    config = small("devices=4", "training.global_batch=8", "training.micro_batch=2", "parallel.optimizer_shard=2")
    modes = (CompileMode(inline=False), CompileMode(inline=True))
    jobs = [(RehearsalJob(tmp_path / json.dumps(asdict(mode)), config, 1), 0, mode) for mode in modes]
    once, inlined = compile_module._run(jobs, lambda done, total: None)
    # inlined, one scalar is merged
    tensors = [{k: n for k, n in found_calls(x.collectives).items() if k[3] > 4} for x in (once, inlined)]
    assert tensors[0] and tensors[0] == tensors[1]
    assert once.products == inlined.products and once.parameters == inlined.parameters
    assert once.nodes < inlined.nodes


def test_blocks_that_are_called_move_weights_in_another_way():
    config = load_config(PAPER)
    mesh, planned = config.mesh, planned_calls(config, 0)
    called = called_blocks(config, 0)
    shards, replicas = tuple(mesh.optimizer_group(0)), tuple(mesh.replica_group(0))
    assert (len(shards), len(replicas)) == (16, 12)
    small_weight, large = 5120 * 5120 // 8, 5120 * 20480 // 8
    assert planned["AllGather", shards, "float16", 2 * small_weight] == 160
    assert called["AllGather", shards, "float32", 4 * small_weight] == 160
    assert called["AllReduce", replicas, "float32", 4 * large] == 80
    assert planned["AllReduce", replicas, "float32", 4 * large // 16] == 80
    assert sum(planned.values()) - sum(called.values()) == 38  # inputs of blocks that are not sliced
    many = load_config(PAPER, ["training.micro_batch=8"])
    assert called_blocks(many, 0) == planned_calls(many, 0)


def test_halves_of_an_all_reduce_count_as_one_only_where_one_was_planned():
    key = ((0, 1), "float32", 64)
    planned = Counter({("AllReduce", *key): 2, ("AllGather", *key): 1})
    halves = Counter({("ReduceScatter", *key): 2, ("AllGather", *key): 3})
    assert joined(planned, halves) == planned
    assert joined(planned, planned) == planned
    missing = halves - Counter({("ReduceScatter", *key): 1})
    assert joined(planned, missing) != planned
    other = Counter({("ReduceScatter", *key): 2, ("AllGather", (0, 1, 2, 3), "float32", 64): 3})
    assert joined(planned, other)[("AllReduce", *key)] == 0


def test_a_plan_that_does_not_fit_its_devices_fails():
    """35.6 GiB on a device with 30: it compiles, and would not run."""
    config = load_config(PAPER, ["training.recompute=selective"])
    checks = [compile_module._memory_check(*stage) for stage in memory_of_stages(config)]
    assert [check.ok for check in checks] == [False] and checks[0].expected == "at most 30.0 GiB"
    report = CompileReport(config, [], checks)
    assert not report.ok and "stage 0, planned memory of a device: expected at most 30.0" in report.problems[0]
    fits = [compile_module._memory_check(*stage) for stage in memory_of_stages(load_config(PAPER))]
    assert all(check.ok for check in fits)


def test_a_check_holds_only_for_equal_figures():
    check = PlanCheck("collectives", "3 calls", "3 calls")
    assert check.ok and not replace(check, found="2 calls").ok


@pytest.mark.slow
def test_the_13b_on_1536_devices():
    report = holds(load_config(PAPER), [0, 1535])
    (total,) = (x for x in report.checks if x.name.startswith("parameters: all shards"))
    assert total.found == "12,873,943,040"
    assert max(rank.peak_memory_bytes for rank in report.ranks) < 4e9
    assert [rank.local_parameters for rank in report.ranks[:2]] == [154_117_120] * 2
