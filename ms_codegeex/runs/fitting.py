"""Choose settings of a fine-tuning run that the user leaves open, from the lengths of its data and the free memory.
Pure functions: equal input gives equal settings, more memory never gives slower ones, and what is chosen fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ms_codegeex.config import RunConfig

ROUNDED = 64  # tokens; lengths are multiples of this
LONGER = 100  # one example in this many may exceed the length
AT_ONCE = 512  # tokens of a micro-batch on a CPU, where products of more rows are not faster
SHARE = 0.85  # of the free memory; the rest is left to other programs during the run
FEW, MANY = 3, 10  # passes over large and over small data
EXAMPLES = 3000  # target number of examples with more than `FEW` passes
EVALUATIONS = 6  # per run, at least; fewer cannot show where the held-out loss stops falling


@dataclass(frozen=True)
class Settings:
    """One combination of settings; None leaves a key to the configuration."""

    seq_length: int | None
    devices: int | None
    recompute: str | None
    micro_batch: int | None
    frozen: str | None = None

    def words(self) -> list[str]:
        keys = {
            "data.seq_length": self.seq_length,
            "devices": self.devices,
            "training.recompute": self.recompute,
            "training.micro_batch": self.micro_batch,
            "lora.frozen": self.frozen,
        }
        return [f"{key}={value}" for key, value in keys.items() if value is not None]


@dataclass(frozen=True)
class Fit:
    """A configuration and the bytes that it needs."""

    config: RunConfig
    needed: int


def length_of(sizes: np.ndarray, limit: int) -> int:
    """Return the smallest multiple of `ROUNDED`, at most `limit`, that at most one in `LONGER` of the `sizes` (int [n],
    n > 0) exceeds."""
    kept = sizes.size - sizes.size // LONGER
    longest = int(np.partition(sizes, kept - 1)[kept - 1])
    return min(limit, -(-longest // ROUNDED) * ROUNDED)


def passes_over(examples: int) -> int:
    return min(MANY, max(FEW, -(-EXAMPLES // examples)))


def evaluations_every(steps: int, at_most: int) -> int:
    return max(1, min(at_most, steps // EVALUATIONS))


def settings(
    lengths: Sequence[int | None],
    devices: Sequence[int | None],
    recompute: Sequence[str | None],
    batch: int | None,
    at_once: int | None = AT_ONCE,
    frozen: Sequence[str | None] = (None,),
) -> Iterator[Settings]:
    """Yield all combinations, preferred first: longer sequences, then earlier types of `frozen` weights, more
    processes, less recomputation, more sequences at once. `batch`: sequences of a step, shared by the processes; None:
    the micro-batch is stated. `at_once`: limit on the tokens of a micro-batch; None: no limit."""
    for length, held in product(lengths, frozen):
        for count in devices:
            local = None if batch is None else batch // (count or 1)
            sizes = [None] if local is None else [n for n in range(local, 0, -1) if local % n == 0]
            if at_once is not None and length is not None:
                sizes = [n for n in sizes if n is None or n == 1 or n * length <= at_once]
            for again in recompute:
                for size in sizes:
                    yield Settings(length, count, again, size, held)


def first_that_fits(
    candidates: Iterable[RunConfig], needed: Callable[[RunConfig], int], budget: int
) -> tuple[Fit | None, Fit]:
    """Return the first of `candidates` that needs at most `budget` bytes (else None), and the one that needs least of
    those examined. There must be at least one candidate."""
    least: Fit | None = None
    for config in candidates:
        fitted = Fit(config, needed(config))
        if fitted.needed <= budget:
            return fitted, fitted
        if least is None or fitted.needed < least.needed:
            least = fitted
    assert least is not None
    return None, least
