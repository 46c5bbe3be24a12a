"""Inspect, released, with our task and our sandbox."""

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import small_benchmarks
from conftest import ROOT
from own_environment import own_environment, run_in


@pytest.mark.slow
@pytest.mark.strict_sandbox
def test_our_task_and_our_sandbox(tmp_path):
    python = own_environment(tmp_path / "inspect", "inspect-ai==0.3.285")
    data = small_benchmarks.humaneval(tmp_path)
    done = run_in(python, Path(__file__).with_name("in_inspect.py"), data, tmp_path / "logs")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["commands"] == [
        3,
        "hi\n",
        "hey",
        True,
        "hey",
        ["TimeoutError", "FileNotFoundError", "PermissionError"],
        False,
    ]
    assert (found["status"], found["verdicts"]) == ("success", ["C", "I"])


def test_the_entry_point_names_the_module():
    words = (
        '[project.entry-points.inspect_ai]\nms_codegeex = "ms_codegeex.extras.evaluation.harnesses.inspect_extension"'
    )
    assert words in (ROOT / "pyproject.toml").read_text()
    module = EntryPoint("ms_codegeex", "ms_codegeex.extras.evaluation.harnesses.inspect_extension", "inspect_ai").module
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
