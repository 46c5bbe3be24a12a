"""Profile some steps of a run. MindSpore Profiler writes what a rank's device did, for MindStudio Insight."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ms_codegeex.config import RunConfig
from ms_codegeex.training.observers import Callback, StepRecord
from ms_codegeex.training.trainer import Trainer

MARKER_DOMAIN = "ms-codegeex"


class Profile(Callback):
    """Profiles the steps of `profile.steps` on some ranks. Every rank has one, after the saving callbacks: a stopped
    run has little time, and an interrupted profile takes what is left of it. MindSpore's profiler only logs its errors,
    so missing results are detected here. `folder`: this rank's profiles, one for each attempt that trains some of the
    steps. `total` returns the sum of a number over all ranks, which must all call it."""

    def __init__(self, config: RunConfig, folder: Path, rank: int, total: Callable[[int], float]):
        self.config, self.folder, self.total = config, folder, total
        self.steps, self.recorded = config.profile.window, rank in config.profiled_ranks
        self.profiler: Any = None
        self.first = self.last = self.marker = 0
        self.before = len(self._results())

    def begin(self, trainer: Trainer) -> None:
        """Start at the first of the steps that this attempt trains, and mark the beginning of each step."""
        step = trainer.progress.step + 1
        if step not in self.steps:
            return
        self.first, self.last = self.first or step, step
        if self.recorded and self.profiler is None:
            self.profiler = _started(self.config, self.folder, self.steps.stop - step)
        if self.profiler is not None and self.config.device == "ascend":
            from mindspore import profiler, runtime

            self.marker = profiler.mstx.range_start(f"step {step}", runtime.current_stream(), MARKER_DOMAIN)

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Mark the end of the step. After the last one, write the files."""
        if record.step not in self.steps:
            return
        self._mark_end()
        if self.profiler is not None:
            self.profiler.step()
        if record.step == self.steps[-1]:
            trainer.status("writing the profile")
            self._stop()
            # all ranks wait here for the writing ones; a wait in the next step might look like a hang
            self._report(trainer, int(self.total(self._missing())))

    def leave(self, trainer: Trainer) -> None:
        """Write the files if the run ends or fails before the last of the steps."""
        if self.first:
            self._mark_end()
            self._stop()
            self._report(trainer, self._missing())

    def _mark_end(self) -> None:
        if self.marker:
            from mindspore import profiler

            profiler.mstx.range_end(self.marker, MARKER_DOMAIN)
            self.marker = 0

    def _stop(self) -> None:
        if self.profiler is not None:
            self.profiler.stop()
            self.profiler = None

    def _missing(self) -> int:
        return int(self.recorded and len(self._results()) == self.before)

    def _results(self) -> list[Path]:
        return list(self.folder.glob("*_ascend_ms/ASCEND_PROFILER_OUTPUT/*"))

    def _report(self, trainer: Trainer, missing: int) -> None:
        steps, folder, self.first = f"{self.first}..{self.last}", self.folder.parent.name, 0
        trainer.event("profile", steps=steps, folder=folder, without_result=missing)
        if missing:
            ranks = f"{missing} rank{'s' * (missing > 1)}"
            trainer.warn(f"profile.steps: {ranks} found no result in {folder}; the log of a rank may say why")


def _started(config: RunConfig, folder: Path, steps: int) -> Any:
    from mindspore import profiler

    activity, level = profiler.ProfilerActivity, config.profile.level
    device = {"cpu": [], "gpu": [activity.GPU], "ascend": [activity.NPU]}[config.device]
    metrics = profiler.AicoreMetrics
    folder.mkdir(parents=True, exist_ok=True)
    return profiler.profile(
        activities=[activity.CPU, *device],
        profile_memory=config.profile.memory and config.device == "ascend",
        schedule=profiler.schedule(wait=0, active=steps, repeat=1),
        on_trace_ready=profiler.tensorboard_trace_handler(str(folder)),
        experimental_config=profiler._ExperimentalConfig(
            profiler_level=getattr(profiler.ProfilerLevel, f"Level{level}"),
            aic_metrics=metrics.PipeUtilization if level else metrics.AiCoreNone,
            mstx=config.device == "ascend",
        ),
    )
