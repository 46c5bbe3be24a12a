import functools
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ms_codegeex.config.loading import load_config
from ms_codegeex.config.sections import OptimizerConfig, ScheduleConfig
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.training.optimizer import AdamW, WarmupCosine, decays, learning_rate

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
PAPER = ScheduleConfig()


@functools.cache
def on_device(schedule):
    """The schedule's cell, compiled once for all steps."""
    return WarmupCosine(schedule)


def device_rate(schedule, step):
    return float(on_device(schedule)(Tensor(step, ms.int32)).asnumpy())


def paper_rate(step):
    """The release's formula, literally."""
    if step < 2000:
        return 1e-4 * step / 2000
    return 1e-6 + 0.5 * (1e-4 - 1e-6) * (1 + math.cos(math.pi * min(step, 200000) / 200000))


@pytest.mark.parametrize("step", [0, 1, 1999, 2000, 2001, 100_000, 199_999, 200_000, 213_000])
def test_learning_rate_is_the_releases_formula(step):
    assert float(learning_rate(step, PAPER)) == pytest.approx(paper_rate(step), rel=1e-12)
    assert device_rate(PAPER, step) == pytest.approx(paper_rate(step), rel=1e-3, abs=1e-11)


def jaxformer_rate(step):
    """CodeGen's published schedule, literally: a line, half a cosine over its own steps, then flat."""
    if step < 3000:
        return 3e-4 * step / 3000
    return 3e-5 + 0.5 * (3e-4 - 3e-5) * (1 + math.cos(math.pi * min((step - 3000) / 300_000, 1)))


@pytest.mark.parametrize("step", [0, 1, 2999, 3000, 3001, 153_000, 302_999, 303_000, 349_999])
def test_learning_rate_is_codegens_formula(step):
    schedule = load_config("codegen_350m_nl").training.schedule
    assert float(learning_rate(step, schedule)) == pytest.approx(jaxformer_rate(step), rel=1e-12)
    assert device_rate(schedule, step) == pytest.approx(jaxformer_rate(step), rel=1e-3, abs=1e-11)


def test_cosine_does_not_restart_after_the_warm_up():
    """A restarting cosine would be at its peak at step 2000; on one shared axis it has already fallen a little."""
    assert float(learning_rate(2000, PAPER)) < 1e-4 * (1 - 1e-5)


def test_no_warm_up_starts_at_the_peak():
    schedule = ScheduleConfig(1e-2, 1e-3, 0, 10)
    assert device_rate(schedule, 0) == pytest.approx(1e-2)


def test_decay_spares_exactly_norms_and_biases():
    names = CodeGeeXConfig(num_layers=1).parameter_shapes()
    decayed = {name for name in names if decays(name)}
    assert {
        "embedding.word.weight",
        "embedding.position.weight",
        "top_query_embedding.weight",
        "blocks.0.attention.output.weight",
        "top_query_layer.feed_forward.down.weight",
    } <= decayed
    assert len(decayed) == 3 + 2 * 6
    assert all(name.endswith("bias") or "norm" in name for name in set(names) - decayed)


class Update(nn.Cell):
    """The optimizer for gradients that are inputs one by one: a tuple would be a constant, compiled in every step."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, *gradients):
        if self.optimizer.scales:
            return self.optimizer(gradients, Tensor(1.0, ms.float32))
        return self.optimizer(gradients)


def numpy_adamw(weights, gradients, config, rates, names):
    """Decoupled weight decay (Loshchilov & Hutter, algorithm 2) in float64."""
    weights = [w.astype(np.float64) for w in weights]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t, (step_gradients, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        for i, g in enumerate(step_gradients):
            m[i] = config.beta1 * m[i] + (1 - config.beta1) * g
            v[i] = config.beta2 * v[i] + (1 - config.beta2) * g * g
            first, second = (1 - config.beta1**t, 1 - config.beta2**t) if config.bias_correction else (1, 1)
            decay = config.weight_decay if decays(names[i]) else 0.0
            weights[i] -= rate * (m[i] / first / (np.sqrt(v[i] / second) + config.epsilon) + decay * weights[i])
    return weights, m, v


@pytest.mark.parametrize(
    ("fused", "correct"),
    [
        (True, False),
        ("compiled", True),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param("compiled", False, marks=pytest.mark.slow),
    ],
)
def test_updates_equal_the_formula_in_float64(fused, correct):
    generator = np.random.default_rng(0)
    config, schedule = OptimizerConfig(bias_correction=correct), ScheduleConfig(1e-2, 1e-3, 2, 10)
    names, shapes = ("w.weight", "w.bias", "norm.weight"), ((4, 3), (4,), (3,))
    start = [generator.normal(size=s).astype(np.float32) for s in shapes]
    parameters = [Parameter(Tensor(x), name=n) for x, n in zip(start, names, strict=True)]
    gradients = [[generator.normal(size=s).astype(np.float32) for s in shapes] for _ in range(6)]
    library = library_path() if fused == "compiled" else ""
    if library is None:
        pytest.skip("no C++ compiler")
    optimizer = AdamW(parameters, config, schedule, bool(fused), str(library))
    update, rates = Update(optimizer), []
    for step, values in enumerate(gradients):
        rates.append(float(update(*map(Tensor, values)).asnumpy()))
        assert rates[-1] == pytest.approx(float(learning_rate(step, schedule)), rel=1e-5, abs=1e-9)
    assert int(optimizer.step.asnumpy()) == 6
    weights, m, v = numpy_adamw(start, gradients, config, rates, names)
    for i, parameter in enumerate(parameters):
        np.testing.assert_allclose(parameter.asnumpy(), weights[i], atol=2e-6)
        np.testing.assert_allclose(optimizer.m[i].asnumpy(), m[i], atol=1e-6)
        np.testing.assert_allclose(optimizer.v[i].asnumpy(), v[i], atol=1e-6)


def test_with_bias_correction_it_is_pytorchs_adamw():
    torch = pytest.importorskip("torch")
    from torch.optim.adamw import adamw

    generator = np.random.default_rng(1)
    start = generator.normal(size=(5, 2)).astype(np.float32)
    parameter, peer = Parameter(Tensor(start), name="w.weight"), torch.tensor(start)
    ours = Update(AdamW([parameter], OptimizerConfig(bias_correction=True), ScheduleConfig(1e-2, 1e-2, 0, 10)))
    moments, steps = [[torch.zeros(5, 2)], [torch.zeros(5, 2)], []], [torch.tensor(0.0)]
    settings = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
    for _ in range(5):
        gradient = generator.normal(size=(5, 2)).astype(np.float32)
        ours(Tensor(gradient))
        # what the optimizer's class calls; the class itself would load PyTorch's compiler
        adamw(
            [peer], [torch.tensor(gradient)], *moments, steps, foreach=False, amsgrad=False, maximize=False, **settings
        )
    np.testing.assert_allclose(parameter.asnumpy(), peer.numpy(), atol=1e-6)
