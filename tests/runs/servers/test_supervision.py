"""The end of a run's workers, with stand-ins that need no engine."""

import json

import numpy as np
import pytest
from run_processes import workers_of_programs

from ms_codegeex.base.errors import Divergence, ReplicaFailure, Rewind, UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.formats.checkpoint import list_checkpoints, step_of
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import leave_error, save_under_way, set_doubtful_checkpoints_aside
from ms_codegeex.runs.servers import supervision

PUBLISHES = """
import os, time
time.sleep(0.3)
os.rename("{source}", "{target}")
with open("{events}", "a") as events:
    events.write('{{"event": "saved", "step": 4, "time": 1}}\\n')
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.logs.mkdir(parents=True)
    directory.checkpoints.mkdir()
    directory.add_event("start")
    return directory


def test_workers_end_after_rank_0_has_saved_and_what_it_saved_is_judged(run, tmp_path, monkeypatch):
    write_checkpoint(run.checkpoints, 1, {"w": np.zeros(2)}, {})
    source = write_checkpoint(tmp_path / "elsewhere", 4, {"w": np.zeros(2)}, {})
    target = run.checkpoints / source.name
    programs = (PUBLISHES.format(source=source, target=target, events=run.events), "raise SystemExit(2)")
    node = workers_of_programs(run, monkeypatch, *programs)
    run.add_event("saving", step=4)
    leave_error(run, Divergence("loss nan", 5), 0)
    with pytest.raises(Divergence, match="loss nan"):
        supervision.run_workers(RunConfig(), run, None, node)
    assert (run.checkpoints / f"doubtful-{source.name}").is_dir()
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-00000001"]


@pytest.mark.parametrize(
    "error,waits",
    [(Divergence("", 3), True), (Rewind(""), True), (ReplicaFailure("", 3), True), (UserError("of one rank"), False)],
)
def test_a_save_is_waited_for_if_all_ranks_end_alike(run, error, waits):
    leave_error(run, error, 0)
    assert not save_under_way(run)
    run.add_event("saving", step=4)
    assert save_under_way(run) == waits
    for after in ("saved", "save failed", "start"):
        run.add_event("saving", step=4)
        run.add_event(after)
        assert not save_under_way(run)


@pytest.mark.parametrize(
    ("skipped", "since", "left"),
    [((), 0, [20, 23]), (range(31, 34), 0, [20]), (range(31, 34), 23, [20, 23]), ((), 24, [20, 23, 24])],
)
def test_what_the_job_saved_shortly_before_it_was_not_finite_is_set_aside(run, skipped, since, left):
    """At step 34, perhaps after steps that were skipped."""
    for step in (20, 23, 24, 33):
        write_checkpoint(run.checkpoints, step, {"w": np.zeros(2)}, {})
    lines = [{"step": step, "loss": 1.0, "skipped": step in skipped} for step in range(1, 34)]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    leave_error(run, Divergence("", 34), since)
    for _ in range(2):  # only once
        set_doubtful_checkpoints_aside(run)
        assert [step_of(path) for path in list_checkpoints(run.checkpoints)] == left
