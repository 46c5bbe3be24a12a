"""The benchmark of answers that wait while a prompt is read, with a tiny model."""

import importlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_stalls_with_a_tiny_model(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    model = importlib.import_module("decode").make_models(tmp_path, True, [])
    words = ["--model", str(model), "--rows", "4", "64", "--streams", "2", "--prompt", "40", "--rounds", "1"]
    command = [sys.executable, str(ROOT / "benchmarks" / "stalls.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 answers, a prompt of 40 tokens; alone: first token " in done.stdout
    found = re.findall(r"(\d+) rows: step ([\d.]+) .* stall ([\d.]+) .* first token ([\d.e-]+) ", done.stdout)
    assert [rows for rows, *_ in found] == ["4", "64"] and all(float(each) > 0 for row in found for each in row)
