"""A hardware file from profiles of a device whose figures are known."""

import math
import random
from dataclasses import replace

import pytest
from conftest import ROOT
from profile_writer import START, TRUTH, truth, write_profile

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import ASCEND_910B
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.calibrating.profile_files import KernelRun, profiles_below
from ms_codegeex.extras.cluster.calibrating.refitting import (
    MeasuredPoint,
    ProfiledRun,
    between,
    calibrate,
    fit_products,
    fit_vectors,
    least_squares,
)
from ms_codegeex.extras.cluster.plans.planner import Plan, change
from ms_codegeex.planning.hardware_files import uncertain_of

CONFIG = ROOT / "configs" / "codegeex_13b_64.yaml"  # data 8 x tensor 8
KEYS = ("parallel.optimizer_shard=8",)


def profiled(folder, config, noise=lambda: 1.0, scatter=(1.0,)):
    write_profile(folder, config, noise)
    step = Plan(config, truth()).step_seconds
    return ProfiledRun(folder.name, config, tuple(step * x for x in scatter), tuple(profiles_below(folder)))


@pytest.fixture(scope="module")
def config():
    return load_config(CONFIG, KEYS)


@pytest.fixture(scope="module")
def found(config, tmp_path_factory):
    return calibrate([profiled(tmp_path_factory.mktemp("exact"), config)])


def test_the_figures_of_the_truth_are_found(found):
    for name, value in vars(TRUTH.rates).items():
        assert getattr(found.rates, name) == pytest.approx(value, rel=0.01), name
    assert found.products.share == pytest.approx(TRUTH.products.share, rel=0.005)
    assert found.products.start == pytest.approx(TRUTH.products.start, rel=0.05)
    assert (found.overlap, found.gaps) == pytest.approx((TRUTH.overlap, TRUTH.gaps), rel=0.01)
    assert found.factor.value == pytest.approx(TRUTH.factor.value, rel=0.005)
    assert found.assumed == [] and found.base == "ascend910b"
    for name in ("products", "vector_kernels", "messages"):
        assert len(found.residuals[name]) > 3 and all(abs(x["error"]) < 0.01 for x in found.residuals[name]), name


@pytest.mark.parametrize("keys", [{"tensor": 2, "pipeline": 2, "optimizer_shard": 16}, {"tensor": 4, "data": 16}])
def test_another_mesh_is_predicted(found, config, keys):
    keys = {"parallel__data": None, **{f"parallel__{name}": value for name, value in keys.items()}}
    other = change(config, training__micro_batch=4, parallel__micro_batches=None, **keys)
    predicted = Plan(other, found.chip(ASCEND_910B, "mine"))
    assert predicted.step_seconds == pytest.approx(Plan(other, truth()).step_seconds, rel=0.01)
    assert predicted.step_seconds != pytest.approx(Plan(other, ASCEND_910B).step_seconds, rel=0.03)


def test_noise_moves_the_figures_little_and_the_range_has_the_truth(config, tmp_path):
    source = random.Random(3)
    noisy = calibrate(
        [profiled(tmp_path, config, lambda: math.exp(source.gauss(0, 0.03)), (0.98, 0.99, 1, 1.01, 1.02))]
    )
    assert noisy.products.share == pytest.approx(TRUTH.products.share, rel=0.04)
    assert noisy.rates.memory_bandwidth == pytest.approx(TRUTH.rates.memory_bandwidth, rel=0.04)
    assert noisy.rates.cluster_bandwidth == pytest.approx(TRUTH.rates.cluster_bandwidth, rel=0.04)
    estimate = Plan(config, noisy.chip(ASCEND_910B, "mine")).estimate
    assert estimate.low < Plan(config, truth()).step_seconds < estimate.high < 1.12 * estimate.low
    assert estimate.source.startswith("the residuals of 5 steps of ")


