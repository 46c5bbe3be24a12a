"""On a chip without infinities, FP16 steps are skipped by its register just as elsewhere by infinities.

The register's own operators run on that chip only; `test_compile.py` meets them in the graph that MindSpore compiles.
"""

import math
from dataclasses import replace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import CHIPS
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import LossScaleConfig, OptimizerConfig, ScheduleConfig
from ms_codegeex.data.datasets.batches import Batch
from ms_codegeex.extras.cluster.rehearsal.emulation import (
    COLUMNS,
    SHOWN,
    STEPS,
    compared,
    emulate,
    on_saturating_chip,
    small_fp16,
)
from ms_codegeex.extras.cluster.rehearsal.saturation import (
    CONSTANT,
    LARGEST,
    SaturatingStep,
    Saturation,
    StepWithInfinities,
    saturate,
    trained,
)
from ms_codegeex.models.layers import Dropout, Linear
from ms_codegeex.models.losses import Sums
from ms_codegeex.training.build import build, step_settings
from ms_codegeex.training.optimizer import AdamW
from ms_codegeex.training.step import StepSettings

ACCUMULATED = "training.global_batch=9216"  # 3 micro-batches of 16 sequences for each of 192 replicas


def paper(*words):
    """The 13B's recipe."""
    config = load_config("codegeex_13b", ["data.train=x", "training.micro_batch=16", *words])
    assert config.training.precision == "fp16" and config.training.loss_scale.initial == 2.0**32
    return config


class BlindStep(SaturatingStep):
    """The saturating chip without a look at its register."""

    def sums_and_gradients(self, *arguments):
        sums, gradients = super().sums_and_gradients(*arguments)
        return sums * Tensor([1.0, 1.0, 0.0], ms.float32), gradients


class OneLayer(nn.Cell):
    """A network with the losses' interface: a hundredth of the squares of what a layer computes in FP16."""

    computed_in_dtype = ("up",)

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.linear, self.up, self.sums = Linear(3, 4, 0.1, ms.float16), ops.Cast(), Sums()
        self.linear.weight.set_data(Tensor(np.random.default_rng(1).normal(0, 0.3, (4, 3)).astype(np.float32)))

    def construct(self, inputs, labels, loss_mask, samples):
        x = ops.stack((ops.ones_like(loss_mask), ops.cast(inputs, ms.float32), ops.cast(labels, ms.float32)), -1)
        y = self.up(self.linear(ops.cast(ops.reshape(x, (-1, 3)), ms.float16)), ms.float32)
        weight = ops.reshape(loss_mask, (-1,))
        return self.sums(ops.reshape((0.01 * ops.square(y).sum(-1) * weight).sum(), (1,)), weight)


def trained_layer(kind):
    """What `trained` returns for `OneLayer` with such a step."""
    network, generator = OneLayer(), np.random.default_rng(0)
    rates = ScheduleConfig(learning_rate=1e-2, end_learning_rate=1e-3, warmup_steps=0, decay_steps=STEPS)
    optimizer = AdamW(network.trainable_params(), OptimizerConfig(), rates)
    settings = StepSettings(slots=12, clip_norm=1.0, loss_scale=LossScaleConfig(initial=2.0**32, window=3))
    steps = []
    for _ in range(STEPS):
        ids = generator.integers(1, 5, (2, 2, 6)).astype(np.int32)
        steps.append([Batch(ids[0], ids[1], np.ones((2, 6), np.float32), np.arange(2, dtype=np.int32))])
    step = kind(network, optimizer, settings).set_train(True)
    return trained(step, None, steps, network.trainable_params())


@pytest.mark.slow
def test_a_layers_steps_are_skipped_as_with_infinities_and_without_the_register_all_update(graph_mode):
    expected = trained_layer(StepWithInfinities)
    found = compared(expected, trained_layer(SaturatingStep))
    assert found.problems == () and (found.steps, found.initial_scale) == (20, 2.0**32)
    assert 5 <= found.skipped_steps < STEPS and len(expected) == 3
    blind = trained_layer(BlindStep)
    problems = compared(expected, blind).problems
    assert blind[SHOWN][:, 5].all() and any(problem.startswith("updates of") for problem in problems)
    assert any(problem.startswith("2 of 2 weights") for problem in problems)


