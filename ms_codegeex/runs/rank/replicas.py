"""Detect silent data corruption by comparing the copies of weights and moments that ranks hold.

Copies are equal bit for bit, because all ranks apply the same sums to them. Every `every` steps, each rank writes the
hashes of its copies. Rank 0 compares them after the next step, when every rank has written its own.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from pathlib import Path

from ms_codegeex.base.errors import ReplicaFailure, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.training.observers import Callback, StepRecord
from ms_codegeex.training.trainer import Trainer


class ReplicaCheck(Callback):
    """Compares the copies every `every` steps; every rank has one. The ranks share `folder`, for the hashes. `start`:
    the step that this attempt continues from, when all copies were read from one checkpoint."""

    def __init__(self, folder: Path, every: int, ranks: int, start: int):
        self.folder, self.every, self.ranks = folder, every, ranks
        self.equal, self.left = start, 0  # last step with equal copies; step of hashes to compare (0: none)

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Write this rank's hashes, or compare those of the previous step. `ReplicaFailure` if copies differ."""
        if self.left and trainer.rank == 0:
            self._compare(trainer)
        self.left = 0
        if record.step % self.every == 0:
            with contextlib.suppress(UserError), trainer.phase("comparison of replicas"):  # a full disk
                self.folder.mkdir(parents=True, exist_ok=True)
                write_json(self._file(record.step, trainer.rank), hashes(trainer))
                self.left = record.step

    def _file(self, step: int, rank: int) -> Path:
        return self.folder / f"step-{step:08d}-rank-{rank:05d}.json"

    def _compare(self, trainer: Trainer) -> None:
        files = [self._file(self.left, rank) for rank in range(self.ranks)]
        if not all(file.exists() for file in files):  # some rank's disk was full
            return
        difference = first_difference([read_json(file) for file in files])
        if difference is not None:
            trainer.event("corrupted", hashes_of=self.left, difference=difference)
            found = f"{difference} after step {self.left}; copies were equal after step {self.equal}"
            remedy = "test it before it trains again, and resume with --resume auto"
            raise ReplicaFailure(f"{found}, memory or arithmetic of a device is at fault; {remedy}", self.equal)
        self.equal = self.left
        for file in files:
            file.unlink(missing_ok=True)


def hashes(trainer: Trainer) -> dict[str, str]:
    """Return hashes of this rank's weights and moments, by name and slice of the full tensor."""
    placement, digests = trainer.rank_state.place, {}
    for name, parameter in trainer.rank_state.tensors().items():
        window = placement.window(name)
        part = "" if window is None else str([[axis.start, axis.stop] for axis in window])
        content = memoryview(parameter.asnumpy()).cast("B")
        digests[placement.stored_name(name) + part] = hashlib.blake2b(content, digest_size=16).hexdigest()
    return digests


def first_difference(digests: list[dict[str, str]]) -> str | None:
    """Describe the first tensor, by name, of which ranks hold different bits; None if all agree."""
    for name in sorted({name for rank in digests for name in rank}):
        holders = {rank: held[name] for rank, held in enumerate(digests) if name in held}
        counts = Counter(holders.values()).most_common()
        if len(counts) > 1:
            maximum = counts[0][1] > counts[1][1]
            odd = [rank for rank, value in holders.items() if not maximum or value != counts[0][0]]
            ranks = " and ".join(map(str, odd))
            return f"{name}: rank {ranks} has other bits than the rest" if maximum else f"{name}: ranks {ranks} differ"
    return None