def test_three_factors_differ_by_students_t():
    width = 1.886 * math.log(1.1) * math.sqrt(1 + 1 / 3)  # for two degrees of freedom
    assert between([1.2 / 1.1, 1.2, 1.2 * 1.1]) == pytest.approx(width)
    assert between([1.2]) == 0


def test_steps_that_the_parts_do_not_explain_widen_the_range(found, config, tmp_path):
    slow = calibrate([profiled(tmp_path, config, scatter=(1.5,))])
    assert slow.factor.value == pytest.approx(1.5 * found.factor.value)
    assert slow.factor.high / slow.factor.value > 1.2 > found.factor.high / found.factor.value


def test_several_runs_are_fitted_together(config, tmp_path):
    other = change(config, training__micro_batch=8, parallel__micro_batches=None)
    runs = [profiled(tmp_path / "a", config), profiled(tmp_path / "b", other, scatter=(1.1,))]
    both = calibrate(runs)
    assert both.factor.value == pytest.approx(math.sqrt(1.1) * TRUTH.factor.value, rel=0.01)
    assert both.factor.high / both.factor.value > 1.15  # two that differ by a tenth
    assert [x["run"] for x in both.residuals["steps"]] == ["a", "b"]
    changed = replace(runs[1], config=change(other, training__precision="bf16"))
    with pytest.raises(UserError, match=r"^calibrate: runs of bf16 and fp16; give runs of one chip and one precision"):
        calibrate([runs[0], changed])


def test_what_no_profile_shows_is_the_chips_and_listed(found, config, tmp_path):
    run = profiled(tmp_path, config)
    (output,) = tmp_path.rglob("ASCEND_PROFILER_OUTPUT")
    for name in ("communication.json", "step_trace_time.csv"):
        (output / name).unlink()
    part = calibrate([replace(run, profiles=tuple(profiles_below(tmp_path)))])
    assert part.products == found.products
    assert (part.rates.cluster_bandwidth, part.rates.latency) == (ASCEND_910B.cluster_bandwidth, ASCEND_910B.latency)
    names = ["board_bandwidth", "server_bandwidth", "cluster_bandwidth", "latency", "cluster_latency"]
    assert part.assumed == [*names, "overlap", "gaps"]
    assert uncertain_of(part.chip(ASCEND_910B, "mine")) > uncertain_of(found.chip(ASCEND_910B, "mine"))


def test_a_run_without_steps_is_refused(config, tmp_path):
    run = profiled(tmp_path, config, scatter=())
    with pytest.raises(UserError, match=r"log\.jsonl has no step that was not compiled; train a few more steps$"):
        calibrate([run])


def test_a_single_length_says_nothing_about_the_start():
    kernels = [KernelRun("MatMul", "AI_CORE", 2 * 4096**3 / (0.5 * 376e12), None, (4096, 4096, 4096, 1))]
    found, residuals = fit_products(kernels, ASCEND_910B, "fp16")
    assert found.start == pytest.approx(20) and found.share == pytest.approx(0.5 * (1 + 20 / 4096))
    assert residuals.rms < 1e-9
    assert fit_products(kernels, ASCEND_910B, "fp32") == fit_products([], ASCEND_910B, "fp16")


def test_attention_and_collectives_are_no_vector_work():
    sizes = [1 << 21, 1 << 24, 1 << 26]
    kernels = [KernelRun("Mul", "AI_VECTOR_CORE", START + size / 1e12, size) for size in sizes]
    other = [KernelRun("FlashAttentionScore", "MIX_AIC", 1.0, 1 << 24), KernelRun("allReduce", "HCCL", 1.0, 1 << 24)]
    (start, rate), _ = fit_vectors(kernels + other)
    assert (start, rate) == pytest.approx((START, 1e12))


def test_a_negative_factor_is_left_out():
    points = [MeasuredPoint(seconds, 1, {}) for seconds in (1.0, 2.1, 4.3)]
    start, each = least_squares([[1.0] * 3, [1.0, 2.0, 4.0]], points)
    assert start == 0.0 and each == pytest.approx(1.05, rel=0.03)