@pytest.mark.slow  # a transformer whose operators are each emulated, twice; a layer is by default
@pytest.mark.parametrize("words", [(), (ACCUMULATED,)], ids=["one micro-batch", "three"])
def test_the_papers_steps_are_skipped_as_with_infinities_and_give_the_same_weights(words):
    found = emulate(paper(*words))
    assert found.problems == () and (found.steps, found.initial_scale) == (20, 2.0**32)
    assert 12 <= found.skipped_steps < STEPS
    assert found.text() == (
        f"20 steps from scale 2^32: {found.skipped_steps} skipped, the same with infinities and on the saturating "
        "chip; weights equal bit for bit"
    )


def shown():
    """Results of four steps: one overflows, and then the scale grows."""
    steps = np.array(
        [[4.0, 9, math.nan, 0, 8, 0], [4, 9, 1, 0.1, 4, 1], [3, 8, 2, 0.2, 4, 1], [2, 9, 3, 0.3, 8, 1]], np.float32
    )
    return {SHOWN: steps, "a": np.array([1.0, 2.0], np.float32), "b": np.zeros(2, np.float32)}


def test_what_differs_is_named_with_its_first_step():
    saturating = shown()
    saturating[SHOWN][0, 2] = -1
    assert compared(shown(), saturating).problems == ()
    for column, name in enumerate(COLUMNS):
        wrong = shown()
        wrong[SHOWN][2:, column] += 0.5
        (problem,) = compared(shown(), wrong).problems
        assert problem.startswith(f"{name} of 2 steps, first of step 2: ")
    saturating[SHOWN][0, 2] = 5  # a norm like any other, after an overflow
    assert compared(shown(), saturating).problems == ("gradient norm of 1 steps, first of step 0: 5 instead of nan",)
    found = compared(shown(), {**shown(), "b": np.array([0, 1e-30], np.float32)})
    assert found.problems == ("1 of 2 weights, first b",)
    assert found.text() == (
        "4 steps from scale 2^3: 1 skipped with infinities; the saturating chip differs: 1 of 2 weights, first b"
    )


def test_steps_that_would_show_no_error_are_a_problem():
    for rows in ([0], [1, 2, 3], [0, 1, 2]):  # none updates; none is skipped; the scale does not grow
        results = {**shown(), SHOWN: shown()[SHOWN][rows]}
        (problem,) = compared(results, results).problems
        assert problem.startswith("no error would show")


def test_the_small_run_keeps_the_settings_of_fp16_and_its_scale_moves():
    optimizer = ["training.optimizer.beta2=0.9", "training.clip_norm=0.25", "faults.policy=skip", "seed=3"]
    small = small_fp16(paper(ACCUMULATED, *optimizer, "training.loss_scale.factor=4"))
    assert (small.device, small.devices, small.accumulation, small.training.precision) == ("cpu", 1, 3, "fp16")
    assert small.training.optimizer.beta2 == 0.9 and small.training.clip_norm == 0.25 and small.faults.policy == "skip"
    assert small.training.loss_scale == LossScaleConfig(initial=2.0**32, window=2, factor=4.0)
    assert small_fp16(paper("training.global_batch=12288")).accumulation == 3  # of 4
    config = paper()
    for scaling, expected in [
        (LossScaleConfig(initial=1.0, window=1, factor=1.01), LossScaleConfig(initial=2.0**22, window=1)),
        (LossScaleConfig(initial=1e38), LossScaleConfig(initial=2.0**32, window=2)),
    ]:
        config = replace(config, training=replace(config.training, loss_scale=scaling))
        assert small_fp16(config).training.loss_scale == expected
    assert small_fp16(load_config("finetune_lora_13b", ["data.train=x"])).lora.rank == 0


def test_which_runs_there_are_on_the_saturating_chip():
    config = load_config("codegeex2_6b_continued", ["data.train=x"])
    with pytest.raises(UserError, match=r"^--saturating: training.precision is bf16, .* set it to fp16, or leave"):
        on_saturating_chip(config)
    config = load_config("codegeex_base_8", ["data.train=x", "training.precision=fp16"])
    assert on_saturating_chip(config).parallel.hardware == "ascend910"
    config = load_config("codegeex_base_8", ["data.train=x", "training.precision=fp32"])
    assert emulate(on_saturating_chip(config)) is None


