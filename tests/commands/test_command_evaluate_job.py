"""The main job's model, from training to a report of every benchmark: the commands that a user gives one after the
other."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import small_benchmarks
from conftest import ROOT, command

from ms_codegeex.evaluation.jsonl import read_rows
from ms_codegeex.files import read_json

made_by_setup = pytest.mark.skipif(
    not (Path(sys.prefix) / ".ms_codegeex").is_dir(), reason="needs the environment that tests/run.sh makes"
)
pytestmark = [pytest.mark.slow, made_by_setup, pytest.mark.strict_sandbox]
SAMPLING = ("--n", "2", "--temperature", "0.8", "--top-p", "0.95", "--max-new-tokens", "48")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run_distributed.sh` as it stands but for its length: the default model and corpus."""
    output = tmp_path_factory.mktemp("job") / "run"
    script = ["bash", str(ROOT / "ascend_scripts" / "run_distributed.sh"), "--venv", sys.prefix]
    environment = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    steps = ["training.steps=24", "training.schedule.decay_steps=24", "checkpoint.every=0", f"output={output}"]
    words = [
        *script,
        *steps,
        "--corpus",
        str(Path(os.__file__).parent / "email"),
        str(Path(os.__file__).parent / "json"),
    ]
    result = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=output.parent)
    assert result.returncode == 0, result.stderr
    return output


def evaluated(tmp_path, run, task, data, *words):
    """The report after samples, verdicts and tables in three calls."""
    base = ("evaluate", task, "--data", data, "--output", tmp_path / "out")
    for arguments in ((*words, "--model", run, "--generate-only"), ("--judge-only",)):
        result = command(*base, *arguments)
        assert result.returncode == 0, result.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Published results" in page and result.stdout.strip().endswith("report.html")
    samples = read_rows(tmp_path / "out" / "samples.jsonl")
    assert {row["finish"] for row in samples} <= {"eos", "stop", "length"}
    assert any(row["generation"].strip() for row in samples)
    return read_json(tmp_path / "out" / "report.json")


def test_humaneval_x(tmp_path, run):
    data = small_benchmarks.humaneval_x(tmp_path)
    report = evaluated(tmp_path, run, "humaneval-x", data, *SAMPLING, "--tag")
    assert report["samples"]["judged"] == 8
    assert report["references"]["python"]["passed"] == report["references"]["js"]["passed"] == 2


def test_humaneval(tmp_path, run):
    report = evaluated(tmp_path, run, "humaneval", small_benchmarks.humaneval(tmp_path), *SAMPLING)
    assert report["samples"]["judged"] == 4


def test_mtpb(tmp_path, run):
    report = evaluated(tmp_path, run, "mtpb", small_benchmarks.mtpb(tmp_path), "--temperature", "0.2")
    assert report["samples"]["judged"] == 10


def test_ds1000(tmp_path, run):
    report = evaluated(tmp_path, run, "ds1000", small_benchmarks.ds1000(tmp_path), *SAMPLING)
    assert report["samples"]["judged"] == 4


def test_perplexity(tmp_path, run):
    text = Path(os.__file__).parent / "json" / "decoder.py"
    result = command("evaluate", "perplexity", "--data", text, "--output", tmp_path / "out", "--model", run)
    assert result.returncode == 0, result.stderr
    found = read_json(tmp_path / "out" / "report.json")["perplexity"]
    assert 1 < found["perplexity"] < 20_000  # after 24 steps: better than chance over 52,224 rows
    assert found["bytes"] == text.stat().st_size
