"""A GPU computes what the CPU does: losses, gradients, training, resuming, generation. Skipped where there is none.

Tolerances: FP32 products of both are exact to about 1e-6 of their terms, sums differ in order, and ten steps of AdamW
enlarge that; FP16 rounds at 5e-4 and in other places on each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import small_benchmarks
from conftest import ROOT, command, small_run, write_config

from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.models.registry import FAMILIES
from ms_codegeex.runs.files.records import read_log

pytestmark = pytest.mark.gpu
GRADIENTS = Path(__file__).with_name("gradients_on.py")
STEPS, HALF = 10, 5
RTOL = {"fp32": 1e-4, "fp16": 2e-2}  # of a loss, and of a gradient against the largest of its tensor


def gradients_on(device: str, family: str, precision: str, path: Path) -> dict[str, np.ndarray]:
    words = [sys.executable, str(GRADIENTS), device, family, precision, str(path)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_those_of_the_cpu(gpu_device, family, precision, tmp_path):
    expected = gradients_on("cpu", family, "fp32", tmp_path / "cpu.npz")
    found = gradients_on(gpu_device, family, precision, tmp_path / "gpu.npz")
    assert found.keys() == expected.keys() and len(found) > 20
    np.testing.assert_allclose(found.pop("output"), expected.pop("output"), rtol=RTOL[precision])
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name, gradient in expected.items():  # a key's bias has no gradient but rounding
        scale = max(np.abs(gradient).max(), 1e-2 * largest)
        np.testing.assert_allclose(found[name] / scale, gradient / scale, atol=RTOL[precision], err_msg=name)


SQUARES = """
import sys
from ms_codegeex.base.cuda.libraries import prepare
if sys.argv[1] == "gpu":
    prepare()
import mindspore as ms, numpy as np
from ms_codegeex.training.optimizer import sum_of_squares
ms.set_device({"cpu": "CPU", "gpu": "GPU"}[sys.argv[1]])
x = np.random.default_rng(0).normal(size=(52224, 768)).astype(np.float32)
print(sum_of_squares(ms.Tensor(x)).asnumpy() / np.square(x, dtype=np.float64).sum() - 1)
"""


def test_a_large_sum_of_squares_is_that_of_float64(gpu_device):
    words = [sys.executable, "-c", SQUARES, gpu_device]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout.splitlines()[-1])) < 2e-5  # of the norm: half of that


def train(root: Path, values: dict, device: str, *words: str) -> Path:
    """Train on a device; returns the run directory."""
    config = write_config(root / f"{Path(values['output']).name}.yaml", values)
    done = command("train", "--config", config, f"device={device}", *words)
    assert done.returncode == 0, done.stderr
    return Path(values["output"])


def values_of(dataset: Path, output: Path, **training) -> dict:
    values = small_run(dataset, output)
    values["training"] |= {"evaluate_every": 0, "clip_norm": 1.0, **training}
    values["checkpoint"] |= {"every": HALF, "keep": 10}
    return values


@pytest.fixture(scope="module")
def on_cpu(dataset, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cpu")
    return train(root, values_of(dataset, root / "run"), "cpu")


@pytest.fixture(scope="module")
def on_gpu(dataset, gpu_device, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("gpu")
    return train(root, values_of(dataset, root / "run"), gpu_device)


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_log(run / "log.jsonl")]


def test_ten_steps_have_the_losses_of_the_cpu(on_cpu, on_gpu):
    assert len(losses(on_cpu)) == STEPS
    np.testing.assert_allclose(losses(on_gpu), losses(on_cpu), rtol=1e-3)
    a, b = (read_log(run / "log.jsonl") for run in (on_cpu, on_gpu))
    np.testing.assert_allclose([r["gradient_norm"] for r in b], [r["gradient_norm"] for r in a], rtol=1e-2)
    summary = json.loads((on_gpu / "summary.json").read_text())
    assert summary["mfu"] > 0 and all(record["memory_bytes"] > 0 for record in b)


def continued(dataset: Path, root: Path, run: Path, device: str) -> Path:
    """A new run that continues from the middle of `run` on a device."""
    middle = list_checkpoints(run / "checkpoints")[0]
    assert Checkpoint(middle).step == HALF
    return train(root, values_of(dataset, root / "run"), device, "--resume", str(middle))


def test_a_resumed_run_goes_on_as_the_unbroken_one(dataset, on_gpu, gpu_device, tmp_path):
    again = continued(dataset, tmp_path, on_gpu, gpu_device)
    np.testing.assert_allclose(losses(again)[-HALF:], losses(on_gpu)[-HALF:], rtol=1e-5)


@pytest.mark.parametrize("to_gpu", [True, False], ids=["from cpu to gpu", "from gpu to cpu"])
def test_a_checkpoint_resumes_on_another_device(dataset, on_cpu, on_gpu, gpu_device, tmp_path, to_gpu):
    start, device = (on_cpu, gpu_device) if to_gpu else (on_gpu, "cpu")
    again = continued(dataset, tmp_path, start, device)
    np.testing.assert_allclose(losses(again)[-HALF:], losses(on_cpu)[-HALF:], rtol=1e-3)


def test_fp16_skips_the_steps_that_overflow_and_then_learns(dataset, on_cpu, gpu_device, tmp_path):
    scale = {"initial": 2.0**28, "window": 1000}
    values = values_of(dataset, tmp_path / "run", precision="fp16", steps=20, loss_scale=scale)
    log = read_log(train(tmp_path, values, gpu_device) / "log.jsonl")
    assert log[0]["skipped"] and sum(record["skipped"] for record in log) < len(log) - HALF
    for before, after in pairwise(log):
        assert after["loss_scale"] == before["loss_scale"] / (2 if before["skipped"] else 1)
    np.testing.assert_allclose(log[0]["loss"], losses(on_cpu)[0], rtol=RTOL["fp16"])
    taken = [record["loss"] for record in log if not record["skipped"]]
    assert taken[-1] < taken[0]


def test_greedy_text_is_that_of_the_cpu(gpu_device, tmp_path):
    model = small_benchmarks.write_model(tmp_path)
    words = ("generate", "--model", model, "--prompt", "def add(a, b):\n", "--greedy", "--max-new-tokens", "12")
    ids = {}
    for device in ("cpu", gpu_device):
        done = command(*words, "--threads", "0", "--json", "--log-probabilities", "1", "--device", device)
        assert done.returncode == 0, done.stderr
        ids[device] = [token["id"] for token in json.loads(done.stdout)["tokens"]]
    assert ids["cpu"] and ids[gpu_device] == ids["cpu"]


def test_two_gpus_have_the_losses_of_one(dataset, on_cpu, gpu_device, tmp_path):
    from ms_codegeex.base.cuda.driver import query_driver_in_subprocess

    if gpu_device == "gpu" and len(query_driver_in_subprocess().gpus) < 2:
        pytest.skip("needs two GPUs")
    values = values_of(dataset, tmp_path / "run") | {"devices": 2}
    np.testing.assert_allclose(losses(train(tmp_path, values, gpu_device)), losses(on_cpu), rtol=1e-3)
