"""The benchmark of fine-tuning."""

import subprocess
import sys

import pytest
from conftest import ROOT


def benchmark(name, *words, timeout):
    command = [sys.executable, str(ROOT / "benchmarks" / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.slow
def test_all_of_it_with_a_tiny_model():
    pytest.importorskip("peft")
    # one thread: several of each side wait for those of other tests, for minutes
    sizes = ("--hidden", 256, "--layers", 1, "--vocabulary", 512, "--batch", 2, "--seq", 32, "--threads", 1)
    result = benchmark("finetune.py", *sizes, "--rounds", 1, timeout=900)
    assert result.returncode == 0, result.stderr
    assert "our LoRA / PEFT: " in result.stdout and "our LoRA / our full training: " in result.stdout
