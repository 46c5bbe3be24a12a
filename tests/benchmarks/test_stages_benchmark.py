"""The miniature of CodeGen's stages: each stage brings what it is for, by more than the seeds differ."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_every_stage_helps_what_it_trains_on_by_more_than_the_seeds_differ(tmp_path):
    command = [sys.executable, "benchmarks/stages.py", "--output", str(tmp_path / "out")]
    less = ("training.steps=40", "training.evaluate_samples=64", "training.global_batch=12")
    done = subprocess.run([*command, *less], cwd=ROOT, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert {"C++", "Python"} <= set(result["languages"]), done.stdout  # the packages of this project bring them
    for margin in ("gain", "head_start"):  # over the stage before, and over as many steps from scratch
        assert result[margin] > result["spread"] and result[margin] > 0.1, margin
    for run in result["stages"]:
        for name in result["languages"]:
            assert run["multi"][name] < run["nl"][name] - result["spread"], name
        assert run["nl"]["English"] < run["scratch"]["English"] - result["spread"]  # which had three times the steps
