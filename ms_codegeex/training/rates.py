"""How fast a run trains: tokens per second, MFU, waiting for data, memory."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import psutil

from ms_codegeex.config import RunConfig


class Rates:
    """Figures of a step, over the whole job.

    Args:
        config: the run.
        matmul_peak: FLOP/s of one device, the reference for MFU; 0 if unknown.
    """

    def __init__(self, config: RunConfig, matmul_peak: float):
        self.device, self.peak = config.device, matmul_peak * config.devices
        self.slots = config.training.global_batch * config.seq_length  # of a step
        self.flops = self.slots * config.model.sizes.flops_per_token(config.seq_length, config.lora.rank > 0)

    def of(self, seconds: float, waited: float) -> dict[str, Any]:
        """Fields of `StepRecord` for a step of `seconds`, of which it waited for data for `waited`."""
        return {
            "tokens_per_second": self.slots / seconds,
            "mfu": self.flops / seconds / self.peak if self.peak else 0.0,
            "data_wait_percent": 100 * waited / seconds,
            "memory_bytes": used_memory(self.device),
            "step_seconds": seconds,
        }


def used_memory(device: str) -> int:
    """Bytes that this rank uses: host memory on a CPU, otherwise the peak of tensors on the device so far."""
    return psutil.Process().memory_info().rss if device == "cpu" else ms.runtime.max_memory_allocated()
