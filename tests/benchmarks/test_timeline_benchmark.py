"""The timeline's scheduling against ranks that really run."""

import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow  # exports and executes two ranks
def test_messages_are_exchanged_in_the_order_that_the_timeline_predicts():
    words = ["--meshes", "pipeline=2", "--rounds", "2", "--steps", "2", "--hidden", "32", "--positions", "16"]
    command = [sys.executable, str(ROOT / "benchmarks" / "timeline.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("order of messages equal on 2 of 2 ranks") == 2, done.stdout  # both ways of scheduling
