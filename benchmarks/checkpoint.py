"""What a checkpoint costs: how long a step waits for it, and how fast it is saved and loaded.

    python benchmarks/checkpoint.py                    # 309 MB, 7 rounds, in the temporary directory: a few minutes
    python benchmarks/checkpoint.py --preset tiny      # 90 MB
    python benchmarks/checkpoint.py --quick            # a very small state, two rounds: to see that it works

The state is weights and moments of a CodeGeeX preset as MindSpore parameters. In each round all candidates take turns,
in an order that rotates. Blocked: the time between two steps while a thread saves; its limit is one copy in memory.
Save: until the checkpoint is synced and published. Load: read and verify every tensor, from the page cache. Their
limits are one file of as many bytes, written in blocks and synced, or read. Peers: mindspore.save_checkpoint and
load_checkpoint, and torch.distributed.checkpoint.async_save in one process.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from common import options, print_header, quotients, spread, timed

from ms_codegeex.formats import chunks
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.models.registry import family
from ms_codegeex.runs.rank.saving import Checkpoints
from ms_codegeex.training.progress import Patience, TrainingProgress

BLOCK = 16 << 20
QUICK = {"hidden_size": 32, "num_heads": 2, "intermediate_size": 128, "num_layers": 2}
BLOCKED_BOUND, SPEED_BOUND, VERIFY_BOUND = 1.3, 0.8, 0.1


class State:
    """Weights and moments as parameters of the engine; stands in for a trainer between two steps."""

    rank, stopped, finished = 0, False, True

    def __init__(self, fields: dict[str, int], preset: str):
        from mindspore import Parameter, Tensor

        config = family("codegeex").config.build_config(preset, fields)
        generator, self.parameters = np.random.default_rng(0), {}
        self.progress, self.patience, self.rank_state = TrainingProgress(), Patience(0), self
        for prefix in ("", "optimizer.m.", "optimizer.v."):
            for name, shape in config.parameter_shapes().items():
                value = generator.standard_normal(shape, np.float32)
                self.parameters[prefix + name] = Parameter(Tensor(value), name=prefix + name)
        self.bytes = sum(parameter.asnumpy().nbytes for parameter in self.parameters.values())

    def slices(self) -> dict[str, Slice]:
        arrays = {name: parameter.asnumpy() for name, parameter in self.parameters.items()}
        return {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in arrays.items()}

    def state(self) -> dict[str, Any]:
        return {"samples": self.progress.step}

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def event(self, *_: Any, **__: Any) -> None:
        pass

    def warn(self, text: str) -> None:
        raise SystemExit(text)


class Fitting:
    """A hash that matches whatever it is compared with: loading without verification."""

    def __init__(self, parts: Iterable[object]):
        collections.deque(parts, maxlen=0)  # reads them

    def __ne__(self, other: object) -> bool:
        return False

    __eq__ = None  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


@contextlib.contextmanager
def unverified() -> Iterator[None]:
    """Load without hashing chunks."""
    original, chunks.content_hash = chunks.content_hash, Fitting
    try:
        yield
    finally:
        chunks.content_hash = original


def sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class Measured:
    """Every candidate: the action that is timed, and the preparation before it."""

    def __init__(self, state: State, folder: Path):
        self.state, self.folder = state, folder
        self.buffers = [np.ones(state.bytes, np.uint8) for _ in range(2)]
        self.saving = Checkpoints(folder / "background", 1, 1, background=True)
        self.step(self.saving)  # reserves the buffers
        self.saving.leave(state)

    def step(self, saving: Checkpoints) -> None:
        """The callback after a step."""
        self.state.progress.step += 1
        saving.step(self.state, SimpleNamespace(step=self.state.progress.step, skipped=False))

    def blocked(self) -> float:
        """Our step's wait; the save itself is not counted."""
        taken = timed(lambda: self.step(self.saving))
        self.saving.leave(self.state)
        return taken

    def memory_copy(self) -> float:
        """The limit of `blocked`."""
        return timed(lambda: np.copyto(*self.buffers))

    def save(self) -> float:
        """Until published."""
        shutil.rmtree(self.folder / "saved", ignore_errors=True)
        slices = self.state.slices()
        return timed(lambda: write_checkpoint(self.folder / "saved", 1, slices, self.state.state()))

    def sequential_write(self) -> float:
        """The limit of `save`."""
        (self.folder / "written").unlink(missing_ok=True)

        def write() -> None:
            with open(self.folder / "written", "wb") as stream:
                for start in range(0, self.state.bytes, BLOCK):
                    stream.write(self.buffers[0][start : start + BLOCK])
                stream.flush()
                os.fsync(stream.fileno())

        return timed(write)

    def load(self) -> float:
        """Opened, read and verified."""

        def read() -> list[np.ndarray]:
            checkpoint = Checkpoint(self.folder / "saved" / "step-00000001")
            return [checkpoint.tensor(name) for name in checkpoint.names]

        return timed(read)

    def load_unverified(self) -> float:
        """The same without hashes."""
        with unverified():
            return self.load()

    def sequential_read(self) -> float:
        """The limit of `load`."""

        def read() -> np.ndarray:
            into = np.empty(self.state.bytes, np.uint8)
            with open(self.folder / "written", "rb", buffering=0) as stream:
                for start in range(0, self.state.bytes, BLOCK):
                    stream.readinto(into[start : start + BLOCK])
            return into

        return timed(read)

    def mindspore_save(self) -> float:
        """MindSpore's own, which blocks a step until it has written."""
        import mindspore as ms

        path = self.folder / "mindspore.ckpt"
        path.unlink(missing_ok=True)
        entries = [{"name": name, "data": value} for name, value in self.state.parameters.items()]

        def save() -> None:
            ms.save_checkpoint(entries, str(path))
            sync(path)

        return timed(save)

    def mindspore_load(self) -> float:
        """MindSpore's own."""
        import mindspore as ms

        return timed(lambda: ms.load_checkpoint(str(self.folder / "mindspore.ckpt")))


