"""The benchmark of faults in miniature: its comparison is the test."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


def result(*options):
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


@pytest.mark.slow  # one run of two workers, and another that starts four times
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits():
    found = result("--kills", "3", "--precision", "fp16", "--steps", "80", "--micro-batches", "4")
    killed = sum(found["kills"].values())  # the run may be too quick for one
    assert 1 <= killed <= 3 and found["attempts"] > killed and found["steps"] == 80
    # each kill may come between a save and its announcement
    assert found["announced_checkpoints"] >= 80 // 5 - killed and found["tensors"] > 20
    assert 0 < found["goodput"] <= 1 and 0 < found["goodput_unbroken"] <= 1  # which is larger depends on the load
