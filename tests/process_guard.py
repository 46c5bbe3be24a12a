"""No test leaves a process behind, whatever happens to it: a plugin of pytest.

Every process of pytest adopts what its tests abandon, and at the end of each test file nothing may be left: it is
killed, and the file's last test fails and names it. If pytest itself is killed, `process_watcher` ends what carries the
session's mark. Signals that a shell makes its background jobs ignore have their usual effect again: children inherit
what is ignored, and some tests send SIGINT.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
from process_watcher import MARK

GRACE_SECONDS = 60.0  # for what was asked to end and is on its way; nothing else waits so long
PR_SET_CHILD_SUBREAPER = 36


def pytest_configure(config: pytest.Config) -> None:
    """In the process that the user starts, and in each of pytest-xdist's."""
    restore_signals()
    if not config.option.collectonly:
        config.pluginmanager.register(ProcessGuard(is_worker=hasattr(config, "workerinput")))


def restore_signals() -> None:
    """Undo what `pytest &` in a script has inherited."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


class ProcessGuard:
    """Of one process; `is_worker`: in a process of pytest-xdist, which has the mark of its session."""

    def __init__(self, is_worker: bool):
        self.left: list[str] = []  # when the session ends
        self.outer = os.environ.get(MARK, "")
        self.watcher: subprocess.Popen[bytes] | None = None
        if sys.platform != "linux":
            return
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        if not is_worker:
            program = str(Path(__file__).with_name("process_watcher.py"))
            words = [sys.executable, program, str(os.getpid()), f"{self.outer}/{os.getpid()}"]
            self.watcher = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
            os.environ[MARK] = words[-1]

    def pytest_unconfigure(self) -> None:
        if self.watcher:
            self.watcher.kill()
            self.watcher.wait()
            os.environ.pop(MARK)
            if self.outer:
                os.environ[MARK] = self.outer

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
        yield
        if nextitem is not None and nextitem.path == item.path:
            return
        if self._descendants():  # those of a fixture may end with the last reference to it, as a sandbox's do
            getattr(item, "funcargs", {}).clear()
            gc.collect()
        if lines := self.clear():
            pytest.fail("\n".join([f"{item.path.name} left processes behind, now killed:", *lines]), pytrace=False)

    @pytest.hookimpl(wrapper=True, trylast=True)  # after the workers of pytest-xdist, before the summary
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        yield
        self.left = self.clear()
        if self.left and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.left:
            terminalreporter.section("processes left behind, now killed", red=True)
            terminalreporter.write_line("\n".join(self.left))

    def clear(self) -> list[str]:
        """Give all descendants time to end, and kill those that do not; a line about each of these."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (found := self._descendants()) and time.monotonic() < deadline:
            time.sleep(0.05)
        lines = [f"  {line}" for process in found if (line := _description(process))]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=GRACE_SECONDS)
        return lines

    def _descendants(self) -> list[psutil.Process]:
        own = self.watcher.pid if self.watcher else None
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())  # none: it has ended
                # multiprocessing's tracker stays for as long as the process that uses it, which may be this one
                if words and process.pid != own and "multiprocessing.resource_tracker" not in words:
                    found.append(process)
        return found


def _description(process: psutil.Process) -> str:
    """Command and number of a process, and the test that started it; nothing if it has just ended."""
    test = ""
    with contextlib.suppress(psutil.Error):
        test = process.environ().get("PYTEST_CURRENT_TEST", "")  # as it was when the process was started
    with contextlib.suppress(psutil.Error):
        return f"{' '.join(process.cmdline())[:300]} (process {process.pid}, started by {test or 'no test'})"
    return ""
