"""The train step for mindformers' Trainer on any device; its own step needs operators that only Ascend has."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.communication import get_group_size

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.sections import LossScaleConfig
from ms_codegeex.config.validation import check_keys
from ms_codegeex.extras.exchange.mindformers_bridge.settings import check, check_rates, known
from ms_codegeex.training.step import StepSettings, TrainStep, reduced

NEVER = 2**31 - 1


def _loss_scale(scale_sense: Any) -> LossScaleConfig:
    if isinstance(scale_sense, nn.Cell):
        return LossScaleConfig(
            initial=float(scale_sense.loss_scale_value),
            window=int(getattr(scale_sense, "scale_window", NEVER)),
            factor=float(getattr(scale_sense, "scale_factor", 1.0)),
        )
    return LossScaleConfig(initial=1.0 if scale_sense is None else float(scale_sense), window=NEVER, factor=1.0)


def data_parallel_devices() -> int:
    """How many devices share each batch; a `UserError` for a mode of parallelism other than copies of the model."""
    mode = ms.get_auto_parallel_context("parallel_mode")
    if mode == "stand_alone":
        return 1
    if mode != "data_parallel":
        copied = "under mindformers' Trainer these models are copied to every device (parallel_mode: 0)"
        sharded = "`ms-codegeex train` shards them over tensor and pipeline devices"
        raise UserError(f"parallel.parallel_mode: found {mode}; {copied}; {sharded}")
    return get_group_size()


def _times(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor


class PortableTrainOneStepCell(TrainStep):
    """One update from a scalar loss: loss scale, finite check, clipping by the global norm, the optimizer's update.

    The check, the norm and the loss scale are those of `ms-codegeex train`. On overflow, or at a learning rate that is
    negative or not finite, weights and optimizer stay as they are. Devices that hold copies of the model average their
    losses and gradients.

    Args:
        network: columns of the dataset -> scalar loss.
        optimizer: any MindSpore or mindformers optimizer.
        use_clip_grad: whether to clip.
        max_grad_norm: the norm to clip at, > 0.
        scale_sense: a fixed loss scale, or a `DynamicLossScaleUpdateCell`, whose settings are used.
        others: settings of mindformers' own cell; `UserError` for one that this cell does not support.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Cell,
        use_clip_grad: bool = False,
        max_grad_norm: float = 1.0,
        scale_sense: Any = None,
        **others: Any,
    ):
        check({"runner_wrapper": others})
        check_keys("runner_wrapper", others, known("runner_wrapper"))
        check_rates(optimizer.learning_rate)
        if use_clip_grad and not max_grad_norm > 0:
            raise UserError(f"runner_wrapper.max_grad_norm: {max_grad_norm} is not above 0; set use_clip_grad: False")
        clip = float(max_grad_norm) if use_clip_grad else 0.0
        world, scale = data_parallel_devices(), _loss_scale(scale_sense)
        settings = StepSettings(1, world=world, reduce_gradients=world > 1, clip_norm=clip, loss_scale=scale)
        super().__init__(network, optimizer, settings)
        self.grouped_rates = bool(getattr(optimizer, "is_group_lr", False))
        self.join, self.one, self.nothing = ops.Concat(0), Tensor([1.0], ms.float32), Tensor([0.0], ms.float32)

    def construct(self, *columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """A batch -> loss, overflow (bool), loss scale used, learning rate, gradient norm before clipping: scalars."""
        scale = self.scale + 0.0  # a copy: the parameter changes below
        loss = self.network(*columns)
        gradients = self.grad(self.network, self.weights)(*columns, ops.ones_like(loss) * scale)
        if self.reduces_gradients:
            gradients = self.map(ops.partial(reduced, self.reduce), gradients)
        # a device's mean counts as one token
        sums = self.join((ops.reshape(ops.cast(loss, ms.float32), (1,)), self.one, self.nothing))
        total, devices, square = self._global_sums(self.ends, sums, gradients, scale)
        mean = total / devices
        norm = ops.sqrt(square) / devices  # not a number after an overflow
        finite, rate = ops.isfinite(norm), self.optimizer.get_lr()
        if self.grouped_rates:
            rate = rate[-1]
        factor = 1.0 / (scale * devices)
        if self.clip > 0:
            factor = factor * ops.minimum(self.clip / (norm + 1e-6), Tensor(1.0, ms.float32))
        final = self.map(ops.partial(_times, factor), gradients)
        updates = ops.logical_and(finite, ops.logical_and(ops.isfinite(rate), rate >= 0))
        if updates:
            mean = ops.depend(mean, self.optimizer(final))
        new_scale, new_good = self._next_scale(self.ends, finite, scale)
        mean = ops.depend(mean, (ops.assign(self.scale, new_scale), ops.assign(self.good_steps, new_good)))
        return mean, ops.logical_not(updates), scale, rate, norm
