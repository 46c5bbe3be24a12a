"""The benchmarks of `prepare` run, their sides agree, and they say what they are for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick(tmp_path):
    command = [sys.executable, "benchmarks/prepare.py", "--quick", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"prepare / peer [\d.]+ .*at least 5", done.stdout)
    assert re.search(r"prepare / slowest stage \(\w+\) [\d.]+ .*at least 0\.6", done.stdout)
    assert re.search(r"CPU time of prepare / of encoding alone [\d.]+ .*at most 1\.5", done.stdout)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_quick_scale(tmp_path):
    command = [sys.executable, "benchmarks/prepare_scale.py", "--quick", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"0\.002 +\d+ +pool +[\d.]+ +[\d.]+ +\d+ +\d+\n", done.stdout)
    assert not list(tmp_path.iterdir())
