"""Short gradient functions make the graphs that the engine's own make, and stand aside where they would not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from compiled_graphs import compiled_graphs
from test_compile import small

from ms_codegeex.extras.cluster.rehearsal import compile as compile_module
from ms_codegeex.planning.communication import collectives

MICRO = "training.micro_batch=2 parallel.tensor=2"
CASES = {
    "shards of some replicas": "devices=8 training.global_batch=8 parallel.tensor=2",
    "no shards": "devices=4 training.global_batch=8 parallel.tensor=2 parallel.optimizer_shard=1",
    "micro-batches and shards of some replicas": f"devices=8 training.global_batch=16 {MICRO}",
    "micro-batches and a pipeline": f"""devices=8 training.global_batch=16 {MICRO} parallel.pipeline=2
        parallel.optimizer_shard=1""",
    "micro-batches of one replica": f"devices=2 training.global_batch=8 {MICRO} parallel.optimizer_shard=1",
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    """The configuration of a case, and a rank of each stage."""
    config = small("parallel.optimizer_shard=2", *request.param.split())
    return config, [config.mesh.rank(stage, 0, 0) for stage in range(config.mesh.pipeline)]


@pytest.mark.slow  # compiles each case twice
def test_the_compiled_operators_are_those_of_the_engines_own_gradients(case):
    (short, ours), (engine, theirs) = (compiled_graphs(*case, *words) for words in ((), ("--long",)))
    assert ours == theirs
    assert [x.collectives for x in short.ranks] == [x.collectives for x in engine.ranks]


@pytest.mark.slow  # compiles each case
def test_gradients_travel_in_sixteen_bits_as_planned(case):
    """All but that of the table that two stages hold."""
    config, ranks = case
    config = replace(config, parallel=replace(config.parallel, short_gradients=True))
    report = compile_module.compile_ranks(config, ranks)
    assert report.ok, report.problems  # its collectives are those of the plan, with their types
    gradients = [x for x in collectives(config) if x.purpose == "gradient" and x.group != "tied"]
    assert {x.dtype for x in gradients} <= {"fp16"}
    found = {x["op"] for rank in report.ranks for x in rank.collectives if x["dtype"] == "float16"}
    assert {x.op for x in gradients} <= found


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
