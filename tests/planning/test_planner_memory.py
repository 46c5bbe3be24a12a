"""Memory by stage and category against bytes counted here; configurations that are too large name the key."""

import re
from dataclasses import asdict

import pytest
from conftest import ROOT

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import ASCEND_910, GIB
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import change, make_plan, problems, remedies
from ms_codegeex.extras.cluster.plans.roofline import executed_flops, update_seconds
from ms_codegeex.planning.memory import stage_memory

SHIPPED = sorted(path for folder in ("", "recipes") for path in (ROOT / "configs" / folder).glob("*.yaml"))
PAPER = ROOT / "configs" / "codegeex_13b.yaml"
PIPELINE = ROOT / "configs" / "codegeex_13b_pipeline.yaml"
CLUSTER_64 = ROOT / "configs" / "codegeex_13b_64.yaml"
SERVER = ROOT / "configs" / "codegeex_2.6b_8.yaml"
BASE = ROOT / "configs" / "codegeex_base_8.yaml"


def plan(path, *overrides):
    return make_plan(load_config(path, overrides))


ON_DEVICES = [path for path in SHIPPED if path.name.startswith("codegeex_") or load_config(path).device != "cpu"]


@pytest.mark.parametrize("path", ON_DEVICES, ids=[path.stem for path in ON_DEVICES])
def test_every_shipped_configuration_fits_with_something_to_spare(path):
    found = plan(path)
    largest = max(stage.total for stage in found.memory)
    assert largest <= 0.95 * found.chip.usable_memory, largest / GIB
    assert found.fits and found.roomy and problems(found) == []


def test_cells_for_gpus_by_hand():
    """`base` on one H100, 16 x 1,024 tokens in FP16: attention weights once, no FP32 number for a score or a logit."""
    words = ("device=gpu", "devices=1", "parallel.hardware=h100", "model.preset=base", "training.precision=fp16")
    words += ("training.global_batch=16", "training.steps=1", "data.seq_length=1024", "training.dropout=0")
    (memory,) = plan(None, *words).memory
    stream, wide, logits, scores = (2 * 16 * 1024 * n for n in (768, 3072, 52224, 12 * 1024))  # in FP16
    # two norms, which keep their FP32 input; queries, keys, values, context; residuals; before and after FastGeLU
    block = 2 * 3 * stream + 4 * stream + 2 * stream + 2 * wide + scores
    ends = scores + (3 + 1 + 1) * stream + logits + 4 * 1024**2  # the mask; norm and query; loss; what is later
    assert memory.activations == 12 * block + ends
    assert memory.workspace == 2 * logits
    (two,) = plan(None, *words, "devices=2", "training.global_batch=32").memory
    assert (two.activations, two.workspace) == (memory.activations, memory.workspace)
    (composed,) = plan(None, *words, "device=ascend").memory
    assert composed.activations > 2.5 * memory.activations


def test_what_fits_only_just_is_not_what_a_search_may_choose():
    words = ("training.micro_batch=4", "parallel.optimizer_shard=4", "model.num_layers=10")
    tight = plan(BASE, "parallel.hardware=ascend910", *words)
    assert tight.fits and 0 < tight.spare < 0.05 and not tight.roomy


def test_ends_of_documents_take_no_mask_and_split_no_heads():
    """Two stages with two and one open micro-batches of four sequences, whose mask has 4 bytes for each score, and
    the constant table from which masks are made."""
    recipe = ROOT / "configs" / "recipes" / "codegeex_13b_910b_64.yaml"
    masked, ended = (plan(recipe, f"parallel.fusion.documents={documents}") for documents in ("false", "true"))
    saved = [before.activations - after.activations for before, after in zip(masked.memory, ended.memory, strict=True)]
    assert saved == [(2 * 4 + 1) * 2048**2 * 4, (4 + 1) * 2048**2 * 4]
    assert executed_flops(masked.config, masked.chip) == executed_flops(ended.config, ended.chip)
    assert 0.98 < ended.step_seconds / masked.step_seconds < 0.99


def test_frozen_weights_in_16_bits_need_half():
    recipe = ROOT / "configs" / "finetune_lora_13b.yaml"
    wide, half = (plan(recipe, f"lora.frozen={x}").memory[0] for x in ("fp32", "fp16"))
    assert 12.8e9 < (wide.weights - half.weights) / 2 < 12.9e9  # matrices and tables: 2 bytes less each
    assert wide.gathered_weights > 0 == half.gathered_weights  # nothing is cast
    assert wide.gradients == half.gradients and wide.optimizer_state == half.optimizer_state
    assert half.total < 27 * GIB


