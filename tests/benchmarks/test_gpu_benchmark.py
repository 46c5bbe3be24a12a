"""The benchmark of GPUs: one line where there is none, its section of the results."""

import importlib.util
import subprocess
import sys

import pytest
from conftest import ROOT
from gpu_tests import missing

PROGRAM = ROOT / "benchmarks" / "gpu.py"


def test_without_a_gpu_it_says_what_is_missing_in_one_line():
    if not missing():
        pytest.skip("this machine has a GPU")
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("gpu.py: cannot measure: ") and "ms-codegeex doctor" in line


def test_its_section_is_written_and_replaced_and_no_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n## A\n\na\n\n## Z\n\nz\n")
    module.write_section(path, ["first 1"])
    assert path.read_text().startswith("# Results\n\n## A\n\na\n\n## Z\n\nz\n\n## NVIDIA GPU\n\n```text\nfirst 1\n```")
    path.write_text(path.read_text() + "\n## After\n\nb\n")
    module.write_section(path, ["second 2"])
    text = path.read_text()
    assert "first" not in text and text.count("## NVIDIA GPU") == 1
    assert "second 2\n```" in text and text.endswith("\n\n## After\n\nb\n")
