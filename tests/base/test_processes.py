"""Processes are started with a log, watched and ended together, whatever started them."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from run_processes import wait_for

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.processes import (
    PACKAGE_PARENT,
    ProcessGroup,
    ProcessSpec,
    alive,
    ending,
    import_variables,
    python_process,
    run_processes,
    run_reporting,
)

SLEEP = "import time; time.sleep(600)"


def python(name: str, code: str, directory) -> ProcessSpec:
    return python_process(name, ["-c", code], directory)


def test_processes_run_in_order_and_a_few_at_once(tmp_path):
    """Each of the first two waits for the other, so both run at once; the third sees that both have ended."""
    meet = "import pathlib, time\npathlib.Path('{0}').touch()\nwhile not pathlib.Path('{1}').exists(): time.sleep(0.01)"
    specs = [python("a", meet.format("a", "b"), tmp_path), python("b", meet.format("b", "a"), tmp_path)]
    specs.append(python("c", "import os; print(sorted(os.listdir()))", tmp_path))
    ended = []
    run_processes(specs, 2, lambda spec: ended.append(spec.label))
    assert set(ended[:2]) == {"a", "b"} and ended[2] == "c"
    assert specs[2].log.read_text() == "['a', 'a.log', 'b', 'b.log', 'c.log']\n"


def test_the_first_failure_ends_the_others_and_quotes_its_log(tmp_path):
    reported = "import os; print(os.getpid(), flush=True); " + SLEEP
    failing = "import pathlib\nwhile not pathlib.Path('sleeper.log').read_text(): pass\nprint('why\\n\\n end'); exit(3)"
    sleeper, failed = python("sleeper", reported, tmp_path), python("rank 1", failing, tmp_path)
    never = python("never", "print(1)", tmp_path)
    with pytest.raises(RunFailure, match=r"^rank 1 exited with status 3: why \| end$"):
        run_processes([sleeper, failed, never], 2)
    assert not psutil.pid_exists(int(sleeper.log.read_text())) and not never.log.exists()


def test_after_status_2_the_last_line_is_the_reason(tmp_path):
    """As `run_reporting` says it, too."""
    failing = python("rank 1", "print('a call stack\\n of many lines\\nthe reason'); exit(2)", tmp_path)
    with pytest.raises(RunFailure, match=r"^rank 1: the reason$"):
        run_processes([failing])


def test_of_processes_that_fail_together_the_first_to_fall_silent_is_named(tmp_path):
    """Both have ended when the launcher looks again, since its last `ended` waits for that."""
    begin = "import os, pathlib\npathlib.Path('{0}.pid').write_text(str(os.getpid()))\n"
    begin += "while not pathlib.Path('go').exists(): pass\n"
    waits = "while not pathlib.Path('b.done').exists(): pass\n"
    waits += "while os.stat('a.log').st_mtime_ns <= os.stat('b.log').st_mtime_ns: print('alone', flush=True)\nexit(1)"
    fails = "print('the cause', flush=True); pathlib.Path('b.done').touch(); exit(1)"
    specs = [python("a", begin.format("a") + waits, tmp_path), python("b", begin.format("b") + fails, tmp_path)]
    together = "import os\nwhile not {'a.pid', 'b.pid'} <= {*os.listdir()}: pass"

    def wait_for_both(spec):
        pids = [psutil.Process(int((tmp_path / f"{name}.pid").read_text())) for name in "ab"]
        (tmp_path / "go").touch()
        wait_for(lambda: not any(map(alive, pids)))

    with pytest.raises(RunFailure, match=r"^b exited with status 1: the cause$"):
        run_processes([*specs, python("c", together, tmp_path)], 3, wait_for_both)


def test_a_silent_and_a_killed_process_are_described(tmp_path):
    code = f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})"
    with pytest.raises(RunFailure, match=r"^x was killed by SIGKILL: it printed nothing$"):
        run_processes([python("x", code, tmp_path)])


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    spec = python("x", "print('busy', flush=True); " + SLEEP, tmp_path)
    with pytest.raises(RunFailure, match=r"^x did not end within 0\.2 s: "):
        run_processes([spec], seconds=0.2)


def test_an_exception_here_ends_the_processes(tmp_path):
    def interrupt(spec):
        raise KeyboardInterrupt

    slow = python("slow", "import os; print(os.getpid(), flush=True); " + SLEEP, tmp_path)
    quick = python("quick", "import pathlib\nwhile not pathlib.Path('slow.log').read_text(): pass", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_processes([slow, quick], 2, interrupt)
    assert not psutil.pid_exists(int(slow.log.read_text()))


def test_a_group_ends_what_its_processes_have_started(tmp_path):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {deaf!r}]).pid, flush=True); {SLEEP}"
    spec = python("x", code, tmp_path)
    with ProcessGroup() as group:
        group.start(spec)
        wait_for(lambda: spec.log.read_text().strip())
        child = psutil.Process(int(spec.log.read_text()))
    assert not alive(child) and group.poll() == [True]


def test_a_failed_process_leaves_none_that_it_started(tmp_path):
    start = f"print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid, flush=True)"
    code = f"import subprocess, sys; {start}; sys.exit(3)"
    spec = python("x", code, tmp_path)
    with pytest.raises(RunFailure, match="x exited with status 3"):
        run_processes([spec])
    assert not psutil.pid_exists(child := int(spec.log.read_text())) or not alive(psutil.Process(child))


def test_a_killed_parent_leaves_no_process(tmp_path):
    code = (
        "import pathlib, time\nfrom ms_codegeex.base.processes import *\n"
        f"ProcessGroup().start(python_process('child', ['-c', {SLEEP!r}], pathlib.Path('.').resolve()))\n"
        "print(psutil.Process().children()[0].pid, flush=True); time.sleep(600)"
    )
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": PACKAGE_PARENT}, "stdout": subprocess.PIPE}
    parent = subprocess.Popen([sys.executable, "-c", code], text=True, **options)
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    wait_for(lambda: not alive(child))


def test_a_python_process_finds_the_package_and_keeps_the_users_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    code = "import os, ms_codegeex; print(os.environ['PYTHONPATH'], os.environ['GLOG_v'])"
    spec = python("x", code, tmp_path / "new")
    run_processes([spec])
    assert spec.log.read_text() == f"{PACKAGE_PARENT}:/somewhere 3\n"


FORKING = """
import os, sys, threading, time
from functools import partial
from pathlib import Path
from ms_codegeex.base.processes import ForkSpec, ProcessGroup, run_processes

