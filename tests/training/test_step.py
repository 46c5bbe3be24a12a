import functools
import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple

from ms_codegeex.base.hardware import CHIPS
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.sections import LossScaleConfig
from ms_codegeex.models.losses import Sums
from ms_codegeex.training.build import step_settings
from ms_codegeex.training.step import AccumulateStep, StepSettings, TrainStep

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
SEQ = 6


class Net(nn.Cell):
    """A network with the losses' interface whose gradients a few lines of NumPy can tell: nll = (w·input - label)²."""

    def __init__(self, dtype=ms.float32):
        super().__init__(auto_prefix=False)
        self.dtype = dtype
        self.a = Parameter(Tensor(np.array([0.5, -0.3, 0.8], np.float32)), name="a")
        self.b = Parameter(Tensor(np.array([0.1], np.float32)), name="b")
        self.sums = Sums()

    def construct(self, inputs, labels, loss_mask, samples):
        x = ops.stack((ops.ones_like(loss_mask), ops.cast(inputs, ms.float32), ops.cast(inputs, ms.float32) ** 2), -1)
        y = ops.cast((ops.cast(x, self.dtype) * ops.cast(self.a, self.dtype)).sum(-1), ms.float32) + self.b
        error = (y - ops.cast(labels, ms.float32)) ** 2
        return self.sums(ops.reshape((error * loss_mask).sum(), (1,)), ops.reshape(loss_mask, (-1,)))


class Sgd(nn.Cell):
    """Momentum SGD: unlike Adam it shows a wrong gradient scale."""

    def __init__(self, network, rate=0.01):
        super().__init__(auto_prefix=False)
        self.parameters, self.rate = ParameterTuple(network.trainable_params()), rate
        self.velocity = self.parameters.clone(prefix="v", init="zeros")

    def construct(self, gradients):
        done = ()
        for i in range(len(self.velocity)):
            velocity = 0.9 * self.velocity[i] + gradients[i]
            done += (ops.assign(self.velocity[i], velocity), ops.assign_sub(self.parameters[i], self.rate * velocity))
        return ops.depend(Tensor(self.rate, ms.float32), done)


def batches(count, rows, seed=0):
    """Micro-batches with very unequal masks: some nearly empty."""
    generator = np.random.default_rng(seed)
    result = []
    for i in range(count):
        mask = (generator.random((rows, SEQ)) < (0.15, 0.9)[i % 2]).astype(np.float32)
        mask[0, 0] = 1
        inputs, labels = (generator.integers(*ends, (rows, SEQ)).astype(np.int32) for ends in ((-2, 3), (0, 4)))
        result.append((inputs, labels, mask, np.arange(rows, dtype=np.int32)))
    return result


def reference(weights, batch_list, clip):
    """loss = Σ mask·nll / Σ mask over everything, its gradient, the clipped gradient, in float64."""
    inputs, labels, mask = (np.concatenate([b[i] for b in batch_list]).astype(np.float64) for i in range(3))
    x = np.stack((np.ones_like(inputs), inputs, inputs**2), -1)
    error = x @ weights["a"] + weights["b"] - labels
    scale = 2 * error * mask / mask.sum()
    gradient = {"a": (x * scale[..., None]).sum((0, 1)), "b": np.array([scale.sum()])}
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    factor = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
    return (error**2 * mask).sum() / mask.sum(), norm, {k: g * factor for k, g in gradient.items()}


@functools.cache
def compiled(**settings):
    """A network with a step that is compiled once, and a step that accumulates."""
    network = Net()
    step = TrainStep(network, Sgd(network), StepSettings(slots=2 * SEQ, **settings))
    return network, step, AccumulateStep(step)


def fresh(**settings):
    """`compiled` with the weights and velocities of the beginning. Only for steps that always update: the engine does
    not see a new value of what it uses in a branch alone."""
    cells = compiled(**settings)
    new = {parameter.name: parameter for parameter in compiled.__wrapped__(**settings)[1].get_parameters()}
    for parameter in cells[1].get_parameters():
        parameter.set_data(Tensor(new[parameter.name].asnumpy()))
    return cells


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_loss_norm_and_update_over_the_whole_batch(accumulation, clip):
    network, step, accumulate = fresh(accumulation=accumulation, clip_norm=clip)
    weights = {"a": network.a.asnumpy().astype(np.float64), "b": network.b.asnumpy().astype(np.float64)}
    velocity = {k: np.zeros_like(w) for k, w in weights.items()}
    for number in range(4):
        parts = batches(accumulation, 2, seed=number)
        for part in parts[:-1]:
            accumulate(*map(Tensor, part))
        loss, count, norm, rate, _, finite = step(*map(Tensor, parts[-1])).asnumpy().tolist()
        expected_loss, expected_norm, gradient = reference(weights, parts, clip)
        assert finite and rate == pytest.approx(0.01)
        assert count == sum(part[2].sum() for part in parts)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert norm == pytest.approx(expected_norm, rel=1e-5)
        for key, w in weights.items():
            velocity[key] = 0.9 * velocity[key] + gradient[key]
            w -= 0.01 * velocity[key]
            np.testing.assert_allclose(getattr(network, key).asnumpy(), w, rtol=1e-5, atol=1e-6)


