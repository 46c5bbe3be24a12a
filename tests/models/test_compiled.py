"""Models with compiled operators compute what the composed ones do, in loss and gradients (FP32). The operators
themselves meet float64 in `tests/training_kernel_checks.py`."""

from dataclasses import replace

import numpy as np
import pytest
import small_models as models
from mindspore import Tensor
from networks import LossGradients, assign, packed_batch

from ms_codegeex.base.host import available_cores
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import OptimizerConfig, ScheduleConfig
from ms_codegeex.kernels import compiling
from ms_codegeex.models.causal import Build
from ms_codegeex.models.compiled import (
    CompiledAttention,
    CompiledCrossEntropy,
    CompiledLayerNorm,
    CompiledLinear,
    CompiledMask,
    CompiledRMSNorm,
)
from ms_codegeex.models.lora import Adaptation, add_adapters
from ms_codegeex.models.registry import family
from ms_codegeex.training.operators import operators_library, uses_compiled_operators
from ms_codegeex.training.optimizer import AdamW
from ms_codegeex.training.step import StepSettings, TrainStep

pytestmark = [
    pytest.mark.usefixtures("graph_mode"),
    pytest.mark.skipif(not compiling.cxx_compilers(), reason="no C++ compiler"),
]
ROWS, SEQ = 3, 8


@pytest.fixture(scope="module")
def library():
    return str(operators_library(build_run_config({"training": {"steps": 1, "precision": "fp32"}}), available_cores()))


def built(name, library, dropout=0.0, reset=True):
    rates = {"dropout": dropout, "attention_dropout": dropout}
    build = Build(SEQ, **rates, micro_batch=ROWS, loss_chunk=10, reset_at_eos=reset, library=library)
    network = family(name).model.Loss(models.config(name), build)
    generator = np.random.default_rng(5)
    assign(network, {p.name: 0.1 * generator.standard_normal(p.shape) for p in network.get_parameters()})
    return network


def step(network, name):
    """Loss and gradients, which have the same bits when they are computed again."""
    network.set_train(True)
    config = models.config(name)
    batch = packed_batch(config.vocab_size, config.eos_token_id, ROWS, SEQ)
    graph, tensors = LossGradients(network), [Tensor(array) for array in batch]
    (output, gradients), (_, again) = graph(*tensors), graph(*tensors)
    for gradient, other in zip(gradients, again, strict=True):
        np.testing.assert_array_equal(gradient.asnumpy(), other.asnumpy())
    names = [p.name for p in network.trainable_params()]
    return output.asnumpy(), dict(zip(names, (g.asnumpy() for g in gradients), strict=True))


def same(found, expected):
    (mine, my_gradients), (theirs, their_gradients) = found, expected
    np.testing.assert_allclose(mine, theirs, rtol=2e-6)
    assert my_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        # relative to the table's largest number; a key's bias has a gradient that is zero but for rounding
        assert np.abs(my_gradients[name] - gradient).max() <= 5e-6 * max(np.abs(gradient).max(), 1e-2), name


@pytest.mark.parametrize(
    "name,options",
    [
        ("codegeex", {}),
        ("codegeex2", {}),  # RMS norms, rotary positions
        pytest.param("codegen", {}, marks=pytest.mark.slow),  # rotary positions, norms of CodeGeeX
        pytest.param("codegeex", {"reset": False}, marks=pytest.mark.slow),
        pytest.param("codegeex", {"dropout": 0.3}, marks=pytest.mark.slow),  # attention is the same cell in both
    ],
)
def test_a_model_and_its_gradients(name, options, library):
    network = built(name, library, **options)
    kinds = {type(cell) for _, cell in network.cells_and_names()}
    assert {CompiledLinear, CompiledCrossEntropy} <= kinds and kinds & {CompiledLayerNorm, CompiledRMSNorm}
    of_attention = set() if "dropout" in options else {CompiledAttention, CompiledMask}
    assert kinds & {CompiledAttention, CompiledMask} == of_attention
    same(step(network, name), step(built(name, "", **options), name))


