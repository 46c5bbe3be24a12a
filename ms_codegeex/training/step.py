"""The one train step: gradients, reduction, overflow check, clipping, conditional update, loss scale."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.parameter import ParameterTuple

from ms_codegeex.config import LossScaleConfig


@dataclass(frozen=True)
class StepSettings:
    """What the step needs to know beside the network and the optimizer.

    `slots`: token slots of one micro-batch on this device, a constant that keeps FP16 gradients of the *summed* loss in
    range.
    """

    slots: int
    accumulation: int = 1
    replicas: int = 1
    clip_norm: float = 0.0
    loss_scale: LossScaleConfig | None = None  # none: no scaling, no check


class Gradients(nn.Cell):
    """Loss sum, token count and scaled gradients of one micro-batch."""

    def __init__(self, network: nn.Cell, weights: ParameterTuple, slots: int):
        super().__init__(auto_prefix=False)
        self.network, self.weights, self.slots = network, weights, float(slots)
        self.gradient = ops.GradOperation(get_by_list=True, sens_param=True)

    def construct(self, inputs, labels, loss_mask, samples, scale):
        """a micro-batch and the loss scale -> Σ mask·nll, Σ mask, gradients of scale/slots·Σ mask·nll"""
        loss, count = self.network(inputs, labels, loss_mask, samples)
        sensitivity = (scale / self.slots, Tensor(0.0, ms.float32))
        gradients = self.gradient(self.network, self.weights)(inputs, labels, loss_mask, samples, sensitivity)
        return loss, count, gradients


class AccumulateStep(nn.Cell):
    """All micro-batches of a step but the last: adds to the buffers that `TrainStep` empties."""

    def __init__(self, step: TrainStep):
        super().__init__(auto_prefix=False)
        self.gradients, self.scale = step.gradients, step.scale
        self.loss_sum, self.count, self.buffers = step.loss_sum, step.count, step.buffers

    def construct(self, inputs, labels, loss_mask, samples):
        """a micro-batch -> Σ mask·nll of it"""
        loss, count, gradients = self.gradients(inputs, labels, loss_mask, samples, self.scale)
        done = (ops.assign_add(self.loss_sum, loss), ops.assign_add(self.count, count))
        for i in range(len(self.buffers)):
            done += (ops.assign_add(self.buffers[i], gradients[i]),)
        return ops.depend(loss, done)


class TrainStep(nn.Cell):
    """One update of the weights from the (last) micro-batch of a step.

    loss = Σ(mask·nll) / Σ(mask) over the whole global batch: sums are reduced over micro-batches and replicas first and
    divided once, so that the split of the batch does not change the result. The gradient norm counts every parameter
    once. On overflow the update is skipped: weights, moments and the schedule stay, the loss scale is divided.
    """

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, settings: StepSettings):
        super().__init__(auto_prefix=False)
        self.optimizer, self.settings_clip = optimizer, settings.clip_norm
        weights = optimizer.parameters_
        self.gradients = Gradients(network, weights, settings.slots)
        self.slots, self.replicas, self.accumulates = (
            float(settings.slots),
            settings.replicas,
            settings.accumulation > 1,
        )
        scaling = settings.loss_scale
        self.scaled = scaling is not None
        scaling = scaling or LossScaleConfig(initial=1.0)
        self.factor, self.window = scaling.factor, scaling.window
        self.scale = Parameter(Tensor(scaling.initial, ms.float32), name="loss_scale.scale", requires_grad=False)
        self.good_steps = Parameter(Tensor(0, ms.int32), name="loss_scale.good_steps", requires_grad=False)
        self.loss_sum = Parameter(Tensor(0.0, ms.float32), name="accumulated.loss", requires_grad=False)
        self.count = Parameter(Tensor(0.0, ms.float32), name="accumulated.count", requires_grad=False)
        self.buffers = weights.clone(prefix="accumulated", init="zeros") if self.accumulates else ()
        self.reduce = ops.AllReduce() if settings.replicas > 1 else None
        self.half_square = ops.L2Loss()

    def _reduced(self, x):
        return self.reduce(x) if self.replicas > 1 else x

    def _collect(self, loss, count, gradients):
        """Add the buffers, empty them, reduce over the replicas."""
        if self.accumulates:
            totals = ()
            for i in range(len(self.buffers)):
                total = gradients[i] + self.buffers[i]
                totals += (ops.depend(total, ops.assign(self.buffers[i], ops.depend(ops.zeros_like(total), total))),)
            gradients = totals
            loss, count = loss + self.loss_sum, count + self.count
            loss = ops.depend(loss, ops.assign(self.loss_sum, ops.depend(Tensor(0.0, ms.float32), loss)))
            count = ops.depend(count, ops.assign(self.count, ops.depend(Tensor(0.0, ms.float32), count)))
        reduced = ()
        for gradient in gradients:
            reduced += (self._reduced(gradient),)
        return self._reduced(loss), self._reduced(count), reduced

    def _global_norm(self, gradients, unscale):
        """Norm of unscale·gradients; scaled ones are unscaled before they are squared, others after: one pass less."""
        square = Tensor(0.0, ms.float32)
        for gradient in gradients:
            square = square + 2.0 * self.half_square(gradient * unscale if self.scaled else gradient)
        return ops.sqrt(square) if self.scaled else ops.sqrt(square) * unscale

    def _next_scale(self, finite, scale):
        """Loss scale and count of good steps for the next step."""
        good = ops.select(finite, self.good_steps + 1, ops.zeros_like(self.good_steps))
        grow = good >= self.window
        lowered = ops.maximum(scale / self.factor, Tensor(1.0, ms.float32))
        raised = ops.select(grow, scale * self.factor, scale)
        return ops.select(finite, raised, lowered), ops.select(grow, ops.zeros_like(good), good)

    def construct(self, inputs, labels, loss_mask, samples):
        """a micro-batch -> loss, Σ mask, gradient norm, learning rate (0 if skipped), loss scale used, finite (bool)"""
        scale = self.scale + 0.0  # a copy: the parameter changes below
        loss, count, gradients = self._collect(*self.gradients(inputs, labels, loss_mask, samples, scale))
        tokens = ops.maximum(count, Tensor(1.0, ms.float32))
        unscale = self.slots / (scale * tokens)
        norm = self._global_norm(gradients, unscale)  # inf or nan iff a gradient is, or if the squares' sum overflows
        finite = ops.isfinite(norm)
        factor = unscale
        if self.settings_clip > 0:
            factor = unscale * ops.minimum(self.settings_clip / (norm + 1e-6), Tensor(1.0, ms.float32))
        final = ()
        for gradient in gradients:
            final += (gradient * factor,)
        rate = Tensor(0.0, ms.float32)
        if self.scaled:
            if finite:
                rate = self.optimizer(final)
            new_scale, new_good = self._next_scale(finite, scale)
            rate = ops.depend(rate, (ops.assign(self.scale, new_scale), ops.assign(self.good_steps, new_good)))
        else:
            rate = self.optimizer(final)
        return loss / tokens, count, norm, rate, scale, finite


class EvaluationStep(nn.Cell):
    """Σ mask·nll and Σ mask of one batch over all replicas, nothing updated."""

    def __init__(self, network: nn.Cell, replicas: int):
        super().__init__(auto_prefix=False)
        self.network, self.replicas = network, replicas
        self.reduce = ops.AllReduce() if replicas > 1 else None

    def construct(self, inputs, labels, loss_mask, samples):
        """a batch -> two FP32 scalars"""
        loss, count = self.network(inputs, labels, loss_mask, samples)
        if self.replicas > 1:
            loss, count = self.reduce(loss), self.reduce(count)
        return loss, count
