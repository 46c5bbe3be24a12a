"""AdamW and its learning-rate schedule."""

from __future__ import annotations

import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple
from mindspore.ops.signature import make_sig, sig_rw

from ms_codegeex.config.sections import OptimizerConfig, ScheduleConfig


def learning_rate(step: int | np.ndarray, schedule: ScheduleConfig) -> np.ndarray:
    """Learning rate of update number `step` (0-based) in float64.

    step < warmup: peak·step/warmup; else end + ½(peak - end)(1 + cos(π·min(t, decay)/decay)), where t is the step, or
    with `cosine_after_warmup` the steps since the warm-up.
    """
    step = np.asarray(step, np.float64)
    peak, end, decay = schedule.learning_rate, schedule.end_learning_rate, schedule.decay_steps
    begin = schedule.warmup_steps if schedule.cosine_after_warmup else 0
    cosine = end + 0.5 * (peak - end) * (1 + np.cos(math.pi * np.clip(step - begin, 0, decay) / decay))
    return np.where(step < schedule.warmup_steps, peak * step / max(schedule.warmup_steps, 1), cosine)


class WarmupCosine(nn.Cell):
    """`learning_rate` on the device, in FP32."""

    def __init__(self, schedule: ScheduleConfig):
        super().__init__()
        self.peak, self.end = schedule.learning_rate, schedule.end_learning_rate
        self.warmup, self.decay = float(schedule.warmup_steps), float(schedule.decay_steps)
        self.begin = self.warmup if schedule.cosine_after_warmup else 0.0
        self.cos = ops.Cos()

    def construct(self, step: Tensor) -> Tensor:
        """int32 scalar -> FP32 scalar."""
        step = ops.cast(step, ms.float32)
        passed = ops.maximum(step - self.begin, 0.0) if self.begin else step
        angle = ops.minimum(passed, self.decay) * (math.pi / self.decay)
        cosine = self.end + 0.5 * (self.peak - self.end) * (1.0 + self.cos(angle))
        if self.warmup == 0:
            return cosine
        return ops.select(step < self.warmup, step * (self.peak / self.warmup), cosine)


def decays(name: str) -> bool:
    """Whether weight decay applies: not to norms and biases, but to everything else, the embedding tables included
    (CodeGeeX release)."""
    return not ("norm" in name.lower() or "bias" in name.lower())


# These are mapped over the parameters: a loop would nest one call per parameter, and the engine allows 1,000.
# `hyper`: learning rate, beta1, beta2, epsilon, factor of the decay.
def _fused_adamw(
    kernel: ops.Primitive,
    hyper: tuple,
    decay: float,
    parameter: Parameter,
    m: Parameter,
    v: Parameter,
    gradient: Tensor,
) -> Tensor:
    """Update one parameter with the fused kernel."""
    rate, beta1, beta2, epsilon, factor = hyper
    return kernel(parameter, m, v, rate, beta1, beta2, epsilon, decay * factor, gradient)[0]


def _composed_adamw(
    kernel: ops.Primitive,
    hyper: tuple,
    decay: float,
    parameter: Parameter,
    m: Parameter,
    v: Parameter,
    gradient: Tensor,
) -> Tensor:
    """Update one parameter with elementary operators."""
    rate, beta1, beta2, epsilon, factor = hyper
    # A pipeline drops operations on other stages' weights, and finds them only by following the weight.
    old_m, old_v = ops.depend(m, parameter), ops.depend(v, parameter)
    new_m = beta1 * old_m + (1.0 - beta1) * gradient
    new_v = beta2 * old_v + (1.0 - beta2) * gradient * gradient
    new = parameter - rate * (new_m / (ops.sqrt(new_v) + epsilon) + decay * factor * parameter)
    return ops.depend(ops.assign(parameter, new), (ops.assign(m, new_m), ops.assign(v, new_v)))


