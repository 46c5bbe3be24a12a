"""Two versions of MindSpore side by side: the program finds what is equal, and what differs."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT


@pytest.mark.slow
def test_an_interpreter_equals_itself_and_continues_its_own_run():
    program = [sys.executable, "benchmarks/engines.py", sys.executable, sys.executable]
    less = ("--steps", "4", "--recipes", "FP32, AdamW, LoRA")
    done = subprocess.run([*program, *less], cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    cells = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    count = int(cells[3].split()[0])
    assert cells == [less[-1], "equal", "equal", f"{count} equal", f"losses equal, tensors {count} equal"] and count > 9


def test_what_differs_is_named(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import engines

    assert engines.difference([1.0, 2.0, 4.0], [1.0, 2.0, 5.0]) == "2.5e-01 at step 3, first at 3"
    assert engines.difference([1.0, 2.0], [1.0]) == "2 and 1 steps"
    first = {"a": np.zeros(3, "f4"), "b": np.ones(3, "f4")}
    assert (
        engines.weights_difference(first, {**first, "b": np.full(3, 1.5, "f4")}) == "1 of 2 differ, by 5.0e-01 at most"
    )
    assert "other tensors: b" in engines.weights_difference(first, {"a": first["a"]})
