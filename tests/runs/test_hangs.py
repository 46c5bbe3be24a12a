"""Hangs, with stand-in workers that need no engine."""

import sys
import textwrap

import pytest
from test_workers import wait_for

from ms_codegeex.runs import workers as watching
from ms_codegeex.runs.workers import HangWatch, Workers, WorkerSpec, report_hang


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: now[0])
    return now


def step(seconds, left=5, compiling=False):
    return {"event": "step", "step_seconds": seconds, "steps_left": left, "compiling": compiling}


def test_a_step_of_many_times_the_median_hangs(clock):
    watch = HangWatch(20.0)
    for event in (step(90.0, compiling=True), step(5.0), step(4.0), step(6.0)):
        assert watch.hung() is None
        watch.event(event)
    clock[0] += 99.0
    assert watch.hung() is None
    clock[0] += 2.0
    assert watch.hung() == "no step has ended for 101 s, where the median is 5 s"


def test_a_hang_takes_a_minute_at_least(clock):
    watch = HangWatch(20.0)
    for _ in range(3):
        watch.event(step(0.01))
    clock[0] += 59.0
    assert watch.hung() is None
    clock[0] += 2.0
    assert watch.hung() is not None


@pytest.mark.parametrize("last", [{"event": "status", "text": "saving a checkpoint"}, step(1.0, left=0)])
def test_compiling_evaluating_and_saving_never_count_as_hangs(clock, last):
    watch = HangWatch(20.0)
    for _ in range(3):
        watch.event(step(1.0))
    watch.event(last)
    clock[0] += 1e5
    assert watch.hung() is None
    off = HangWatch(0.0)
    for _ in range(3):
        off.event(step(1.0))
    clock[0] += 1e5
    assert off.hung() is None


WAITING = """
    import faulthandler, signal, threading, time
    faulthandler.register(signal.SIGUSR2, all_threads=True)
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    def {name}():
        print("ready", flush=True)
        while True:
            time.sleep(600)
    {name}()
"""


@pytest.mark.parametrize("odd", [0, 1])
def test_the_rank_that_is_outside_of_the_engine_is_named(tmp_path, odd, monkeypatch):
    (tmp_path / "mindspore").mkdir()
    (tmp_path / "mindspore" / "__init__.py").touch()
    (tmp_path / "mindspore" / "graph.py").write_text(textwrap.dedent(WAITING.format(name="run_graph")))
    (tmp_path / "reader.py").write_text(textwrap.dedent(WAITING.format(name="read_batch")))
    specs = []
    for rank in range(3):
        log, module = tmp_path / f"worker_{rank}.log", "reader" if rank == odd else "mindspore.graph"
        environment = {"PYTHONPATH": str(tmp_path), "RANK_ID": str(rank)}
        specs.append(WorkerSpec("", (sys.executable, "-m", module), tmp_path, log, environment, worker_logs=(log,)))
    with Workers(specs) as workers:
        wait_for(lambda: all(spec.log.exists() and "ready" in spec.log.read_text() for spec in specs))
        assert f"the others wait for rank {odd}, which is in read_batch (reader.py:8)" in report_hang(workers)
        monkeypatch.setattr(watching, "STACK_SECONDS", 0.0)
        process = next(process for pid, process in workers.workers.items() if workers.ranks[pid] == str(odd))
        process.suspend()
        wait_for(lambda: process.status() == "stopped")
        assert report_hang(workers).startswith(f"stopped (by SIGSTOP or a debugger): rank {odd};")