def test_a_step_that_evaluates_changes_nothing_and_trains_again_afterwards():
    network = Net()
    settings = StepSettings(slots=2 * SEQ, clip_norm=0.5, guarded=True, loss_scale=LossScaleConfig(initial=4.0))
    step = TrainStep(network, Sgd(network), settings)
    first, second = batches(2, 2)
    for number, evaluates in enumerate((False, True, False, True)):
        before = [parameter.asnumpy().copy() for parameter in step.get_parameters()]
        weights = {"a": network.a.asnumpy().astype(np.float64), "b": network.b.asnumpy().astype(np.float64)}
        part = (first, second)[number % 2]
        found = step.set_train(not evaluates)(*map(Tensor, part)).asnumpy().tolist()
        loss, norm, _ = reference(weights, [part], 0.0)
        tokens = part[2].sum()
        if evaluates:
            assert found == pytest.approx([loss * tokens, tokens, (norm * tokens / (2 * SEQ)) ** 2], rel=1e-4)
        else:
            assert found[:2] == pytest.approx([loss, tokens], rel=1e-4) and found[5] == 1
        same = [np.array_equal(a, b.asnumpy()) for a, b in zip(before, step.get_parameters(), strict=True)]
        assert all(same) == evaluates


def test_overflow_skips_the_update_and_halves_the_scale_and_good_steps_double_it():
    network = Net(ms.float16)
    scaling = LossScaleConfig(initial=2.0**24, window=2)
    step = TrainStep(network, Sgd(network), StepSettings(slots=2 * SEQ, loss_scale=scaling))
    batch, history = batches(1, 2)[0], []
    for _ in range(16):
        before = network.a.asnumpy().copy()
        loss, _, _, rate, scale, finite = step(*map(Tensor, batch)).asnumpy().tolist()
        changed = not np.array_equal(before, network.a.asnumpy())
        assert changed == bool(finite) == (rate > 0)
        assert np.isfinite(loss) and np.isfinite(network.a.asnumpy()).all()
        history.append((bool(finite), scale))
    assert not history[0][0] and any(finite for finite, _ in history)
    good = 0
    for (finite, scale), (_, following) in itertools.pairwise(history):
        good = good + 1 if finite else 0
        expected = scale / 2 if not finite else scale * 2 if good == 2 else scale
        good = 0 if good == 2 else good
        assert following == expected


class Register(nn.Cell):
    """A stand-in for `OverflowRegister`, whose operators only a device has: passes that have a 1 set it."""

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


def test_on_a_chip_that_saturates_an_overflow_of_any_micro_batch_skips_the_step():
    network, register = Net(), Register()
    step = TrainStep(network, Sgd(network), StepSettings(slots=2 * SEQ, accumulation=3, loss_scale=LossScaleConfig()))
    step.register = register
    accumulate, parts = AccumulateStep(step), batches(3, 2)
    for overflows in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)):
        register.passes.set_data(Tensor(overflows, ms.float32))
        register.number.set_data(Tensor(0, ms.int32))
        step.scale.set_data(Tensor(1.0, ms.float32))
        for cell, part in zip((accumulate, accumulate, step), parts, strict=True):
            result = cell(*map(Tensor, part)).asnumpy()
        norm, updated = result[2], result[5]
        assert updated == (not any(overflows)) and (norm > 0 if updated else norm == -1)


@pytest.mark.parametrize("hardware", [name for name, chip in CHIPS.items() if chip.kind == "ascend"])
def test_the_register_is_read_where_the_chip_saturates(hardware):
    values = {"device": "ascend", "parallel": {"hardware": hardware}, "training": {"steps": 1, "precision": "fp16"}}
    settings = step_settings(build_run_config(values), [], None)
    assert settings.saturates == (hardware == "ascend910") == CHIPS[hardware].saturates
    assert not step_settings(build_run_config({"training": {"steps": 1}}), [], None).saturates


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_only_fp16_has_a_loss_scale(precision):
    config = build_run_config({"training": {"steps": 1, "precision": precision}})
    expected = config.training.loss_scale if precision == "fp16" else None
    assert step_settings(config, [], None).loss_scale == expected


@pytest.mark.parametrize(
    ("name", "initial"),
    [("codegeex_tiny_release", 2.0**16), ("codegeex_base_8", 2.0**16), ("codegeex_13b_64_planned", 2.0**32)],
)
def test_the_first_loss_scale_is_what_the_configuration_records(name, initial):
    words = ["training.precision=fp16", "data.train=x"]
    assert load_config(name, words).to_dict()["training"]["loss_scale"]["initial"] == initial
    config = load_config(name, [*words, "training.loss_scale.initial=8"])
    assert config.training.loss_scale.initial == 8


def test_fp16_update_equals_fp32s_whatever_the_scale():
    results = []
    for scale in (1.0, 2.0**10):
        network, step, _ = compiled(loss_scale=LossScaleConfig(initial=scale))
        step(*map(Tensor, batches(1, 2)[0]))
        results.append(network.a.asnumpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


def test_an_empty_mask_neither_divides_by_zero_nor_moves():
    network, step, _ = fresh(accumulation=1, clip_norm=0.0)
    inputs, labels, mask, samples = batches(1, 2)[0]
    before = network.a.asnumpy().copy()
    loss, count, *_ = step(*map(Tensor, (inputs, labels, mask * 0, samples))).asnumpy().tolist()
    assert (loss, count) == (0.0, 0.0)
    np.testing.assert_array_equal(before, network.a.asnumpy())
