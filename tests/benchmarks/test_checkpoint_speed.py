"""The benchmark of checkpoints runs and prints what it is for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow  # imports two engines
def test_quick_checkpoint_benchmark(tmp_path):
    command = [sys.executable, "benchmarks/checkpoint.py", "--quick", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("a step waits / memory copy", "save / sequential write", "load / sequential read", "mindspore save"):
        assert re.search(rf"^{re.escape(line)}.*: [\d.e+-]+ \(", done.stdout, re.M)
    assert re.search(r"^share of verification in loading: -?[\d.e+-]+ \(", done.stdout, re.M)
    assert not list(tmp_path.iterdir())
