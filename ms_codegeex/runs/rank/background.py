"""Copy the training state in memory, for saving in the background."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ms_codegeex.base.host import available_cores
from ms_codegeex.formats.checkpoint_writing import Slice

ALIGNMENT = 64  # bytes
PART_BYTES = 4 << 20  # copied at once by one thread
COPYING_THREADS = 4  # at most; a single thread does not saturate the memory


def saves_in_background(background: bool, every: int | None, keep_best: bool) -> bool:
    return background and (bool(every) or keep_best)


class HostCopy:
    """A copy of the training state. Without it, later steps would change the engine's arrays while they are written.
    Its memory is one block, which the system can map with large pages. It is allocated and touched only once, because
    the first touch takes many times as long as copying."""

    def __init__(self) -> None:
        self.buffers: dict[str, np.ndarray] = {}
        self.shares: list[list[tuple[str, slice]]] = []  # per thread: tensor names and byte ranges
        self.threads = ThreadPoolExecutor(COPYING_THREADS, "copy")
        self.ready = False

    def reserve(self, slices: Mapping[str, Slice]) -> None:
        """Allocate and touch memory for these slices."""
        ends = np.cumsum([-(-part.array.nbytes // ALIGNMENT) * ALIGNMENT for part in slices.values()], dtype=np.int64)
        memory = np.empty(int(ends[-1]) if slices else 0, np.uint8)
        memory.fill(0)
        for (name, part), piece in zip(slices.items(), np.split(memory, ends[:-1]), strict=False):
            array = part.array
            self.buffers[name] = piece[: array.nbytes].view(array.dtype).reshape(array.shape)
        parts = [
            (name, slice(start, min(start + PART_BYTES, part.array.nbytes)))
            for name, part in slices.items()
            for start in range(0, part.array.nbytes, PART_BYTES)
        ]
        threads = min(COPYING_THREADS, available_cores())
        self.shares = [parts[number::threads] for number in range(threads)]
        self.ready = True

    def snapshot(self, slices: Mapping[str, Slice]) -> dict[str, Slice]:
        """Return the slices with their present content, in separate memory."""
        if not self.ready:
            self.reserve(slices)

        def copy(share: list[tuple[str, slice]]) -> None:
            for name, part in share:
                np.copyto(_bytes(self.buffers[name])[part], _bytes(slices[name].array)[part])

        list(self.threads.map(copy, self.shares))
        return {name: replace(part, array=self.buffers[name]) for name, part in slices.items()}


def _bytes(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


@dataclass(frozen=True)
class SavedCheckpoint:
    """A published checkpoint, and a problem that occurred afterwards."""

    path: Path
    problem: str | None = None


@dataclass(frozen=True)
class PendingSave:
    """A save that has begun. `save`: its name among the ranks. `best`: the checkpoint with the lowest validation loss
    once this one is published."""

    step: int
    save: str
    best: Path | None
    outcome: Future[SavedCheckpoint]
