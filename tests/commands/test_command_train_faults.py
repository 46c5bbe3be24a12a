"""Faults of a rank in real runs of two workers: the run notices, names the rank, starts again and ends as one without
them."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT, command_here, small_run, write_config
from equal_runs import check_equal

from ms_codegeex.runs.files.beats import read_beat
from ms_codegeex.runs.files.records import read_events
from ms_codegeex.runs.files.run_directory import RunDirectory

COMMAND = """
import sys
from ms_codegeex import cli
from ms_codegeex.runs.servers import hangs, supervision
supervision.program_of = lambda config: "bad_worker"
{limits}
sys.exit(cli.main(sys.argv[1:]))
"""
WORKER = """
import os, sys, time
from pathlib import Path
from ms_codegeex.runs.rank import __main__ as rank
from ms_codegeex.training.trainer import Trainer

def flip(trainer):
    trainer.rank_state.tensors()["final_norm.weight"].asnumpy().view("uint32")[3] ^= 1

def sleep(trainer):
    time.sleep(600)

def step(self, *arguments):
    record, once = whole(self, *arguments), Path(__file__).with_name("once")
    if self.rank == 1 and record.step == 7 and not once.exists():
        once.touch()
        {fault}(self)
    return record

whole, Trainer._step = Trainer._step, step
sys.exit(rank.main())
"""


STOPS = """
import os, signal, sys, time
from pathlib import Path
from ms_codegeex.runs.files import beats
from ms_codegeex.runs.rank import __main__ as rank
from ms_codegeex.runs.files.run_directory import RunDirectory

plan, attempt = {plan}, RunDirectory(Path(sys.argv[1])).attempt

def write(self):
    whole(self)
    once, me = Path(__file__).with_name("stopped_%d" % attempt), [self._phases[-1], beats.beat_name(os.environ)]
    if attempt <= len(plan) and me == plan[attempt - 1] and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)  # it continues to write its stack, and must not train on

whole, beats.Beats._write = beats.Beats._write, write
sys.exit(rank.main())
"""
LIMITS = "hangs.QUIET_SECONDS, hangs.STOPPED_SECONDS = 8.0, 4.0"
# in this order, because an attempt without progress delays the next one
STOPPED_IN = ("evaluation", "load", "save", "start", "report", "rendezvous", "step", "compile")


def train(folder, values, fault=None, options=("--restarts", "1"), worker=WORKER, limits=LIMITS):
    """The finished run, and what the command printed."""
    folder.mkdir()
    (folder / "command.py").write_text(COMMAND.format(limits=limits))
    (folder / "bad_worker.py").write_text(worker.format(fault=fault) if worker is WORKER else worker)
    if fault is None and worker is WORKER:
        (folder / "once").touch()
    config = write_config(folder / "run.yaml", {**values, "output": str(folder / "run")})
    result = subprocess.run(
        [sys.executable, folder / "command.py", "train", "--config", config, *options],
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    return RunDirectory(folder / "run"), result.stderr


def values_of(dataset, devices=2):
    values = small_run(dataset, "")
    values["devices"] = devices
    values["training"].update(steps=14, dropout=0.1)
    values["checkpoint"].update(every=2, keep=20)
    values["faults"] = {"replicas": 2}
    return values


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    return train(tmp_path_factory.mktemp("unbroken") / "a", values_of(dataset))[0]


@pytest.mark.slow  # two workers, twice
def test_a_flipped_bit_in_a_copy_is_found_and_the_run_goes_back(dataset, tmp_path, unbroken):
    run, errors = train(tmp_path / "b", values_of(dataset), "flip")
    assert ": ranks 0 and 1 differ after step 8; copies were equal after step 6" in errors
    check_equal(run.path, unbroken.path)
    kinds = [event["event"] for event in read_events(run.events) if event["event"] in ("start", "corrupted", "end")]
    assert kinds == ["start", "corrupted", "end", "start", "end"]
    assert [e["step"] for e in read_events(run.events) if e["event"] == "start"] == [0, 6]
    assert any(path.name.startswith("doubtful-step-00000008") for path in run.checkpoints.iterdir())


@pytest.mark.slow  # two workers, twice, and a hang
def test_a_rank_that_sleeps_is_named_and_the_run_starts_again(dataset, tmp_path, unbroken):
    run, errors = train(tmp_path / "c", values_of(dataset), "sleep")
    assert "no rank has done anything for" in errors
    assert "the others wait for rank 1 in phase step (step 7), in sleep (bad_worker.py" in errors
    check_equal(run.path, unbroken.path)
    stacks = (run.logs / "attempt-0001" / "worker_1.log").read_text()
    assert "most recent call first" in stacks
    first, second = (read_beat(folder / "beats" / "1.json") for folder in (run.logs / "attempt-0001", run.logs))
    assert first.of == second.of != "" and first.learnt  # what the second attempt has begun with


def stopped_everywhere(dataset, folder, workers, limits=LIMITS):
    """The run of so many workers after a rank was stopped in each phase, one in each attempt, and the seconds from each
    stop to the end of the attempt. `benchmarks/faults.py` calls it, too, with the default limits."""
    ranks = [0 if phase == "save" else number % workers for number, phase in enumerate(STOPPED_IN)]  # rank 0 saves
    plan = [[phase, f"{rank}.json"] for rank, phase in zip(ranks, STOPPED_IN, strict=True)]
    values, options = values_of(dataset, workers), ("--restarts", str(len(plan)))
    values["training"]["evaluate_every"] = 4
    run, errors = train(folder, values, options=options, worker=STOPS.format(plan=plan), limits=limits)
    named = re.findall(
        r"a process was stopped and did not continue: rank (\d+) in phase (\w+)(?: \(step \d+\))?, stopped by SIGSTOP "
        r"or a debugger, in write \(bad_worker\.py",
        errors,
    )
    assert [[phase, f"{rank}.json"] for rank, phase in named] == plan, errors
    ends = [event for event in read_events(run.events) if event["event"] == "end"]
    assert [event["reason"] for event in ends] == ["failed"] * len(plan) + ["finished"]
    stops = [(folder / f"stopped_{attempt}").stat().st_mtime for attempt in range(1, len(plan) + 1)]
    return run, [event["time"] - stop for event, stop in zip(ends, stops, strict=False)]


@pytest.mark.slow  # nine attempts; `benchmarks/faults.py --stops` has four workers, too
def test_a_rank_that_is_stopped_in_any_phase_is_named_and_the_run_starts_again(dataset, tmp_path, unbroken):
    check_equal(stopped_everywhere(dataset, tmp_path / "stopped", 2)[0].path, unbroken.path)


def test_a_negative_number_of_restarts_is_refused(dataset, tmp_path):
    config = write_config(tmp_path / "run.yaml", small_run(dataset, tmp_path / "run"))
    result = command_here("train", "--config", config, "--restarts", "-1", status=2)
    assert "--restarts: -1 is out of range; give 0 or more" in result.stderr
    assert not (tmp_path / "run").exists()
