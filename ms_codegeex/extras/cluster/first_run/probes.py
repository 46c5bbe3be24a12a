"""One small computation for each kind of kernel in a run's graph, with its NumPy twin in float64.

The gradients of the twin are differences of it, so a kernel and its gradient are compared with one formula. `tried`
computes on the device that MindSpore is set to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple

from ms_codegeex.config.sections import LossScaleConfig, OptimizerConfig, ScheduleConfig
from ms_codegeex.models.fused import FusedAttention, FusedLayerNorm, FusedRMSNorm
from ms_codegeex.models.layers import MASKED_SCORE, Dropout, FastGelu, Heads, SampleKeys
from ms_codegeex.training.optimizer import AdamW
from ms_codegeex.training.step import StepSettings, TrainStep

TOLERANCES = {ms.float32: 1e-3, ms.float16: 4e-3, ms.bfloat16: 3e-2}  # of the largest number that is expected
DIFFERENCE = 1e-4  # of an input, for the gradients of a twin
HEAD, LENGTH = 16, 16  # the smallest that fused attention takes
EVERY_RUN = "no key: every run needs it; install CANN's kernels for this chip (docs/hardware.md)"
DROPOUT_KEY = "training.dropout=0"
DROPPED, SEED, SITE, SAMPLES = 0.25, 7, 3, (0, 5, 2**31 - 1)


@dataclass(frozen=True)
class Probe:
    """`kinds`: the kernels that it needs, forward and backward, as the back end names them. `function` takes tensors of
    `inputs`, then `rest`; `together`: the tensors as one tuple. `expected`: its twin. `key`: the override with which a
    run does without. `only_ascend`: no other device has the kernel."""

    name: str
    kinds: str
    function: Callable[..., Tensor] | None
    inputs: Sequence[np.ndarray]
    expected: Callable[..., np.ndarray] | None
    rest: tuple[Any, ...] = ()
    key: str = EVERY_RUN
    gradient: bool = True
    together: bool = False
    only_ascend: bool = False
    exact: bool = False
    check: Callable[[], str] | None = None  # instead of a twin: what is wrong, or nothing


class Called(nn.Cell):
    """A probe's function as a graph."""

    def __init__(self, probe: Probe):
        super().__init__(auto_prefix=False)
        self.function, self.rest, self.together = probe.function, probe.rest, probe.together

    def construct(self, *inputs: Tensor) -> Tensor:
        """the function's result"""
        if self.together:
            return self.function(inputs, *self.rest)
        return self.function(*inputs, *self.rest)


