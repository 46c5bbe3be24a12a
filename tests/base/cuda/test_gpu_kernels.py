"""Every operator of a train step has a kernel on GPUs, for its dtypes: MindSpore selects them when it compiles.

No GPU takes part. CUDA is `host_runtime.c` in place of NVIDIA's libraries.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from ms_codegeex.base.cuda import plugin
from ms_codegeex.extras.cluster.rehearsal import stubs
from ms_codegeex.models.registry import FAMILIES

pytestmark = [
    pytest.mark.slow,  # each compiles a graph for half a minute
    pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="Linux on x86_64"),
]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cuda(tmp_path_factory) -> Path:
    """A CUDA folder whose device is the host."""
    directory = plugin.plugin_directory("test", ("x86_64",))
    given = directory / plugin.PLUGIN, directory / plugin.KERNELS
    functions = (HERE / "host_runtime.c").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return plugin.cuda_folder("host", "a test's CUDA", lambda folder: stubs.build(*given, folder, functions))


def compiled(cuda: Path, *words: str) -> str:
    environment = {**os.environ, **plugin.plugin_environment(cuda), "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, str(HERE / "compiled_for_gpu.py"), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_operator_of_a_train_step_has_a_kernel(cuda, family, precision):
    words = (f"model.family={family}", f"training.precision={precision}", "training.dropout=0.1")
    assert compiled(cuda, *words, "training.loss_chunk=0") == "COMPILED"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_operator_of_a_train_step_is_slow(cuda, family):
    """No sum by `L2Loss` or `BiasAddGrad`, no broadcast of all scores or logits: half of a step on an H100 and more."""
    words = (f"model.family={family}", "training.precision=fp16", "training.dropout=0", "training.z_loss=1e-4")
    assert compiled(cuda, *words, "training.loss_chunk=0", "slow") == "COMPILED"


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_has_kernels_and_none_that_is_slow(cuda, family):
    """No `Argmax`, which has a thread for a row, no gather of a whole cache, no transposes of heads."""
    pytest.importorskip("torch")
    assert compiled(cuda, "decode", family) == "COMPILED"


def test_an_operator_without_a_kernel_is_noticed(cuda):
    """FP16 with constants that stay numbers, and BF16, which runs refuse."""
    found = compiled(cuda, "model.family=codegeex", "training.precision=fp16", "training.dropout=0.1", "untyped")
    assert found.startswith("MISSING Select GPU operator[Mul]") and "Float16 Float32" in found
    found = compiled(cuda, "model.family=codegeex", "training.precision=bf16", "training.dropout=0")
    assert found.startswith("MISSING") and "BFloat16" in found
