"""`ms-codegeex reproduce` as users run it."""

import json
import os
import signal
import subprocess
import sys
import time
from unittest.mock import create_autospec

import numpy as np
import pytest
import small_benchmarks
import small_models
import tokenizer_files
from conftest import ROOT, command, command_here
from openai_server import Server
from written_run import write_run

from ms_codegeex.cli import parse
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.reports import scores
from ms_codegeex.extras.evaluation.reproduction import evaluations, precisions
from ms_codegeex.models.registry import family


def test_commands_are_shown_and_nothing_runs(tmp_path):
    data = small_benchmarks.humaneval(tmp_path)
    words = ("reproduce", "codegen", "--output", tmp_path / "out", "--humaneval", data, "--url", "http://h/v1")
    done = command_here(*words, "--quick", "--chat", "--workers", 3, "--dry-run")
    first, *_, last = done.stdout.splitlines()
    assert first == (
        f"ms-codegeex evaluate humaneval --data {data} --output {tmp_path}/out/humaneval-t0.2 "
        "--recipe codegen_humaneval_t02 --n 2 --limit 8 --url http://h/v1 --chat --workers 3"
    )
    assert last.startswith("mtpb-single-t0.8: not run: give --mtpb PATH")
    assert not (tmp_path / "out").exists()
    for line in done.stdout.splitlines():
        if line.startswith("ms-codegeex"):
            parse(line.split()[1:])


def test_commands_as_json_are_their_words(tmp_path):
    data = small_benchmarks.humaneval(tmp_path)
    words = ("reproduce", "codegen", "--output", tmp_path / "an output", "--humaneval", data, "--url", "http://h/v1")
    found = json.loads(command_here(*words, "--dry-run", "--json").stdout)
    assert found["commands"]["humaneval-t0.2"][:4] == ["ms-codegeex", "evaluate", "humaneval", "--data"]
    assert str(tmp_path / "an output" / "humaneval-t0.2") in found["commands"]["humaneval-t0.2"]
    assert found["not_run"]["mtpb-t0.2"].startswith("give --mtpb PATH") and found["checkpoints"] == []


@pytest.fixture
def trained(tmp_path):
    """A run directory with two checkpoints, which nothing reads, and its losses."""
    run = write_run(tmp_path / "run", tmp_path)
    for step in (4, 10):
        (run.checkpoints / f"step-{step:08d}").mkdir(parents=True)
    return run.path


def test_checkpoints_are_evaluated_by_the_papers_first_part(trained, tmp_path):
    data = small_benchmarks.humaneval(tmp_path)
    words = ("reproduce", "codegen", "--output", tmp_path / "out", "--humaneval", data, "--run", trained)
    done = command_here(*words, "--url", "http://h/v1", "--chat", "--workers", 3, "--only", "mtpb-t0.2", "--dry-run")
    first, second, last = done.stdout.splitlines()
    assert first == (
        f"ms-codegeex evaluate humaneval --data {data} --output {tmp_path}/out/checkpoints/step-00000004 --recipe "
        f"codegen_humaneval_t02 --n 10 --model {trained}/checkpoints/step-00000004 --workers 3"
    )
    assert "step-00000010" in second and last.startswith("mtpb-t0.2: not run")
    parse(first.split()[1:])
    done = command_here(*words[:-1], tmp_path, "--url", "http://h/v1")
    assert done.returncode == 2 and f"--run: {tmp_path} has no checkpoints" in done.stderr


def test_loss_and_pass_rate_of_checkpoints(trained, tmp_path, monkeypatch):
    """`evaluated` is replaced; that it runs `evaluate` is tested below."""
    score = scores.score([(2, 1), (2, 2)], False)
    strict = {"strict": {"all": score, "by": {}}}
    sizes = {"judged": 2}
    report = {"scores": strict, "verdicts": {}, "problems": sizes, "samples": sizes}
    evaluated = create_autospec(evaluations.evaluated)
    evaluated.side_effect = lambda directory, words: (None, "out of memory") if "10" in directory.name else (report, "")
    monkeypatch.setattr(evaluations, "evaluated", evaluated)
    data, output = small_benchmarks.humaneval(tmp_path), tmp_path / "out"
    words = ("reproduce", "codegen", "--output", output, "--humaneval", data, "--url", "http://h/v1", "--run", trained)
    done = command_here(*words, "--only", "humaneval-t0.2", "--json")
    assert done.returncode == 1, done.stderr
    first, second = json.loads(done.stdout)["checkpoints"]["checkpoints"]
    assert (first["step"], first["training_loss"], first["rate"]["value"]) == (4, pytest.approx(4.6), 0.75)
    assert (second["step"], second["reason"], second["training_loss"]) == (10, "out of memory", pytest.approx(4.0))
    assert (output / "checkpoints.csv").read_text().splitlines()[1].startswith("4,4.600000,,0.750000,")
    assert "step 4 & 4.6000 &  & 75.00" in (output / "tables.tex").read_text()
    page = (output / "index.html").read_text()
    assert "<h2>Checkpoints of the run</h2>" in page and "not run: out of memory" in page and "training loss" in page