@pytest.mark.slow
def test_recomputed_blocks(library):
    network = built("codegeex", library)
    expected = step(network, "codegeex")
    again = built("codegeex", library)
    for block in again.model.blocks:
        block.recompute()
    same(step(again, "codegeex"), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("targets", "trained"), [(("feed_forward", "query"), 18), (("query",), 6)])
def test_adapters(library, targets, trained):
    """Of the second kind, activations stay with the frozen products after them."""
    found = []
    for path in (library, ""):
        network = built("codegeex", path)
        add_adapters(network, models.config("codegeex"), Adaptation(targets, 2, 4.0), SEQ)
        generator = np.random.default_rng(6)
        for parameter in network.trainable_params():
            parameter.set_data(Tensor(generator.standard_normal(parameter.shape).astype(np.float32)))
        found.append(step(network, "codegeex"))
    assert len(found[0][1]) == trained
    same(*found)


def test_attention_with_dropout_is_composed(library):
    network = built("codegeex", library, dropout=0.3)
    kinds = {type(cell) for _, cell in network.cells_and_names()}
    assert not kinds & {CompiledAttention, CompiledMask} and CompiledLayerNorm in kinds


def test_a_number_that_is_not_finite_is_not_hidden(library):
    network = built("codegeex", library)
    weight = network.model.blocks[0].attention.query.weight
    weight.set_data(Tensor(np.full(weight.shape, np.nan, np.float32)))
    loss, gradients = step(network, "codegeex")
    assert np.isnan(loss).any() and any(np.isnan(gradient).any() for gradient in gradients.values())


@pytest.mark.slow
def test_a_guarded_step_with_the_compiled_optimizer(library):
    """It updates by what the other optimizer does, and nothing beyond a limit."""
    found, batch = [], [Tensor(array) for array in packed_batch(12, 10, ROWS, SEQ)]
    for path in (library, ""):
        network = built("codegeex", path)
        weights, config, schedule = network.trainable_params(), OptimizerConfig(), ScheduleConfig(1e-2, 1e-2, 0, 10)
        matrices = [p.name for p in weights if p.name.endswith("feed_forward.down.weight")]
        optimizer = AdamW(weights, config, schedule, matrices=matrices, library=path)
        step = TrainStep(network, optimizer, StepSettings(slots=ROWS * SEQ, clip_norm=0.1, guarded=True))
        step.set_train(True)
        for limit in (1e-6, 1e9, 1e9):
            step.set_limits(limit, 1e9)
            before = network.trainable_params()[0].asnumpy().copy()
            updated = step(*batch).asnumpy()[-1]
            assert bool(updated) == (limit > 1) == (not np.array_equal(before, network.trainable_params()[0].asnumpy()))
        assert int(optimizer.step.asnumpy()) == 2
        found.append([p.asnumpy() for p in (*network.trainable_params(), *optimizer.m, *optimizer.v)])
    for mine, theirs in zip(*found, strict=True):
        # where a gradient is zero but for rounding, Adam moves a weight either way
        assert np.mean(np.abs(mine - theirs) <= 1e-5 * max(1e-3, np.abs(theirs).max())) > 0.97


def test_which_runs_use_them(monkeypatch):
    config = build_run_config({"training": {"steps": 1, "precision": "fp32"}})
    assert uses_compiled_operators(config)
    assert not uses_compiled_operators(replace(config, device="ascend"))
    assert not uses_compiled_operators(replace(config, training=replace(config.training, precision="bf16")))
    for key in ("attention", "norm"):
        fusion = replace(config.parallel.fusion, **{key: False})
        assert not uses_compiled_operators(replace(config, parallel=replace(config.parallel, fusion=fusion)))
    monkeypatch.setattr(compiling, "cxx_compilers", list)
    assert operators_library(config, 1) is None
