"""The suite itself: its tests have constant names, no process outlives it, and it runs wherever it is started."""

import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from run_processes import wait_for

PYTEST = (sys.executable, "-m", "pytest")


def collected(**environment: str | None) -> list[str]:
    """The names of all tests, slow ones too, in the order in which they would run; None removes a variable."""
    settings = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    words = [*PYTEST, "-p", "no:cacheprovider", "--collect-only", "-q", "-m", "slow or not slow", "tests"]
    done = subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow  # collects everything twice
def test_names_of_tests_are_constants():
    """pytest-xdist gives up if two of its processes collect different tests. Nothing of the moment, the machine or the
    checkout is in a name: the second time, date, hour, second, locale, hash seed, programs and home are others."""
    ours = {"PYTHONHASHSEED": "1", "TZ": "AAA-14", "LC_ALL": "C.UTF-8"}
    theirs = {"PYTHONHASHSEED": "2", "TZ": "BBB+12", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    gone = {"PATH": "/nonexistent", "HOME": None, "USER": None, "XDG_CACHE_HOME": None, "PYTHONIOENCODING": "utf-8"}
    first, began = collected(**ours), int(time.time())
    second = collected(**theirs, **gone)
    assert int(time.time()) > began  # they are not of the same second
    assert len(first) > 3000 and first == second
    assert not [name for name in first if str(ROOT) in name or re.search(r" at 0x[0-9a-f]{6}", name)]
    assert len(set(first)) == len(first)


def test_what_was_there_before_a_module_is_in_no_garbage_collection():
    """MindSpore collects in every compilation."""
    assert gc.isenabled()
    assert gc.get_freeze_count() > 10_000


# --- processes ---

CONFTEST = """
    import process_guard
    process_guard.GRACE_SECONDS = {grace}
    pytest_plugins = ["not_run", "process_guard", "skipped_before"]
"""
ABANDONED = """
    import os, subprocess, sys, time

    def abandon():
        code = "import subprocess; subprocess.Popen(['sleep', '5432'], start_new_session=True)"
        subprocess.run([sys.executable, "-c", code], check=True)
"""


@pytest.fixture
def suite(tmp_path):
    """Starts pytest on a suite of its own; returns the process. `shell`: by way of this script; `grace`: the seconds
    for which what is left may end."""
    for name in ("not_run.py", "process_guard.py", "process_watcher.py", "skipped_before.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    def start(body: str, *words: str, shell: str = 'exec "$@"', grace: float = 0.1) -> subprocess.Popen:
        (tmp_path / "conftest.py").write_text(textwrap.dedent(CONFTEST).format(grace=grace))
        (tmp_path / "test_inner.py").write_text(textwrap.dedent(ABANDONED) + textwrap.dedent(body))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {"HERE": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        line = ["bash", "-c", shell, "bash", *PYTEST, "-q", *(("-p", "xdist") if "-n" in words else ()), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(line, cwd=tmp_path, env=environment, **pipes)

    return start


def sleepers(here: Path) -> list[psutil.Process]:
    """What the inner suite has started and left."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "5432" in process.cmdline() and process.environ().get("HERE") == str(here):
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        pytest.param(words, ending, id=f"{name}-{ending}", marks=[pytest.mark.slow] if slow else [])
        for name, words in (("alone", ()), ("xdist", ("-n", "1")))
        for ending in ("pass", "assert False", "raise KeyboardInterrupt")
        for slow in [name == "xdist" and ending == "assert False"]  # with pytest-xdist: pass; a failure: alone
    ],
)
def test_a_process_that_is_left_fails_the_suite_and_is_killed(suite, tmp_path, ending, words):
    process = suite(f"def test_it():\n    abandon()\n    {ending}\ndef test_other():\n    pass\n", *words)
    output, _ = process.communicate()
    assert process.returncode, output
    assert not sleepers(tmp_path)
    if not words or ending != "raise KeyboardInterrupt":  # an interrupted worker of pytest-xdist says nothing
        assert "sleep 5432" in output and "test_inner.py::test_it (call)" in output, output


def test_what_a_dead_worker_leaves_is_named(suite, tmp_path):
    process = suite("def test_it():\n    abandon()\n    os._exit(3)\n", "-n", "1")
    output, _ = process.communicate()
    assert process.returncode and not sleepers(tmp_path)
    assert "processes left behind, now killed" in output and "sleep 5432" in output, output


def test_nothing_left_is_no_failure(suite):
    process = suite('def test_it():\n    assert subprocess.Popen(["sleep", "0.1"])\n', grace=60.0)
    assert process.wait() == 0, process.stdout.read()


@pytest.mark.parametrize("words", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_killed_pytest_leaves_nothing(suite, tmp_path, words):
    process = suite("def test_it():\n    abandon()\n    abandon()\n    time.sleep(5432)\n", *words)
    wait_for(lambda: len(sleepers(tmp_path)) == 2)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    wait_for(lambda: not sleepers(tmp_path))
    wait_for(lambda: not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE])


def test_an_interrupt_works_in_the_background_of_a_script(suite):
    """A shell without job control makes its background jobs ignore SIGINT, and so all that they start."""
    body = """
        import signal

        def test_it():
            process = subprocess.Popen(["sleep", "5432"])
            process.send_signal(signal.SIGINT)
            assert process.wait() == -signal.SIGINT

        def test_of_pytest_itself():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
    """
    process = suite(body, shell='"$@" & wait $!')
    output, _ = process.communicate()
    assert process.returncode == 2 and "1 passed" in output and "KeyboardInterrupt" in output, output


# --- what was skipped ---


@pytest.mark.parametrize("words", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_what_was_skipped_runs_once_it_can(suite, tmp_path, words):
    body = """
        import pytest
        from pathlib import Path

        def test_plain():
            pass

        @pytest.mark.parametrize("name", ["here", "missing"])
        def test_tool(name):
            if not Path(name).exists():
                pytest.skip("install it")
    """
    (tmp_path / "here").touch()
    others = ("2 passed", ("--deselect", "test_inner.py::test_tool[missing]"))  # a run of others changes nothing
    expected = [("2 passed, 1 skipped", ()), ("1 passed", ("--skipped-before",)), ("", ("--skipped-before",))]
    for number, (counts, options) in enumerate(expected[:2] if words else [expected[0], others, *expected[1:]]):
        process = suite(body, *words, *options)
        output, _ = process.communicate()
        assert process.returncode == (0 if counts else 5), output
        assert counts in output.splitlines()[-1], output
        assert "test_plain" not in output and ("skipped" in output.splitlines()[-1]) == (number == 0)
        (tmp_path / "missing").touch()


# --- what time did not allow ---


@pytest.mark.parametrize("words", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_what_did_not_run_is_listed(suite, words):
    body = """
        import pytest

        @pytest.mark.parametrize("number", range(5))
        def test_it(number):
            assert number < 1
    """
    output, _ = suite(body, "-x", "-k", "not 4", *words).communicate()
    assert "did not run: 2 of 4 tests" in output and "test_inner.py: 2" in output, output
    if not words:
        output, _ = suite(body).communicate()
        assert "4 failed, 1 passed" in output and "did not run" not in output, output
