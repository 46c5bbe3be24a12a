"""What a rank does once it has joined the others and opened its data: build the trainer, train, evaluate, and write the
result. The program is `rank`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ms_codegeex.base.files import write_json
from ms_codegeex.base.nested import finite
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import Sequences
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.formats.checkpoint import Checkpoint, step_name
from ms_codegeex.runs.records import read_events
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.training.trainer import Trainer


def train(
    config: RunConfig,
    run: RunDirectory,
    checkpoint: Checkpoint | None,
    data: Sequences | Blend,
    validation: Sequences,
    held_out: Mapping[str, Sequences],
    *,
    rank: int,
    **options: Any,
) -> None:
    """Build everything, train from `checkpoint` or from the beginning, evaluate, and write the result. `held_out` has
    the data that only the end evaluates, by name; the rest and `options` are as in `Trainer`."""
    left_out = []  # the first samples of the batches that earlier attempts have left out
    if config.faults.policy == "rewind":
        left_out = [event["left_out"] for event in read_events(run.events) if event["event"] == "rewind"]
    trainer = Trainer(config, data, validation, rank=rank, left_out=left_out, **options)
    if checkpoint:
        trainer.restore(checkpoint)
        trainer.status(f"continuing from step {checkpoint.step}")
    if config.model.weights and not trainer.progress.step:
        before = {"validation_loss_before": trainer.validation_loss(), "held_out_before": trainer.losses_on(held_out)}
        if rank == 0:  # kept for the summary, however often the run is interrupted
            write_json(run.before, finite(before))
    trainer.run()
    if not trainer.stopped:  # otherwise the next attempt continues
        result = _result(trainer, run, held_out)
        if rank == 0:
            write_json(run.result, finite(result))


def _result(trainer: Trainer, run: RunDirectory, held_out: Mapping[str, Sequences]) -> dict[str, Any]:
    """The figures of the finished run. All losses are those of one checkpoint: the best one if the run keeps it,
    otherwise the last. Every rank evaluates."""
    config, last, tokens = trainer.config, trainer.progress.step, trainer.progress.tokens
    best = trainer.patience.best if config.training.patience else None
    kept = run.checkpoints / step_name(last)
    if best and best[0] != last and (there := run.checkpoints / step_name(best[0])).is_dir():
        kept = there
        trainer.restore(Checkpoint(kept))
    began = read_json(run.before) if run.before.is_file() else {}  # of the model that the run started from
    return {
        "parameters": config.model.sizes.parameter_count(),
        **trainer.final_figures(),
        "evaluated_step": trainer.progress.step,
        "steps": last,
        "tokens": tokens,
        "held_out": trainer.losses_on(held_out),
        "validation_loss_before": began.get("validation_loss_before"),
        "held_out_before": began.get("held_out_before", {}),
        "devices": config.devices,
        "matmul_peak_flops": trainer.rates.peak,
        "evaluation_seconds": trainer.evaluation.seconds,
        "checkpoint": str(kept),
    }
