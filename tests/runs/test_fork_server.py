"""The fork server of a run's processes, with stand-ins that need no engine."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from conftest import ROOT
from run_processes import wait_for

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.processes import alive
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.runs import forked_ranks
from ms_codegeex.runs.forked_ranks import ForkServer, fork_server_of
from ms_codegeex.runs.node import resolve_node
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.workers import Workers, WorkerSpec

PROGRAM = """
import sys, threading, time
from ms_codegeex.runs import fork_server

def imports():
    print("a greeting of the engine")
    print("the engine is missing", file=sys.stderr)
    {imports}

def library_path():
    print("compiling", file=sys.stderr, flush=True)
    raise OSError("no room")

fork_server._import_all, fork_server.library_path = imports, library_path
sys.exit(fork_server.main(int(sys.argv[2]), "operators" in sys.argv[3:]))
"""
RANK = """
import json, os, signal, sys, time
forked = "ms_codegeex.runs.fork_server" in sys.modules
seen = sys.argv[1:], os.environ["RANK_ID"], os.getcwd(), os.getsid(0) == os.getpid()
signals = {{number: str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()}}
print(json.dumps([forked, seen, signals, os.listdir("/proc/self/fd"), sys.stdin.read()]))
sys.stdout.flush()
{body}
"""
LAUNCHER = """
import json, sys, time
from pathlib import Path
from ms_codegeex.runs.forked_ranks import ForkServer
from ms_codegeex.runs.run_directory import RunDirectory
from ms_codegeex.runs.workers import WorkerSpec

run = RunDirectory(Path({run!r}))
server = ForkServer(run, {program!r})
server.warm({{}})
pids = [server.process.pid]
if {fork}:
    spec = WorkerSpec("rank 0", (sys.executable, "-m", "stand_in"), run.logs, run.logs / "log", {{"RANK_ID": "0"}})
    pids.append(server.fork(spec).pid)
