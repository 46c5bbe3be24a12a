"""Two processes on this CPU that send each other gradients in 16 bits, against the same run in FP32."""

import json

import numpy as np
import pytest
from conftest import command, write_config

from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints

CLOSE = 2e-3  # of a loss


def trained(values, folder, precision, short):
    """Losses of all steps, and the last checkpoint."""
    values = json.loads(json.dumps(values))
    values.update(output=str(folder), devices=2)
    scale = {"loss_scale": {"initial": 4096.0}} if precision == "fp16" else {}
    values["training"].update(steps=6, precision=precision, **scale)
    values["parallel"] = {**values.get("parallel", {}), "short_gradients": short}
    result = command("train", "--config", str(write_config(folder.with_suffix(".yaml"), values)))
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = [x for x in lines if "gradient_norm" in x]
    (*_, last) = list_checkpoints(folder / "checkpoints")
    return steps, Checkpoint(last)


@pytest.mark.slow  # four runs of two processes
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_run_with_short_gradients_is_close_to_one_without(run_values, tmp_path, precision):
    (plain, before), (short, after) = (
        trained(run_values, tmp_path / str(flag), precision, flag) for flag in (False, True)
    )
    losses, others = (np.array([x["loss"] for x in steps]) for steps in (plain, short))
    assert np.abs(losses / others - 1).max() < CLOSE
    norms, rounded = ([x["gradient_norm"] for x in steps] for steps in (plain, short))
    assert [x is None for x in norms] == [x is None for x in rounded]  # the same steps are skipped
    ratios = [a / b for a, b in zip(norms, rounded, strict=True) if a is not None]
    assert len(ratios) > 3 and 0 < max(abs(ratio - 1) for ratio in ratios) < 0.02  # so gradients were rounded
    described = [{name: (x.dtype(name), x.shape(name)) for name in x.names} for x in (before, after)]
    assert described[0] == described[1] and {dtype for dtype, _ in described[0].values()} == {"float32"}
