"""On a chip that knows no infinity, FP16 steps are skipped by its register just as elsewhere by infinities.

The register's own operators run on that chip only; `test_compile.py` meets them in the graph that MindSpore compiles.
"""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from ms_codegeex.base.hardware import DEVICES
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.rehearsal.saturation import LARGEST, Saturated, SaturatingStep, saturate
from ms_codegeex.training.build import build, step_settings
from ms_codegeex.training.step import TrainStep

SIZES = "vocab_size=64 hidden_size=32 num_layers=1 num_heads=2 intermediate_size=64 max_position_embeddings=16"
SMALLER = [f"model.{size}" for size in f"{SIZES} eos_token_id=1".split()]
STEPS = 24


class StepWithInfinities(TrainStep):
    """As a chip with infinities computes, with operators of the same form, which the engine does not fuse."""

    def __init__(self, network, optimizer, settings):
        super().__init__(network, optimizer, settings)
        saturate(network, math.inf)


class BlindStep(SaturatingStep):
    """The saturating chip without a look at its register."""

    def sums_and_gradients(self, *arguments):
        sums, gradients = super().sums_and_gradients(*arguments)
        return sums * Tensor([1.0, 1.0, 0.0], ms.float32), gradients


def paper(accumulation):
    """The 13B's recipe with a small model, on one device."""
    mesh = "parallel.tensor=1 parallel.data=1 parallel.optimizer_shard=1 device=cpu devices=1 training.recompute=none"
    rate = "training.schedule.warmup_steps=0 training.schedule.learning_rate=1e-3 training.loss_scale.window=3"
    batch = f"training.global_batch={2 * accumulation} training.micro_batch=2"
    config = load_config("codegeex_13b", [*SMALLER, *f"{mesh} {rate} {batch} data.train=x data.seq_length=16".split()])
    assert config.training.precision == "fp16" and config.training.loss_scale.initial == 2.0**32
    assert config.accumulation == accumulation
    return config


def trained(config, step):
    """What the steps show, and the weights at the end."""
    ms.set_seed(1)
    built, generator = build(config, step=step), np.random.default_rng(0)
    for p in built.optimizer.parameters:
        p.set_data(Tensor((generator.standard_normal(p.shape) * 0.1 + (p.ndim == 1)).astype(np.float32)))
    train, shown = built.step.set_train(True), []
    for number in range(STEPS):
        ids = np.random.default_rng(number).integers(0, 64, (config.accumulation, 2, 17)).astype(np.int32)
        for i, part in enumerate(ids):
            inputs = [part[:, :-1], part[:, 1:], np.ones((2, 16), np.float32), np.arange(2, dtype=np.int32)]
            cell = train if i == config.accumulation - 1 else built.accumulate_step
            result = cell(*[Tensor(np.ascontiguousarray(x)) for x in inputs]).asnumpy()
        shown.append(result)
    return np.array(shown), {p.name: p.asnumpy().copy() for p in built.optimizer.parameters}


@pytest.mark.slow  # two steps whose operators are each emulated; the register itself is read by default, below
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_papers_steps_are_skipped_as_with_infinities_and_give_the_same_weights(accumulation, graph_mode):
    config = paper(accumulation)
    expected, weights = trained(config, StepWithInfinities)
    found, others = trained(config, SaturatingStep)
    assert expected[0, 4] == 2.0**32 and not expected[0, 5] and 5 <= expected[:, 5].sum() < STEPS
    assert np.array_equal(found[:, [0, 1, 3, 4, 5]], expected[:, [0, 1, 3, 4, 5]])  # loss, tokens, rate, scale, updated
    updated = expected[:, 5] == 1
    assert np.array_equal(found[updated], expected[updated]) and not (found[~updated, 2] >= 0).any()
    assert all(np.array_equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow  # a third compilation
def test_without_the_register_every_step_would_update(graph_mode):
    """So the test above shows something: what the gradients are after saturation cannot be seen in them."""
    assert trained(paper(1), BlindStep)[0][:, 5].all()


class Stored(nn.Cell):
    """One number as the chip stores it."""

    def __init__(self):
        super().__init__()
        self.register = Parameter(Tensor(0.0, ms.float32), name="register", requires_grad=False)
        self.cast, self.stored = ops.Cast(), Saturated(LARGEST)

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


@pytest.mark.parametrize("hardware", [name for name, chip in DEVICES.items() if chip.kind == "ascend"])
def test_the_register_is_read_where_the_chip_saturates(hardware):
    values = {"device": "ascend", "parallel": {"hardware": hardware}, "training": {"steps": 1, "precision": "fp16"}}
    settings = step_settings(build_run_config(values), [], None)
    assert settings.saturates == (hardware == "ascend910") == DEVICES[hardware].saturates
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


def test_an_overflow_of_any_micro_batch_skips_the_step(graph_mode):
    built, register = build(paper(3)), Register()
    built.step.register = register
    cells = (built.accumulate_step, built.accumulate_step, built.step.set_train(True))
    ids = np.random.default_rng(0).integers(0, 64, (3, 2, 17)).astype(np.int32)
    for overflows in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        register.passes.set_data(Tensor(overflows, ms.float32))
        register.number.set_data(Tensor(0, ms.int32))
        built.step.scale.set_data(Tensor(1.0, ms.float32))
        for cell, part in zip(cells, ids, strict=True):
            inputs = [part[:, :-1], part[:, 1:], np.ones((2, 16), np.float32), np.arange(2, dtype=np.int32)]
            result = cell(*[Tensor(np.ascontiguousarray(x)) for x in inputs]).asnumpy()
        norm, updated = result[2], result[5]
        assert updated == (not any(overflows)) and (norm > 0 if updated else norm == -1)
