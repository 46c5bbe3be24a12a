"""Published runs on Ascend 910B, which the range of a plan comes from: docs/notes.md has the table.

Every factor of planning/published_steps.yaml for this chip is computed again, and the range is shown to hold on runs
that it was not made from.
"""

from dataclasses import dataclass, field, replace

import pytest
from conftest import ROOT
from published_spread import MINDSPEED, fit_scaling, spread

from ms_codegeex.config.loading import load_config
from ms_codegeex.planning.planner import make_plan
from ms_codegeex.planning.published_steps import beyond_roofline, published_steps


# Where a micro-batch has fewer sequences than the tensor group has devices, which load them here, the plan has fewer
# and larger ones; its pipeline is then filled as by the script's.
@dataclass(frozen=True)
class Run:
    """Layers, width, FFN, heads, groups of keys, vocabulary; sequence, batch, micro-batch; tensor, pipeline, virtual
    stages, devices, optimizer shards; published tokens/s of a device."""

    sizes: tuple[int, ...]
    rate: int
    keys: dict[str, str] = field(default_factory=dict)


def runs(rows, **keys):
    """`rows`: sizes, rate, and keys that only this run has."""
    return {name: Run(row[:14], row[14], {**keys, **(row[15] if len(row) > 15 else {})}) for name, row in rows.items()}


