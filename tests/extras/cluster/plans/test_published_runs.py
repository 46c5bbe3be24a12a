"""Published runs on A100: Megatron-LM's table of GPT sizes (arXiv:2104.04473, table 1). All are planned with composed
cells, which `device: gpu` has where matrices are split, so that the runs differ in nothing else."""

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import make_plan
from ms_codegeex.extras.cluster.plans.published import published_steps

SEQUENCE, VOCABULARY = 2048, 51200
# billions of parameters, heads, hidden size, layers, tensor, devices, batch, TFLOP/s of a device
RUNS = [
    (1.7, 24, 2304, 24, 1, 32, 512, 137),
    (3.6, 32, 3072, 30, 2, 64, 512, 138),
    (7.5, 32, 4096, 36, 4, 128, 512, 142),
    (18.4, 48, 6144, 40, 8, 256, 1024, 135),
]


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run[0]}B")
def test_the_roofline_alone_predicts_runs_without_a_pipeline(run):
    billions, heads, hidden, layers, tensor, devices, batch, rate = run
    keys = {"device": "ascend", "devices": devices, "data.seq_length": SEQUENCE, "training.global_batch": batch}
    keys |= {"model.hidden_size": hidden, "model.intermediate_size": 4 * hidden, "model.num_heads": heads}
    keys |= {"model.num_layers": layers - 1}  # the last one is the top query layer
    keys |= {"model.vocab_size": VOCABULARY, "model.eos_token_id": 1, "model.max_position_embeddings": SEQUENCE}
    keys |= {"model.softmax_fp32": "false", "training.micro_batch": 8, "parallel.hardware": "a100"}
    keys |= {"parallel.tensor": tensor, "parallel.optimizer_shard": 1, "parallel.vocabulary": tensor > 1}
    config = load_config(ROOT / "configs" / "codegeex_13b.yaml", [f"{key}={value}" for key, value in keys.items()])
    assert config.training.recompute == "full" and config.training.dropout == 0.1
    plan = make_plan(config)
    flops = 96 * batch * SEQUENCE * layers * hidden**2
    flops *= 1 + SEQUENCE / (6 * hidden) + VOCABULARY / (16 * layers * hidden)
    published = flops / (devices * rate * 1e12)
    assert plan.fits and plan.parameters / 1e9 == pytest.approx(billions, abs=0.1)
    assert plan.time.total == pytest.approx(published, rel=0.14)
    stored = {x.devices: x.times_roofline for x in published_steps("a100")}
    assert published / plan.time.total == pytest.approx(stored[devices], abs=1e-4)
