"""AdamW, Muon, and their learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple
from mindspore.ops.auto_generate import AdamW as NewAdamW
from mindspore.ops.signature import make_sig, sig_rw

from ms_codegeex.config.schedule import Transition, learning_rate
from ms_codegeex.config.sections import OptimizerConfig, ScheduleConfig
from ms_codegeex.parallel.sharding import NEWTON_SCHULZ_STEPS

FAR_STEP = 10**6  # powers of both betas are 0 in FP32 there
NEWTON_SCHULZ_QUINTIC = 3.4445, -4.7750, 2.0315  # Jordan, Muon
ADAMW_UPDATE_RMS = 0.2  # Liu et al., Muon is Scalable for LLM Training, arXiv:2502.16982, section 2


class WarmupDecay(nn.Cell):
    """The learning-rate schedule, computed on the device in FP32."""

    def __init__(self, schedule: ScheduleConfig, transition: Transition | None = None):
        super().__init__()
        self.line = transition
        if transition:
            self.first, self.joined = float(transition.step), float(transition.step + transition.steps)
            self.rate = transition.rate
            self.slope = (learning_rate(transition.step + transition.steps, schedule) - self.rate) / transition.steps
        self.peak, self.end = schedule.learning_rate, schedule.end_learning_rate
        self.warmup, self.decay = float(schedule.warmup_steps), float(schedule.decay_steps)
        self.begin = self.warmup if schedule.cosine_after_warmup else 0.0
        self.linear, self.cos = schedule.decay == "linear", ops.Cos()

    def construct(self, step: Tensor) -> Tensor:
        """int32 scalar -> FP32 scalar."""
        step = ops.cast(step, ms.float32)
        if self.line is None:
            return self._scheduled(step)
        return ops.select(step < self.joined, self.rate + self.slope * (step - self.first), self._scheduled(step))

    def _scheduled(self, step: Tensor) -> Tensor:
        passed = ops.minimum(ops.maximum(step - self.begin, 0.0), self.decay)
        cosine = 0.5 * (1.0 + self.cos(passed * (math.pi / self.decay)))
        share = 1.0 - passed / self.decay if self.linear else cosine
        decayed = self.end + (self.peak - self.end) * share
        if self.warmup == 0:
            return decayed
        return ops.select(step < self.warmup, step * (self.peak / self.warmup), decayed)


def decays(name: str) -> bool:
    return not ("norm" in name.lower() or "bias" in name.lower())


# Mapped over the parameters: a loop would nest one call for each parameter, and MindSpore allows 1,000.
# `hyper`: learning rate, beta1, beta2, epsilon, factor of the decay, number of the step.
def _fused_adamw(
    kernel: ops.Primitive,
    hyper: tuple,
    decay: float,
    parameter: Parameter,
    m: Parameter,
    v: Parameter,
    gradient: Tensor,
) -> Tensor:
    rate, beta1, beta2, epsilon, factor, _ = hyper
    return kernel(parameter, m, v, rate, beta1, beta2, epsilon, decay * factor, gradient)[0]


def _aclnn_adamw(
    kernel: ops.Primitive,
    hyper: tuple,
    decay: float,
    parameter: Parameter,
    m: Parameter,
    v: Parameter,
    gradient: Tensor,
) -> Tensor:
    """Update one parameter with the kernel that corrects the bias by itself, for step number `hyper[5]`."""
    rate, beta1, beta2, epsilon, _, step = hyper
    return kernel(parameter, m, v, v, gradient, step, rate, beta1, beta2, decay, epsilon, False, False)[0]


def _composed_adamw(
    kernel: ops.Primitive,
    hyper: tuple,
    decay: float,
    parameter: Parameter,
    m: Parameter,
    v: Parameter,
    gradient: Tensor,
) -> Tensor:
    rate, beta1, beta2, epsilon, factor, _ = hyper
    # A pipeline drops operations on other stages' weights, and finds them only by following the weight.
    old_m, old_v = ops.depend(m, parameter), ops.depend(v, parameter)
    new_m = beta1 * old_m + (1.0 - beta1) * gradient
    new_v = beta2 * old_v + (1.0 - beta2) * gradient * gradient
    new = parameter - rate * (new_m / (ops.sqrt(new_v) + epsilon) + decay * factor * parameter)
    return ops.depend(ops.assign(parameter, new), (ops.assign(m, new_m), ops.assign(v, new_v)))


def sum_of_squares(x: Tensor) -> Tensor:
    """Return ‖x‖², FP32 []. Rows are summed first, which is faster on a CPU. `ops.L2Loss` is unsuitable: on CPU and GPU
    it adds every square to one FP32 number, and loses a tenth of a sum of 40 million (MindSpore 2.9)."""
    return ops.ReduceSum()(ops.ReduceSum()(x * x, -1))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return FP32 [rows, columns], approximately U·Vᵀ for a matrix U·S·Vᵀ, with singular values between 0.7 and 1.2.
    A matrix of zeros stays zero. From the matrix over its Frobenius norm, five quintic Newton-Schulz iterations compute
    X ← aX + (bA + cA²)X with A = XXᵀ (Jordan, Muon, kellerjordan.github.io/posts/muon). With more rows than columns,
    A = XᵀX is multiplied from the right, because it is smaller."""
    a, b, c = NEWTON_SCHULZ_QUINTIC
    norm = ops.sqrt(sum_of_squares(matrix))
    x = matrix / ops.maximum(norm, 1e-7)
    tall = matrix.shape[0] > matrix.shape[1]
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = ops.MatMul(transpose_a=tall, transpose_b=not tall)(x, x)
        polynomial = b * square + c * ops.MatMul()(square, square)
        x = a * x + (ops.MatMul()(x, polynomial) if tall else ops.MatMul()(polynomial, x))
    return x


