"""MindSpore's silent check in our step: what its variable, set as for a run, does to the compiled graph."""

import pytest
from test_compile import small

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal.compile import compile_ranks
from ms_codegeex.runs.servers.node import _watching

OVERRIDES = ("devices=4", "training.global_batch=8", "training.precision=bf16", "training.dropout=0")


@pytest.mark.slow  # three graphs are compiled
def test_gradients_are_sampled_but_not_with_optimizer_shards(monkeypatch):
    """If the last part fails, MindSpore no longer refuses it, and so config/rules.py need not."""
    config = small(*OVERRIDES, "parallel.hardware=ascend910b", "cluster.silent_check=true")
    without, *_ = compile_ranks(config, [0]).ranks  # the others, with blocks inlined, have our own gradient functions
    for name, value in _watching(config).items():
        monkeypatch.setenv(name, value)
    report = compile_ranks(config, [0])
    assert report.ok and report.ranks[0].nodes > without.nodes
    with pytest.raises(RunFailure, match="tensor_dump"):
        compile_ranks(small(*OVERRIDES, "parallel.hardware=ascend910b", "parallel.optimizer_shard=2"), [0])
