"""The watcher of processes, with stand-in workers that need no engine."""

import signal
import sys
import textwrap

import psutil
import pytest
from run_processes import wait_for

from ms_codegeex.base import processes
from ms_codegeex.base.errors import RunFailure
from ms_codegeex.runs.servers.workers import Workers, WorkerSpec


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A module that can be started as a worker; returns a function that starts it."""

    def start(body: str) -> Workers:
        (tmp_path / "stand_in.py").write_text(textwrap.dedent(body))
        log, words = tmp_path / "worker_0.log", (sys.executable, "-m", "stand_in")
        return Workers([WorkerSpec("", words, tmp_path, log, {"PYTHONPATH": str(tmp_path)}, worker_logs=(log,))])

    return start


def test_an_ended_worker_is_noticed_and_its_last_lines_are_reported(stand_in):
    with stand_in("print('something went wrong')\nraise SystemExit(3)") as workers:
        wait_for(lambda: workers.ended() == 1)
        assert workers.launcher_ended()
        assert workers.failure().startswith("rank 0 exited with status 3; last lines of ")
        assert "something went wrong" in workers.failure()


def test_leaving_the_context_ends_grandchildren_that_ignore_sigterm(stand_in):
    body = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deaf = "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", deaf])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    with stand_in(body) as workers:
        log = workers.specs[0].log
        wait_for(lambda: log.exists() and log.read_text().strip())
        pids = [int(log.read_text()), workers.roots[0].pid]
        workers.refresh()
        assert workers.ended() == 0
    wait_for(lambda: not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids))


def test_a_stopped_worker_continues_when_it_has_to_save_and_is_killed_at_the_end(stand_in, monkeypatch):
    with stand_in("import time; time.sleep(600)") as workers:
        (process,) = workers.workers.values()
        process.suspend()
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
        workers.resume_stopped()
        wait_for(lambda: process.status() != psutil.STATUS_STOPPED)
        process.suspend()
        wait_for(lambda: process.status() == psutil.STATUS_STOPPED)
        monkeypatch.setattr(processes, "END_SECONDS", 1e9)  # SIGTERM would have to wait for it
    assert workers.roots[0].returncode == -signal.SIGKILL


def test_the_users_error_output_is_kept_apart_from_the_workers(stand_in, capfd):
    with stand_in("import sys; print('out'); print('err', file=sys.stderr)") as workers:
        wait_for(lambda: workers.ended() == 1)
    assert capfd.readouterr() == ("", "")
    assert {"out", "err"} == set(workers.specs[0].log.read_text().split())


def test_of_several_workers_one_may_end_and_the_failed_one_is_quoted(tmp_path):
    def spec(name: str, code: str) -> WorkerSpec:
        log = tmp_path / f"{name}.log"
        return WorkerSpec(name, (sys.executable, "-c", code), tmp_path / name, log, worker_logs=(log,))

    done = spec("done", "print('done')")
    failed = spec("worker_0", "print('out of memory'); raise SystemExit(1)")
    waiting = spec("waiting", "import time\nwhile True: print('waiting', flush=True); time.sleep(0.05)")
    with Workers([done, failed, waiting]) as workers:
        wait_for(lambda: workers.ended() == 2)
        assert not workers.launcher_ended() and workers.count == 3
        size = waiting.log.stat().st_size
        wait_for(lambda: waiting.log.stat().st_size > size)  # the others write after the failed one did
        assert "worker_0.log" in workers.failure() and "out of memory" in workers.failure()
    assert workers.launcher_ended()


# --- workers of an msrun, in its place a stand-in ---

MSRUN = """
import os, subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
workers = [
    subprocess.Popen(sleeper, env={**os.environ, "MS_ROLE": "MS_WORKER", "RANK_ID": rank}) for rank in ("0", "1")
]
while REAP and all(worker.poll() is None for worker in workers):
    time.sleep(0.01)
for worker in workers:
    if REAP and worker.returncode is not None:
        print(f"Worker process {worker.pid} exit with exception. Error code: {worker.returncode}.", flush=True)
        for other in workers:
            other.kill()
time.sleep(600)
"""


@pytest.fixture
def msrun(tmp_path):
    """Two workers that sleep, started by what may be asked for their statuses (`reap`) as msrun does once a second."""
    logs = tuple(tmp_path / f"worker_{rank}.log" for rank in (0, 1))

    def start(reap: bool) -> Workers:
        words = (sys.executable, "-c", MSRUN.replace("REAP", str(reap)))
        return Workers([WorkerSpec("", words, tmp_path, tmp_path / "msrun.log", worker_logs=logs)])

    return start


def started(workers: Workers) -> dict[str, psutil.Process]:
    """The workers by rank, as soon as both are there."""

    def both():
        workers.refresh()
        return len(workers.workers) == 2

    wait_for(both)
    return {workers.ranks[pid]: process for pid, process in workers.workers.items()}


@pytest.mark.parametrize("reap", [True, False])
def test_a_killed_worker_is_named_with_its_signal(msrun, tmp_path, reap):
    """Whether msrun, which kills the others, has seen it first or not."""
    with msrun(reap) as workers:
        started(workers)["1"].kill()
        wait_for(lambda: workers.ended() == (2 if reap else 1))
        assert workers.failure().startswith("rank 1 was killed by SIGKILL; ")
        (tmp_path / "worker_1.log").write_text("step 7\n")
        (tmp_path / "worker_0.log").write_text("lost the other\n")
        assert workers.failure().endswith(f"last lines of {tmp_path / 'worker_1.log'}:\n  step 7")


def test_a_stopped_worker_is_named_with_the_schedulers_line(msrun, tmp_path):
    """The first to end is one that waited for it."""
    line = "The node: 1 is timed out. It may exit with exception, please check this node's log"
    with msrun(False) as workers:
        by_rank = started(workers)
        by_rank["1"].suspend()
        wait_for(lambda: workers.ended() == 0 and workers.stopped)
        by_rank["0"].kill()
        wait_for(lambda: workers.ended() == 1)
        assert workers.failure().startswith("rank 0 was killed by SIGKILL; ")
        log = f"[ERROR] DISTRIBUTED(7) [meta_server_node.cc:548] {line}.\nTraceback\n"
        (tmp_path / "scheduler.log").write_text(log)
        stopped = "rank 1 was stopped and did not continue (by SIGSTOP or a debugger); the scheduler says: "
        assert workers.failure().startswith(f"{stopped}{line}; ")
        by_rank["1"].resume()
        wait_for(lambda: workers.ended() == 1 and not workers.stopped)
        assert workers.failure().startswith("rank 1 stopped responding; the scheduler says")


def test_a_worker_of_another_server_is_named(msrun, tmp_path):
    (tmp_path / "scheduler.log").write_text("[ERROR] The node: 9 is timed out. It may exit.\n")
    with msrun(False) as workers:
        started(workers)["0"].kill()
        assert workers.failure().startswith("rank 9, on another server, was lost; the scheduler says: The node: 9 is")


def test_a_program_that_is_not_there_is_reported_and_ends_those_started(tmp_path):
    programs = {"a": (sys.executable, "-c", "import time; time.sleep(600)"), "rank 3": ("no-such-program",)}
    logs = [tmp_path / f"{name}.log" for name in programs]
    specs = zip(programs.items(), logs, strict=True)
    workers = Workers([WorkerSpec(*program, tmp_path, log, worker_logs=(log,)) for program, log in specs])
    with pytest.raises(RunFailure, match="rank 3: no-such-program could not be started"), workers:
        pass
    assert workers.launcher_ended() and len(workers.roots) == 1