print(json.dumps(pids), flush=True)
time.sleep(600)
"""


@pytest.fixture
def starting(tmp_path, monkeypatch):
    """A fork server of stand-ins, and its specifications of two ranks; ended at the end of the test."""
    made = []

    def start(body: str = "sys.exit(3)", imports: str = "pass", operators: bool = False):
        program = tmp_path / "program.py"
        program.write_text(PROGRAM.format(imports=imports))
        (tmp_path / "stand_in.py").write_text(RANK.format(body=body))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        run = RunDirectory(tmp_path / "run")
        made.append(ForkServer(run, (str(program),), operators))
        specs = []
        for rank in "01":
            log, command = run.logs / f"worker_{rank}.log", (sys.executable, "-m", "stand_in", "a", "b")
            label = f"rank {rank} on this machine, log {log}"
            specs.append(WorkerSpec(label, command, run.logs, log, {"RANK_ID": rank}, worker_logs=(log,)))
        return made[0], made[0].forked(specs)

    yield start
    for server in made:
        server.end()


def check_logs(specs, forked):
    """The ranks should print what two programs print that are started by `subprocess`, but that they ignore SIGUSR1
    from their start."""
    found = [json.loads(spec.log.read_text()) for spec in specs]
    for rank, (spec, seen) in enumerate(zip(specs, found, strict=True)):
        assert seen[:2] == [forked, [["a", "b"], str(rank), str(spec.directory), True]]
    WorkerSpec.start(specs[0]).wait()
    program = json.loads(specs[0].log.read_text())
    program[2][str(int(signal.SIGUSR1))] = str(signal.SIG_IGN)
    assert found[0][1:] == program[1:] and found[1][2:] == program[2:] and not program[0]


def test_a_forked_rank_is_what_its_program_would_be(starting):
    _, specs = starting()
    with Workers(specs) as workers:
        wait_for(lambda: workers.ended() == 2)
        assert workers.launcher_ended() and set(workers.ranks.values()) == {"0", "1"}
        assert set(workers.statuses.values()) == {3}
        assert workers.failure().startswith("rank 0 exited with status 3; rank 1 exited with status 3; last lines of ")
    check_logs(specs, True)


def test_a_rank_that_ends_before_the_next_is_forked_keeps_its_status(starting):
    _, specs = starting()
    first = specs[0].start()
    wait_for(lambda: psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE)
    second = specs[1].start()
    first.wait()
    second.wait()
    assert first.returncode == second.returncode == 3


def test_the_next_attempt_is_forked_from_the_same_process(starting):
    server, specs = starting("time.sleep(600)")
    with Workers(specs) as workers:
        first, pids = server.process.pid, list(workers.workers)
        wait_for(lambda: [psutil.Process(pid).name() for pid in pids] == ["rank 0", "rank 1"])
        psutil.Process(pids[1]).kill()
        wait_for(lambda: workers.ended() == 1)
        assert "rank 1 was killed by SIGKILL" in workers.failure()
    with Workers(specs) as workers:
        assert server.process.pid == first and not set(pids) & set(workers.workers)
        assert not any(map(psutil.pid_exists, pids))  # not even as zombies


def test_ranks_end_with_the_process_and_the_next_ones_come_from_another(starting):
    server, specs = starting("time.sleep(600)")
    with Workers(specs) as workers:
        first = server.process
        first.kill()
        wait_for(lambda: workers.ended() == 2)
        assert workers.launcher_ended()
        assert "the ranks ended with their fork server, which was killed by SIGKILL" in workers.failure()
    with Workers(specs) as workers:
        assert server.process.pid != first.pid and workers.ended() == 0


@pytest.mark.parametrize("imports", ["time.sleep(600)", "pass"], ids=["importing", "forked"])
def test_a_killed_launcher_ends_the_process_and_its_ranks(starting, tmp_path, imports):
    server, _ = starting("time.sleep(600)", imports)
    program = tmp_path / "launcher.py"
    program.write_text(LAUNCHER.format(fork=imports == "pass", run=str(server.run.path), program=server.program))
    words, seen = [sys.executable, str(program)], {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=seen) as launcher:
        processes = [psutil.Process(pid) for pid in json.loads(launcher.stdout.readline())]
        launcher.kill()
    assert len(processes) == 1 + (imports == "pass")
    wait_for(lambda: not any(map(alive, processes)))


def test_a_stopped_process_is_a_failure_and_the_next_attempt_has_another(starting, monkeypatch):
    server, specs = starting()
    first = server.process
    monkeypatch.setattr(forked_ranks, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(forked_ranks, "STOPPED_SECONDS", 0.1)
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(RunFailure, match="the fork server was stopped"):
        specs[0].start()
    rank = specs[0].start()
    assert server.process.pid != first.pid and first.returncode == -signal.SIGKILL
    rank.wait()


def test_other_variables_of_the_import_need_another_process(starting):
    server, _ = starting()
    server.warm({"OMP_NUM_THREADS": "1", "RANK_ID": "0"})
    first = server.process
    server.warm({"OMP_NUM_THREADS": "1", "RANK_ID": "1"})
    assert server.process is first
    server.warm({"OMP_NUM_THREADS": "2"})
    assert server.process is not first and first.returncode == -signal.SIGKILL


def test_a_source_that_changes_between_two_ranks_ends_none(starting, monkeypatch):
    server, specs = starting(body="time.sleep(600)")
    first = specs[0].start()
    monkeypatch.setattr(forked_ranks, "_sources", lambda: ["changed"])
    process = server.process
    second = specs[1].start()
    assert first.poll() is None and second.poll() is None and server.process is process
    server.warm(specs[0].environment)
    assert server.process is not process


def test_a_signal_to_every_process_of_a_job_ends_no_fork_server(starting):
    server, specs = starting(body="time.sleep(600)")
    os.kill(server.process.pid, signal.SIGUSR1)  # it still imports
    rank = specs[0].start()
    os.kill(server.process.pid, signal.SIGUSR1)
    specs[1].start()
    assert rank.poll() is None and server.loss() == ""


def test_a_changed_source_file_needs_another_process(starting, tmp_path, monkeypatch):
    """The engine parses the file that is there, at the lines where the function was imported from."""
    package = tmp_path / "package"
    (package / "training").mkdir(parents=True)
    file, sources = package / "training" / "step.py", forked_ranks._sources
    file.write_text("old = 1\n")
    monkeypatch.setattr(forked_ranks, "_sources", lambda: sources(package))
    server, _ = starting()
    server.warm({})
    first = server.process
    server.warm({})
    assert server.process is first
    file.write_text("# moved\nold = 1\n")
    server.warm({})
    assert server.process is not first
    second = server.process
    file.unlink()
    server.warm({})
    assert server.process is not second


def test_a_process_with_threads_starts_programs(starting):
    _, specs = starting(imports="threading.Thread(target=time.sleep, args=(600,), daemon=True).start()")
    with Workers(specs) as workers:
        wait_for(lambda: workers.ended() == 2)
        assert set(workers.statuses.values()) == {3}
    check_logs(specs, False)


@pytest.mark.parametrize("operators", [False, True])
def test_operators_are_compiled_before_a_rank_starts_and_what_fails_is_left_to_the_ranks(starting, operators):
    """`test_one_process_compiles_the_operators_of_a_run` has the real search."""
    server, specs = starting(operators=operators)
    rank = specs[0].start()
    server.errors.seek(0)
    assert ("compiling" in server.errors.read()) == operators
    rank.wait()
    assert rank.returncode == 3 and server.loss() == ""


def test_one_process_compiles_the_operators_of_a_run(tmp_path, monkeypatch):
    """In a new home. The rank looks for the library as it does in a run, and finds it. The compiler is a stand-in; the
    tests of `tests/generation/kernels` meet real ones."""
    log, folder = tmp_path / "log", tmp_path / "bin"
    folder.mkdir()
    (folder / "g++").write_text(f'#!/bin/sh\necho $PPID >>"{log}"\nuntil [ "$1" = -o ]; do shift; done\necho >"$2"\n')
    (folder / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "looks.py").write_text(
        "from ms_codegeex.kernels.compiling import library_path\nprint(library_path())\n"
    )
    with ForkServer(RunDirectory(tmp_path / "run"), operators=True) as server:
        server.warm({})
        command = (sys.executable, "-m", "looks")
        server.fork(WorkerSpec("rank 0", command, tmp_path, tmp_path / "rank", {"RANK_ID": "0"})).wait()
        assert log.read_text() == f"{server.process.pid}\n"
    (library,) = (tmp_path / "cache").rglob("*.so")
    assert (tmp_path / "rank").read_text() == f"{library}\n"


def test_a_failed_import_is_quoted(starting):
    _, specs = starting(imports="raise SystemExit(1)")
    with pytest.raises(RunFailure, match=r"rank 0 .*: the fork server exited with status 1: the engine is missing"):
        Workers(specs).__enter__()


@pytest.mark.parametrize(
    "device,precision,warm", [("cpu", "fp32", [True]), ("cpu", "bf16", [False]), ("gpu", "fp32", [])]
)
def test_only_runs_on_a_cpu_keep_a_process(tmp_path, monkeypatch, device, precision, warm):
    """It compiles the operators of those that use them."""
    warmed = []
    monkeypatch.setattr(ForkServer, "warm", lambda self, environment: warmed.append(self.operators))
    values = {"devices": 1, "model": {"preset": "tiny"}, "training": {"steps": 1, "precision": precision}}
    node, config = resolve_node(build_run_config(values)), build_run_config({**values, "device": device})
    with fork_server_of(config, node, RunDirectory(tmp_path)) as server:
        assert (server is not None) == bool(warmed) and warmed == warm
