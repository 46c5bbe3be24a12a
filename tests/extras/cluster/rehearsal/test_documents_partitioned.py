"""Attention by the ends of documents as MindSpore partitions it: compiled with its kernel, executed with a stand-in."""

from pathlib import Path

import pytest
from test_compile import small

from ms_codegeex.config import chosen_hardware, rules
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.rehearsal import execute as execute_module
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks
from ms_codegeex.extras.cluster.rehearsal.execute import execute
from ms_codegeex.extras.cluster.rehearsal.shrink import shrunk

PROGRAM = Path(__file__).with_name("documents_program.py")
WORDS = ["training.dropout=0", "parallel.hardware=ascend910b", "parallel.tensor=1", "parallel.fusion.documents=true"]
TWO, STAGES = ["devices=2", "training.global_batch=4"], ["training.micro_batch=2", "parallel.pipeline=2"]
ALL = ["devices=8", "training.global_batch=16", *STAGES, "parallel.tensor=2", "parallel.optimizer_shard=2"]
PLANS = {
    "data": TWO,
    "tensor": [*TWO, "parallel.tensor=2", "parallel.sequence=true"],
    "parts": [*TWO, "parallel.tensor=2", "parallel.overlap.parts=2"],
    "one document a row": [*TWO, "data.reset_at_eos=false"],
    "all": ALL,
}
FAMILIES = {
    "codegeex": [],
    "codegen": ["model.family=codegen", "model.preset=tiny", "model.rotary_dim=4", "model.scores_fp32=false"],
    "codegeex2": ["model.family=codegeex2", "model.preset=tiny", "model.rotary_dim=8"],
}
COMPILED = [("codegeex", name) for name in PLANS] + [("codegen", "data"), ("codegeex2", "data"), ("codegeex2", "all")]
WHOLE_GROUPS = ["devices=4", "training.global_batch=8", "parallel.tensor=4"]  # more devices than groups


def planned(family, overrides):
    return small(*FAMILIES[family], *WORDS, *overrides)


def compiled(config):
    mesh = config.mesh
    report = compile_ranks(config, [mesh.rank(stage, 0, 0) for stage in range(mesh.pipeline)])
    assert report.ok, report.problems


@pytest.mark.slow
@pytest.mark.parametrize("family,name", COMPILED)
def test_the_engine_partitions_it_as_planned(family, name):
    compiled(planned(family, PLANS[name]))


@pytest.mark.slow
def test_keys_and_values_are_repeated_for_devices_without_a_group():
    compiled(planned("codegeex2", WHOLE_GROUPS))


@pytest.mark.slow  # several processes with the engine
@pytest.mark.parametrize("family,name", [("codegeex", "all"), ("codegen", "data"), ("codegeex2", "tensor")])
def test_it_trains_as_one_device_with_a_mask_does(monkeypatch, family, name):
    """Rows with several documents, on two devices and in micro-batches: each device counts from its own first row."""

    def small_with_ends(config, mesh):
        values = shrunk(config, mesh).to_dict()
        values["parallel"]["hardware"] = "ascend910b"
        values["parallel"]["fusion"].update(attention=True, documents=True)
        return build_run_config(values)

    for module in (chosen_hardware, rules):
        monkeypatch.setattr(module, "attention_obstacle", lambda config: None)
    monkeypatch.setattr(execute_module, "shrunk", small_with_ends)
    config = planned(family, [*PLANS[name], "training.precision=fp32"])
    found = execute(config, program=[str(PROGRAM)])
    assert found.config.parallel.fusion.documents and found.passed and found.comparison.problems == ()
    assert found.comparison.loss_error <= 1e-5 and found.comparison.parameter_error <= 1e-4
