"""The benchmark of conversions runs and says what it is for."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick(tmp_path):
    command = [
        sys.executable,
        "benchmarks/convert.py",
        "--quick",
        "--only",
        "hf-mindspore",
        "--directory",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"convert / read and write [\d.]+ .*at most 1\.5", done.stdout)
    assert re.search(r"peak memory -?\d+ MB, at most \d+ MB", done.stdout)
    assert not list(tmp_path.iterdir())