def _muon(hyper: tuple, decay: float, scale: float, parameter: Parameter, m: Parameter, gradient: Tensor) -> Tensor:
    rate, momentum = hyper
    new_m = momentum * m + (1.0 - momentum) * gradient
    direction = orthogonalised(momentum * new_m + (1.0 - momentum) * gradient)
    new = parameter - rate * (scale * direction + decay * parameter)
    return ops.depend(ops.assign(parameter, new), ops.assign(m, new_m))


def _either(
    adamw: Callable,
    kernel: ops.Primitive,
    hyper: tuple,
    of_matrices: tuple,
    decay: float,
    scale: float,
    parameter: Parameter,
    m: Parameter,
    v: Parameter,
    gradient: Tensor,
) -> Tensor:
    if scale > 0:
        return _muon(of_matrices, decay, scale, parameter, m, gradient)
    return adamw(kernel, hyper, decay, parameter, m, v, gradient)


def _compiled_kernels(library: str, changed: int, read: int) -> tuple[ops.Custom, ops.Custom]:
    shape, number = (lambda *_: [1]), (lambda *_: ms.float32)
    update, squares = (
        ops.Custom(f"{library}:{name}", out_shape=shape, out_dtype=number, func_type="aot")
        for name in ("optimize", "squares")
    )
    update.add_prim_attr("side_effect_mem", True)
    written = [make_sig(f"written_{i}", sig_rw.RW_WRITE) for i in range(changed)]
    update.set_signatures((*written, *(make_sig(f"read_{i}") for i in range(read))))
    return update, squares


