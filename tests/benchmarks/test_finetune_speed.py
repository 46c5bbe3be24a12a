"""The benchmarks of fine-tuning."""

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
    sizes = ("--hidden", 256, "--layers", 1, "--vocabulary", 512, "--batch", 2, "--seq", 32)
    result = benchmark("finetune.py", *sizes, "--rounds", 1, timeout=900)
    assert result.returncode == 0, result.stderr
    assert "our LoRA / PEFT: " in result.stdout and "our LoRA / our full training: " in result.stdout


@pytest.mark.slow
def test_adapters_learn_a_small_real_task(tmp_path):
    """Better on held-out pairs than the base and than a model trained on the pairs alone, by the margins it states."""
    result = benchmark("finetune_task.py", "--output", tmp_path / "made", timeout=3600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("LoRA is better by") == 2