class Dropped(nn.Cell):
    """A dropout whose mask, a constant, would have an infinite gradient."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.dropout = Dropout(0.5, (2, 4), 0, 1)
        self.register = saturate(self)

    def construct(self, x, sample_keys):
        return self.dropout(x, sample_keys)


@pytest.mark.parametrize("known", [True, False])
def test_gradients_that_no_graph_has_are_not_counted(known, graph_mode, monkeypatch):
    monkeypatch.setitem(CONSTANT, "drop", CONSTANT["drop"] if known else None)
    cell, x = Dropped().set_train(True), Tensor(np.full((1, 2, 4), 2e4, np.float16))
    gradient = ops.GradOperation(get_by_list=True, sens_param=True)(cell, ms.ParameterTuple([cell.register]))
    (count,) = gradient(x, Tensor([0], ms.int32), Tensor(np.full((1, 2, 4), 10, np.float16)))
    assert (count.asnumpy() == 0) == known


class Stored(nn.Cell):
    """One number as the chip stores it."""

    def __init__(self):
        super().__init__()
        self.register = Parameter(Tensor(0.0, ms.float32), name="register", requires_grad=False)
        self.cast, self.stored = ops.Cast(), Saturation(LARGEST)

    def construct(self, x):
        return self.stored(self.cast(x, ms.float16), self.register)


def test_what_is_stored_and_counted(graph_mode):
    cell = Stored()
    x = Tensor([1.0, 1e9, -1e9, math.nan, -65504.0], ms.float32)
    gradient = ops.GradOperation(get_all=True, get_by_list=True, sens_param=True)
    assert cell(x).asnumpy().tolist() == [1.0, LARGEST, -LARGEST, 0.0, -LARGEST]
    seen = Tensor(np.array([math.inf, 1, -math.inf, 2, math.nan], np.float16))
    (back,), (count,) = gradient(cell, ms.ParameterTuple([cell.register]))(x, seen)
    assert back.asnumpy().tolist() == [LARGEST, 1.0, -LARGEST, 2.0, 0.0]
    assert count.asnumpy() == 6  # three of each


@pytest.mark.parametrize("hardware", [name for name, chip in CHIPS.items() if chip.kind == "ascend"])
def test_the_register_is_read_where_the_chip_saturates(hardware):
    values = {"device": "ascend", "parallel": {"hardware": hardware}, "training": {"steps": 1, "precision": "fp16"}}
    settings = step_settings(build_run_config(values), [], None)
    assert settings.saturates == (hardware == "ascend910") == CHIPS[hardware].saturates
    assert not step_settings(build_run_config({"training": {"steps": 1}}), [], None).saturates


class Register(nn.Cell):
    """A stand-in of `OverflowRegister`, whose operators `test_compile.py` meets: passes that have a 1 set it."""

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.passes = Parameter(Tensor(np.zeros(3, np.float32)), name="passes", requires_grad=False)
        self.number = Parameter(Tensor(0, ms.int32), name="number", requires_grad=False)
        self.flags = Parameter(Tensor(0.0, ms.float32), name="flags", requires_grad=False)

    def cleared(self, last):
        return ops.depend(last, ops.assign(self.flags, ops.depend(Tensor(0.0, ms.float32), last)))

    def overflowed(self, last):
        number = ops.assign_add(self.number, ops.depend(Tensor(1, ms.int32), last))
        return ops.assign_add(self.flags, ops.gather(self.passes, number - 1, 0)) > 0


@pytest.mark.slow
def test_an_overflow_of_any_micro_batch_skips_the_step(graph_mode):
    small = small_fp16(paper(ACCUMULATED, "training.dropout=0"))
    built, register = build(small), Register()
    built.step.register = register
    cells = (built.accumulate_step, built.accumulate_step, built.step.set_train(True))
    ids = np.random.default_rng(0).integers(0, 64, (3, 8, 17)).astype(np.int32)
    for overflows in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        register.passes.set_data(Tensor(overflows, ms.float32))
        register.number.set_data(Tensor(0, ms.int32))
        built.step.scale.set_data(Tensor(1.0, ms.float32))
        for cell, part in zip(cells, ids, strict=True):
            inputs = [part[:, :-1], part[:, 1:], np.ones((8, 16), np.float32), np.arange(8, dtype=np.int32)]
            result = cell(*[Tensor(np.ascontiguousarray(x)) for x in inputs]).asnumpy()
        norm, updated = result[2], result[5]
        assert updated == (not any(overflows)) and (norm > 0 if updated else norm == -1)
