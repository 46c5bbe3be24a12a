"""Communication between the rank processes of a rehearsal through files in one directory, without ports or threads.

A message is written once and hard-linked under one name per reader, so a name appears only with its whole content; the
reader unlinks its name. Sending therefore never blocks, and a wait that times out names the message it waited for.
"""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal.mindir import CollectiveNode
from ms_codegeex.formats.rounding import rounded, widened
from ms_codegeex.formats.tensors import NUMPY_DTYPES

POLL_SECONDS = (0.0002, 0.005)  # the first wait and the longest
REDUCTIONS = {"sum": np.add, "max": np.maximum, "min": np.minimum, "prod": np.multiply}


class FileCommunicator:
    """One rank's end of the communication. `directory` is shared by the ranks and empty at the start.

    `seconds`: how long a rank waits for a message, which includes the time the slowest rank takes to compile.
    """

    def __init__(self, directory: Path, rank: int, seconds: float = 120.0):
        self.directory, self.rank, self.seconds = Path(directory), rank, seconds
        self.runs: Counter[str] = Counter()

    def send(self, message: str, value: np.ndarray, readers: Iterable[int]) -> None:
        """Send `value` to every rank of `readers` under the name `message`."""
        temporary = self._path(message, self.rank, "new")
        try:
            with open(temporary, "wb") as stream:
                np.save(stream, value, allow_pickle=False)
            for reader in readers:
                os.link(temporary, self._path(message, self.rank, reader))
        except OSError as error:
            raise RunFailure(
                f"{temporary}: rank {self.rank} could not send a message ({error.strerror}); the folder must exist, "
                "be empty at the start and allow hard links"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def receive(self, message: str, source: int) -> np.ndarray:
        """The value that rank `source` sent under the name `message`; `RunFailure` after `seconds` without it."""
        path, deadline = self._path(message, source, self.rank), time.monotonic() + self.seconds
        pause, longest = POLL_SECONDS
        while not path.exists():
            if time.monotonic() > deadline:
                raise RunFailure(
                    f"{path}: rank {self.rank} waited {self.seconds:g} s for message {message} from rank {source}, "
                    "which has ended, hangs or never sends it"
                )
            time.sleep(pause)
            pause = min(1.2 * pause, longest)
        value = np.load(path, allow_pickle=False)
        path.unlink()
        return value

    def function(self, collective: CollectiveNode) -> Callable[..., np.ndarray]:
        """A function that replaces one communication node: it takes this rank's tensor, and what the node waits for,
        and returns the result; bfloat16 as bits, uint16."""

        def run(value: np.ndarray | None = None, *_: np.ndarray) -> np.ndarray:
            return self._run(collective, value).reshape(collective.shape)

        return run

    def functions(self, collectives: Sequence[CollectiveNode]) -> dict[int, Callable[..., np.ndarray]]:
        return {number: self.function(collective) for number, collective in enumerate(collectives, 1)}

    def _run(self, collective: CollectiveNode, value: np.ndarray | None) -> np.ndarray:
        self.runs[collective.tag] += 1  # distinguishes steps, and calls of one function within a step
        message, op = f"{collective.tag}.{self.runs[collective.tag]}", collective.op
        if op == "Receive":
            received = self.receive(message, collective.peer)
            if received.shape != tuple(collective.shape) or received.dtype != NUMPY_DTYPES[collective.dtype]:
                raise RunFailure(
                    f"{collective.name}: rank {self.rank} receives {collective.dtype} {list(collective.shape)} from "
                    f"rank {collective.peer}, which sends {received.dtype} {list(received.shape)}"
                )
            return received
        if op == "Send":
            self.send(message, value, [collective.peer])
            return value
        ranks, mine = collective.ranks, collective.ranks.index(self.rank)
        if op == "Broadcast":
            root = ranks[collective.root]
            if root != self.rank:
                return self.receive(message, root)
            self.send(message, value, [rank for rank in ranks if rank != root])
            return value
        values = self._gather(message, ranks, value)
        if op == "AllGather":
            return np.concatenate(values, 0)
        if op == "AllReduce":
            return reduce(values, collective.reduce, collective.dtype)
        if op == "ReduceScatter":
            return np.split(reduce(values, collective.reduce, collective.dtype), len(ranks), 0)[mine]
        if op == "AlltoAll":
            parts = [np.split(v, collective.split_count, collective.split_dim)[mine] for v in values]
            return np.concatenate(parts, collective.concat_dim)
        raise ValueError(f"communication operator {op}")

    def _gather(self, message: str, ranks: Sequence[int], value: np.ndarray) -> list[np.ndarray]:
        self.send(message, value, [rank for rank in ranks if rank != self.rank])
        return [value if rank == self.rank else self.receive(message, rank) for rank in ranks]

    def _path(self, message: str, source: int, reader: int | str) -> Path:
        return self.directory / f"{message}.{source}.{reader}"


def reduce(values: Sequence[np.ndarray], kind: str, dtype: str) -> np.ndarray:
    """Sum, max, min or product of arrays of equal shape, in their order: the result has the same bits on every rank.

    FP16 and bfloat16 (bits, uint16) are reduced in FP32 and rounded once, so that too large a result is infinite, as on
    a device.
    """
    wide = [widened(value, dtype) for value in values] if dtype in ("float16", "bfloat16") else values
    with np.errstate(over="ignore"):
        return rounded(np.asarray(functools.reduce(REDUCTIONS[kind], wide)), dtype)