class Torch:
    """torch.distributed.checkpoint on the same arrays."""

    def __init__(self, state: State, folder: Path):
        import torch
        import torch.distributed as distributed

        distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        arrays = {name: part.array for name, part in state.slices().items()}
        self.tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        self.folder = folder / "torch"

    def blocked_and_saved(self) -> tuple[float, float]:
        """Seconds until async_save returns, and until its files are there."""
        from torch.distributed.checkpoint import async_save

        shutil.rmtree(self.folder, ignore_errors=True)
        began = time.perf_counter()
        future = async_save(self.tensors, checkpoint_id=str(self.folder))
        blocked = time.perf_counter() - began
        future.result()
        return blocked, time.perf_counter() - began

    def load(self) -> float:
        """Into tensors that exist."""
        from torch.distributed.checkpoint import load

        return timed(lambda: load(self.tensors, checkpoint_id=str(self.folder)))


PAIRS = (("blocked", "memory_copy"), ("save", "sequential_write", "mindspore_save"))
LOADS = (("load", "load_unverified", "sequential_read", "mindspore_load"),)


def measure(measured: Measured, peer: Torch | None, rounds: int) -> dict[str, list[float]]:
    """All candidates in turn, in an order that rotates by one each round."""
    times: dict[str, list[float]] = {}
    for number in range(rounds):
        for group in (*PAIRS, *LOADS):
            names = [group[(number + k) % len(group)] for k in range(len(group))]
            for name in names:
                np.ones(2 * measured.state.bytes, np.uint8)  # memory that a virtual machine asks its host for is slow
                times.setdefault(name, []).append(getattr(measured, name)())
        if peer is not None:
            blocked, saved = peer.blocked_and_saved()
            times.setdefault("torch_blocked", []).append(blocked)
            times.setdefault("torch_save", []).append(saved)
            times.setdefault("torch_load", []).append(peer.load())
    return times


def ratio(times: dict[str, list[float]], above: str, below: str) -> list[float]:
    return quotients(times[above], times[below])


def report(state: State, times: dict[str, list[float]]) -> None:
    """Medians with the spread, and the ratios that count."""
    print(f"\n{state.bytes / 1e6:.0f} MB in {len(state.parameters)} tensors, {len(times['save'])} rounds")
    for name, values in times.items():
        rate = state.bytes / statistics.median(values) / 1e9
        print(f"  {name.replace('_', ' '):<17} {spread(values)} s, {rate:.2f} GB/s")
    print(f"a step waits / memory copy: {spread(ratio(times, 'blocked', 'memory_copy'))}, aim {BLOCKED_BOUND} at most")
    print(f"save / sequential write, speed: {spread(ratio(times, 'sequential_write', 'save'))}, aim {SPEED_BOUND}")
    print(f"load / sequential read, speed: {spread(ratio(times, 'sequential_read', 'load'))}, aim {SPEED_BOUND}")
    verified = [1 - share for share in ratio(times, "load_unverified", "load")]
    print(f"share of verification in loading: {spread(verified)}, aim {VERIFY_BOUND} at most")
    print(f"mindspore save / ours, time: {spread(ratio(times, 'mindspore_save', 'save'))}")
    print(f"mindspore load / ours, time: {spread(ratio(times, 'mindspore_load', 'load'))}")
    if "torch_save" in times:
        print(f"torch async_save / ours, wait of a step: {spread(ratio(times, 'torch_blocked', 'blocked'))}")
        print(f"torch async_save / ours, until saved: {spread(ratio(times, 'torch_save', 'save'))}")
        print(f"torch load / ours, time: {spread(ratio(times, 'torch_load', 'load'))}")


def main() -> None:
    parser = options(__doc__, rounds=7)
    parser.add_argument("--preset", default="25m", choices=("tiny", "25m"), help="of CodeGeeX (default: 25m)")
    parser.add_argument("--directory", help="where to write (default: the temporary directory)")
    parser.add_argument("--quick", action="store_true", help="a very small state, two rounds")
    arguments = parser.parse_args()
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401

    has_torch = "torch" in sys.modules
    print_header("mindspore", "numpy", "xxhash", *(["torch"] if has_torch else []))
    state = State(QUICK if arguments.quick else {}, "tiny" if arguments.quick else arguments.preset)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        folder = Path(directory)
        measured = Measured(state, folder)
        peer = Torch(state, folder) if has_torch else None
        measure(measured, peer, 1)  # opens what is opened once
        report(state, measure(measured, peer, 2 if arguments.quick else arguments.rounds))


if __name__ == "__main__":
    main()