imported = []

def tell(status):
    print(imported, os.getcwd(), os.environ["RANK"], flush=True)
    return status

def sleep():
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    imported.append("once")
    if sys.argv[1] == "two threads":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    if sys.argv[1] == "sleep":
        ProcessGroup().start(ForkSpec("x", sleep, Path("new").resolve()))
        time.sleep(600)
    run_processes([ForkSpec("x", partial(tell, int(sys.argv[2])), Path("new").resolve(), {"RANK": "3"})])
"""


def forking(directory, *arguments: str) -> ProcessSpec:
    """A process that forks another, which leaves new/x.log."""
    (directory / "forking.py").write_text(FORKING)
    return python_process("forking", ["forking.py", *arguments], directory)


@pytest.mark.parametrize(("threads", "seen"), [("one thread", "['once']"), ("two threads", "[]")])
def test_a_function_runs_in_a_fork_or_beside_other_threads_in_a_new_process(tmp_path, threads, seen):
    run_processes([forking(tmp_path, threads, "0")])
    assert (tmp_path / "new" / "x.log").read_text() == f"{seen} {tmp_path / 'new'} 3\n"


def test_a_fork_that_fails_is_named_with_its_last_words(tmp_path):
    with pytest.raises(RunFailure, match=r"RunFailure: x exited with status 3: \['once'\] .* 3$"):
        run_processes([forking(tmp_path, "one thread", "3")])


def test_forks_die_with_their_parent(tmp_path):
    log = tmp_path / "new" / "x.log"
    with ProcessGroup() as group:
        parent = group.start(forking(tmp_path, "sleep"))
        wait_for(lambda: log.exists() and log.read_text().endswith("\n"))
        child = psutil.Process(int(log.read_text()))
        parent.kill()
        wait_for(lambda: not alive(child))


def test_what_a_process_reports_arrives_line_by_line(tmp_path):
    """It waits until the first line was received."""
    code = "import os, time\nprint('one', flush=True)\nwhile not os.path.exists('seen'): time.sleep(0.01)\nprint('two')"
    lines = []

    def reported(line):
        lines.append(line)
        (tmp_path / "seen").touch()

    run_reporting(python("x", code, tmp_path), reported)
    assert lines == ["one", "two"]


@pytest.mark.parametrize(
    ("status", "message"), [(2, "^the reason$"), (3, r"^x exited with status 3: a warning \| the reason$")]
)
def test_a_reporting_process_that_fails(tmp_path, status, message):
    code = f"import sys; print('one'); print('a warning\\nthe reason', file=sys.stderr); sys.exit({status})"
    with pytest.raises(RunFailure, match=message):
        run_reporting(python("x", code, tmp_path), lambda line: None)


def test_endings_in_words():
    words = {3: "exited with status 3", -9: "was killed by SIGKILL", -40: "was killed by signal 40", None: "ended"}
    assert {status: ending(status) for status in words} == words


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 looks for modules where it starts")
def test_files_where_a_command_is_run_are_not_imported(tmp_path):
    for name in ("json", "argparse", "dataclasses", "yaml", "platform"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')\n")
    words, variables = [sys.executable, "-m", "ms_codegeex.cli", "--version"], {**os.environ, **import_variables()}
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ms-codegeex "), done.stderr