class ProbedGradients(nn.Cell):
    """The gradients of Σ weight · result."""

    def __init__(self, cell: nn.Cell):
        super().__init__(auto_prefix=False)
        self.cell, self.grad = cell, ops.GradOperation(get_all=True, sens_param=True)

    def construct(self, weight: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.grad(self.cell)(*inputs, weight)


def tried(probe: Probe) -> str:
    """What is wrong with the kernels of a probe; empty if nothing is. An error of the engine goes on."""
    if probe.check is not None:
        return probe.check()
    tensors = [Tensor(x) for x in probe.inputs]
    arrays = [_wide(x) for x in tensors]
    cell, result = Called(probe), probe.expected(*arrays)
    output = cell(*tensors)
    problem = _difference("forward", _wide(output), result, 0.0 if probe.exact else TOLERANCES.get(output.dtype, 0.0))
    if problem or not probe.gradient:
        return problem
    weight = Tensor(np.random.default_rng(1).uniform(0.5, 1.5, result.shape).astype(np.float32)).astype(output.dtype)
    gradients = ProbedGradients(cell)(weight, *tensors)
    for i, (tensor, gradient) in enumerate(zip(tensors, gradients, strict=True)):
        if tensor.dtype in TOLERANCES:
            wanted = _slopes(probe.expected, arrays, i, _wide(weight))
            problem = problem or _difference("backward", _wide(gradient), wanted, TOLERANCES[tensor.dtype])
    return problem


def _wide(x: Tensor) -> np.ndarray:
    return (x.astype(ms.float32) if x.dtype == ms.bfloat16 else x).asnumpy().astype(np.float64)


def _difference(direction: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> str:
    if found.shape != expected.shape:
        return f"{direction}: shape {found.shape}, expected {expected.shape}"
    worst = float(np.max(np.abs(found - expected))) if found.size else 0.0
    share = worst / (float(np.max(np.abs(expected))) or 1.0)
    return "" if share <= tolerance else f"{direction}: off by {share:.1e} of the largest number, allowed {tolerance:g}"


def _slopes(twin: Callable[..., np.ndarray], arrays: list[np.ndarray], index: int, weight: np.ndarray) -> np.ndarray:
    slopes = np.empty_like(arrays[index])
    for place in np.ndindex(slopes.shape):
        sides = []
        for step in (DIFFERENCE, -DIFFERENCE):
            moved = arrays[index].copy()
            moved[place] += step
            sides.append(float(np.sum(weight * twin(*arrays[:index], moved, *arrays[index + 1 :]))))
        slopes[place] = (sides[0] - sides[1]) / (2 * DIFFERENCE)
    return slopes


class _Assigned(nn.Cell):
    """A parameter that takes a value, and then another one more."""

    def __init__(self):
        super().__init__()
        self.held = Parameter(Tensor(np.zeros((4, 8), np.float32)), name="held")

    def construct(self, x: Tensor) -> Tensor:
        x = ops.depend(x, ops.assign(self.held, x))
        return ops.depend(self.held, ops.assign_add(self.held, x)) + 0.0


class _OfTheNetwork(nn.Cell):
    """Cells whose only operands are their input and what they hold."""

    def __init__(self, cell: nn.Cell, *rest: Any):
        super().__init__()
        self.cell, self.rest = cell.set_train(), rest

    def construct(self, x: Tensor) -> Tensor:
        return self.cell(x, *self.rest)


class _Masked(nn.Cell):
    """Ones, of which a dropout keeps some."""

    def __init__(self):
        super().__init__()
        self.keys, self.dropout = SampleKeys(), Dropout(DROPPED, (8, 16), SITE, SEED)

    def construct(self, samples: Tensor, ones: Tensor) -> Tensor:
        """int32 [batch], [batch, 8, 16] -> 1 where an element stays"""
        return self.dropout.kept(ones, self.keys(samples))


class _Attended(nn.Cell):
    """Fused attention of one sample with a causal mask."""

    def __init__(self, dtype: ms.Type, dropped: float):
        super().__init__()
        dropout = Dropout(dropped, (2, LENGTH, LENGTH), SITE, SEED)
        self.core = FusedAttention(Heads(2, HEAD, 2), dtype, ms.float32, dropout).set_train()
        self.keys, self.mask = SampleKeys(), Tensor(MASKED_SCORE * np.triu(np.ones((LENGTH, LENGTH), np.float32), 1))

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[1, 2, seq, d] each -> the same"""
        return self.core.attend(q, k, v, self.mask, self.keys(Tensor([5], ms.int32)))


class _OneWeight(nn.Cell):
    """A network with one weight w, FP16 products: [Σ w x, rows, 0]."""

    def __init__(self, dtype: ms.Type):
        super().__init__()
        self.weight, self.dtype = Parameter(Tensor([0.5], ms.float32), name="weight"), dtype

    def construct(self, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor) -> Tensor:
        """FP32 [3]"""
        product = ops.cast(inputs, self.dtype) * ops.cast(self.weight, self.dtype)
        loss = ops.ReduceSum()(ops.cast(product, ms.float32) * loss_mask)
        return ops.stack((loss, ops.ReduceSum()(loss_mask), Tensor(0.0, ms.float32)))


def _updated(dtype: ms.Type, saturates: bool, scale: float) -> tuple[float, float, float]:
    network = _OneWeight(dtype)
    schedule = ScheduleConfig(learning_rate=0.25, end_learning_rate=0.25, warmup_steps=0).over(10)
    optimizer = AdamW(network.trainable_params(), OptimizerConfig(), schedule, fused=False)
    scaling = LossScaleConfig(initial=scale) if dtype == ms.float16 else None
    step = TrainStep(network, optimizer, StepSettings(4, loss_scale=scaling, saturates=saturates, guarded=True))
    step.set_train()
    ones = Tensor(np.ones((1, 4), np.float32))
    result = step(ones, Tensor(np.zeros((1, 4), np.int32)), ones, Tensor([0], ms.int32)).asnumpy()
    return float(network.weight.asnumpy()[0]), float(result[5]), float(step.scale.asnumpy())


def _overflow(dtype: ms.Type, saturates: bool) -> str:
    """A step whose FP16 gradient overflows changes no weight and lowers the loss scale; another one updates."""
    weight, updated, _ = _updated(dtype, saturates, 1024.0)
    if not updated or weight == 0.5:
        return "a step without an overflow did not update the weight"
    if dtype != ms.float16:
        return ""
    weight, updated, scale = _updated(dtype, saturates, 2.0**40)
    if updated or weight != 0.5:
        return "a gradient that overflowed was not seen, and the weight was updated"
    return "" if scale == 2.0**39 else f"the loss scale after an overflow is {scale:g}, expected {2.0**39:g}"


def _adamw(fused: bool, aclnn: bool) -> str:
    rng, rate = np.random.default_rng(2), 0.01
    weights = [rng.normal(size=(4, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)]
    parameters = [Parameter(Tensor(w), name=n) for w, n in zip(weights, ("matrix", "bias"), strict=True)]
    schedule = ScheduleConfig(learning_rate=rate, end_learning_rate=rate, warmup_steps=0).over(10)
    config = OptimizerConfig()
    optimizer = AdamW(parameters, config, schedule, fused=fused, aclnn=aclnn)
    wanted = [w.astype(np.float64) for w in weights]
    moments = [[np.zeros(w.shape), np.zeros(w.shape)] for w in weights]
    for _ in range(2):
        gradients = [rng.normal(size=w.shape).astype(np.float32) for w in weights]
        optimizer(tuple(map(Tensor, gradients)))
        for w, g, both, decay in zip(wanted, gradients, moments, (config.weight_decay, 0.0), strict=True):
            both[0] = config.beta1 * both[0] + (1 - config.beta1) * g
            both[1] = config.beta2 * both[1] + (1 - config.beta2) * g.astype(np.float64) ** 2
            w -= rate * (both[0] / (np.sqrt(both[1]) + config.epsilon) + decay * w)
    found = ParameterTuple(parameters)
    differences = (_difference("update", _wide(p), w, 1e-5) for p, w in zip(found, wanted, strict=True))
    return next(filter(None, differences), "")


def dropout_twin(samples: np.ndarray, shape: tuple[int, ...] = (8, 16), site: int = SITE) -> np.ndarray:
    """Which elements of [batch, *shape] a dropout of `DROPPED` keeps: 1 or 0. The formula of `layers.Dropout`, in
    unsigned integers of NumPy."""
    h = samples.astype(np.uint32) * np.uint32(0x27D4EB2F)
    for bits, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)) * 2:
        h = (h ^ (h.view(np.int32) >> bits).view(np.uint32)) * np.uint32(factor)
    h = (h | np.uint32(1)).reshape(-1, *[1] * len(shape))
    raw = (np.random.PCG64([SEED, site]).random_raw(sum(shape)) >> np.uint64(32)).astype(np.uint32)
    *lines, columns = np.split(raw, np.cumsum(shape)[:-1])
    for i, line in enumerate(lines):
        h = h ^ (line & np.uint32(0xFFFFFFFE)).reshape(-1, *[1] * (len(lines) - i))
    product = (h * (columns | np.uint32(1))).view(np.int32)
    return (product >= int(DROPPED * 2**32) - 2**31).astype(np.float64)


def _attention_twin(dropped: bool) -> Callable[..., np.ndarray]:
    kept = dropout_twin(np.array([5], np.int32), (2, LENGTH, LENGTH)) / (1 - DROPPED) if dropped else 1.0
    hidden = np.triu(np.full((LENGTH, LENGTH), -np.inf), 1)

    def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        scores = np.exp(q @ k.swapaxes(-1, -2) / np.sqrt(HEAD) + hidden)
        return (scores / scores.sum(-1, keepdims=True) * kept) @ v

    return attention


def _softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def _of_integers(twin: Callable[..., np.ndarray], *given: np.ndarray) -> np.ndarray:
    """A twin of int32 numbers, which are given in float64; overflows wrap around."""
    return twin(*(x.astype(np.int64).astype(np.int32) for x in given))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _normalised(x: np.ndarray, centre: bool) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True) if centre else x
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def probes(dtype: ms.Type, saturates: bool, fused: Sequence[str]) -> Iterator[Probe]:
    """All of them, for a run with products in `dtype`, on a chip that `saturates` or not. `fused`: `chosen_kernels`."""
    rng = np.random.default_rng(0)
    half = {ms.float16: np.float16, ms.float32: np.float32}.get(dtype)

    def values(*shape: int, narrow: bool = False, positive: bool = False) -> Any:
        x = rng.uniform(0.25, 2.0, shape).astype(np.float32) * (1 if positive else rng.choice([-1, 1], shape))
        x = x.astype(np.float32)
        if not narrow:
            return x
        return x.astype(half) if half else Tensor(x).astype(dtype)

    x, y, positive = values(4, 8), values(4, 8), values(4, 8, positive=True)
    ints = rng.integers(-(2**31), 2**31 - 1, (4, 8)).astype(np.int32)
    others, indices = ints[::-1].copy(), np.array([[2, 0], [3, 2]], np.int32)
    sums = "ReduceSum SumExt"
    matrices = values(8, 16, narrow=True), values(4, 16, narrow=True)
    yield Probe("MatMul", "MatMul", ops.MatMul(False, True), matrices, lambda a, b: a @ b.T)
    batches = values(2, 4, 8, narrow=True), values(2, 4, 8, narrow=True)
    yield Probe("BatchMatMul", "BatchMatMul", ops.BatchMatMul(False, True), batches, lambda a, b: a @ b.swapaxes(1, 2))
    for name, operator, twin in (
        ("Add", ops.Add(), np.add),
        ("Sub", ops.Sub(), np.subtract),
        ("Mul", ops.Mul(), np.multiply),
        ("Maximum", ops.Maximum(), np.maximum),
        ("Minimum", ops.Minimum(), np.minimum),
    ):
        yield Probe(name, name, operator, (x, y), twin)
        yield Probe(f"{name}, broadcast", f"{name} {sums} BiasAddGrad", operator, (x, y[0]), twin)
    yield Probe("Div", "Div RealDiv Reciprocal", ops.Div(), (x, positive), np.divide)
    yield Probe("Mul by a number", "Muls", ops.Mul(), (x,), lambda a: a * 0.75, rest=(0.75,))
    yield Probe("Div by a number", "Divs", ops.Div(), (x,), lambda a: a / 3, rest=(3.0,))
    yield Probe("Pow", "Pow", ops.Pow(), (positive,), lambda a: a**3, rest=(3.0,), gradient=False)
    for name, operator, twin, kinds in (
        ("Neg", ops.Neg(), np.negative, "Neg"),
        ("Square", ops.Square(), np.square, "Square"),
        ("Exp", ops.Exp(), np.exp, "Exp"),
        ("Cos", ops.Cos(), np.cos, "Cos Sin"),
        ("Sigmoid", ops.Sigmoid(), _sigmoid, "Sigmoid SigmoidGrad"),
        ("GeLU", ops.GeLU(), lambda a: a * _sigmoid(2 * np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)), "GeLU GeLUGrad"),
    ):
        yield Probe(name, kinds, operator, (x,), twin)
    for name, operator, twin, kinds in (
        ("Log", ops.Log(), np.log, "Log"),
        ("Sqrt", ops.Sqrt(), np.sqrt, "Sqrt SqrtGrad"),
        ("Rsqrt", ops.Rsqrt(), lambda a: 1 / np.sqrt(a), "Rsqrt RsqrtGrad"),
    ):
        yield Probe(name, kinds, operator, (positive,), twin)
    softmax, fused_softmax = "Softmax SoftmaxBackward SoftmaxGrad", "parallel.fusion.attention=true"
    yield Probe("Softmax", softmax, ops.Softmax(-1), (x,), _softmax, key=fused_softmax)
    yield Probe("ReduceSum", sums, ops.ReduceSum(), (x,), lambda a: a.sum(-1), (-1,))
    mean, maximum = (lambda a: a.mean(-1, keepdims=True)), (lambda a: a.max(-1, keepdims=True))
    yield Probe("ReduceMean", "ReduceMean MeanExt", ops.ReduceMean(True), (x,), mean, (-1,))
    yield Probe("ReduceMax", "ReduceMax", ops.ReduceMax(True), (x,), maximum, (-1,), gradient=False)
    for name, operator, twin in (
        ("Equal", ops.Equal(), np.equal),
        ("Less", ops.Less(), np.less),
        ("Greater", ops.Greater(), np.greater),
        ("GreaterEqual", ops.GreaterEqual(), np.greater_equal),
    ):
        yield Probe(name, name, operator, (x, np.where(y > 0, x, y)), twin, gradient=False)
    yield Probe("Less than a number", "LessScalar", ops.Less(), (x,), lambda a: a < 0.5, rest=(0.5,), gradient=False)
    both = x > 0, y > 0
    yield Probe("LogicalAnd", "LogicalAnd", ops.LogicalAnd(), both, lambda a, b: (a > 0) & (b > 0), gradient=False)
    infinite = np.array([1.0, np.inf, -np.inf, np.nan], np.float32)
    if not saturates:
        yield Probe("IsFinite", "IsFinite", ops.IsFinite(), (infinite,), np.isfinite, gradient=False)
    yield Probe("Select", "Select ZerosLike", ops.Select(), (x > 0, x, y), lambda c, a, b: np.where(c > 0, a, b))
    axes = (0, 2, 1, 3)
    yield Probe("Transpose", "Transpose", ops.Transpose(), (values(2, 3, 4, 5),), lambda a: a.transpose(axes), (axes,))
    yield Probe("Tile", "Tile", ops.Tile(), (x,), lambda a: np.tile(a, (1, 3)), rest=((1, 3),))
    broadcast = ops.BroadcastTo((4, 8))
    yield Probe("BroadcastTo", f"BroadcastTo {sums}", broadcast, (y[:1],), lambda a: np.broadcast_to(a, (4, 8)))
    yield Probe("ExpandDims", "ExpandDims Reshape", ops.ExpandDims(), (x,), lambda a: a[:, None], rest=(1,))
    concat, joined = "Concat SplitWithSize Split Slice", (lambda a, b: np.concatenate((a, b), 1))
    yield Probe("Concat", concat, ops.Concat(1), (x, y), joined, together=True)
    yield Probe("Stack", "Stack Unstack", ops.Stack(0), (x, y), lambda a, b: np.stack((a, b)), together=True)
    yield Probe("AddN", "AddN", ops.AddN(), (x, y, positive), lambda a, b, c: a + b + c, together=True)
    strided, every = "StridedSlice StridedSliceGrad", ((1, 2), (3, 8), (1, 2))
    yield Probe("StridedSlice", strided, ops.StridedSlice(), (x,), lambda a: a[1:3, 2:8:2], every)
    gather = "Gather UnsortedSegmentSum EmbeddingDenseGrad"
    yield Probe("Gather", gather, ops.Gather(), (x, indices), lambda a, i: a[i.astype(int)], (0,))
    five, one_hot = (5, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)), (lambda i: np.eye(5)[i.astype(int)])
    yield Probe("OneHot", "OneHot OneHotExt", ops.OneHot(), (indices,), one_hot, five, gradient=False)
    reset, before = "data.reset_at_eos=false", (lambda a: a.cumsum(1) - a)
    yield Probe("CumSum", "CumSum CumsumExt", ops.CumSum(True), (x,), before, (1,), reset, gradient=False)
    yield Probe("Cast", "Cast", ops.Cast(), (x,), lambda a: a, rest=(dtype,))
    yield Probe("Assign", "Assign AssignAdd", _Assigned(), (x,), lambda a: 2 * a, gradient=False)
    pairs = values(4, 4, 2)
    yield Probe("ReverseV2", "ReverseV2", ops.ReverseV2([2]), (pairs,), lambda a: a[..., ::-1])
    dropout = {"key": DROPOUT_KEY, "gradient": False, "exact": True}
    for name, kind, operator, second, twin in (
        ("Mul of integers, modulo 2^32", "Mul", ops.Mul(), others, np.multiply),
        ("RightShift", "RightShift", ops.RightShift(), np.full_like(ints, 12), np.right_shift),
        ("BitwiseXor", "BitwiseXor", ops.BitwiseXor(), others, np.bitwise_xor),
        ("BitwiseOr", "BitwiseOr", ops.BitwiseOr(), others, np.bitwise_or),
    ):
        yield Probe(name, kind, operator, (ints, second), partial(_of_integers, twin), **dropout)
    masked = np.array(SAMPLES, np.int32), np.ones((len(SAMPLES), 8, 16), np.float32)
    yield Probe("a mask of dropout", "", _Masked(), masked, lambda s, _: dropout_twin(s.astype(np.int64)), **dropout)
    norm = "LayerNorm LayerNormGrad LayerNormV3 LayerNormGradV3 LayerNormExt LayerNormGradExt"
    newer, composed = "aclnn_norm" in fused, "parallel.fusion.norm=false"
    cell = _OfTheNetwork(FusedLayerNorm(8, 1e-5, ms.float32, newer))
    yield Probe("LayerNorm", norm, cell, (x,), lambda a: _normalised(a, True), key=composed, only_ascend=newer)
    kinds, cell = "RmsNorm RmsNormGrad", _OfTheNetwork(FusedRMSNorm(8, 1e-5, ms.float32))
    yield Probe("RmsNorm", kinds, cell, (x,), lambda a: _normalised(a, False), key=composed, only_ascend=True)
    yield from _attention_probes(dtype, values)
    adamw = "AdamApplyOneWithDecayAssign AdamWeightDecay AdamW" if "optimizer" in fused else ""
    updates = partial(_adamw, "optimizer" in fused, "aclnn_optimizer" in fused)
    yield Probe("AdamW", adamw, None, (), None, key="parallel.fusion.optimizer=false", check=updates)
    chain, key = "a chain of element-wise operators", "parallel.fusion.graph_kernel=false"
    yield Probe(chain, "", _OfTheNetwork(FastGelu()), (x,), lambda a: a * _sigmoid(1.702 * a), key=key)
    register = "NPUGetFloatStatusV2 NPUClearFloatStatusV2" if saturates else ""
    key, check = "training.precision=bf16, where the chip has it", partial(_overflow, dtype, saturates)
    yield Probe("a step that overflows", register, None, (), None, key=key, check=check)


def _attention_probes(dtype: ms.Type, values: Callable[..., Any]) -> Iterator[Probe]:
    if dtype == ms.float32:
        return
    inputs = [values(1, 2, LENGTH, HEAD, narrow=True) for _ in range(3)]
    kinds, key = "FlashAttentionScore FlashAttentionScoreGrad", "parallel.fusion.attention=false"
    for name, dropped in (("FlashAttentionScore", 0.0), ("FlashAttentionScore with dropout", DROPPED)):
        twin = _attention_twin(dropped > 0)
        yield Probe(name, kinds, _Attended(dtype, dropped), inputs, twin, key=key, only_ascend=True)