class AdamW(nn.Cell):
    """Adam with decoupled weight decay, FP32 moments; for `matrices`, Muon.

    w -= lr·(m/(√v + ε) + decay·w). Without bias correction this is MindSpore's AdamWeightDecay, which the release used.
    With it, m and v are divided by 1 - β^t; the factors are folded into lr, ε and decay, so that one fused kernel
    serves both. `fused` chooses that kernel. `aclnn` chooses Ascend's newer one, which corrects the bias by itself;
    without `bias_correction` it is given `FAR_STEP`, where nothing is left to correct. With neither, elementary
    operators compute the same formula. `library`: path of the operators compiled for this CPU. One of them updates all
    parameters, with Muon too, and also scales their gradients (`scales_gradients`); another computes `square`.

    Muon (Jordan): w -= lr·(0.2·√max(rows, columns)·O + decay·w), where O is the orthogonalised momentum with Nesterov's
    correction, μm + (1-μ)g. With this scale an element moves about as far as with AdamW, so both share rate and decay
    (Liu et al.). The parameters in `matrices` are updated so; they have no second moment.
    """

    def __init__(
        self,
        parameters: list[Parameter],
        config: OptimizerConfig,
        schedule: ScheduleConfig,
        fused: bool = True,
        transition: Transition | None = None,
        matrices: Collection[str] = (),
        library: str = "",
        aclnn: bool = False,
    ):
        super().__init__(auto_prefix=False)
        self.parameters = ParameterTuple(parameters)
        self.m = self.parameters.clone(prefix="optimizer.m", init="zeros")
        with_v = ParameterTuple(p for p in parameters if p.name not in matrices)
        self.v = with_v.clone(prefix="optimizer.v", init="zeros")
        self.step = Parameter(Tensor(0, ms.int32), name="optimizer.step", requires_grad=False)
        self.decay = tuple(config.weight_decay if decays(p.name) else 0.0 for p in parameters)
        self.beta1, self.beta2, self.epsilon = config.beta1, config.beta2, config.epsilon
        self.correct = config.bias_correction
        self.schedule = WarmupDecay(schedule, transition)
        self.update, self.kernel = _fused_adamw if fused else _composed_adamw, ops.AdamWeightDecay()
        self.aclnn, self.far = fused and aclnn, Tensor(FAR_STEP, ms.int64)
        if self.aclnn:
            self.update, self.kernel = _aclnn_adamw, NewAdamW()
        self.map = ops.HyperMap()
        self.orthogonalises, self.momentum = bool(matrices), config.momentum
        self.scales = tuple(ADAMW_UPDATE_RMS * max(p.shape) ** 0.5 if p.name in matrices else 0.0 for p in parameters)
        second = dict(zip((p.name for p in with_v), self.v, strict=True))
        # the map needs one for each parameter; a matrix has no v, so its m is a placeholder that is not read
        self.second = tuple(second.get(p.name, m) for p, m in zip(parameters, self.m, strict=True))
        self.scales_gradients = bool(library)
        if self.scales_gradients:
            count, changed = len(parameters), 2 * len(parameters) + len(with_v)
            self.kernel, self.squares = _compiled_kernels(library, changed, count + 4)
            fixed = self.beta1, self.beta2, self.momentum, *NEWTON_SCHULZ_QUINTIC, NEWTON_SCHULZ_STEPS
            self.fixed = tuple(Tensor(np.array(x, np.float32)) for x in (self.decay, self.scales, fixed))

    def construct(self, gradients: tuple[Tensor, ...], factor: Tensor | None = None) -> Tensor:
        """Update the parameters in place and return the learning rate used. `gradients`: FP32, in parameter order.
        `factor`: multiplies the gradients, if the optimizer `scales_gradients`."""
        lr = self.schedule(self.step)
        rate, epsilon, relative = lr, self.epsilon, Tensor(1.0, ms.float32)
        step = self.far
        if self.aclnn and self.correct:
            step = ops.cast(self.step + 1, ms.int64)
        elif self.correct:
            t = ops.cast(self.step + 1, ms.float32)
            root = ops.sqrt(1.0 - ops.pow(Tensor(self.beta2, ms.float32), t))
            first = 1.0 - ops.pow(Tensor(self.beta1, ms.float32), t)
            rate, epsilon, relative = lr * root / first, self.epsilon * root, first / root
        if self.aclnn:
            rate = float(rate)
        hyper = (rate, self.beta1, self.beta2, epsilon, relative, step)
        if self.scales_gradients:
            settings = ops.stack((rate, epsilon * Tensor(1.0, ms.float32), relative, lr, factor))
            done = self.kernel(*self.parameters, *self.m, *self.v, *gradients, *self.fixed, settings)
        elif self.orthogonalises:
            update = ops.partial(_either, self.update, self.kernel, hyper, (lr, self.momentum))
            done = self.map(update, self.decay, self.scales, self.parameters, self.m, self.second, gradients)
        else:
            update = ops.partial(self.update, self.kernel, hyper)
            done = self.map(update, self.decay, self.parameters, self.m, self.v, gradients)
        lr = ops.depend(lr, done)
        return ops.depend(lr, ops.assign(self.step, ops.depend(self.step + 1, lr)))

    def square(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Return Σ gradient² over all gradients, an FP32 scalar, computed by the compiled operator."""
        return self.squares(*gradients)[0]
