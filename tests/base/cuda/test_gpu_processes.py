"""Every program that computes on a GPU loads the CUDA libraries before anything of it imports MindSpore.

The libraries and the driver are empty stand-ins (`fake_cuda.py`), so each program ends where the real MindSpore opens
its GPU plugin: with the names of functions that the stand-ins lack. test_on_a_gpu.py meets the real libraries.
"""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import small_benchmarks
from conftest import small_run, write_config
from fake_cuda import environment_with, fake_driver, fake_packages

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the GPU back end is for Linux on x86_64"
)
OPENED = "libmindspore_gpu.so.11.6 failed"  # MindSpore has chosen this plugin, and opens it


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("cuda")
    cache = {"XDG_CACHE_HOME": str(root / "cache"), "DEVICE_ID": "0", "GLOG_v": "2"}
    return environment_with(fake_packages(tmp_path_factory.mktemp("packages")), fake_driver(root / "driver"), **cache)


def output_of(environment: dict[str, str], *words: object) -> str:
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode, done.stdout
    return done.stdout + done.stderr


@pytest.mark.parametrize("program", ["rank", "rank.from_model"])
def test_a_rank_of_a_run(environment, tmp_path, program):
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    write_config(run / "config.yaml", small_run(tmp_path / "dataset", run) | {"device": "gpu", "devices": 1})
    assert OPENED in output_of(environment, f"ms_codegeex.runs.{program}", run)


@pytest.mark.parametrize("verb", ["generate", "evaluate", "serve"])
def test_commands_with_a_model(environment, tmp_path, verb):
    model = small_benchmarks.write_model(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.py").write_text("import os\n")
    words = {
        "generate": ("generate", "--prompt", "import os"),
        "evaluate": ("evaluate", "perplexity", "--data", tmp_path / "texts", "--output", tmp_path / "out"),
        "serve": ("serve", "--port", "0"),
    }
    text = output_of(environment, "ms_codegeex.cli", *words[verb], "--model", model, "--device", "gpu")
    assert OPENED in text and "MindSpore finds no gpu here" in text