def test_static_memory_of_the_papers_recipe():
    (memory,) = plan(PAPER).memory
    local = plan(PAPER).stage_parameters[0]
    matrices = 40 * 12 * 5120**2
    assert memory.weights == 4 * local and memory.optimizer_state == 8 * local
    assert memory.gathered_weights == 2 * matrices // 8 + 2 * 52224 * 5120 // 8  # cast, then gathered; the head's cast
    assert memory.gradients == 4 * local + 4 * matrices // 8 // 4  # own, and one of four buckets before it is scattered


def test_full_recomputation_keeps_a_slice_of_each_blocks_input():
    def activations(*overrides):
        return plan(PAPER, *overrides).memory[0].activations

    one_more = activations("model.num_layers=40") - activations()
    assert one_more == 16 * 2048 * 5120 * 2 / 8  # FP16, cut over eight devices


def test_the_first_stage_keeps_a_whole_input_and_the_embedding_s_mask():
    """Seen in the engine's memory on MindSpore's Ascend plugin, for each of four open micro-batches of the pipeline."""
    first, second = (stage.activations - 4 * 2048**2 for stage in plan(PIPELINE).memory[:2])  # without the constant
    whole, open_in_first = 8 * 2048 * 5120 * 2, 4
    masks = 4 * 8 * 2048**2  # FP32, of each micro-batch
    again = second - 3 * (masks + 10 * whole // 8 + whole * 7 // 8)  # one block
    assert first == open_in_first * (masks + 10 * whole // 8 + whole * 7 // 8 + 2 * whole) + again
    kept, sliced = (plan(PIPELINE, f"model.num_layers={layers}").memory[1].activations for layers in (39, 35))
    assert kept - sliced == 3 * whole // 8  # every other block keeps a slice
    assert again == 19 * whole  # two of them masks of its residual dropouts


def test_nothing_recomputed_keeps_scores_of_every_block():
    def kept(how):
        words = "training.dropout=0.0", "training.micro_batch=8", f"training.recompute={how}"
        three, four = (plan(PAPER, *words, f"model.num_layers={x}").memory[0].activations for x in (3, 4))
        return four - three

    scores = 8 * 5 * 2048**2  # of a block on a device: FP32 softmax and its FP16 cast
    norms = 2 * 8 * 2048 * 5120  # FP32 inputs of both norms
    wide = 2 * 8 * 2048 * 20480 // 8  # what fast GELU keeps beside its input and its result
    assert kept("none") - kept("selective") == 6 * scores + 4 * norms + wide


def test_accumulation_keeps_whole_gradients_and_a_buffer():
    once, many = plan(PAPER), plan(PAPER, "training.micro_batch=8")
    local, whole = 4 * once.stage_parameters[0], 4 * 40 * 12 * 5120**2 // 8
    assert many.memory[0].gradients == 2 * local + whole
    assert many.memory[0].activations < once.memory[0].activations


def test_levels_of_optimizer_sharding_by_hand():
    """Eight replicas, a bucket for each layer. CodeGeeX's word table is its output layer too, Qwen2.5-7B has two."""

    def levels(path, *words):
        words = "devices=8", "parallel.tensor=1", "parallel.pipeline=1", "parallel.optimizer_shard=8", *words
        words = *words, "parallel.hardware=ascend910b", "training.global_batch=64", "training.micro_batch=1"
        return [plan(path, *words, f"parallel.optimizer_level={x}").memory[0] for x in (1, 2, 3)]

    first, second, third = levels(PAPER, "parallel.fusion.allreduce_groups=40")
    table, matrices = 52224 * 5120, 40 * MATRICES
    assert first.weights == second.weights == third.weights
    assert first.gradients - second.gradients == 4 * matrices - 4 * MATRICES and second.gradients == third.gradients
    assert first.gathered_weights == second.gathered_weights == 2 * matrices + 2 * table
    assert third.gathered_weights == 2 * 2 * MATRICES + 2 * table
    stage = plan(PIPELINE, "parallel.optimizer_level=2", "parallel.fusion.allreduce_groups=40").memory[1]
    assert stage.gradients == 2 * stage.weights + 4 * MATRICES // 8  # a stage has ten of the 40 buckets
    untied = ["model.family=qwen2", "model.preset=7b", "parallel.fusion.allreduce_groups=28", "training.dropout=0"]
    first, second, third = levels(PAPER, *untied)
    table, block = 152064 * 3584, 2 * (3584 + 512) * 3584 + 3 * 3584 * 18944
    assert first.weights - second.weights == 4 * 2 * table * 7 // 8 and second.weights == third.weights
    assert second.gradients == 2 * second.weights + 4 * (block + table)
    assert (first.gathered_weights, second.gathered_weights) == (2 * (28 * block + table), 2 * 28 * block + 6 * table)
    assert third.gathered_weights == 2 * (2 * block + table)


def test_earlier_stages_hold_more_micro_batches():
    stages = plan(PIPELINE, "training.recompute=none").memory
    middle = [stages[1].activations, stages[2].activations]  # ten equal blocks each, three and two in flight
    assert middle[0] / middle[1] == pytest.approx(3 / 2, rel=0.02)
    assert len(stages) == 4


def test_the_word_table_lies_on_both_ends_of_a_pipeline():
    first, second, third, last = plan(PIPELINE).stage_parameters
    table, positions = 52224 * 5120 // 8, 2048 * 5120
    assert second == third and first - second == table + positions
    assert last - third == table + positions + 2 * 5120  # top-query table, final norm


def test_optimizer_shards_divide_weights_and_state():
    none = plan(PAPER, "parallel.optimizer_shard=1").memory[0]
    some = plan(PAPER).memory[0]
    matrices = 40 * 12 * 5120**2 // 8
    assert none.weights - some.weights == 4 * matrices * 15 // 16
    assert none.gathered_weights < some.gathered_weights  # nothing to gather


DEEP = "parallel.tensor=1 parallel.sequence=false parallel.pipeline=8 training.recompute_blocks=[5,4,4,4,3,2,0,0]"
A, B = ("codegeex_13b_910_1536", "", 0), ("codegeex_13b_910b_8", f"{DEEP} parallel.graph_micro_batches=256", 5)
MATRICES = 12 * 5120**2  # numbers in a block
ONE, MIB = 8 * 2048 * 5120 * 2, 2**20  # bytes of an activation of A
HAND = {
    A: {
        "weights": 4 * 138_567_680,
        "gradients": 4 * 138_567_680 + 4 * 10 * MATRICES // 20,
        "optimizer_state": 8 * 138_567_680,
        "gathered_weights": 2 * 10 * MATRICES + 2 * 52224 * 5120 // 4,
        # the final norm's and the query; a block again, after the head
        "activations": int((33 / 4 + 7 * 6.5 + 1 / 2 + 2 + 3 / 4 + 1 + 24.25) * ONE) + 144 * MIB,
        "workspace": 2 * 4 * 8 * 10 * 2048**2,
        "communication": 2 * (200 + 200 + 200 + 40 + 16) * MIB,
    },
    B: {
        "weights": 4 * 5 * 314_639_360,
        "gradients": 2 * 4 * 5 * 314_639_360,
        "optimizer_state": 8 * 5 * 314_639_360,
        "gathered_weights": 2 * MATRICES,  # selective recomputation casts again
        "activations": int((3 * (64 + 2 * 80 + 3 * (16 * 80 + 2.5) + 2 * 80) + 23 * 80 + 2.5 + 16) * MIB),
        "workspace": 4 * 8192 * 20480,
        "communication": 2 * 80 * MIB,
    },
}


@pytest.mark.parametrize("case", [A, B], ids=["data", "pipeline"])
def test_two_meshes_by_hand(case):
    stem, keys, stage = case
    memory = plan(ROOT / "configs" / "recipes" / f"{stem}.yaml", *keys.split()).memory[stage]
    assert asdict(memory) == HAND[case]


def test_copies_in_16_bits_wait_for_each_open_micro_batch():
    """Four stages without optimizer shards: the first has four micro-batches open, the last one."""
    words = ["parallel.optimizer_shard=1", "training.recompute=none", "training.micro_batch=2"]
    stages = plan(PIPELINE, *words, "parallel.tensor=2").memory
    block = 2 * MATRICES // 2  # FP16, on one of two devices
    head, ten = 2 * 52224 * 5120 // 2, 10 * block
    assert [x.gathered_weights for x in stages] == [4 * ten, 3 * ten, 2 * ten, ten + head]
    for how in ("selective", "full"):
        again = plan(PIPELINE, *words, "parallel.tensor=2", f"training.recompute={how}").memory
        assert [x.gathered_weights for x in again] == [block, block, block, block + head]
    once = plan(PIPELINE, *words[1:], "parallel.tensor=2", "parallel.optimizer_shard=4").memory
    assert once[0].gathered_weights == once[1].gathered_weights == ten  # cast before it is gathered


def test_muon_keeps_one_moment_of_matrices_and_multiplies_their_squares():
    """Three blocks and the top query layer, 128 wide, in each four square matrices and two of 128 by 512."""
    words = ["device=ascend", "devices=1", "model.hidden_size=128", "model.intermediate_size=512", "model.num_layers=3"]
    adamw, muon = (
        load_config("codegeex_tiny_release", [*words, f"training.optimizer.name={name}"]) for name in ("adamw", "muon")
    )
    elements = 4 * (4 * 128 * 128 + 2 * 128 * 512)
    (before,), (after,) = (stage_memory(config, ASCEND_910) for config in (adamw, muon))
    assert before.optimizer_state - after.optimizer_state == 4 * elements
    assert before.total - after.total == 4 * elements  # the attention's workspace is larger than Muon's
    flops = 4 * 5 * (4 * 6 * 128**3 + 2 * (4 * 128 * 128 * 512 + 2 * 128**3))
    assert executed_flops(muon, ASCEND_910) - executed_flops(adamw, ASCEND_910) == flops
    assert update_seconds(muon, ASCEND_910, 0) > update_seconds(adamw, ASCEND_910, 0) + flops / ASCEND_910.peak_fp32


def test_sequence_parallelism_saves_activations():
    shape = ["training.recompute=none", "model.num_layers=3"]
    whole, cut = (plan(PAPER, *shape, f"parallel.sequence={on}").memory[0] for on in ("false", "true"))
    assert cut.activations < whole.activations


TOO_LARGE = [
    (PAPER, ["training.recompute=none"], "training.recompute"),
    (PAPER, ["training.recompute=selective"], "training.recompute"),
    (PAPER, ["devices=384"], "training.micro_batch"),
    (PAPER, ["training.global_batch=9216"], "training.micro_batch"),
    (PAPER, ["parallel.optimizer_shard=1"], "parallel."),
    (PAPER, ["parallel.tensor=1"], "parallel."),
    (PAPER, ["parallel.tensor=2", "training.micro_batch=2"], "parallel."),
    (PAPER, ["devices=8", "parallel.optimizer_shard=1", "training.micro_batch=8"], "parallel."),
    (PAPER, ["model.num_layers=99"], "parallel."),
    (PIPELINE, ["training.recompute=none"], "training.recompute"),
    (CLUSTER_64, ["training.recompute=none"], "training.recompute"),
    (CLUSTER_64, ["training.recompute=none", "training.dropout=0"], "training.recompute"),  # fused attention
    (CLUSTER_64, ["parallel.hardware=ascend910", "training.micro_batch=48"], "training.micro_batch"),
    (SERVER, ["parallel.optimizer_shard=1"], "parallel.optimizer_shard"),
    (SERVER, ["training.micro_batch=16"], "training.micro_batch"),
    (SERVER, ["parallel.tensor=1"], "parallel."),
    (BASE, ["training.micro_batch=16", "parallel.fusion.attention=false"], "training."),
    (BASE, ["model.preset=13b"], "parallel."),
]


@pytest.mark.parametrize("path,overrides,key", TOO_LARGE, ids=[f"{p.stem} {' '.join(o)}" for p, o, _ in TOO_LARGE])
def test_what_does_not_fit_names_the_key_and_a_way_out(path, overrides, key):
    costed = plan(path, *overrides)
    (line,) = problems(costed)
    assert not costed.fits and line.startswith(key) and "\n" not in line
    needed, limit = (float(x) for x in re.search(r"needs ([\d.]+) GiB, .* use ([\d.]+) GiB", line).groups())
    assert needed > limit == costed.chip.usable_memory / GIB
    for way in re.findall(r"[a-z_.]+=\w+", line):  # each promised remedy is one
        assert plan(path, *overrides, way, "parallel.data=null").fits, way


@pytest.mark.parametrize(
    "path,words",
    [
        (SERVER, ["training.micro_batch=null", "parallel.micro_batches=2"]),
        (SERVER, ["parallel.optimizer_shard=1", "parallel.data=4"]),
        (SERVER, ["parallel.optimizer_shard=1", "parallel.data=4", "devices=null"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.stem,
)
def test_every_remedy_is_one_on_the_same_command_line(path, words):
    costed = plan(path, *words)
    found = remedies(costed)
    assert not costed.fits and found
    assert any("null" in way for way in found)
    for way in found:
        again = plan(path, *words, *way.split())
        assert again.fits and again.config.devices == costed.config.devices, way


def test_where_virtual_stages_take_too_much_memory_their_absence_is_a_remedy():
    words = ["parallel.pipeline=2", "parallel.optimizer_shard=4", "parallel.virtual_stages=2", "training.micro_batch=4"]
    costed = plan(BASE, "parallel.hardware=ascend910", *words)
    assert not costed.fits and "parallel.virtual_stages=1" in remedies(costed)


def test_no_remedy_is_promised_where_there_is_none():
    hopeless = plan(PAPER, "devices=8", "parallel.optimizer_shard=1", "model.preset=200b", "training.global_batch=8")
    assert remedies(hopeless) == []
    assert "no single change fits" in problems(hopeless)[0]


def test_change_replaces_keys_at_any_depth_and_checks_the_mesh():
    config = load_config(PAPER)
    other = change(config, devices=768, parallel__fusion__norm=False, training__recompute="none")
    assert (other.devices, other.parallel.fusion.norm, other.training.recompute) == (768, False, "none")
    assert config.parallel.fusion.norm is None
    with pytest.raises(UserError, match=r"parallel\.tensor"):
        change(config, parallel__tensor=5)
