"""The train step of processes that send each other gradients in 16 bits, where the step itself reduces them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import mindspore as ms
from mindspore import nn

from ms_codegeex.config import RunConfig
from ms_codegeex.parallel.gradients import narrow_sum, sixteen_bits
from ms_codegeex.training.step import StepSettings, TrainStep


class ShortGradientStep(TrainStep):
    """Sums gradients over the processes in `half`. A CPU sends no BF16, so numbers are rounded to it there."""

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, settings: StepSettings, half: ms.Type):
        super().__init__(network, optimizer, settings)
        sent = half if half == ms.float16 else ms.float32
        self.reduce_gradient = narrow_sum(self.reduce, settings.world, half, sent)


def step_of(config: RunConfig) -> Callable[[nn.Cell, nn.Cell, StepSettings], TrainStep]:
    """The class of a run's train step. Where the engine partitions the graph, its gradient functions send them."""
    half = sixteen_bits(config)
    if half is None or config.partitioned or config.devices == 1:
        return TrainStep
    return partial(ShortGradientStep, half=half)
