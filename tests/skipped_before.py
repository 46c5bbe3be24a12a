"""`pytest --skipped-before`: only tests that were skipped when they last ran, once what they lacked is installed."""

from __future__ import annotations

import pytest

KEY = "ms_codegeex/skipped"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skipped-before", action="store_true", help="run only the tests that were skipped when they last ran"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(SkippedBefore(config))


class SkippedBefore:
    """The names are in pytest's cache, where `--last-failed` has its own."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.ran: set[str] = set()
        self.skipped: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.config.option.skipped_before:
            before = set(self.config.cache.get(KEY, []))
            others = [item for item in items if item.nodeid not in before]
            items[:] = [item for item in items if item.nodeid in before]
            self.config.hook.pytest_deselected(items=others)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran.add(report.nodeid)
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        workers_or_no_run = hasattr(self.config, "workerinput") or self.config.option.collectonly
        if not workers_or_no_run and hasattr(self.config, "cache"):
            before = set(self.config.cache.get(KEY, []))
            self.config.cache.set(KEY, sorted(before - self.ran | self.skipped))
