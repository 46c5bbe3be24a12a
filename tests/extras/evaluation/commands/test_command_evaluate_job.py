"""The main job's model, from training to a report of every benchmark: the commands that a user gives one after the
other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_benchmarks
from conftest import ROOT, command

from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.evaluation.jsonl import read_rows

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
    keys = ("training.steps=24", "training.schedule.decay_steps=24", "checkpoint.every=8", "checkpoint.keep=3")
    corpus = [str(Path(os.__file__).parent / name) for name in ("email", "json")]
    words = [*script, *keys, f"output={output}", "--corpus", *corpus]
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


@pytest.mark.parametrize(
    ("task", "write", "words", "count"),
    [
        ("humaneval-x", small_benchmarks.humaneval_x, (*SAMPLING, "--tag"), 8),
        ("humaneval", small_benchmarks.humaneval, SAMPLING, 4),
        ("mtpb", small_benchmarks.mtpb, ("--temperature", "0.2"), 10),
        ("ds1000", small_benchmarks.ds1000, SAMPLING, 4),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_benchmark(tmp_path, run, task, write, words, count):
    report = evaluated(tmp_path, run, task, write(tmp_path), *words)
    assert report["samples"]["judged"] == count
    if task == "humaneval-x":
        assert report["references"]["python"]["passed"] == report["references"]["js"]["passed"] == 2


def test_perplexity(tmp_path, run):
    text = Path(os.__file__).parent / "json" / "decoder.py"
    result = command("evaluate", "perplexity", "--data", text, "--output", tmp_path / "out", "--model", run)
    assert result.returncode == 0, result.stderr
    found = read_json(tmp_path / "out" / "report.json")["perplexity"]
    assert 1 < found["perplexity"] < 20_000  # after 24 steps: better than chance over 52,224 rows
    assert found["bytes"] == text.stat().st_size


EVEN = [  # passes if the answer has an even number of characters: a model that knows nothing is right half of the time
    {
        "task_id": f"even/{number}",
        "prompt": f"# {number}\ntext = r'''",
        "test": "'''\ndef check(count):\n    assert count(text) % 2\n",
        "entry_point": "len",
    }
    for number in range(6)
]
PUBLISHED = """
Larger model: {source: "a table, for the test", pass@1: 41.5, pass@10: 80}
Perfect model: {source: "another table", pass@1: 100}
"""


def test_three_checkpoints_and_two_published_rows_on_one_page(tmp_path, run):
    """Every figure is recomputed from the verdicts of the samples."""
    data = small_benchmarks.write_rows(tmp_path / "even.jsonl", EVEN)
    steps = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert [int(name.removeprefix("step-")) for name in steps] == [8, 16, 24]
    for name in steps:
        words = ("--model", run / "checkpoints" / name, "--n", "10", "--temperature", "0.7", "--max-new-tokens", "12")
        result = command("evaluate", "humaneval", "--data", data, "--output", tmp_path / name, *words)
        assert result.returncode == 0, result.stderr
    (tmp_path / "rows.yaml").write_text(PUBLISHED)
    places = [tmp_path / name for name in steps]
    rows = ("--published", tmp_path / "rows.yaml")
    result = command("evaluate", "compare", *places, *rows, "--output", tmp_path / "both", "--json")
    assert result.returncode == 0, result.stderr
    found, page = json.loads(result.stdout), (tmp_path / "both" / "comparison.html").read_text()
    rates = {}
    for name in steps:
        verdicts = {row["task_id"]: [] for row in EVEN}
        for row in read_rows(tmp_path / name / "results.jsonl"):
            verdicts[row["task_id"]].append(row["verdicts"]["strict"] == "passed")
        assert {len(each) for each in verdicts.values()} == {10}
        rates[name] = np.array([np.mean(verdicts[problem]) for problem in found["problems"]])
        score = found["groups"]["all"][name]
        assert score["pass_rate"]["value"] == pytest.approx(rates[name].mean())
        assert score["pass_at"]["10"]["value"] == pytest.approx((rates[name] > 0).mean())
        assert f"{100 * rates[name].mean():.2f} % (" in page
    assert any(0 < rate.mean() < 1 for rate in rates.values()), rates
    (line,) = found["steps"].values()
    assert [row["step"] for row in line] == [8, 16, 24]
    assert [row["value"] for row in line] == pytest.approx([rates[name].mean() for name in steps])
    for pair in found["pairs"]:
        assert pair["difference"]["value"] == pytest.approx((rates[pair["to"]] - rates[pair["from"]]).mean())
    against = {(each["evaluation"], each["row"], each["k"]): each for each in found["against_published"]}
    assert len(against) == 9
    for name in steps:
        for row, k, published in (("Larger model", 1, 0.415), ("Larger model", 10, 0.8), ("Perfect model", 1, 1.0)):
            own = rates[name].mean() if k == 1 else (rates[name] > 0).mean()
            assert against[name, row, k]["difference"]["value"] == pytest.approx(own - published)
    assert "Larger model (published)" in page and "41.50 %" in page and "another table" in page
