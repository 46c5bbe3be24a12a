"""FLOPs, parameters, products and times against numbers worked out here or published."""

from dataclasses import replace

import pytest
from conftest import ROOT
from tuned_products import FITTED_PRODUCTS, TUNED_PRODUCTS, product_errors

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import ASCEND_910, CHIPS, GIB, chip_named
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.model import model_config
from ms_codegeex.config.rules import check_kernels
from ms_codegeex.extras.cluster.plans.planner import change, improvements, make_plan
from ms_codegeex.extras.cluster.plans.published import (
    FIT,
    SLOTS_PER_DAY,
    STEP_SECONDS,
    outside_roofline,
    published_run,
    published_steps,
)
from ms_codegeex.extras.cluster.plans.roofline import executed_flops, matmul_flops, model_flops
from ms_codegeex.extras.cluster.plans.search import search
from ms_codegeex.parallel.sharding import layouts_of
from ms_codegeex.planning.cost_model import MatMul, executed_products
from ms_codegeex.planning.model_parts import parts_of
from ms_codegeex.planning.operators import K_START, MATMUL_PEAK, matmul_seconds

PAPER = ROOT / "configs" / "codegeex_13b.yaml"
TINY = ROOT / "configs" / "codegeex_tiny_release.yaml"
MESHES = {
    "single": [],
    "dp8": ["devices=8", "training.global_batch=16"],
    "tp4": ["devices=4", "parallel.tensor=4"],
    "tp4 sequence": ["devices=4", "parallel.tensor=4", "parallel.sequence=true"],
    "dp2 tp2 pp2": ["devices=8", "parallel.tensor=2", "parallel.pipeline=2", "parallel.micro_batches=4"],
    "pp3 opt2": ["devices=6", "parallel.pipeline=3", "parallel.micro_batches=4", "parallel.optimizer_shard=2"],
}


def tiny(*overrides):
    return load_config(TINY, ["devices=1", "training.dropout=0.1", *overrides])


@pytest.fixture(scope="module")
def paper():
    return make_plan(load_config(PAPER))


@pytest.mark.parametrize("product", TUNED_PRODUCTS, ids=lambda pair: pair[0].name)
def test_tuned_products_of_the_release_within_7_percent(product):
    matmul, measured = product
    assert matmul_seconds(matmul, ASCEND_910, "fp16") == pytest.approx(measured, rel=0.07)
    assert abs(product_errors()[matmul.name]) < 0.07


def test_the_sentence_on_the_fit_has_the_errors_of_the_products():
    """From the table of the release, computed again: arithmetic at 0.89 of 314.6 TFLOP/s times k / (k + 20)."""
    off = []
    for product, measured in FITTED_PRODUCTS:
        assert product.batch == 1 and all(x % 128 == 0 for x in (product.m, product.k, product.n))
        seconds = 2 * product.m * product.k * product.n / (0.89 * 3.1457e14 * product.k / (product.k + 20))
        off.append(abs(seconds / measured - 1))
    scores = 40 * 2 * (2 * 2048 * 128 + 2048**2) / 1.2e12 / 336e-6 - 1  # bytes of 16 bits at 1.2 TB/s
    assert f"the five tuned dense products of the CodeGeeX release (within {max(off):.1%})" in FIT
    assert f"its two attention products, not fitted, are within {-scores:.1%}." in FIT


def test_the_calibration_holds_the_published_table():
    table = {(p.batch, p.m, p.k, p.n): round(t * 1e6) for p, t in TUNED_PRODUCTS}
    assert table == {  # batch, m, k, n: microseconds, eight sequences, tensor 8
        (1, 16384, 5120, 640): 387,
        (1, 16384, 640, 5120): 399,
        (1, 16384, 5120, 2560): 1541,
        (1, 16384, 2560, 5120): 1529,
        (1, 16384, 5120, 6528): 4007,
        (40, 2048, 128, 2048): 336,
        (40, 2048, 2048, 128): 307,
    }


def test_the_products_of_the_plan_are_those_that_were_tuned():
    config = change(load_config(PAPER), training__micro_batch=8)
    parts = {part.name: part for part in parts_of(config, ASCEND_910)}
    planned = [o for name in ("block", "head") for o in parts[name].operators if isinstance(o, MatMul)]
    shapes = {(p.batch, p.m, p.k, p.n) for p in planned}
    assert shapes == {(p.batch, p.m, p.k, p.n) for p, _ in TUNED_PRODUCTS}