def _compiled_kernels(library: str, count: int) -> tuple[ops.Custom, ops.Custom]:
    """Operators for `count` parameters: the update, which changes parameters and moments; the sum of squares."""
    shape, number = (lambda *_: [1]), (lambda *_: ms.float32)
    update, squares = (
        ops.Custom(f"{library}:{name}", out_shape=shape, out_dtype=number, func_type="aot")
        for name in ("adamw", "squares")
    )
    update.add_prim_attr("side_effect_mem", True)
    written = [make_sig(f"written_{i}", sig_rw.RW_WRITE) for i in range(3 * count)]
    update.set_signatures((*written, *(make_sig(f"read_{i}") for i in range(count + 2))))
    return update, squares


class AdamW(nn.Cell):
    """Adam with decoupled weight decay, FP32 moments.

    w -= lr·(m/(√v + ε) + decay·w). Without bias correction this is MindSpore's AdamWeightDecay, which the release used.
    With it, m and v are divided by 1 - β^t; the factors are folded into lr, ε and decay, so that one fused kernel
    serves both. `fused` chooses that kernel; otherwise elementary operators compute the same formula. `library`: the
    path of operators that are compiled for this CPU, one of which takes the place of both for all parameters and also
    scales their gradients (`scales`), and one computes `square`.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        config: OptimizerConfig,
        schedule: ScheduleConfig,
        fused: bool = True,
        library: str = "",
    ):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.m = self.parameters.clone(prefix="optimizer.m", init="zeros")
        self.v = self.parameters.clone(prefix="optimizer.v", init="zeros")
        self.step = Parameter(Tensor(0, ms.int32), name="optimizer.step", requires_grad=False)
        self.decay = tuple(config.weight_decay if decays(p.name) else 0.0 for p in parameters)
        self.beta1, self.beta2, self.epsilon = config.beta1, config.beta2, config.epsilon
        self.correct = config.bias_correction
        self.schedule = WarmupCosine(schedule)
        self.update, self.kernel = _fused_adamw if fused else _composed_adamw, ops.AdamWeightDecay()
        self.scales, self.map = bool(library), ops.HyperMap()
        if library:
            self.kernel, self.squares = _compiled_kernels(library, len(parameters))
            self.decays = Tensor(np.array(self.decay, np.float32))

    def construct(self, gradients: tuple[Tensor, ...], factor: Tensor | None = None) -> Tensor:
        """FP32 gradients in the parameters' order -> the learning rate used; updates in place. `factor`: of the
        gradients, where the optimizer `scales` them."""
        lr = self.schedule(self.step)
        rate, epsilon, relative = lr, self.epsilon, Tensor(1.0, ms.float32)
        if self.correct:
            t = ops.cast(self.step + 1, ms.float32)
            root = ops.sqrt(1.0 - ops.pow(Tensor(self.beta2, ms.float32), t))
            first = 1.0 - ops.pow(Tensor(self.beta1, ms.float32), t)
            rate, epsilon, relative = lr * root / first, self.epsilon * root, first / root
        if self.scales:
            settings = self._packed(rate, epsilon, relative, factor)
            done = self.kernel(*self.parameters, *self.m, *self.v, *gradients, self.decays, settings)
        else:
            hyper = rate, self.beta1, self.beta2, epsilon, relative
            update = ops.partial(self.update, self.kernel, hyper)
            done = self.map(update, self.decay, self.parameters, self.m, self.v, gradients)
        lr = ops.depend(lr, done)
        return ops.depend(lr, ops.assign(self.step, ops.depend(self.step + 1, lr)))

    def square(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Σ gradient² over all of them, FP32 scalar, by the compiled operator"""
        return self.squares(*gradients)[0]

    def _packed(self, rate: Tensor, epsilon: float | Tensor, relative: Tensor, factor: Tensor) -> Tensor:
        """The operator's settings."""
        values = ()
        for value in (rate, self.beta1, self.beta2, epsilon, relative, factor):
            values += (value * Tensor(1.0, ms.float32),)
        return ops.stack(values)
