"""Attention by the ends of documents, as MindSpore partitions it."""

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.rehearsal.compile import compile_ranks

SMALL = [
    "model.hidden_size=64",
    "model.num_layers=3",
    "model.num_heads=4",
    "model.intermediate_size=128",
    "model.vocab_size=256",
    "model.max_position_embeddings=32",
    "model.eos_token_id=1",
    "data.seq_length=32",
    "training.dropout=0",
    "parallel.hardware=ascend910b",
    "parallel.optimizer_shard=1",
    "parallel.tensor=1",
    "parallel.fusion.documents=true",
]
PLANS = {
    "data": ["devices=2", "training.global_batch=4"],
    "tensor": ["devices=2", "training.global_batch=4", "parallel.tensor=2"],
    "all": ["devices=8", "training.global_batch=16", "training.micro_batch=2", "parallel.tensor=2", "parallel.pipeline=2", "parallel.optimizer_shard=2"],
}
FAMILIES = {"codegeex": [], "codegen": ["model.family=codegen", "model.preset=tiny", "model.rotary_dim=4", "model.scores_fp32=false"], "codegeex2": ["model.family=codegeex2", "model.preset=tiny", "model.rotary_dim=8"]}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PLANS)
def test_the_engine_partitions_it_as_planned(family, name):
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", [*FAMILIES[family], *SMALL, *PLANS[name]])
    mesh = config.mesh
    report = compile_ranks(config, [mesh.rank(stage, 0, 0) for stage in range(mesh.pipeline)])
    assert report.ok, report.problems
