"""How far a run has come, how fast it trains, and whether it still improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import psutil

from ms_codegeex.base.errors import UserError
from ms_codegeex.config import RunConfig

EMPTY_STEPS = 100


@dataclass
class TrainingProgress:
    """Counts steps, samples and tokens."""

    step: int = 0
    samples: int = 0  # number of the next step's first sample, over all devices
    tokens: int = 0  # that the loss counts, in steps that were not skipped
    empty_steps: int = 0  # consecutive steps without a token that the loss counts

    def advance(self, samples: int, counted: float, updated: bool) -> None:
        """Count a step; the next one starts with sample `samples`. Raises `UserError` after too many consecutive steps
        without a token that the loss counts."""
        self.step, self.samples = self.step + 1, samples
        self.tokens += round(counted) if updated else 0
        self.empty_steps = 0 if counted else self.empty_steps + 1
        if self.empty_steps == EMPTY_STEPS:
            wrong = f"the last {EMPTY_STEPS} steps held no token that the loss counts"
            raise UserError(f"data: {wrong}; look at the dataset with `ms-codegeex inspect --sample`")

    def state(self) -> dict[str, Any]:
        return {"samples": self.samples, "tokens": self.tokens}

    def restore(self, step: int, state: Mapping[str, Any]) -> None:
        self.step, self.samples, self.tokens, self.empty_steps = step, state["samples"], state["tokens"], 0


class Patience:
    """Decides when a run no longer improves. `best`: step and loss of the best evaluation; step 0 is the model that the
    run starts from. `lowest`: the lowest loss of the run's own steps; `worse`: evaluations since then. Step 0 does not
    count there, because a run is often worse than its initial model at first, and still learns."""

    def __init__(self, limit: int):
        self.limit = limit
        self.best: tuple[int, float] | None = None
        self.worse = 0
        self.lowest: float | None = None

    @property
    def exhausted(self) -> bool:
        """Return whether the run should end. It never should if there is no limit."""
        return bool(self.limit) and self.worse >= self.limit

    def start(self, loss: float) -> None:
        self.best = (0, loss)

    def compare(self, step: int, loss: float) -> None:
        """Record the loss of the evaluation after `step`."""
        if not math.isfinite(loss) or (self.lowest is not None and loss >= self.lowest):
            self.worse += 1
            return
        self.lowest, self.worse = loss, 0
        if self.best is None or loss < self.best[1]:
            self.best = (step, loss)

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "worse": self.worse, "lowest": self.lowest}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint. Older ones lack these keys."""
        best = state.get("best")
        self.best = tuple(best) if best else None
        self.worse = state.get("worse", 0)
        self.lowest = state.get("lowest", best[1] if best else None)


class Rates:
    """Computes the rates of steps, over the whole job. `matmul_peak`: FLOP/s of a device, for the MFU; 0 if unknown."""

    def __init__(self, config: RunConfig, matmul_peak: float):
        self.device, self.peak = config.device, matmul_peak * config.devices
        self.step_slots = config.training.global_batch * config.seq_length
        self.flops = self.step_slots * config.model.sizes.flops_per_token(config.seq_length, config.lora.rank > 0)

    def of(self, seconds: float, waited: float) -> dict[str, Any]:
        """Return fields of `StepRecord` for a step of `seconds`, which include `waited` seconds of waiting for data."""
        return {
            "tokens_per_second": self.step_slots / seconds,
            "mfu": self.flops / seconds / self.peak if self.peak else 0.0,
            "data_wait_percent": 100 * waited / seconds,
            "memory_bytes": used_memory(self.device),
            "step_seconds": seconds,
        }


def used_memory(device: str) -> int:
    """Return the bytes that this rank uses: host memory on a CPU, otherwise the peak of the device's tensors so far."""
    return psutil.Process().memory_info().rss if device == "cpu" else ms.runtime.max_memory_allocated()
