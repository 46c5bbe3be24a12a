import functools
import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ms_codegeex.config.loading import load_config
from ms_codegeex.config.schedule import Transition, learning_rate
from ms_codegeex.config.sections import OptimizerConfig, ScheduleConfig
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.training.optimizer import AdamW, WarmupDecay, decays, orthogonalised, sum_of_squares

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
PAPER = ScheduleConfig(warmup_steps=2000, decay_steps=200_000)


@functools.cache
def on_device(schedule):
    """The schedule's cell, compiled once for all steps."""
    return WarmupDecay(schedule)


def device_rate(schedule, step):
    return float(on_device(schedule)(Tensor(step, ms.int32)).asnumpy())


def paper_rate(step):
    """The release's formula, literally."""
    if step < 2000:
        return 1e-4 * step / 2000
    return 1e-6 + 0.5 * (1e-4 - 1e-6) * (1 + math.cos(math.pi * min(step, 200000) / 200000))


def jaxformer_rate(step):
    """CodeGen's published schedule, literally: a line, half a cosine over its own steps, then flat."""
    if step < 3000:
        return 3e-4 * step / 3000
    return 3e-5 + 0.5 * (3e-4 - 3e-5) * (1 + math.cos(math.pi * min((step - 3000) / 300_000, 1)))


RELEASED = (PAPER, paper_rate, [0, 1, 1999, 2000, 2001, 100_000, 199_999, 200_000, 213_000])
CODEGEN = load_config("codegen_350m_nl").training.schedule
JAXFORMER = (CODEGEN, jaxformer_rate, [0, 1, 2999, 3000, 3001, 153_000, 302_999, 303_000, 349_999])


@pytest.mark.parametrize(("schedule", "formula", "steps"), [RELEASED, JAXFORMER], ids=["CodeGeeX", "CodeGen"])
def test_learning_rate_is_the_published_formula(schedule, formula, steps):
    expected = [formula(step) for step in steps]
    assert [float(learning_rate(step, schedule)) for step in steps] == pytest.approx(expected, rel=1e-12)
    assert [device_rate(schedule, step) for step in steps] == pytest.approx(expected, rel=1e-3, abs=1e-11)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
@pytest.mark.parametrize("after", [False, True])
def test_a_schedule_without_numbers_fits_the_run(after, decay):
    """All rates of a run of 60 updates against NumPy in float64: a tenth is warm-up, and the next update, which the run
    has not, would have the end rate."""
    steps, begin = np.arange(61.0), 6.0 if after else 0.0
    passed = np.maximum(steps - begin, 0) / (60 - begin)
    share = np.cos(np.pi / 2 * passed) ** 2 if decay == "cosine" else 1 - passed
    expected = np.where(steps < 6, 1e-4 * steps / 6, 1e-6 + (1e-4 - 1e-6) * share)
    fitted = ScheduleConfig(cosine_after_warmup=after, decay=decay).over(60)
    np.testing.assert_allclose([learning_rate(step, fitted) for step in range(61)], expected, rtol=1e-12)
    rates = [device_rate(fitted, step) for step in range(61)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-10)
    assert expected[60] == 1e-6 and expected.max() > (0.97e-4 if decay == "cosine" or after else 0.9e-4)


def test_numbers_that_are_given_stay():
    assert ScheduleConfig(warmup_steps=5, decay_steps=7).over(60) == ScheduleConfig(warmup_steps=5, decay_steps=7)
    assert ScheduleConfig().over(100_000).warmup_steps == 2000 and ScheduleConfig().over(4).warmup_steps == 0


