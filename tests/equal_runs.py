"""Two runs that should be equal to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.runs.files.records import read_log


def last_checkpoint(run: Path) -> Checkpoint:
    """The newest one of a run directory."""
    return Checkpoint(list_checkpoints(run / "checkpoints")[-1])


def check_equal(run: Path, reference: Path) -> None:
    """The losses of all steps, and the tensors of the last checkpoints."""
    losses = [[(line["step"], line["loss"]) for line in read_log(each / "log.jsonl")] for each in (run, reference)]
    assert losses[0] == losses[1]
    a, b = map(last_checkpoint, (run, reference))
    for name in a.names:
        np.testing.assert_array_equal(a.tensor(name), b.tensor(name))
