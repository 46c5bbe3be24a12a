"""The benchmark of redaction runs; nearly all that it plants is found, and nothing that only looks similar."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_quick():
    command = [sys.executable, "benchmarks/redaction.py", "--quick", "--input", "ms_codegeex"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    recall, precision = (
        float(re.search(rf"^{name} ([\d.]+)", done.stdout, re.M)[1]) for name in ("recall", "precision")
    )
    assert recall >= 0.95 and precision == 1.0, done.stdout
    assert float(re.search(r"^recall of gitleaks' own cases ([\d.]+)", done.stdout, re.M)[1]) >= 0.97, done.stdout
    assert "replaced in the sources themselves: nothing" in done.stdout
