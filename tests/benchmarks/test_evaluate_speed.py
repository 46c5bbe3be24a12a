"""The benchmark of `evaluate` on problems made here: that both sides run and are compared."""

import re
import subprocess
import sys

import pytest
import small_benchmarks
from conftest import ROOT


@pytest.mark.strict_sandbox
def test_both_sides_run(tmp_path):
    data = small_benchmarks.humaneval_x(tmp_path)
    words = ["--data", data, "--language", "python", "--all", "python", "--quick"]
    script = [sys.executable, ROOT / "benchmarks" / "evaluate.py"]
    result = subprocess.run([*script, *words], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in ("sandbox / plain", "whole / "):
        assert float(re.search(rf"{re.escape(name)}.*?  +([\d.]+) \(", result.stdout)[1]) > 0
    (tmp_path / "humaneval-x" / "python.jsonl").write_text(
        (tmp_path / "humaneval-x" / "python.jsonl").read_text().replace("2 * x", "3 * x")
    )
    result = subprocess.run([*script, *words], capture_output=True, text=True)
    assert result.returncode != 0 and "Python/1 did not pass" in result.stderr
