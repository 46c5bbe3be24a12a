"""The benchmark of one key's first tokens in another one's flood, with a tiny model."""

import importlib
import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_flood_of_a_tiny_model(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    model = importlib.import_module("decode").make_models(tmp_path, True, [])
    words = ["--model", str(model), "--connections", "4", "--keystrokes", "3", "--prompt", "20"]
    command = [sys.executable, str(ROOT / "benchmarks" / "flood.py"), *words, "--serve", "--max-concurrency", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"first token p50 \d+ ms, p95 \d+ ms, p99 \d+ ms of 3 keystrokes", done.stdout)) == 2
    assert re.search(r"p99 of the flood over idle: [\d.]+, aim 2 (not )?met", done.stdout)
    assert re.search(r"answers by status: \{200: \d+", done.stdout)