@pytest.mark.parametrize("length", [480, 200])
def test_another_length_is_reached_in_a_line(length):
    """A run of 240 updates whose length changes at update 160: rates up to the new end against NumPy in float64."""
    before, now = (ScheduleConfig(4e-3, 2e-4).over(steps) for steps in (240, length))
    transition = Transition.between(160, before, None, now, length)
    line = (length - 160) // 10
    steps = np.arange(160.0, length)

    def cosine(step, whole):
        return 2e-4 + (4e-3 - 2e-4) * np.cos(np.pi / 2 * step / whole) ** 2

    goal = cosine(160 + line, length)
    rising = cosine(160, 240) + (goal - cosine(160, 240)) * (steps - 160) / line
    expected = np.where(steps < 160 + line, rising, cosine(steps, length))
    ours = [learning_rate(step, now, transition) for step in range(160, length)]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    cell = WarmupDecay(now, transition)
    rates = [float(cell(Tensor(step, ms.int32)).asnumpy()) for step in range(160, length)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_a_change_of_length_during_a_transition_begins_on_its_line():
    first, second, third = (ScheduleConfig(4e-3, 2e-4).over(steps) for steps in (100, 200, 400))
    earlier = Transition.between(100, first, None, second, 200)
    again = Transition.between(105, second, earlier, third, 400)
    assert again == Transition(105, learning_rate(105, second, earlier), 29)
    assert again.rate < learning_rate(105, second) and learning_rate(105, third, again) == again.rate


def test_no_warm_up_starts_at_the_peak():
    schedule = ScheduleConfig(1e-2, 1e-3, 0, 10)
    assert device_rate(schedule, 0) == pytest.approx(1e-2)


def test_decay_spares_exactly_norms_and_biases():
    names = CodeGeeXConfig(num_layers=1).parameter_shapes()
    decayed = {name for name in names if decays(name)}
    assert decayed == {name for name in names if not (name.endswith("bias") or "norm" in name)}
    assert len(decayed) == 3 + 2 * 6 and "top_query_embedding.weight" in decayed


class Update(nn.Cell):
    """The optimizer for gradients that are inputs one by one: a tuple would be a constant, compiled in every step."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, *gradients):
        if self.optimizer.scales_gradients:
            doubled = ()
            for gradient in gradients:
                doubled += (2.0 * gradient,)
            return self.optimizer(doubled, Tensor(0.5, ms.float32))
        return self.optimizer(gradients)


def compiled():
    if (path := library_path()) is None:
        pytest.skip("no C++ compiler")
    return str(path)


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
        *((True, False), ("compiled", True)),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((False, True), (True, True), (False, False), ("compiled", False))
        ),
    ],
)
def test_updates_equal_the_formula_in_float64(fused, correct):
    generator = np.random.default_rng(0)
    config, schedule = OptimizerConfig(bias_correction=correct), ScheduleConfig(1e-2, 1e-3, 2, 10)
    names, shapes = ("w.weight", "w.bias", "norm.weight"), ((4, 3), (4,), (3,))
    start = [generator.normal(size=s).astype(np.float32) for s in shapes]
    parameters = [Parameter(Tensor(x), name=n) for x, n in zip(start, names, strict=True)]
    gradients = [[generator.normal(size=s).astype(np.float32) for s in shapes] for _ in range(6)]
    optimizer = AdamW(parameters, config, schedule, bool(fused), library=compiled() if fused == "compiled" else "")
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
    settings |= {"foreach": False, "amsgrad": False, "maximize": False}
    for _ in range(5):
        gradient = generator.normal(size=(5, 2)).astype(np.float32)
        ours(Tensor(gradient))
        # what the optimizer's class calls; the class itself would load PyTorch's compiler
        adamw([peer], [torch.tensor(gradient)], *moments, steps, **settings)
    np.testing.assert_allclose(parameter.asnumpy(), peer.numpy(), atol=1e-6)


def numpy_muon(weight, gradients, rates, momentum=0.95, decay=0.1):
    """Muon (Jordan) with the scale of Liu et al. (arXiv:2502.16982), in float64, as their texts have it: a tall matrix
    is transposed."""
    w, m = weight.astype(np.float64), np.zeros(weight.shape)
    for g, rate in zip(gradients, rates, strict=True):
        m = momentum * m + (1 - momentum) * g
        x = momentum * m + (1 - momentum) * g
        x = x.T if w.shape[0] > w.shape[1] else x
        x = x / np.linalg.norm(x)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if w.shape[0] > w.shape[1] else x
        w = w - rate * (0.2 * np.sqrt(max(w.shape)) * x + decay * w)
    return w, m


MUON_SHAPES = ((6, 10), (10, 6), (6, 6))


def muon_of(generator, config, schedule, library=""):
    """Muon's update for matrices of three forms, and AdamW's for a table and a bias; start and gradients of 5 steps."""
    names, shapes = ("wide.weight", "tall.weight", "square.weight", "table", "bias"), (*MUON_SHAPES, (6, 10), (6,))
    start = [generator.normal(size=s).astype(np.float32) for s in shapes]
    parameters = [Parameter(Tensor(x), name=n) for x, n in zip(start, names, strict=True)]
    gradients = [[generator.normal(size=s).astype(np.float32) for s in shapes] for _ in range(5)]
    return AdamW(parameters, config, schedule, matrices=names[:3], library=library), start, gradients, names


@pytest.mark.parametrize("library", [str, compiled])
def test_muon_equals_its_formula_in_float64_and_leaves_the_rest_to_adamw(library):
    config, schedule = OptimizerConfig(name="muon", bias_correction=True), ScheduleConfig(1e-2, 1e-3, 2, 10)
    optimizer, start, gradients, names = muon_of(np.random.default_rng(2), config, schedule, library())
    update = Update(optimizer)
    rates = [float(update(*map(Tensor, values)).asnumpy()) for values in gradients]
    for i in range(3):
        weight, m = numpy_muon(start[i], [values[i] for values in gradients], rates)
        np.testing.assert_allclose(optimizer.parameters[i].asnumpy(), weight, atol=5e-6)
        np.testing.assert_allclose(optimizer.m[i].asnumpy(), m, atol=1e-6)
    weights, _, v = numpy_adamw(start[3:], [values[3:] for values in gradients], config, rates, names[3:])
    for i in range(2):
        np.testing.assert_allclose(optimizer.parameters[3 + i].asnumpy(), weights[i], atol=2e-6)
        np.testing.assert_allclose(optimizer.v[i].asnumpy(), v[i], atol=1e-6)
    assert [p.name for p in optimizer.v] == ["optimizer.v.table", "optimizer.v.bias"]


def test_muon_is_pytorchs():
    """PyTorch iterates in BF16, whose rounding of 2^-8 is the tolerance, of the movement."""
    torch = pytest.importorskip("torch")
    from torch.optim._muon import muon

    schedule = ScheduleConfig(1e-2, 1e-2, 0, 10)
    optimizer, start, gradients, _ = muon_of(np.random.default_rng(3), OptimizerConfig(), schedule)
    update, peers = Update(optimizer), [torch.tensor(x) for x in start[:3]]
    buffers = [torch.zeros_like(x) for x in peers]
    settings = {"lr": 1e-2, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True, "eps": 1e-7, "ns_steps": 5}
    settings |= {"ns_coefficients": (3.4445, -4.7750, 2.0315), "adjust_lr_fn": "match_rms_adamw", "has_complex": False}
    for values in gradients:
        update(*map(Tensor, values))
        muon(peers, [torch.tensor(x) for x in values[:3]], buffers, **settings)
    for i, peer in enumerate(peers):
        ours = optimizer.parameters[i].asnumpy() - start[i]
        assert np.linalg.norm(peer.numpy() - start[i] - ours) < 0.02 * np.linalg.norm(ours)
        np.testing.assert_allclose(optimizer.m[i].asnumpy(), buffers[i].numpy(), atol=1e-6)


@pytest.mark.parametrize("library", [str, compiled])
def test_muon_continues_bitwise_from_its_parameters_and_moments(library):
    def make():
        schedule = ScheduleConfig(1e-2, 1e-3, 2, 10)
        return muon_of(np.random.default_rng(5), OptimizerConfig(name="muon"), schedule, library())

    def state(optimizer):
        return [*optimizer.parameters, *optimizer.m, *optimizer.v, optimizer.step]

    (whole, _, gradients, _), (again, *_) = make(), make()
    update = Update(whole)
    for number, values in enumerate(gradients):
        if number == 3:
            for there, here in zip(state(again), state(whole), strict=True):
                there.set_data(Tensor(here.asnumpy()))
        update(*map(Tensor, values))
    resumed = Update(again)
    for values in gradients[3:]:
        resumed(*map(Tensor, values))
    for there, here in zip(state(again), state(whole), strict=True):
        np.testing.assert_array_equal(there.asnumpy(), here.asnumpy(), err_msg=here.name)


@pytest.mark.parametrize("shape", [(5,), (3, 7), (4096, 1024)])
def test_sums_of_squares_equal_float64(shape):
    """`ops.L2Loss` loses 0.4 % of four million squares here."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    assert sum_of_squares(Tensor(x)).asnumpy() == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-6)


def test_orthogonalising_keeps_singular_vectors_whatever_the_size_of_the_matrix():
    generator = np.random.default_rng(4)
    for shape in MUON_SHAPES:
        matrix = generator.normal(size=shape).astype(np.float32)
        u, _, vh = np.linalg.svd(matrix, full_matrices=False)
        for size in (1e-6, 1.0, 1e6):
            values = u.T @ orthogonalised(Tensor(matrix * np.float32(size))).asnumpy() @ vh.T
            assert np.abs(values - np.diag(np.diag(values))).max() < 1e-4
            assert np.diag(values).min() > 0.6 and np.diag(values).max() < 1.3
    assert not orthogonalised(Tensor(np.zeros((3, 4), np.float32))).asnumpy().any()


def test_the_compiled_muon_does_with_any_gradient_what_the_composed_one_does():
    """Also with gradients that have no direction: zeros, and numbers whose norm is infinite or is none."""
    generator, found = np.random.default_rng(6), []
    start = generator.normal(size=(5, 9)).astype(np.float32)
    gradients = [generator.normal(size=start.shape).astype(np.float32) * size for size in (0, 1e-9, 1, 1e30)]
    gradients += [np.where(start == start.max(), number, gradients[2]) for number in (np.inf, np.nan)]
    for library in ("", compiled()):
        parameter, bias = Parameter(Tensor(start), name="w.weight"), Parameter(Tensor(start[0]), name="w.bias")
        schedule, config = ScheduleConfig(1e-2, 1e-2, 0, 10), OptimizerConfig(name="muon", bias_correction=True)
        update = Update(AdamW([parameter, bias], config, schedule, matrices=["w.weight"], library=library))
        after = []
        for gradient in gradients:
            update(Tensor(gradient.astype(np.float32)), Tensor(start[0]))
            after.append(parameter.asnumpy().copy())
        found.append(np.array(after))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-6)
    assert np.isfinite(found[0][3]).all() and np.isnan(found[0][4]).all()
