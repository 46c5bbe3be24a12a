"""`ms-codegeex evaluate reproduce` as users run it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import small_benchmarks
from conftest import ROOT, command, command_here
from openai_server import Server

from ms_codegeex.extras.evaluation.jsonl import read_rows


@pytest.mark.parametrize(
    "words, status, message",
    [
        (("codegen", "--url", "u", "--only", "mtbp"), 2, "--only: codegen has no part mtbp; choose from humaneval"),
        (("codegen", "--data", "/none"), 2, "--model: missing; give --model DIR, or --url"),
        (("codegeex2", "--url", "u", "--data", "/none"), 1, "no evaluation of the paper could run: --data: /none does"),
    ],
)
def test_a_mistake_is_a_line(words, status, message, tmp_path):
    done = command_here("evaluate", "reproduce", *words, "--output", tmp_path / "out")
    assert done.returncode == status and message in done.stderr.splitlines()[-1]


def right(body):
    """The answer to both problems of the small HumanEval; at 0.6, of the first one only."""
    adds = "Add one" in body["prompt"]
    return ("\n    return x + 1\n" if adds or body["temperature"] == 0.6 else "\n    return 2 * x\n"), "stop"


PARTS = {  # two, the first part's title, and its rate
    "codegen": (("humaneval-t0.6", "mtpb-t0.2"), "HumanEval, temperature 0.6: pass@1 50.00 %"),
    "leaderboards": (("humaneval", "mtpb"), "HumanEval as on bigcode's leaderboard: pass@1 100.00 %"),
}


@pytest.mark.strict_sandbox
@pytest.mark.parametrize("paper", PARTS)
def test_an_evaluation_that_cannot_run_is_listed_with_the_others(paper, tmp_path):
    only, result = PARTS[paper]
    data, output = small_benchmarks.humaneval(tmp_path), tmp_path / "out"
    with Server(right) as server:
        words = ("--data", data, "--url", server.url, "--quick", "--only", *only)
        done = command_here("evaluate", "reproduce", paper, "--output", output, *words)
    assert done.returncode == 1
    ran, lacking, page = done.stdout.splitlines()
    assert ran.startswith(result)
    assert lacking.startswith("MTPB ") and ": not run: " in lacking and str(data) in lacking
    assert page == f"report: {output / 'index.html'}" and (output / only[0] / "report.html").is_file()


@pytest.mark.slow  # a process of its own that is killed
@pytest.mark.strict_sandbox
def test_a_paper_on_another_programs_server_is_killed_and_continued(tmp_path):
    data, output, slow = small_benchmarks.humaneval(tmp_path), tmp_path / "out", [True]

    def answer(body):
        if body["temperature"] == 0.6 and slow[0]:
            time.sleep(0.5)
        return right(body)

    with Server(answer) as server:
        words = ("evaluate", "reproduce", "codegen", "--output", output, "--data", data, "--url", server.url)
        words += ("--quick", "--concurrency", 1, "--only", "humaneval-t0.2", "humaneval-t0.6")
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
    results = {name: each["result"] for name, each in found["parts"].items()}
    assert results["humaneval-t0.2"].startswith("pass@1 100.00 %") and " 50.00 %" in results["humaneval-t0.6"]
    assert found["tables"][0]["rows"]["this model"][0] == "100.00"
