"""What a session that was ended early did not run, by file, in its summary: a plugin of pytest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest


def file_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.partition("::")[0]


def pytest_configure(config: pytest.Config) -> None:
    """Only in the process that the user starts: the reports of pytest-xdist's processes reach it."""
    if not config.option.collectonly and not hasattr(config, "workerinput"):
        config.pluginmanager.register(NotRun())


class NotRun:
    """Counts what was collected and what was reported."""

    def __init__(self) -> None:
        self.collected: Sequence[str] = ()
        self.reported: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = self.collected or [item.nodeid for item in session.items]

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self.collected = ids

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reported.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        left = Counter(file_of(nodeid) for nodeid in self.collected if nodeid not in self.reported)
        if left:
            terminalreporter.section(f"did not run: {sum(left.values())} of {len(self.collected)} tests")
            for file, count in left.items():
                terminalreporter.write_line(f"{file}: {count}")
