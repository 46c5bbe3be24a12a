"""One rehearsal as its processes see it: a directory with the configuration, and synthetic weights and data.

Weights and data depend only on names and numbers, so that every process makes the same ones.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ms_codegeex.base.files import write_json
from ms_codegeex.base.processes import python_process, run_reporting
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.parallel import sharding

SEED = 20230603
COMPILE_PROGRAM = ("-m", "ms_codegeex.extras.cluster.rehearsal.compile_program")
SINGLE_THREAD = {"OMP_NUM_THREADS": "1"}  # for the processes of a rehearsal, of which many run side by side


@dataclass(frozen=True)
class RehearsalJob:
    """An execution of `steps` steps of a partitioned `config`, with its files in `directory`."""

    directory: Path
    config: RunConfig
    steps: int

    def write(self) -> None:
        write_json(self.directory / "job.json", {"config": self.config.to_dict(), "steps": self.steps})

    @staticmethod
    def read(directory: Path) -> RehearsalJob:
        values = read_json(directory / "job.json")
        return RehearsalJob(directory, build_run_config(values["config"]), values["steps"])

    @property
    def evaluates(self) -> bool:
        return self.config.mesh.pipeline > 1

    @property
    def messages(self) -> Path:
        return self.directory / "messages"

    def file(self, name: str, rank: int | None = None) -> Path:
        return self.directory / f"{'reference' if rank is None else f'rank_{rank}'}.{name}"


@dataclass(frozen=True)
class CompileMode:
    """How one graph is compiled.

    Attributes:
        inline: every block is inlined as in a run; otherwise what is repeated is compiled once and called.
        target: MindSpore's.
        backend: also run the back end, up to the assignment of streams; only for Ascend.
    """

    inline: bool = False
    target: Literal["gpu", "ascend"] = "gpu"
    backend: bool = False


def compile_graphs(
    label: str,
    jobs: Sequence[tuple[RehearsalJob, int, CompileMode]],
    environment: Mapping[str, str],
    at_once: int,
    ended: Callable[[str], None],
) -> None:
    """Compile a rank's graph of each job, each in a process, `at_once` of them together. Calls `ended` after each.
    `RunFailure` with the end of the log of the first that fails; `label` names the processes there."""
    words = []
    for job, rank, mode in jobs:
        job.directory.mkdir(exist_ok=True)
        job.write()
        words += [str(job.directory), str(rank), json.dumps(asdict(mode))]
    command = [*COMPILE_PROGRAM, str(os.getpid()), str(at_once), *words]
    run_reporting(python_process(label, command, jobs[0][0].directory, {**SINGLE_THREAD, **environment}), ended)


UNCLIPPED = 1e30
OVERFLOW_STEP = 7  # if that skips a step; the last one of shorter executions
LIMITED_STEP = 5  # with a policy for faults; the last but one of shorter executions
EQUAL_STEPS = 3  # consecutive steps with the same batch


def clip_of(config: RunConfig, step: int) -> float:
    """Largest norm in a step: every second one is not clipped, because clipping hides the scale of the gradients."""
    return config.training.clip_norm if step % 2 else UNCLIPPED


def overflows_in(config: RunConfig, steps: int) -> int | None:
    """The step in which the gradient of one parameter overflows on the last rank only; None if that would not skip the
    update: in FP32 without a policy for faults."""
    skips = config.training.precision == "fp16" or config.faults.policy != "none"
    return min(OVERFLOW_STEP, steps - 1) if skips else None


def norm_limit_of(config: RunConfig, step: int, steps: int) -> float:
    limited = config.faults.policy != "none" and step == min(LIMITED_STEP, steps - 2)
    return 0.0 if limited else math.inf


def initial_value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """FP32 weights that are neither small nor equal, so that every gradient matters."""
    generator = np.random.default_rng([SEED, zlib.crc32(name.encode())])
    # tables get larger values than matrices: near-zero queries would leave the scores without a gradient
    spread = 0.25 if "embedding" in name else 0.1
    value = generator.normal(0.0, spread, shape).astype(np.float32)
    return value + 1.0 if name.endswith("norm.weight") else value


def batches(config: RunConfig, steps: int) -> list[np.ndarray]:
    """inputs, labels, loss_mask, samples, each [steps, global batch, …]: eos inside samples, unequal loss masks.

    A batch is used for `EQUAL_STEPS` steps, so that the fall of its loss can be compared with the gradient.
    """
    generator = np.random.default_rng(SEED)
    model, batch, seq = config.model.sizes, config.training.global_batch, config.seq_length
    ids = generator.integers(0, model.vocab_size, (steps, batch, seq + 1)).astype(np.int32)
    ids[:, :, seq // 3] = model.eos_token_id
    ids[:, ::2, seq - 3] = model.eos_token_id
    share = generator.random((steps, batch, 1)) * 0.8 + 0.1  # the tokens that count, a different share for each sample
    mask = (generator.random((steps, batch, seq)) < share).astype(np.float32)
    samples = np.arange(steps * batch, dtype=np.int32).reshape(steps, batch)
    order = np.arange(steps) // EQUAL_STEPS
    return [np.ascontiguousarray(a[order]) for a in (ids[:, :, :-1], ids[:, :, 1:], mask, samples)]


def local_rows(config: RunConfig, rank: int, array: np.ndarray) -> np.ndarray:
    return array[sharding.loaded_rows(config, rank)]


def engine_window(layout: Any, rank: int, shape: tuple[int, ...], local: tuple[int, ...], shard: int) -> list[slice]:
    """The shard of a parameter of `shape` that MindSpore gave to `rank`, from its layout.

    `layout` is an entry of `parameter_layout_dict`: device matrix, tensor map (for each tensor axis the device axis,
    counted from the right, that splits it, or -1), …. A shard smaller than that is also split along axis 0 by the
    optimizer, and is number `shard` of these parts.
    """
    matrix, tensor_map = layout[:2]
    coordinates = [int(x) for x in np.unravel_index(rank % math.prod(matrix), matrix)[::-1]]
    window = []
    for axis, size in enumerate(shape):
        split = tensor_map[axis]
        part = size // matrix[-1 - split] if split >= 0 else size
        start = coordinates[split] * part if split >= 0 else 0
        if part != local[axis]:
            start += shard % (part // local[axis]) * local[axis]
        window.append(slice(start, start + local[axis]))
    return window
