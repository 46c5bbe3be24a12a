"""The processes of `ms-codegeex train`: they end together, whatever ends first, and do not disturb other jobs."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, command_here, small_run, write_config
from equal_runs import check_equal
from run_processes import processes_of, ranks_of, wait_for

from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.runs.files.records import read_events, read_log
from ms_codegeex.runs.files.run_directory import RunDirectory

LONG = 50_000  # steps: minutes, when a test needs a moment


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def values_of(dataset, run, devices=2, **training):
    values = small_run(dataset, run.path) | {"devices": devices}
    values["training"].update(training or {"steps": LONG})
    return values


def process(*words):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*map(str, words)], env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)


def train(values, *options):
    """The command that trains with these values."""
    config = write_config(Path(f"{values['output']}.yaml"), values)
    return (sys.executable, "-m", "ms_codegeex.cli", "train", "--config", config, *options)


def started(values, until):
    """The command in the background, after something has happened, or it has ended."""
    job = process(*train(values))
    wait_for(lambda: until() or job.poll() is not None)
    return job


@pytest.mark.slow  # two workers
def test_sigterm_lets_a_stopped_worker_continue_and_the_run_saves(dataset, run):
    job = started(values_of(dataset, run), lambda: len(read_log(run.log)) > 10)
    worker = ranks_of(run.path)[1]
    worker.suspend()
    wait_for(lambda: worker.status() == psutil.STATUS_STOPPED)
    job.send_signal(signal.SIGTERM)
    _, errors = job.communicate(timeout=600)
    assert job.returncode == 143 and "not saved within" not in errors
    (checkpoint,) = list_checkpoints(run.checkpoints)
    assert Checkpoint(checkpoint).step == read_log(run.log)[-1]["step"]


@pytest.mark.slow  # three times two workers: half a minute
@pytest.mark.parametrize("restarts", [0, 2])
def test_a_run_whose_worker_is_killed_ends_or_starts_again_as_if_nothing_had_happened(dataset, run, tmp_path, restarts):
    values = values_of(dataset, run, steps=12 if restarts else LONG, dropout=0.1)
    values["checkpoint"].update(every=2, keep=20)
    job = process(*train(values, "--restarts", restarts))
    wait_for(lambda: list_checkpoints(run.checkpoints) or job.poll() is not None)
    ranks = ranks_of(run.path)
    assert sorted(ranks) == [0, 1]
    ranks[1].kill()
    _, errors = job.communicate(timeout=600)
    assert job.returncode == (not restarts), errors
    assert "a worker ended before its work was done" in errors and "rank 1 was killed by SIGKILL" in errors
    # we saw it, not the scheduler by its heartbeat
    assert "the scheduler says" not in errors and "timed out" not in (run.logs / "scheduler.log").read_text()
    assert not processes_of(run.path)
    ends = [event["reason"] for event in read_events(run.events) if event["event"] == "end"]
    assert ends == ["failed", "finished"][: 1 + bool(restarts)]
    if restarts:
        assert "starts again from its newest checkpoint (restart 1 of 2)" in errors
        assert (run.logs / "attempt-0001" / "worker_1.log").exists()
        unbroken = process(*train({**values, "output": str(tmp_path / "unbroken")}))
        unbroken.communicate(timeout=600)
        assert unbroken.returncode == 0
        check_equal(run.path, tmp_path / "unbroken")


@pytest.mark.parametrize("number,status", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_second_job_is_refused_and_ending_the_command_ends_all_workers(dataset, run, number, status):
    job = started(values_of(dataset, run), lambda: len(ranks_of(run.path)) == 2)
    second = command_here("train", "--config", f"{run.path}.yaml", "training.steps=1", status=2)
    assert "another job is running" in second.stderr
    job.send_signal(number)
    if number == signal.SIGINT:  # the second one ends it at once
        wait_for(lambda: run.stop_request.exists() or job.poll() is not None)
        job.send_signal(number)
    job.communicate(timeout=600)
    assert job.returncode == status
    wait_for(lambda: not processes_of(run.path))  # the scheduler too


@pytest.mark.slow  # four workers on the cores of two: half a minute
def test_two_jobs_at_once_do_not_collide(dataset, tmp_path):
    runs = [RunDirectory(tmp_path / name) for name in "ab"]
    jobs = [process(*train(values_of(dataset, run, steps=3))) for run in runs]
    results = [job.communicate(timeout=400) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], results
    a, b = ([record["loss"] for record in read_log(run.log)] for run in runs)
    assert a == b


MOUNTED = """
import ctypes, os, sys

libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()

def call(name, *arguments):
    if getattr(libc, name)(*arguments):
        sys.exit(f"mount: {name}: {os.strerror(ctypes.get_errno())}")

call("unshare", 0x10000000 | 0x00020000)  # CLONE_NEWUSER | CLONE_NEWNS
for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
    with open(f"/proc/self/{file}", "w") as stream:
        stream.write(text)
call("mount", b"none", sys.argv[1].encode(), b"tmpfs", 0, b"size=16m")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.mark.slow  # a run of two processes; the log's own test is in tests/runs
def test_a_full_disk_delays_the_log_and_not_the_run(dataset, run):
    """On a file system of 16 MiB of its own, that is filled while the run goes on and emptied again."""
    run.path.mkdir()
    job = process(sys.executable, "-c", MOUNTED, run.path, *train(values_of(dataset, run, devices=1)))
    inside, lines = Path(f"/proc/{job.pid}/root{run.path}"), []
    try:
        wait_for(lambda: read_log(inside / "log.jsonl") or job.poll() is not None)
        if job.poll() is not None and "mount" in (text := job.stderr.read()):
            pytest.skip(f"this machine refuses a file system of one's own: {text.strip()}")
        with contextlib.suppress(OSError), open(inside / "filler", "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        while "is full; the log waits for room" not in (line := job.stderr.readline()):
            lines.append(line)
            assert line, lines
        files = inside / "log.jsonl", inside / "logs" / "progress.jsonl"
        wait_for(lambda: all(path.stat().st_size % 4096 == 0 for path in files))  # their last pages are full
        filled = len(read_log(inside / "log.jsonl"))
        (inside / "filler").unlink()
        wait_for(lambda: len(read_log(inside / "log.jsonl")) > filled + 100)
        steps = [line["step"] for line in read_log(inside / "log.jsonl")]
        assert steps == list(range(1, len(steps) + 1))
    finally:
        job.send_signal(signal.SIGTERM)
        _, rest = job.communicate(timeout=60)
    printed = "".join(lines) + rest  # either warning may be the first
    assert "log.jsonl: could not be written (No space left on device)" in printed and "Traceback" not in printed