@pytest.mark.parametrize(
    "words, message",
    [
        (("codegen", "--only", "mtbp"), "--only: codegen has no part mtbp; choose from humaneval-t0.2, "),
        (("codegen", "--humaneval", "/none"), "--model: missing; give --model DIR, or --url"),
        (("codegen", "--model", "m", "--humaneval", "/none"), "nothing can run: --humaneval: /none does not exist"),
        (("codegeex2", "--model", "m"), "nothing can run: give --humaneval-x PATH"),
        (
            ("codegen", "--url", "u", "--humaneval", ".", "--beside", "/none"),
            "/none/reproduction.json: no such file",
        ),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path):
    done = command_here("reproduce", *words, "--output", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1


def right(body):
    """The answer to both problems of the small HumanEval; at 0.6, of the first one only."""
    adds = "Add one" in body["prompt"]
    return ("    return x + 1\n" if adds or body["temperature"] == 0.6 else "    return 2 * x\n"), "stop"


@pytest.mark.slow  # five evaluations in processes of their own
@pytest.mark.strict_sandbox
def test_a_paper_on_another_programs_server_is_killed_and_continued(tmp_path):
    data, output, slow = small_benchmarks.humaneval(tmp_path), tmp_path / "out", [True]

    def answer(body):
        if body["temperature"] == 0.6 and slow[0]:
            time.sleep(0.5)
        return right(body)

    with Server(answer) as server:
        words = ("reproduce", "codegen", "--output", output, "--humaneval", data, "--url", server.url)
        words += ("--quick", "--concurrency", 1, "--only", "humaneval-t0.2", "humaneval-t0.6", "mtpb-t0.2")
        line = [sys.executable, "-m", "ms_codegeex.cli", *map(str, words)]
        job = subprocess.Popen(line, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        second = output / "humaneval-t0.6" / "samples.jsonl"
        while not (second.is_file() and read_rows(second)):
            assert job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 143
        kept, asked, slow[0] = len(read_rows(second)), len(server.requests), False
        done = command(*words, "--json")
        assert done.returncode == 0, done.stderr
    # samples that were saved are not requested again; the first evaluation was complete
    assert len(server.requests) - asked <= 4 - kept + 1
    found = json.loads(done.stdout)
    assert found == json.loads((output / "reproduction.json").read_text())
    assert found["parts"]["mtpb-t0.2"]["reason"].startswith("give --mtpb PATH")
    rates = {(x["part"], x["measure"]): x["value"] for x in found["figures"] if x["mode"] == "strict"}
    assert rates["humaneval-t0.2", "pass@1"] == 1 and rates["humaneval-t0.6", "pass@1"] == 0.5
    assert found["tables"][0]["rows"]["this model"][0] == "100.00"
    for name in ("index.html", "figures.csv", "tables.tex"):
        assert (output / name).stat().st_size > 100


@pytest.mark.slow
@pytest.mark.strict_sandbox
def test_an_evaluation_that_fails_does_not_end_the_others(tmp_path):
    data = small_benchmarks.humaneval(tmp_path)
    with Server(lambda body: (500, "broken") if body["temperature"] == 0.2 else right(body)) as server:
        words = ("--humaneval", data, "--url", server.url, "--quick", "--only", "humaneval-t0.2", "humaneval-t0.6")
        done = command("reproduce", "codegen", "--output", tmp_path / "out", *words)
    assert done.returncode == 1 and "HumanEval, temperature 0.2: not run: " in done.stdout
    assert "broken" in done.stdout and "HumanEval, temperature 0.6: pass@1 50.00 %" in done.stdout


@pytest.mark.slow  # eight processes, six of which generate
def test_memory_and_speed_of_each_precision(tmp_path):
    sizes = {**small_models.FIELDS["codegeex2"], "vocab_size": 512, "max_position_embeddings": 128}
    shapes = family("codegeex2").config.build_config(None, sizes).parameter_shapes()
    arrays = {name: np.full(shape, 0.01, np.float32) for name, shape in shapes.items()}
    model = small_models.save_run(tmp_path / "run", "codegeex2", arrays, **sizes)
    tokenizer_files.write_chatglm(model / "tokenizer")
    rows = precisions.measured(model, None, tmp_path)
    assert [row["precision"] for row in rows] == ["as stored", "8 bits", "4 bits"]
    for row in rows:
        assert not row["reason"] and row["peak_bytes"] > 3e7 and row["tokens_per_second"] > 0, row
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    (first, *_) = precisions.measured(tmp_path / "none", None, tmp_path)
    assert "no such file" in first["reason"] and first["peak_bytes"] is None
