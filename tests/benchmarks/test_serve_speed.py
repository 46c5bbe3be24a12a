"""The benchmark of the server, with a tiny model."""

import importlib.util
import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_all_of_it_with_a_tiny_model(tmp_path):
    words = ["--tiny", "--rounds", "1", "--new", "8", "--clients", "1", "4", "--slots", "4", "--models", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / "serve.py"), *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("tokens/s over the bare engine") == 2 and "1 that leave and 1 slow ones" in result.stdout
    assert "no peer: not asked for (--peer)\n" in result.stdout


@pytest.mark.slow
def test_the_peer_gives_the_same_answers_or_its_absence_is_said(tmp_path):
    words = ["--tiny", "--rounds", "1", "--new", "8", "--clients", "2", "--slots", "2", "--models", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / "serve.py"), "--peer", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    missing = [name for name in ("torch", "transformers", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        assert f"no peer: {', '.join(missing)} not installed\n" in result.stdout
        return
    assert "no peer" not in result.stdout
    assert float(re.search(r"tokens/s over transformers serve: ([\d.]+) \(", result.stdout)[1]) > 0
    assert "; 6 of 6 answers are equal" in result.stdout
