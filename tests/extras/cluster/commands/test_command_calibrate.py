"""`ms-codegeex calibrate`: from a run directory with a profile to a hardware file that `plan` uses."""

import json

import pytest
from conftest import ROOT, command_here
from profile_writer import TRUTH, truth, write_profile

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.planner import Plan
from ms_codegeex.runs.resolved_config import write_config
from ms_codegeex.runs.run_directory import RunDirectory

CONFIG = ROOT / "configs" / "codegeex_13b_64.yaml"
KEYS = ("parallel.optimizer_shard=8", "profile.steps=5..6", "model.num_layers=3")


@pytest.fixture
def run(tmp_path):
    """Step 1 compiles, steps 5 and 6 are recorded and slower."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    config = load_config(CONFIG, KEYS)
    write_config(run, config)
    step = Plan(config, truth()).step_seconds
    factors = {1: 40.0, 2: 0.99, 3: 1.0, 4: 1.01, 5: 3.0, 6: 3.0}
    lines = [{"step": n, "step_seconds": x * step, "compiling": n == 1} for n, x in factors.items()]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_profile(run.profile, config)
    return run


def test_a_plan_with_the_file_is_the_measured_step(run, tmp_path):
    file = tmp_path / "mine.yaml"
    done = command_here("calibrate", run.path, "--output", file)
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("ascend910b by 3 steps of ", "cluster bandwidth", "fitted", f"parallel.hardware={file}"):
        assert words in done.stdout
    assert "no profile shows it" not in done.stdout
    planned = json.loads(command_here("plan", "--config", CONFIG, "--device", file, *KEYS, "--json").stdout)
    step = Plan(load_config(CONFIG, KEYS), truth()).step_seconds
    assert planned["step_seconds"] == pytest.approx(step, rel=0.005)
    assert planned["step_seconds_low"] < step < planned["step_seconds_high"] < 1.1 * planned["step_seconds_low"]
    assert planned["hardware"] == "mine" and planned["range_from"] == f"the residuals of 3 steps of {run.path}"
    shown = command_here("plan", "--config", CONFIG, "--device", file, *KEYS, "--explain").stdout
    assert "with measured overlap and gaps" in shown and f"mine: calibrated by 3 steps of {run.path}" in shown
    assert "Ascend 910B: the newest MindSpore" in shown


def test_json_and_a_copied_profile(run, tmp_path):
    copied = tmp_path / "copied"
    run.profile.rename(copied)
    done = command_here("calibrate", run.path, "--from", copied, "--output", tmp_path / "a.yaml", "--json")
    found = json.loads(done.stdout)
    assert found["products"]["share"] == pytest.approx(TRUTH.products.share, rel=0.01) and found["assumed"] == []
    assert found["file"] == str(tmp_path / "a.yaml") and (tmp_path / "a.yaml").is_file()


def test_mistakes_are_one_line_and_2(run, tmp_path):
    for words, message in (
        ((run.path, "--output", tmp_path / "a.txt"), "does not end in .yaml"),
        ((run.path, "--output", tmp_path / "no" / "a.yaml"), "is not a folder"),
        ((run.path, run.path, "--from", tmp_path), "--from: is for one run"),
        ((tmp_path,), "not a run directory"),
        ((run.path, "--from", tmp_path / "none"), "no ASCEND_PROFILER_OUTPUT below it"),
    ):
        done = command_here("calibrate", *words)
        assert (done.returncode, done.stdout) == (2, "") and message in done.stderr and done.stderr.count("\n") == 1
