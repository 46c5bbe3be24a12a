"""Short gradient functions make the graphs that the engine's own make, and stand aside where they would not."""

from types import SimpleNamespace

import pytest
from compiled_graphs import compiled_graphs
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.rehearsal import compile as compile_module
from ms_codegeex.planning.communication import collectives

SMALL = ["model.hidden_size=64", "model.num_layers=3", "model.num_heads=4", "model.intermediate_size=128"]
SMALL += ["model.vocab_size=256", "model.max_position_embeddings=32", "model.eos_token_id=1", "data.seq_length=32"]
CASES = {
    "shards of some replicas": ["devices=8", "training.global_batch=8", "parallel.tensor=2"],
    "no shards": ["devices=4", "training.global_batch=8", "parallel.tensor=2", "parallel.optimizer_shard=1"],
    "micro-batches and shards of some replicas": [
        "devices=8",
        "training.global_batch=16",
        "training.micro_batch=2",
        "parallel.tensor=2",
    ],
    "micro-batches and a pipeline": [
        "devices=8",
        "training.global_batch=16",
        "training.micro_batch=2",
        "parallel.tensor=2",
        "parallel.pipeline=2",
        "parallel.optimizer_shard=1",
    ],
    "micro-batches of one replica": [
        "devices=2",
        "training.global_batch=8",
        "training.micro_batch=2",
        "parallel.tensor=2",
        "parallel.optimizer_shard=1",
    ],
}


@pytest.mark.slow  # compiles each case twice
@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_the_compiled_operators_are_those_of_the_engines_own_gradients(overrides):
    keys = [*SMALL, "parallel.optimizer_shard=2", *overrides]
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", keys)
    ranks = [config.mesh.rank(stage, 0, 0) for stage in range(config.mesh.pipeline)]
    (short, ours), (engine, theirs) = (compiled_graphs(config, ranks, *words) for words in ((), ("--long",)))
    assert ours == theirs
    assert [x.collectives for x in short.ranks] == [x.collectives for x in engine.ranks]


@pytest.mark.slow  # compiles each case
@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_gradients_travel_in_sixteen_bits_as_planned(overrides):
    """All but that of the table that two stages hold."""
    keys = [*SMALL, "parallel.optimizer_shard=2", *overrides, "parallel.short_gradients=true"]
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", keys)
    ranks = [config.mesh.rank(stage, 0, 0) for stage in range(config.mesh.pipeline)]
    report = compile_module.compile_ranks(config, ranks)
    assert report.ok, report.problems  # its collectives are those of the plan, with their types
    gradients = [x for x in collectives(config) if x.purpose == "gradient"]
    assert {x.dtype for x in gradients if x.group != "tied"} <= {"fp16"}
    sent = {x.op for x in gradients if x.group != "tied"}
    found = {x["op"] for rank in report.ranks for x in rank.collectives if x["dtype"] == "float16"}
    assert sent <= found


def test_an_operator_that_averages_keeps_the_gradient_of_the_engine(monkeypatch):
    from mindspore.ops._grad_experimental import grad_comm_ops
    from mindspore.ops._grad_experimental.grad_base import bprop_getters

    from ms_codegeex.parallel import gradients

    for operator in gradients.FUNCTIONS:
        for key in (operator.__name__, id(operator)):
            monkeypatch.setitem(bprop_getters, key, bprop_getters[key])
    gradients.use_gradient_functions()
    module = {}
    for mean in (False, True):
        attributes = {"group": "", "dev_num": 1, "mean_flag": mean}
        operator = SimpleNamespace(get_attr_dict=attributes.copy)
        module[mean] = bprop_getters["_MirrorOperator"](operator).__module__
    assert module == {False: gradients.__name__, True: grad_comm_ops.__name__}
