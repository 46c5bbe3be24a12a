"""The benchmark of start times, with a tiny model; its message about a program that does not start."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from start import Side, measure


def test_a_ratio_compares_the_same_round(tmp_path, monkeypatch, capsys):
    (tmp_path / "weights").write_bytes(b"x" * 10**6)
    sides = [Side(name, tmp_path / "weights", []) for name in ("ours-8", "other")]
    took = iter([4.0, 1.0, 2.0, 8.0])  # the other one begins
    monkeypatch.setattr(Side, "generated", lambda side: {"s": next(took), **side.memory(3 * 10**6)})
    measure(sides, "generated", 2, True)
    ours, other = capsys.readouterr().out.splitlines()
    assert ours.startswith("  generated ours-8") and "s 1.5 (1 to 2 of 2)" in ours and "MB beyond 2 (" in ours
    assert "s 6 (4 to 8 of 2)" in other and other.endswith("ours-8 over it: 0.25")


def test_a_program_that_does_not_start_is_named(tmp_path):
    with pytest.raises(SystemExit, match="other did not generate"):
        Side("other", tmp_path, [shutil.which("false")]).generated()


@pytest.mark.slow
def test_starts_of_a_tiny_model(tmp_path):
    words = ["--tiny", "--rounds", "1", "--bits", "8", "--models", str(tmp_path)]
    command = [sys.executable, str(ROOT / "benchmarks" / "start.py"), *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^  (generated|served)\s+ours-8 .* over it: 1$", result.stdout, re.MULTILINE)) == 2
