"""Describe runs, as plain values and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ms_codegeex.formats.checkpoint import list_checkpoints, step_of, step_that_counts
from ms_codegeex.formats.model_description import checkpoint_line, size_lines, size_of, summarise_checkpoint
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.files.resolved_config import read_config
from ms_codegeex.runs.files.run_directory import RunDirectory


def describe_run(directory: Path) -> dict[str, Any]:
    """Return a run's model, data, progress, checkpoints (file sizes checked, hashes not) and artefacts."""
    run = RunDirectory(directory)
    config = read_config(run)
    log = read_log(run.log)
    losses = [line for line in log if line["loss"] is not None]
    validated = [line for line in log if line["validation_loss"] is not None]
    checkpoints = list_checkpoints(run.checkpoints)
    return {
        "kind": "run",
        "directory": str(directory),
        "config": config.to_dict(),
        "parameters": config.model.sizes.parameter_count(),
        "step": log[-1]["step"] if log else 0,
        "steps": config.steps,
        "loss": losses[-1]["loss"] if losses else None,
        "validation_loss": validated[-1]["validation_loss"] if validated else None,
        "checkpoints": [summarise_checkpoint(path, hashes=False) for path in checkpoints],
        "steps_that_count": [step_of(path) for path in step_that_counts(checkpoints)],
        "artefacts": {path.name: size_of(path) for path in sorted(directory.iterdir()) if path.name[0] != "."},
    }


def run_lines(run: dict[str, Any]) -> Iterator[str]:
    """Yield the result of `describe_run` as lines for people."""
    config = run["config"]
    model, data, training = config["model"], config["data"], config["training"]
    yield f"model: {model['family']} {model['preset'] or ''}, {run['parameters']:,} parameters"
    yield f"devices: {config['devices']} ({config['device']}), {training['precision']}"
    yield f"data: {data['train'] or data['blend'] or 'the source code of the machine'}"
    length = data["seq_length"] or model["max_position_embeddings"]
    yield f"batch: {training['global_batch']} sequences of {length} tokens"
    losses = (("loss", run["loss"]), ("validation loss", run["validation_loss"]))
    known = [f"{name} {value:.4f}" for name, value in losses if value is not None]
    minimum = "" if training["steps"] else "at least "
    yield f"step {run['step']} of {minimum}{run['steps']}" + (f": {', '.join(known)}" if known else "")
    yield from map(checkpoint_line, run["checkpoints"])
    if len(counting := run["steps_that_count"]) > 1:
        best, last = counting
        yield f"commands take step {best}, the best of {last}; --checkpoint last for the other"
    if not run["checkpoints"]:
        yield "no checkpoints yet"
    yield from size_lines(run["artefacts"])
