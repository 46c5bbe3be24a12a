"""Published runs of other stacks, which nothing is fitted to.

On A100 Megatron-LM's table of GPT sizes (arXiv:2104.04473, table 1), on Ascend 910B runs of ModelLink
and MindFormers.
"""

import pytest
from conftest import ROOT

from ms_codegeex.config.loading import load_config
from ms_codegeex.planning.planner import make_plan
from ms_codegeex.planning.published_steps import published_steps

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
    keys = {
        "device": "gpu",
        "devices": devices,
        "model.hidden_size": hidden,
        "model.intermediate_size": 4 * hidden,
        "model.num_heads": heads,
        "model.num_layers": layers - 1,  # the last one is the top query layer
        "model.vocab_size": VOCABULARY,
        "model.eos_token_id": 1,
        "model.max_position_embeddings": SEQUENCE,
        "model.softmax_fp32": "false",
        "data.seq_length": SEQUENCE,
        "training.global_batch": batch,
        "training.micro_batch": 8,
        "parallel.tensor": tensor,
        "parallel.optimizer_shard": 1,
        "parallel.vocabulary": "true" if tensor > 1 else "false",
        "parallel.hardware": "a100",
    }
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


# name: overrides, sequences of a step, published tokens/s of each of eight devices, billions of parameters, how many
# times the roofline. ModelLink's README lists the rates for an Atlas 900 A2 PODc (2024), its scripts in examples/mcore
# have the settings. MindFormers' docs/model_cards/llama2.md has the others, configs/llama2 their settings. All have the
# blocks of CodeGeeX2.
LLAMA = {"data.seq_length": 4096, "training.precision": "bf16", "model.vocab_size": 32000, "model.rotary_dim": 128}
LLAMA_7B = {**LLAMA, "model.num_layers": 32, "model.intermediate_size": 11008, "model.num_kv_groups": 32}
LLAMA_13B = {**LLAMA, "model.num_layers": 40, "model.hidden_size": 5120, "model.intermediate_size": 13824}
LLAMA_13B |= {"model.num_heads": 40, "model.num_kv_groups": 40}
PIPELINE = {"parallel.tensor": 1, "parallel.pipeline": 2, "parallel.optimizer_shard": 4, "training.micro_batch": 1}
TENSOR = {"parallel.tensor": 8, "parallel.pipeline": 1, "parallel.optimizer_shard": 1, "parallel.sequence": "true"}
TENSOR |= {"training.micro_batch": 8}  # published: 4, fewer than the devices that load them here
SHARDS = {"parallel.tensor": 1, "parallel.pipeline": 1, "parallel.optimizer_shard": 8}
ONE, FOUR = {"training.micro_batch": 1}, {"training.micro_batch": 4, "training.recompute": "full"}
CHATGLM = {"data.seq_length": 8192, "training.precision": "fp16"}
ON_910B = {
    "ChatGLM3-6B, ModelLink": ({**PIPELINE, **CHATGLM}, 128, 4611, 6.24, 1.14),
    "LLaMA2-7B, ModelLink": ({**PIPELINE, **LLAMA_7B}, 256, 4672, 6.74, 1.14),
    "LLaMA2-13B, ModelLink": ({**TENSOR, **LLAMA_13B}, 512, 2016, 13.02, 1.13),
    "LLaMA2-7B, MindFormers": ({**SHARDS, **ONE, **LLAMA_7B}, 64, 4160, 6.74, 1.27),
    "LLaMA2-13B, MindFormers": ({**SHARDS, **FOUR, **LLAMA_13B}, 32, 1945, 13.02, 1.25),
}


@pytest.mark.parametrize("name", ON_910B)
def test_runs_on_ascend_910b_take_little_longer_than_the_roofline(name):
    keys, batch, rate, billions, factor = ON_910B[name]
    keys = {"devices": 8, "parallel.hardware": "ascend910b", "training.recompute": "none", **keys}
    keys["training.global_batch"] = batch
    plan = make_plan(load_config(ROOT / "configs" / "codegeex2_6b.yaml", [f"{k}={v}" for k, v in keys.items()]))
    assert plan.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert plan.step_tokens / 8 / plan.time.total / rate == pytest.approx(factor, abs=0.005)
    stored = {x.name: x.times_roofline for x in published_steps("ascend910b")}
    assert plan.step_tokens / 8 / plan.time.total / rate == pytest.approx(stored[name], abs=1e-4)
    assert not plan.fits
    published = plan.step_tokens / 8 / rate
    row = f"| {rate:,} | {published:.1f} | {plan.time.total:.1f} | {100 * (plan.time.total / published - 1):.0f} % |"
    assert row in (ROOT / "docs" / "notes.md").read_text()
