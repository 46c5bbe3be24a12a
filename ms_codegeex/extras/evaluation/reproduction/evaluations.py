"""Runs the evaluations of a reproduction in processes of their own, and reads a run's checkpoints and losses and the
figures of earlier reproductions. Imported only when an evaluation is about to run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import import_variables
from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation.reproduction.results import Figure, Losses
from ms_codegeex.formats.checkpoint import list_checkpoints, step_of
from ms_codegeex.generation.loading import load_model
from ms_codegeex.runs.records import read_log
from ms_codegeex.runs.run_directory import RunDirectory


def evaluated(directory: Path, words: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """The report of an evaluation in this directory, or None and why it failed. A process of its own does what is left
    of it, so that its end frees the model."""
    report, before = directory / "report.json", None
    with suppress(FileNotFoundError):
        before = report.stat().st_mtime_ns
    last: deque[str] = deque(maxlen=1)
    how = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    environment = {**os.environ, **import_variables()}
    with subprocess.Popen([sys.executable, "-m", "ms_codegeex.cli", *words], env=environment, **how) as process:
        try:
            for line in process.stderr or ():
                last.extend([line.strip()] if line.strip() else [])
                print_error(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    # with 1, some languages were not judged; the report says which
    written = report.is_file() and report.stat().st_mtime_ns != before
    if process.returncode in (0, 1) and written:
        return read_json(report), ""
    return None, last[0].removeprefix("ms-codegeex evaluate: ") if last else "it failed"


def checkpoints_of(run: Path) -> dict[int, Path]:
    """Step -> checkpoint; `UserError` if this is not a run directory, or it has none."""
    if not (found := list_checkpoints(RunDirectory(run).checkpoints)):
        raise UserError(f"--run: {run} has no checkpoints; give a run directory of `train`, or that of one stage")
    return {step_of(path): path for path in found}


def losses_of(run: Path) -> Losses:
    """The losses that the run has logged, without skipped steps."""
    log = [line for line in read_log(RunDirectory(run).log) if not line["skipped"]]
    keys = {"training loss": "loss", "validation loss": "validation_loss"}
    series = {name: [(line["step"], line[key]) for line in log if line[key] is not None] for name, key in keys.items()}
    return {name: points for name, points in series.items() if points}


def earlier_figures(path: Path, name: str) -> tuple[int, list[Figure]]:
    """Parameters and figures of an earlier reproduction of this paper."""
    file = path / "reproduction.json"
    try:
        content = read_json(file)
        if content["paper"] != name:
            raise UserError(f"--beside: {path} reproduces {content['paper']}, expected {name}")
        parameters = int(content["parameters"] or 0)
        if parameters < 1:
            raise UserError(f"--beside: {path} does not say how many parameters its model has; add --parameters there")
        return parameters, [Figure(**figure) for figure in content["figures"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"--beside: {file} is not a result of reproduce ({type(error).__name__})") from None


def parameters_of(model: Path) -> int:
    """How many a model has."""
    shapes = load_model(model).config.parameter_shapes().values()
    return sum(math.prod(shape) for shape in shapes)
