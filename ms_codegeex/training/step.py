"""The one train step: gradients, reduction, overflow check, clipping, conditional update, loss scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from ms_codegeex.config.sections import LossScaleConfig
from ms_codegeex.parallel.sharding import GRADIENT_SUMS
from ms_codegeex.training.optimizer import sum_of_squares
from ms_codegeex.training.overflow import OVERFLOWED, OverflowRegister


@dataclass(frozen=True)
class StepSettings:
    """Settings of a train step, apart from network and optimizer.

    Attributes:
        slots: token slots of one micro-batch, a constant that keeps FP16 gradients of the *summed* loss in range.
        accumulation: parts of a batch that the host feeds: micro-batches, all but the last through `AccumulateStep`; or
            with `graph_micro_batches` calls of `TrainStep`, of which the last one updates.
        graph_micro_batches: micro-batches into which the network splits its input itself.
        world: devices over which the sums of a step are reduced.
        reduce_gradients: whether the step reduces gradients; otherwise MindSpore does, in the network's gradient.
        summed: for each parameter, whether its sum over micro-batches is in its buffer; otherwise the network's
            gradient returns it, reduced from the buffer. None: all are in buffers.
        weights: for each parameter, 1 / number of devices that hold an element of its gradient; None: 1 / `world`.
        sum_share: 1 / number of devices that hold the network's sums.
        tied: which parameters two pipeline stages hold; None without a pipeline.
        tied_group: the communication group of those stages, if this stage is one of them.
        clip_norm: the global gradient norm to clip at, 0 for none.
        loss_scale: dynamic loss scaling; None: no scaling.
        saturates: the device shows an overflow in its register only (`overflow.py`).
        guarded: leave the weights as they are if loss or norm exceeds `loss_limit` or `norm_limit` or is not finite;
            otherwise only a step with a loss scale is checked, for overflow.
    """

    slots: int
    accumulation: int = 1
    graph_micro_batches: int = 1
    world: int = 1
    reduce_gradients: bool = False
    summed: tuple[bool, ...] | None = None
    weights: tuple[float, ...] | None = None
    sum_share: float = 1.0
    tied: tuple[bool, ...] | None = None
    tied_group: str | None = None
    clip_norm: float = 0.0
    loss_scale: LossScaleConfig | None = None
    saturates: bool = False
    guarded: bool = False


def _zeros(like: Tensor) -> Tensor:
    """Return zeros that are computed in each step. `ops.zeros_like` would become a constant of the graph, and all these
    constants would permanently take as much device memory as the gradients. No element is greater than infinity, NaN
    included."""
    return ops.cast(ops.greater(like, math.inf), like.dtype)


def _add(gradient: Tensor, buffer: Parameter) -> Tensor:
    total = gradient + buffer
    return ops.depend(total, ops.assign(buffer, ops.depend(_zeros(total), total)))


def _take(gradient: Tensor, buffer: Parameter) -> Tensor:
    total = ops.depend(buffer, gradient) + 0.0
    return ops.depend(total, ops.assign(buffer, ops.depend(_zeros(total), total)))


def _collect(summed: bool, gradient: Tensor, buffer: Parameter) -> Tensor:
    if summed:
        return _take(gradient, buffer)
    total = gradient + 0.0
    return ops.depend(total, ops.assign(buffer, ops.depend(_zeros(buffer), total)))


def _empty_if(last: Tensor, gradient: Tensor, buffer: Parameter) -> Tensor:
    return ops.assign(buffer, ops.select(ops.depend(last, gradient), _zeros(buffer), buffer))


def reduced(reduce: ops.Primitive, gradient: Tensor) -> Tensor:
    return reduce(gradient)


def _tie(reduce: ops.Primitive, tied: bool, gradient: Tensor) -> Tensor:
    if tied:
        return reduce(gradient)
    return gradient


def _scale(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor


def _square(weight: float, gradient: Tensor) -> Tensor:
    return sum_of_squares(gradient) * weight


class AccumulateStep(nn.Cell):
    """One micro-batch of a step other than the last: adds to the buffers, which `TrainStep` empties."""

    def __init__(self, step: TrainStep):
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor) -> Tensor:
        """Return FP32 [3] for a micro-batch: Σ mask·nll, Σ mask, 0."""
        sums, gradients = self.step.sums_and_gradients(self.step.scale, inputs, labels, loss_mask, samples)
        done = (ops.assign_add(self.step.sums, sums),)
        for i in range(len(self.step.buffers)):
            done += (ops.assign_add(self.step.buffers[i], gradients[i]),)
        sums = ops.depend(sums, done)
        if self.step.register is not None:
            sums = ops.depend(sums, ops.assign_add(self.step.sums, self.step.mark(sums)))
        return sums


class TrainStep(nn.TrainOneStepCell):
    """One update of the weights from a global batch: from its last micro-batch, or in the last of several calls.

    loss = Σ(mask·nll) / Σ(mask) over the whole global batch: sums are first reduced over micro-batches and devices and
    then divided once, so that the split of the batch does not change the result. The gradient norm counts every element
    once, wherever it is stored. On overflow the update is skipped: weights, moments and schedule stay as they are, and
    the loss scale is divided.

    After `set_train(False)` it evaluates with `evaluation_network`: without dropout, without any change. A pipeline
    needs that, because MindSpore partitions one only in a graph with gradients.

    The base class matters: MindSpore's partitioner fails on a pipeline inside a plain cell. For the same reason
    gradients are only handled one by one: a later stage has fewer of them, so no operator may take them as a tuple.
    """

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, settings: StepSettings):
        super().__init__(network, optimizer)
        self.slots, self.clips, self.clip = float(settings.slots), settings.clip_norm > 0, settings.clip_norm
        scaling = settings.loss_scale
        self.scaled = scaling is not None
        scaling = scaling or LossScaleConfig(initial=1.0)
        self.factor, self.window = scaling.factor, scaling.window
        self.scale = Parameter(Tensor(scaling.initial, ms.float32), name="loss_scale.scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(0, ms.int32), name="loss_scale.good_steps", requires_grad=False)
        self.evaluates, self.evaluation_network = False, network
        self.guarded = settings.guarded
        self.optimizer_scales = getattr(optimizer, "scales_gradients", False)
        if settings.guarded:
            self.loss_limit = Parameter(Tensor(math.inf, ms.float32), name="faults.loss_limit", requires_grad=False)
            self.norm_limit = Parameter(Tensor(math.inf, ms.float32), name="faults.norm_limit", requires_grad=False)
        several, micro = settings.accumulation > 1, settings.graph_micro_batches > 1
        self.repeats, self.host_accumulates = several and micro, several and not micro
        self.collects = several or micro
        self.summed = settings.summed or (True,) * len(self.weights)
        # MindSpore recognises accumulation buffers by this prefix
        self.buffers = self.weights.clone(prefix=GRADIENT_SUMS.rstrip("."), init="zeros") if self.collects else ()
        self.sums = Parameter(Tensor([0.0, 0.0, 0.0], ms.float32), name="accumulated.sums", requires_grad=False)
        self.calls = settings.accumulation
        self.ends = Tensor(True)
        self.call = Parameter(Tensor(0, ms.int32), name="accumulated.calls", requires_grad=False)
        self.world, self.reduces_gradients = settings.world, settings.reduce_gradients
        self.even = settings.weights is None
        self.norm_weights = settings.weights or (1.0 / settings.world,) * len(self.weights)
        self.register = OverflowRegister() if settings.saturates else None
        self.sum_share = Tensor([settings.sum_share, settings.sum_share, 1.0], ms.float32)
        self.reduce = self.reduce_gradient = ops.AllReduce() if settings.world > 1 else None
        self.tied = settings.tied
        # stages between the two have no group; MindSpore drops the reduction there with the gradient
        group = {"group": settings.tied_group} if settings.tied_group else {}
        self.tie = ops.AllReduce(**group) if self.tied else None
        self.direction = Tensor([1.0, 0.0, 0.0], ms.float32)
        self.square_place = Tensor([0.0, 0.0, 1.0], ms.float32)
        self.map = ops.HyperMap()

    def set_train(self, mode: bool = True) -> TrainStep:
        """Switch between training and evaluation, which have separate graphs. To MindSpore both are training graphs,
        because it partitions a pipeline only in those; only the network itself is set to evaluate."""
        super().set_train(True)
        self.evaluates = not mode
        if self.evaluates:
            self._phase = "evaluate"
            self.evaluation_network.set_train(False)
        return self

    def set_limits(self, loss: float, norm: float) -> None:
        self.loss_limit.set_data(Tensor(loss, ms.float32))
        self.norm_limit.set_data(Tensor(norm, ms.float32))

    def sums_and_gradients(
        self, scale: Tensor, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return [Σ mask·nll, Σ mask, 0], and the gradients of scale/slots·Σ mask·nll."""
        network = self.evaluation_network if self.evaluates else self.network
        sums = network(inputs, labels, loss_mask, samples)
        sensitivity = self.direction * (scale / self.slots)
        return sums, self.grad(network, self.weights)(inputs, labels, loss_mask, samples, sensitivity)

    def mark(self, last: Tensor) -> Tensor:
        """Return FP32 [3] with `OVERFLOWED` in the last position if an overflow occurred before `last` was computed."""
        overflowed = self.register.overflowed(last)
        return self.square_place * ops.select(overflowed, Tensor(OVERFLOWED, ms.float32), Tensor(0.0, ms.float32))

    def _ended(self, last: Tensor, gradients: tuple[Tensor, ...], result: Tensor) -> Tensor:
        if self.repeats:
            emptied = self.map(ops.partial(_empty_if, ops.depend(last, result)), gradients, self.buffers)
            result = ops.depend(result, emptied)
        return result if self.register is None else self.register.cleared(result)

    def _totals(self, sums: Tensor, gradients: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        if self.host_accumulates:
            gradients = self.map(_add, gradients, self.buffers)
            sums = _add(sums, self.sums)
        elif self.collects and not self.repeats:
            gradients = self.map(_collect, self.summed, gradients, self.buffers)
        if self.repeats and not self.evaluates:
            sums = sums + self.sums
        if self.reduces_gradients:
            gradients = self.map(ops.partial(reduced, self.reduce_gradient), gradients)
        if self.tied is not None:
            gradients = self.map(ops.partial(_tie, self.tie), self.tied, gradients)
        return sums, gradients

    def probe(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return gradients

    def _global_sums(
        self, last: Tensor, sums: Tensor, gradients: tuple[Tensor, ...], scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.optimizer_scales:  # a single device holds the whole network
            square = self.optimizer.square(gradients) * self.norm_weights[0]
        elif self.even:  # a product for each tensor would mean as many small kernels
            square = ops.addn(self.map(sum_of_squares, gradients)) * self.norm_weights[0]
        else:
            square = ops.addn(self.map(_square, self.norm_weights, gradients))
        if self.scaled:
            square = square / scale / scale
        square = ops.select(ops.isfinite(square), square, Tensor(OVERFLOWED, ms.float32))
        if self.register is not None:
            sums = sums + self.mark(square)
        # packing delays the reduction of the sums until the gradients are complete
        packed = sums * self.sum_share + self.square_place * square
        if self.repeats and not self.evaluates:
            left = ops.select(last, _zeros(sums), sums)
            packed = ops.depend(packed, ops.assign(self.sums, ops.depend(left, packed)))
        if self.world > 1:
            packed = self.reduce(packed)
        return packed[0], packed[1], packed[2]

    def _next_scale(self, last: Tensor, finite: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        good = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
        grow = good >= self.window
        lowered = ops.maximum(scale / self.factor, Tensor(1.0, ms.float32))
        raised = ops.select(grow, scale * self.factor, scale)
        new_scale, new_good = ops.select(finite, raised, lowered), ops.select(grow, ops.zeros_like(good), good)
        if self.repeats:
            new_scale, new_good = ops.select(last, new_scale, scale), ops.select(last, new_good, self.good_steps + 0)
        return new_scale, new_good

    def construct(self, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor) -> Tensor:
        """Return FP32 [6] for a batch: loss, Σ mask, gradient norm (NaN or negative after an overflow), learning rate
        (0 if skipped), loss scale used, whether the weights were updated. In an evaluation, return FP32 [3]:
        Σ mask·nll, Σ mask, squared norm of the gradients; without it MindSpore would drop the gradients."""
        scale = self.scale + 0.0  # a copy, because the parameter changes below
        call = self.call + 1
        last = self.ends if self.evaluates else call >= self.calls
        sums, gradients = self.sums_and_gradients(scale, inputs, labels, loss_mask, samples)
        sums, gradients = self._totals(sums, gradients)
        gradients = self.probe(gradients)
        loss, count, square = self._global_sums(last, sums, gradients, scale)
        if self.evaluates:
            return self._ended(last, gradients, ops.stack((loss, count, square)))
        tokens = ops.maximum(count, Tensor(1.0, ms.float32))
        norm = ops.sqrt(square) * (self.slots / tokens)  # NaN after an overflow anywhere
        finite = ops.isfinite(norm)
        if self.register is not None:  # the chip computes no NaN
            finite = ops.logical_and(finite, square >= 0)
            norm = ops.select(finite, norm, Tensor(-1.0, ms.float32))
        factor = self.slots / (scale * tokens)
        if self.clips:
            factor = factor * ops.minimum(self.clip / (norm + 1e-6), Tensor(1.0, ms.float32))
        final = (gradients, factor)
        if not self.optimizer_scales:
            final = (self.map(ops.partial(_scale, factor), gradients),)
        rate, updates = Tensor(0.0, ms.float32), finite
        if self.guarded:  # comparisons with NaN are false
            within = ops.logical_and(loss / tokens <= self.loss_limit, norm <= self.norm_limit)
            updates = ops.logical_and(finite, within)
        if self.repeats:
            updates = ops.logical_and(updates, last)
        if self.scaled or self.guarded or self.repeats:
            if updates:
                rate = self.optimizer(*final)
        else:
            rate = self.optimizer(*final)
        if self.scaled:
            new_scale, new_good = self._next_scale(last, finite, scale)
            rate = ops.depend(rate, (ops.assign(self.scale, new_scale), ops.assign(self.good_steps, new_good)))
        if self.repeats:
            rate = ops.depend(rate, ops.assign(self.call, ops.select(last, ops.zeros_like(call), call)))
        result = ops.stack((loss / tokens, count, norm, rate, scale, ops.cast(updates, ms.float32)))
        return self._ended(last, gradients, result)


class EvaluationStep(nn.Cell):
    """Computes Σ mask·nll and Σ mask of a batch over all devices, without a pipeline; updates nothing. `replicas`: how
    many processes add their sums. It is 1 if MindSpore partitions the graph: it then adds them itself, and rejects
    other communication in a graph without gradients. `saturates`: as in `StepSettings`."""

    def __init__(self, network: nn.Cell, replicas: int, saturates: bool = False):
        super().__init__(auto_prefix=False)
        self.network, self.replicas = network, replicas
        self.register = OverflowRegister() if saturates else None
        self.reduce = ops.AllReduce() if replicas > 1 else None

    def construct(self, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor) -> Tensor:
        """Return FP32 [3] for a batch: Σ mask·nll, Σ mask, 0."""
        sums = self.network(inputs, labels, loss_mask, samples)
        sums = self.reduce(sums) if self.replicas > 1 else sums
        return sums if self.register is None else self.register.cleared(sums)