def test_products_slow_down_where_tiles_are_not_full_or_short():
    def rate(m, k, n):
        return MatMul("", m, k, n).flops / matmul_seconds(MatMul("", m, k, n), ASCEND_910, "fp16")

    assert rate(4096, 4096, 4096) > rate(4096, 64, 4096)
    assert rate(4096, 4096, 4097) == pytest.approx(rate(4096, 4096, 4096) * 4097 / 4224)
    assert rate(8, 4096, 4096) < 8 * ASCEND_910.memory_bandwidth  # a vector times a matrix reads the matrix
    assert rate(8192, 8192, 8192) < 0.9 * ASCEND_910.peak_fp16


def test_the_published_run_is_that_of_a_models_sizes(paper):
    """Whatever preset they start from."""
    sizes = {**paper.config.model.to_dict(), "preset": "tiny"}
    same = replace(paper.config, model=model_config(sizes))
    assert published_run(same) == published_run(paper.config) is not None
    assert published_run(load_config(None, ["training.steps=1", "model.num_layers=20"])) is None


def test_the_papers_throughput_with_the_fitted_factor(paper):
    assert pytest.approx(54.3e9) == SLOTS_PER_DAY
    assert pytest.approx(10.01, rel=1e-3) == STEP_SECONDS  # 3072 · 2048 · 86400 / 54.3e9
    as_run = make_plan(change(paper.config, parallel__fusion__dropout=True))  # the release used the device's kernel
    assert as_run.tokens_per_day == pytest.approx(SLOTS_PER_DAY, rel=0.01)
    (fitted,) = published_steps("ascend910")
    assert as_run.time.total * fitted.times_roofline == pytest.approx(STEP_SECONDS, rel=1e-3)
    assert paper.step_seconds == pytest.approx(paper.time.total * fitted.times_roofline)  # on as many devices


def test_counts_of_the_13b(paper):
    assert paper.parameters == 12_873_943_040
    tokens = 3072 * 2048
    layer = 12 * 5120**2 + 2 * 2048 * 5120  # multiply-adds of a token
    assert paper.model_flops == 3 * 2 * (40 * layer + 5120 * 52224) * tokens
    repeated = 40 * (8 * 5120**2 + 2 * 2048 * 5120)  # all of a layer but its last product
    assert paper.executed_flops == paper.model_flops + 2 * repeated * tokens
    kernel = change(paper.config, parallel__fusion__dropout=True)  # its mask comes with its result
    assert executed_flops(kernel, paper.chip) == paper.model_flops + 2 * 40 * layer * tokens
    assert paper.mfu == pytest.approx(paper.model_flops / paper.step_seconds / 1536 / (32 * 8192 * 1.2e9))


def test_parameters_of_a_device_of_the_13b(paper):
    sharded = 40 * 12 * 5120**2 // (8 * 16)  # matrices: tensor 8, optimizer shards 16
    cut = 52224 * 5120 // 8 + 40 * (3 * 5120 + 20480) // 8  # word table and the biases of column-parallel products
    whole = 2 * 2048 * 5120 + 40 * (4 * 5120 + 2 * 5120) + 2 * 5120  # two tables, norms, biases after sums
    assert paper.stage_parameters == [sharded + cut + whole]


@pytest.mark.parametrize("overrides", MESHES.values(), ids=MESHES)
def test_shards_divided_by_their_replication_sum_to_the_model(overrides):
    config = tiny(*overrides)
    mesh = config.mesh
    layouts = [x for x in layouts_of(config) if not x.copy_of]
    stored = sum(mesh.stage_size * x.local_size(mesh) / x.replication(mesh) for x in layouts)
    assert stored == config.model.sizes.parameter_count() == make_plan(config).parameters