ROTARY = {"model.rotary_dim": "64"}
COMPOSED = {"parallel.fusion.graph_kernel": "false"}
FP16, FULL = {"training.precision": "fp16"}, {"training.recompute": "full"}
# ModelLink's README of September 2024 (Atlas 900 A2 PODc) and its scripts: every dense model with rotary positions and
# fused attention over whole sequences whose script has as many servers as its row.
FUSED = runs(  # with a fused SwiGLU, as in a plan with graph kernels
    {
        "ChatGLM3-6B": (
            28,
            4096,
            13696,
            32,
            2,
            65024,
            8192,
            128,
            1,
            1,
            2,
            1,
            8,
            4,
            4611,
            FP16 | ROTARY,
        ),
        "LLaMA2-7B": (32, 4096, 11008, 32, 32, 32000, 4096, 256, 1, 1, 2, 1, 8, 4, 4672),
        "LLaMA2-13B": (40, 5120, 13824, 40, 40, 32000, 4096, 512, 4, 8, 1, 1, 8, 1, 2016),
        "LLaMA2-34B": (48, 8192, 22016, 64, 8, 32000, 4096, 1024, 2, 8, 2, 1, 16, 1, 810),
        "LLaMA2-70B": (80, 8192, 28672, 64, 8, 32000, 4096, 1024, 1, 8, 4, 4, 32, 1, 439),
        "LLaMA3-8B": (32, 4096, 14336, 32, 8, 128256, 8192, 64, 2, 8, 1, 1, 8, 1, 2400),
        "LLaMA3.1-8B": (32, 4096, 14336, 32, 8, 128256, 8192, 64, 2, 8, 1, 1, 8, 1, 2280),
        "LLaMA3.1-70B": (80, 8192, 28672, 64, 8, 128256, 8192, 512, 1, 8, 4, 1, 32, 1, 399),
        "CodeLlama-34B": (48, 8192, 22016, 64, 8, 32000, 4096, 1024, 2, 8, 2, 1, 16, 1, 902),
        "InternLM2-20B": (48, 6144, 16384, 48, 8, 92544, 4096, 256, 2, 4, 2, 1, 8, 1, 1141),
        "GLM4-9B": (40, 4096, 13696, 32, 2, 151552, 8192, 64, 1, 2, 2, 1, 8, 2, 2221),
        "Qwen1.5-0.5B": (24, 1024, 2816, 16, 16, 151936, 8192, 64, 1, 1, 1, 1, 8, 8, 23239),
        "Qwen1.5-1.8B": (24, 2048, 5504, 16, 16, 151936, 8192, 64, 1, 1, 1, 1, 8, 8, 12603),
        "Qwen1.5-4B": (40, 2560, 6912, 20, 20, 151936, 8192, 64, 1, 1, 2, 1, 8, 4, 5221),
        "Qwen1.5-7B": (32, 4096, 11008, 32, 32, 151936, 8192, 64, 2, 8, 1, 1, 8, 1, 2951),
        "Qwen1.5-14B": (40, 5120, 13696, 40, 40, 152064, 8192, 64, 1, 4, 1, 1, 8, 2, 1760),
        "Qwen1.5-32B": (64, 5120, 27392, 40, 8, 152064, 8192, 64, 1, 8, 4, 1, 32, 1, 768),
        "Qwen1.5-72B": (80, 8192, 24576, 64, 64, 152064, 8192, 64, 1, 8, 8, 5, 64, 1, 339),
        "Qwen1.5-110B": (80, 8192, 49152, 64, 8, 152064, 8192, 64, 1, 8, 8, 1, 64, 1, 223),
        "Qwen2-0.5B": (24, 896, 4864, 14, 2, 151936, 4096, 128, 2, 1, 1, 1, 8, 8, 28618),
        "Qwen2-1.5B": (28, 1536, 8960, 12, 2, 151936, 4096, 64, 2, 1, 1, 1, 8, 8, 15456),
        "Qwen2-7B": (28, 3584, 18944, 28, 4, 152064, 4096, 256, 1, 1, 2, 1, 8, 4, 4034),
        "Qwen2-72B": (80, 8192, 29568, 64, 8, 152064, 4096, 64, 1, 8, 4, 10, 32, 1, 368),
    }
)
OTHERS = runs(  # SwiGLU of several kernels, as in a plan without graph kernels
    {
        "Aquila-7B": (32, 4096, 11008, 32, 32, 100008, 2048, 64, 8, 8, 1, 1, 8, 1, 2849),
        "Aquila2-7B": (32, 4096, 11008, 32, 32, 100008, 2048, 64, 8, 8, 1, 1, 8, 1, 3323),
        "Aquila2-34B": (60, 6144, 24576, 48, 8, 100008, 4096, 1024, 2, 8, 2, 1, 16, 1, 854),
        "Baichuan-7B": (32, 4096, 11008, 32, 32, 64000, 4096, 32, 4, 8, 1, 1, 8, 1, 2685),
        "Baichuan2-7B": (32, 4096, 11008, 32, 32, 125696, 4096, 64, 4, 8, 1, 1, 8, 1, 2664),
        "InternLM-7B": (32, 4096, 11008, 32, 32, 103168, 2048, 64, 8, 8, 1, 1, 8, 1, 2776),
        "InternLM-65B": (80, 8192, 22016, 64, 64, 103168, 2048, 256, 2, 8, 4, 1, 32, 1, 341),
        "LLaMA-7B": (32, 4096, 11008, 32, 32, 32000, 2048, 256, 4, 1, 8, 1, 8, 1, 3600),
        "LLaMA-13B": (40, 5120, 13824, 40, 40, 32000, 2048, 128, 1, 1, 8, 1, 8, 1, 1895),
        "LLaMA-33B": (60, 6656, 17920, 52, 52, 32000, 2048, 256, 4, 4, 4, 1, 32, 1, 621),
        "LLaMA-65B": (80, 8192, 22016, 64, 64, 32000, 2048, 128, 2, 8, 4, 1, 32, 1, 348),
        "Qwen-7B": (32, 4096, 11008, 32, 32, 152064, 8192, 64, 2, 8, 1, 1, 8, 1, 2499),
        "Qwen-14B": (40, 5120, 13696, 40, 40, 152064, 2048, 64, 4, 8, 1, 1, 8, 1, 1560),
        "Yi-34B": (60, 7168, 20480, 56, 8, 64000, 4096, 1024, 2, 8, 2, 1, 16, 1, 855),
    },
    **COMPOSED,
)
# MindFormers' pages of models (docs/model_cards, research) and the files that they name, at 93656c51 of December 2024:
# every dense model with rotary positions and fused attention over whole sequences, trained with all weights, whose file
# has the page's sequence length, one part of a micro-batch, a sequence for each device of a tensor group, micro-batches
# only in a pipeline, and recomputes either everything or nothing in a block. Graph kernels are off in all of them. On
# an Atlas 900 A2 PODc or an Atlas 800T A2.
LAYERS = "parallel.stage_layers"
GLM4 = {**FULL, LAYERS: "[9,10,11,10]", "training.recompute_blocks": "[6,3,2,3]"}
WHOLE = {"parallel.sequence": "false"}
MINDFORMERS = runs(
    {
        "CodeLlama-34B on 16": (48, 8192, 22016, 64, 8, 32000, 4096, 128, 1, 8, 2, 1, 16, 1, 669, FP16),
        "CodeLlama-34B on 32, 800T": (48, 8192, 22016, 64, 8, 32000, 4096, 256, 1, 4, 4, 1, 32, 2, 667, FP16),
        "CodeLlama-34B on 32": (48, 8192, 22016, 64, 8, 32000, 4096, 256, 1, 4, 4, 1, 32, 2, 747, FP16),
        "GLM4-9B": (
            40,
            4096,
            13696,
            32,
            2,
            151552,
            8192,
            128,
            1,
            1,
            4,
            1,
            8,
            2,
            2339,
            GLM4,
        ),
        "LLaMA2-7B": (32, 4096, 11008, 32, 32, 32000, 4096, 64, 1, 1, 1, 1, 8, 8, 4160),
        "LLaMA2-13B": (40, 5120, 13824, 40, 40, 32000, 4096, 32, 4, 1, 1, 1, 8, 8, 1945, FULL),
        "LLaMA2-13B, 800T": (40, 5120, 13824, 40, 40, 32000, 4096, 32, 4, 1, 1, 1, 8, 8, 1691, FULL),
        "LLaMA2-7B, one micro-batch": (32, 4096, 11008, 32, 32, 32000, 4096, 8, 1, 1, 1, 1, 8, 8, 3484),
        "LLaMA2-13B, FP16": (40, 5120, 13824, 40, 40, 32000, 4096, 32, 4, 1, 1, 1, 8, 8, 1911, FP16 | FULL),
        "Baichuan2-7B": (32, 4096, 11008, 32, 32, 125696, 4096, 8, 1, 1, 1, 1, 8, 8, 3164, FP16),
        "DeepSeek-33B": (62, 7168, 19200, 56, 8, 32256, 4096, 128, 1, 8, 2, 1, 16, 1, 572),
        "InternLM-7B": (32, 4096, 11008, 32, 32, 103168, 2048, 16, 2, 1, 1, 1, 8, 8, 3250, FP16),
        "InternLM2-20B": (
            48,
            6144,
            16384,
            48,
            8,
            92544,
            4096,
            128,
            1,
            8,
            2,
            1,
            16,
            1,
            868,
            {"parallel.sequence": "false"},
        ),
        "LLaMA3-8B": (32, 4096, 14336, 32, 8, 128256, 8192, 8, 1, 1, 1, 1, 8, 8, 2581, FULL),
        "LLaMA3.1-8B": (32, 4096, 14336, 32, 8, 128256, 8192, 8, 1, 1, 1, 1, 8, 8, 2703, FULL),
        "Qwen-7B": (32, 4096, 11008, 32, 32, 151936, 2048, 16, 2, 1, 1, 1, 8, 8, 2955),
        "Qwen-14B": (40, 5120, 13696, 40, 40, 152064, 2048, 8, 1, 1, 1, 1, 8, 8, 1106, FULL),
        "Qwen1.5-7B": (32, 4096, 11008, 32, 32, 151936, 4096, 8, 1, 1, 1, 1, 8, 8, 2684, FULL),
        "Qwen1.5-14B": (40, 5120, 13696, 40, 40, 152064, 4096, 128, 1, 2, 4, 1, 8, 1, 1452, {LAYERS: "[9,11,11,9]"}),
        "Qwen1.5-0.5B": (24, 1024, 2816, 16, 16, 151936, 8192, 8, 1, 1, 1, 1, 8, 8, 21171),
        "Qwen1.5-32B": (64, 5120, 27392, 40, 8, 152064, 8192, 512, 1, 8, 4, 1, 32, 1, 671),
        "Qwen1.5-72B": (80, 8192, 24576, 64, 64, 152064, 32768, 64, 1, 8, 8, 1, 64, 1, 183, FULL),
        "Qwen2-1.5B": (28, 1536, 8960, 12, 2, 151936, 32768, 256, 1, 2, 1, 1, 8, 4, 4363, FULL),
        "Yi-6B": (32, 4096, 11008, 32, 4, 64000, 2048, 16, 1, 1, 1, 1, 8, 8, 3324),
        "Yi-34B": (60, 7168, 20480, 56, 8, 64000, 4096, 56, 1, 4, 4, 1, 16, 1, 660, {LAYERS: "[14,16,16,14]"}),
    },
    **COMPOSED,
)
STACKS = {"ModelLink": {**FUSED, **OTHERS}, "MindFormers": MINDFORMERS}
KEYS = ("model.num_layers", "model.hidden_size", "model.intermediate_size", "model.num_heads", "model.num_kv_groups")
KEYS += ("model.vocab_size", "data.seq_length", "training.global_batch", "training.micro_batch", "parallel.tensor")
KEYS += ("parallel.pipeline", "parallel.virtual_stages", "devices", "parallel.optimizer_shard")


