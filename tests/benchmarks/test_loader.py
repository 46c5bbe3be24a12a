"""The benchmark of the loader runs and says what it is for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick(tmp_path):
    command = [sys.executable, "benchmarks/loader.py", "--quick", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for case, samples in (("repeated", "1,000,000,000"), ("huge", "1,000,000,000"), ("peer", "1,000,000")):
        assert re.search(rf"  {case} +{samples} samples: [\d.e-]+ .* s, [\d.e+-]+ .* MB", done.stdout)
    assert re.search(r"data\.workers=1: [\d.]+ % of the time", done.stdout)
    assert not list(tmp_path.iterdir())