def flops_by_enumeration(config):
    """Executed FLOPs of all devices without recomputation, product by product of the whole model."""
    model, tokens = config.model.sizes, config.training.global_batch * config.seq_length
    h, f, s = model.hidden_size, model.intermediate_size, config.seq_length
    products = []
    for _ in range(model.num_layers + 1):
        products += [(tokens, h, h)] * 4 + [(tokens, h, f), (tokens, f, h)]
        for _ in range(config.training.global_batch * model.num_heads):
            products += [(s, h // model.num_heads, s), (s, s, h // model.num_heads)]
    products.append((tokens, h, model.vocab_size))
    return sum(3 * 2 * m * k * n for m, k, n in products)


@pytest.mark.parametrize("overrides", MESHES.values(), ids=MESHES)
def test_flops_against_an_enumeration_on_every_mesh(overrides):
    config, chip = tiny(*overrides), chip_named("ascend910")
    expected = flops_by_enumeration(config)
    assert model_flops(config) == expected
    assert executed_flops(config, chip) == expected  # nothing is computed twice
    stages = [matmul_flops(config, i, chip).total() for i in range(config.mesh.pipeline)]
    assert expected == config.mesh.stage_size * sum(stages)


def test_a_vocabulary_that_is_not_cut_is_multiplied_by_every_device():
    whole = tiny("devices=4", "parallel.tensor=4", "parallel.vocabulary=false")
    model, tokens = whole.model.sizes, whole.training.global_batch * whole.seq_length
    head = 3 * 2 * tokens * model.hidden_size * model.vocab_size
    assert executed_flops(whole, ASCEND_910) == model_flops(whole) + 3 * head


def test_recomputation_runs_what_the_backward_pass_needs():
    chip, none = ASCEND_910, tiny("training.dropout=0")
    model, tokens, s = none.model.sizes, 16 * none.seq_length, none.seq_length
    layers, h = model.num_layers + 1, model.hidden_size
    selective = executed_flops(change(none, training__recompute="selective"), chip)
    assert selective - executed_flops(none, chip) == layers * 2 * tokens * s * h  # scores
    full = executed_flops(change(none, training__recompute="full"), chip)
    assert full - executed_flops(none, chip) == layers * 2 * tokens * (8 * h * h + 2 * s * h)  # all but the last
    block = next(part for part in parts_of(none, chip) if part.name == "block")
    assert len(executed_products(replace(block, recompute="none"))) == 3 * 8
    assert len(executed_products(replace(block, recompute="selective"))) == 3 * 8 + 1
    assert len(executed_products(replace(block, recompute="full"))) == 3 * 8 + 7


def test_a_fused_attention_repeats_the_scores_but_moves_none():
    plain = tiny()
    fused = change(plain, parallel__fusion__attention=True)
    product = 4 * 2 * 16 * plain.seq_length**2 * plain.model.sizes.hidden_size  # of all layers
    assert plain.seq_length == 256  # two tiles by two, of which one follows the diagonal: seven products for six
    assert executed_flops(fused, ASCEND_910) - executed_flops(plain, ASCEND_910) == 7 * product * 3 / 4 - 6 * product
    assert make_plan(fused).time.total < make_plan(plain).time.total
    assert make_plan(fused).memory[0].activations < make_plan(plain).memory[0].activations


def test_every_fusion_saves_time():
    config = load_config(PAPER)
    for name in ("graph_kernel", "norm", "optimizer"):
        off = make_plan(change(config, **{f"parallel__fusion__{name}": False}))
        assert off.time.total > make_plan(config).time.total, name


def without(config, *names):
    return change(config, **{f"parallel__fusion__{name}": False for name in names})


def test_what_the_fusions_bring_that_a_partitioned_run_can_do_without():
    """The talk of 2023 gives 2.5 times for operator fusion; the roofline does not reproduce it."""
    config = load_config(PAPER)
    can_run = without(config, "graph_kernel", "norm", "optimizer")
    check_kernels(can_run)
    assert make_plan(can_run).time.total / make_plan(config).time.total == pytest.approx(1.609, abs=0.002)
    with pytest.raises(UserError, match=r"^parallel\.fusion\.dropout: devices that hold copies"):
        check_kernels(change(can_run, parallel__fusion__dropout=True))


def test_the_share_of_matmuls_before_tuning_is_the_published_one():
    """22.9 % of device time (release's README), without fused kernels; nothing is fitted to it."""
    config = change(load_config(PAPER), parallel__fusion__dropout=True)
    times = [make_plan(x).time for x in (config, without(config, "graph_kernel", "norm", "optimizer", "dropout"))]
    work = times[1].slowest.work
    matmuls = work.matmul_forward + work.matmul_backward + work.matmul_recompute
    assert matmuls / (work.total + times[1].update) == pytest.approx(0.229, rel=0.05)
    page = " ".join((ROOT / "benchmarks" / "RESULTS.md").read_text().split())
    assert f"about 3 times as long (a talk of 2023; roofline: {times[1].total / times[0].total:.2f})" in page


def test_composed_dropout_costs_its_mask_once_where_recomputation_makes_it():
    """Bytes of the residual dropouts of one layer: an int32 product and comparison, cast, scale and the product."""
    plain = change(load_config(PAPER), parallel__fusion__graph_kernel=False)
    elements = 16 * 2048 * 5120
    for recompute, backward in (("full", 6), ("none", 6 + 16)):
        parts = parts_of(change(plain, training__recompute=recompute), ASCEND_910)
        block = next(part for part in parts if part.name == "block")
        (dropped,) = [o for o in block.operators if o.name == "feed-forward dropout"]
        assert (dropped.forward, dropped.backward) == (22 * elements, backward * elements)
        assert dropped.saved == 2 * elements  # the engine keeps it all the same: its back end merges both masks
    operators = [o for x in parts_of(plain, chip_named("a100")) for o in x.operators]
    assert not any(o.saved for o in operators if o.name == "feed-forward dropout")


def test_no_improvement_is_printed_that_the_launcher_refuses(paper):
    assert not any("dropout)" in item.name and item.active for item in improvements(paper))
    single = make_plan(tiny("parallel.fusion.dropout=true"))
    assert any("fused dropout" in item.name and item.active for item in improvements(single))


def test_the_page_has_the_factors_of_every_device():
    page = (ROOT / "docs" / "plan.md").read_text()
    for name, label in (("ascend910", "Ascend 910"), ("ascend910b", "910B"), ("a100", "A100")):
        found = outside_roofline(chip_named(name), 8)
        row = next(line for line in page.splitlines() if line.startswith(f"| {label} | ") and " devices | " in line)
        assert row.endswith(f"| {found.value:.2f} ({found.low:.2f} to {found.high:.2f}) |")
        runs = [x.times_roofline for x in published_steps(name)]
        assert (f"| {min(runs):.2f} to {max(runs):.2f} |" if len(runs) > 1 else "| 1.615 |") in row


def test_every_device_has_published_runs_of_its_own_or_those_of_one_like_it():
    like = {"ascend910c": "ascend910b", "h100": "a100"}
    for name, chip in CHIPS.items():
        measured = like.get(name, name)
        found, runs = outside_roofline(chip, 8), len(published_steps(measured))
        end = f" on {measured}, none on {name}" if name in like else f" on {name}"
        assert found.measured_on == measured and found.source.endswith(end)
        assert bool(published_steps(name)) != (name in like)
        start = f"{runs} published runs" if runs > 1 else "one published run"
        assert found.source.startswith(start + (" on" if measured == "ascend910b" else ", spread as on other chips,"))
        assert found.low < found.value < found.high
        assert outside_roofline(chip, 1024).value > found.value  # more to wait for


def test_the_estimate_is_the_roofline_times_the_factor_and_its_limits(paper):
    found, factor = paper.estimate, paper.factor
    assert (found.low, found.high) == pytest.approx((paper.time.total * factor.low, paper.time.total * factor.high))
    assert found.seconds == pytest.approx(paper.step_seconds)
    limits = (found.low, paper.mfu_of(found.low), found.high, paper.mfu_of(found.high))
    assert limits == (found.low, found.mfu_high, found.high, found.mfu_low)
    said = "a step takes 9.36 (8.19 to 11.34) s, MFU 11 % (9 to 13); range: one published run, spread as on other chips"
    assert found.text() == f"{said}, on ascend910"


def test_the_910b_figures_that_were_published_agree_on_no_factor():
    """MindFormers' fine-tuning on Atlas 800T A2, tokens/s a device: CodeGeeX2-6B 2,167, GLM2-6B 815, GLM3-6B 3,450."""
    keys = {"devices": 8, "parallel.tensor": 1, "parallel.pipeline": 1, "parallel.optimizer_shard": 8}
    keys |= {"parallel.hardware": "ascend910b", "training.global_batch": 32, "training.micro_batch": 4}
    overrides = [f"{key}={value}" for key, value in keys.items()]
    plan = make_plan(load_config(ROOT / "configs" / "codegeex2_6b.yaml", overrides))
    rate = plan.step_tokens / 8 / plan.time.total  # of the roofline, on one device
    assert rate == pytest.approx(5066, rel=1e-3)
    assert [round(rate / measured, 1) for measured in (3450, 2167, 815)] == [1.5, 2.3, 6.2]


@pytest.mark.parametrize("name,seconds", [("codegeex_13b", (6.135, 9.36)), ("codegeex_13b_64", (42.87, 85.4))])
def test_the_planned_meshes_against_the_papers(name, seconds):
    planned, given = (make_plan(load_config(ROOT / "configs" / f"{x}.yaml")) for x in (f"{name}_planned", name))
    assert planned.fits and given.fits
    assert (planned.step_seconds, given.step_seconds) == pytest.approx(seconds, rel=2e-3)
    assert planned.step_tokens == given.step_tokens and planned.config.steps == given.config.steps
    check_kernels(planned.config)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["codegeex_13b_64", "codegeex_13b"])
def test_the_planned_meshes_are_what_the_search_finds(start):
    ranked = [plan.config for plan in search(load_config(ROOT / "configs" / f"{start}.yaml")).ranked]
    # shipped before the search tried virtual stages and layers by cost
    best = next(each for each in ranked if each.mesh.virtual_stages == 1 and each.parallel.stage_layers is None)
    shipped = load_config(ROOT / "configs" / f"{start}_planned.yaml")
    # the pool's fragments may take more blocks' recomputation than the search, which does not count them, finds
    least, blocks = best.training.recompute_blocks, shipped.training.recompute_blocks
    assert all(more - found in (0, 1) for found, more in zip(least, blocks, strict=True))
    training = replace(best.training, recompute_blocks=blocks)
    assert (best.mesh, best.micro_batch, training) == (shipped.mesh, shipped.micro_batch, shipped.training)
    assert best.parallel.sequence == shipped.parallel.sequence


def test_the_page_prints_the_figures_of_the_code(paper):
    """What is fitted, what is not confirmed, the planned meshes."""
    pages = (ROOT / "docs" / "plan.md", ROOT / "benchmarks" / "RESULTS.md")
    page = " ".join(" ".join(path.read_text() for path in pages).split())
    whole = paper.time.total
    ratio = make_plan(without(paper.config, "graph_kernel", "norm", "optimizer")).time.total / whole
    assert f"without graph kernels, fused LayerNorm and fused AdamW the roofline is {ratio:.2f} times longer" in page
    assert f"{MATMUL_PEAK} of peak" in page and f"k / (k + {K_START})" in page
    assert FIT in page
    errors = product_errors()
    for product, measured in TUNED_PRODUCTS:
        cells = f"| {measured * 1e6:.0f} | {measured * 1e6 * (1 + errors[product.name]):.0f} "
        assert f"{cells}| {errors[product.name]:+.1%} |".replace("%", " %") in page, product.name
    for name in ("codegeex_13b", "codegeex_13b_planned", "codegeex_13b_64", "codegeex_13b_64_planned"):
        plan = make_plan(load_config(ROOT / "configs" / f"{name}.yaml"))
        mesh, most = plan.config.mesh, max(x.total for x in plan.memory) / GIB
        assert f"| `{name}.yaml` | {mesh.data} x {mesh.tensor} x {mesh.pipeline} |" in page
        assert f"| {plan.step_seconds:.1f} s | {plan.mfu:.1%} | {most:.1f} |".replace("%", " %") in page


def test_a_change_that_the_other_keys_forbid_is_not_offered():
    """Saved all-reduce results need full recomputation, without sequence parallelism."""
    plan = make_plan(load_config(PAPER, ["parallel.overlap.recompute_collectives=false"]))
    names = {item.name.partition(" (")[0] for item in improvements(plan)}
    assert not {"sequence parallelism", "recompute nothing"} & names and "fused AdamW" in names


def test_improvements_say_what_is_in_force_and_what_fits(paper):
    found = {item.name.partition(" (")[0]: item for item in improvements(paper)}
    assert found["fused LayerNorm"].active and found["fused LayerNorm"].mfu < paper.mfu
    attention = found["fused attention"]
    assert attention.missing and not attention.active and attention.mfu > paper.mfu and attention.fits
    assert not found["recompute nothing"].fits
    assert found["overlap of gradient and weight collectives with computation"].bound
    saved = paper.step_seconds - found["overlap of gradient and weight collectives with computation"].step_seconds
    assert saved == pytest.approx(paper.time.gradients * paper.factor.value)
    for item in found.values():
        assert item.mfu == pytest.approx(paper.mfu * paper.step_seconds / item.step_seconds)


def test_the_pipeline_waits_for_its_slowest_stage():
    config = load_config(ROOT / "configs" / "codegeex_13b_pipeline.yaml")
    time = make_plan(config).time
    micro = [stage.micro_batch for stage in time.stages]
    assert len(micro) == 4 and time.micro_batches == 8
    assert time.pipeline == pytest.approx(7 * max(micro) + sum(micro))
    assert time.bubble == pytest.approx(1 - 8 * sum(micro) / 4 / time.pipeline)
    more = make_plan(load_config(ROOT / "configs" / "codegeex_13b_pipeline.yaml", ["training.global_batch=12288"]))
    assert more.time.bubble < time.bubble