def planned(run):
    """The plan, and its roofline with the script's micro-batches in the pipeline."""
    keys, micro, tensor = dict(zip(KEYS, run.sizes, strict=True)), run.sizes[8], run.sizes[9]
    keys["training.micro_batch"] = max(micro, tensor)
    keys |= {"model.rotary_dim": run.sizes[1] // run.sizes[3], "model.max_position_embeddings": run.sizes[6]}
    keys |= {"model.eos_token_id": 1, "parallel.hardware": "ascend910b", "training.precision": "bf16"}
    keys |= {"training.recompute": "none", "parallel.sequence": str(tensor > 1).lower(), **run.keys}
    plan = make_plan(load_config(ROOT / "configs" / "codegeex2_6b.yaml", [f"{k}={v}" for k, v in keys.items()]))
    smaller = keys["training.micro_batch"] // micro  # the first and the last micro-batch of other stages
    return plan, replace(plan.time, virtual_stages=plan.time.virtual_stages * smaller)


@pytest.fixture(scope="module")
def found():
    """Of each stack and run: published seconds, the plan, and seconds of the roofline."""
    result = {}
    for stack, listed in STACKS.items():
        for name, run in listed.items():
            plan, time = planned(run)
            result[stack, name] = plan.step_tokens / plan.config.devices / run.rate, plan, time.total
    return result


def test_every_stored_factor_is_that_of_a_plan(found):
    stored = {(x.page.partition(":")[0], x.name): x for x in published_steps("ascend910b")}
    assert stored.keys() == found.keys() and len(stored) == 62
    for key, (seconds, plan, roofline) in found.items():
        assert seconds / roofline == pytest.approx(stored[key].times_roofline, abs=1e-4), key
        assert plan.config.devices == stored[key].devices


def inside(run, limits):
    times = fit_scaling(MINDSPEED).times(run.devices)
    return limits.low * times <= run.times_roofline <= limits.high * times


def test_eight_of_ten_runs_of_a_page_are_in_the_range_that_the_others_make():
    listed = published_steps("ascend910b")
    pages, held = {x.page for x in listed}, []
    for page in pages:
        others = [x for x in listed if x.page != page]
        held += [inside(x, spread(others, [others])) for x in listed if x.page == page]
    assert (sum(held), len(held), len(pages)) == (52, 62, 30)
    assert sum(held) / len(held) >= 0.8


@pytest.mark.parametrize(("stack", "held", "number"), [("ModelLink", 36, 37), ("MindFormers", 22, 25)])
def test_eight_of_ten_runs_of_a_stack_are_in_the_range_that_another_stack_makes(stack, held, number):
    listed = published_steps("ascend910b")
    own = [x for x in listed if x.page.startswith(stack)]
    others = [x for x in listed if x not in own]
    limits = spread(others, [others])
    assert (sum(inside(x, limits) for x in own), len(own)) == (held, number)
    assert held / number >= 0.8


def test_the_page_has_every_run(found):
    page = (ROOT / "docs" / "notes.md").read_text()
    for (stack, name), (seconds, plan, roofline) in found.items():
        run, factor = STACKS[stack][name], beyond_roofline("ascend910b", plan.config.devices)
        held = factor.low <= seconds / roofline <= factor.high
        cells = (name, f"{plan.config.devices}", f"{run.rate:,}", f"{seconds:.2f}", f"{roofline:.2f}")
        row = f"| {' | '.join(cells)} | {seconds / roofline:.2f} | {'yes' if held else 'no'} |"
        assert row in page, (stack, name)
