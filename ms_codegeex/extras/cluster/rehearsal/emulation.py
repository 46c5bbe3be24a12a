"""A run's FP16 settings at reduced size on an emulated chip that only saturates, against a chip with infinities.

The same steps have to be skipped, and the weights have to be equal. This file imports no MindSpore: `saturation.py`
computes, in processes of its own.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import ASCEND_910
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.base.processes import python_process, run_reporting
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.rehearsal.job import SINGLE_THREAD, RehearsalJob
from ms_codegeex.extras.cluster.rehearsal.shrink import shrunk, single_device

PROGRAM = ("-m", "ms_codegeex.extras.cluster.rehearsal.saturation")
EMULATED = ("infinities", "saturating")
STEPS = 20
SHOWN = "shown"  # by each step: see `TrainStep.construct`
COLUMNS = ("loss", "tokens", "gradient norm", "learning rate", "loss scale", "updates")
NORM, SCALE, UPDATED = (COLUMNS.index(name) for name in ("gradient norm", "loss scale", "updates"))
MAX_MICRO_BATCHES, MICRO_BATCH_SEQUENCES = 3, 8  # a step's; a micro-batch's
# The gradients of the small models overflow from about this scale on. From the run's first scale it has to be reached
# within `LOWERING` steps; the others have to show that the scale grows.
OVERFLOWING, LOWERING, WINDOW = 2.0**20, 12, 2


@dataclass(frozen=True)
class Emulation:
    """How the steps on both chips compare.

    Attributes:
        steps: how many were taken.
        initial_scale: the loss scale of the first.
        skipped_steps: that left the weights as they were, with infinities.
        problems: how the saturating chip differs, or why nothing was shown.
    """

    steps: int
    initial_scale: float
    skipped_steps: int
    problems: tuple[str, ...]

    def text(self) -> str:
        """One line."""
        exponent = math.log2(self.initial_scale)
        scale = f"2^{exponent:.0f}" if exponent.is_integer() else f"{self.initial_scale:g}"
        start = f"{self.steps} steps from scale {scale}: {self.skipped_steps} skipped"
        if self.problems:
            return f"{start} with infinities; the saturating chip differs: {'; '.join(self.problems)}"
        return f"{start}, the same with infinities and on the saturating chip; weights equal bit for bit"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)


def on_saturating_chip(config: RunConfig) -> RunConfig:
    """The run on an Ascend 910. A `UserError` names the key to change if that has no such run."""
    if config.training.precision == "bf16":
        wrong = "training.precision is bf16, which the Ascend 910 does not have"
        raise UserError(f"--saturating: {wrong}; set it to fp16, or leave --saturating out")
    values = config.to_dict()
    return build_run_config({**values, "parallel": {**values["parallel"], "hardware": ASCEND_910.name}})


def small_fp16(config: RunConfig) -> RunConfig:
    """The settings of a run with a loss scale, on one CPU: a small model and batch, rates that move its weights, and a
    loss scale that is lowered and raised within `STEPS`.

    Adapters are left out, and all weights trained: the wrapped operators would have the gradients of frozen weights
    computed, whose overflow no chip meets.
    """
    training, few = config.training, min(config.accumulation, MAX_MICRO_BATCHES)
    small = single_device(shrunk(config, Mesh()))
    values, scaling = small.to_dict(), training.loss_scale
    factor = max(scaling.factor, 2.0)
    values["model"]["num_layers"] = 1
    values["lora"]["rank"] = 0
    values["training"].update(
        steps=STEPS,
        global_batch=few * MICRO_BATCH_SEQUENCES,
        micro_batch=MICRO_BATCH_SEQUENCES,
        clip_norm=training.clip_norm,
        loss_scale={
            "initial": min(max(scaling.initial, 4 * OVERFLOWING), OVERFLOWING * factor**LOWERING),
            "window": min(scaling.window, WINDOW),
            "factor": factor,
        },
        schedule={"learning_rate": 1e-3, "end_learning_rate": 1e-4, "warmup_steps": 2, "decay_steps": STEPS},
    )
    return build_run_config(values)


def emulate(
    config: RunConfig, progress: Callable[[str, int, int], None] = lambda what, number, count: None
) -> Emulation | None:
    """Train on both of `EMULATED` and compare; None without a loss scale, where there is nothing to emulate."""
    if config.training.precision != "fp16":
        return None
    small = small_fp16(config)
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-saturating-") as name:
        job = RehearsalJob(Path(name), small, STEPS)
        job.write()
        finished = iter(range(1, len(EMULATED) + 1))
        progress("training on two emulated chips", 0, len(EMULATED))
        run_reporting(
            python_process("emulation", [*PROGRAM, name, str(os.getpid())], job.directory, SINGLE_THREAD),
            lambda chip: progress(f"trained: {chip}", next(finished), len(EMULATED)),
        )
        results = []
        for chip in EMULATED:
            with np.load(job.directory / f"{chip}.npz", allow_pickle=False) as stored:
                results.append({key: stored[key] for key in stored.files})
    return compared(*results)


def compared(infinities: Mapping[str, np.ndarray], saturating: Mapping[str, np.ndarray]) -> Emulation:
    """Compares two results of `saturation.trained`."""
    expected, found = infinities[SHOWN], saturating[SHOWN]
    updated, problems = expected[:, UPDATED] == 1, []
    for number, name in enumerate(COLUMNS):
        differs = ~np.equal(expected[:, number], found[:, number])
        if number == NORM:  # NaN after an overflow, or negative
            differs = np.where(updated, differs, found[:, NORM] >= 0)
        if differs.any():
            where = int(differs.argmax())
            problems.append(
                f"{name} of {differs.sum()} steps, first of step {where}: {found[where, number]:g} instead of "
                f"{expected[where, number]:g}"
            )
    names = [name for name in infinities if name != SHOWN]
    unequal = [name for name in names if not np.array_equal(infinities[name], saturating[name])]
    if unequal:
        problems.append(f"{len(unequal)} of {len(names)} weights, first {unequal[0]}")
    if updated.all() or not updated.any() or (np.diff(expected[:, SCALE]) <= 0).all():
        problems.append("no error would show: it takes steps that are skipped, steps that update and a growing scale")
    return Emulation(len(expected), float(expected[0, SCALE]), int((~updated).sum()), tuple(problems))
