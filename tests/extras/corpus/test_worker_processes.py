"""Worker processes: forked from a process without threads, fresh otherwise; none outlives the command."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ms_codegeex.extras.corpus.workers import ProgressBar, _may_fork

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import json, os, sys, threading
from ms_codegeex.extras.corpus.workers import open_mapper

LOADED = []

def load():
    LOADED or LOADED.append(os.getpid())

def loaded_by(_):
    return os.getpid(), LOADED[0]

if __name__ == "__main__":
    if "thread" in sys.argv:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with open_mapper(2, load) as mapper:
        print(json.dumps([os.getpid(), [*mapper(loaded_by, range(8))]]), flush=True)
        if "wait" in sys.argv:
            sys.stdin.read()
"""


@pytest.fixture
def start(tmp_path):
    """Start the script with these words; what it printed, and the process."""
    started = []

    def start(*words):
        (tmp_path / "script.py").write_text(SCRIPT)
        command = [sys.executable, tmp_path / "script.py", *words]
        environment = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return json.loads(process.stdout.readline()), process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_forked_workers_share_what_their_parent_loaded(start):
    (parent, answers), _ = start()
    assert {loaded for _, loaded in answers} == {parent} and parent not in dict(answers)


def test_workers_of_a_process_with_threads_load_for_themselves(start):
    (parent, answers), _ = start("thread")
    assert all(worker == loaded != parent for worker, loaded in answers)


@pytest.mark.parametrize("words", [("wait",), ("wait", "thread")])
def test_workers_end_with_a_killed_parent(start, words):
    (parent, _), process = start(*words)
    workers = psutil.Process(parent).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_a_process_without_proc_is_not_forked(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "listdir", missing)
    assert not _may_fork()


def test_a_line_of_progress_now_and_then(capsys):
    """Where standard error is not a terminal, whatever a unit takes."""
    bar = ProgressBar(True)
    bar.say("searching x")
    with bar.alive(seconds=0.02):
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "searching x" and set(lines[1:]) == {"searching x; 0 s so far"}
    with ProgressBar(False).alive(seconds=0.02):
        time.sleep(0.05)
    assert not capsys.readouterr().err
