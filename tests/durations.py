"""What each test file takes: a plugin of pytest, and a program that keeps what the last run took.

    python tests/durations.py            # after a run of the default tests: their seconds into tests/durations.json
    python tests/durations.py --slow     # after a run of the slow ones

A run orders the files by these seconds, the longest first, so that two processes end together, and its summary names
the files that took much longer than they should. Machines differ: the seconds of a file are compared with the recorded
ones times what most files of the run took over theirs. Nothing fails for its duration.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from hashlib import sha256
from pathlib import Path

import pytest
from not_run import file_of
from work_units import unit_of

BUDGETS = Path(__file__).with_name("durations.json")
LAST_RUN = "ms_codegeex/durations"  # in pytest's cache
KINDS = ("default", "slow")
FACTOR, SECONDS = 1.5, 5.0  # a file is over its budget if it exceeds both
LONG = 240.0  # seconds of a file that must not come last, since one process would run it while the other has ended


def read_budgets(path: Path = BUDGETS) -> dict[str, dict[str, float]]:
    """Seconds of each file, of its default and of its slow tests."""
    if not path.is_file():
        return {kind: {} for kind in KINDS}
    return json.loads(path.read_text(encoding="utf-8"))


def pace(took: Mapping[str, float], budgets: Mapping[str, float]) -> float:
    """How much longer this machine takes than the one of the budgets: the median over the files of a second or more."""
    ratios = [seconds / budgets[file] for file, seconds in took.items() if budgets.get(file, 0) >= 1]
    return statistics.median(ratios) if ratios else 1.0


def over_budget(took: Mapping[str, float], budgets: Mapping[str, float]) -> list[str]:
    """A line for each file that took half as much again as its budget, and five seconds more, at this run's pace."""
    factor, lines = pace(took, budgets), []
    for file, seconds in sorted(took.items(), key=lambda each: -each[1]):
        budget = budgets.get(file, 0.0) * factor  # a new file has none
        if budgets and seconds > FACTOR * budget and seconds > budget + SECONDS:
            lines.append(f"{file}: {seconds:.0f} s, budget {budget:.0f} s")
    return lines


class Durations:
    """Sums the phases of all tests by file, and by whether they are slow."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.took: dict[str, dict[str, float]] = {kind: defaultdict(float) for kind in KINDS}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.took[_kind(report.keywords)][file_of(report.nodeid)] += report.duration

    def pytest_sessionfinish(self) -> None:
        """Keep the seconds, unless these were only some of the tests."""
        some = self.config.option.keyword or self.config.option.skipped_before
        if not some and self.config.args_source is pytest.Config.ArgsSource.TESTPATHS and hasattr(self.config, "cache"):
            self.config.cache.set(LAST_RUN, self.took)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        budgets = read_budgets()
        lines = [line for kind in KINDS for line in over_budget(self.took[kind], budgets[kind])]
        if lines:
            terminalreporter.section(f"longer than {BUDGETS.name} has it")
            terminalreporter.write_line("\n".join(lines))


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "the long files, then the others, in an order of this word's own (default: the longest first)"
    parser.addoption("--files-by", metavar="WORD", help=text)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first. With a word, those of some minutes, then the others, each in an order of the word's own:
    where time is too short for all, each word leaves out others. The order of the tests in a file stays."""
    budgets, word = read_budgets(), config.option.files_by

    def order(item: pytest.Item) -> tuple[float | bool, bytes]:
        seconds = budgets[_kind(item.keywords)].get(file_of(item.nodeid), 0.0)
        if word is None:
            return -seconds, b""
        return seconds < LONG, sha256(f"{word} {unit_of(file_of(item.nodeid))}".encode()).digest()

    items.sort(key=order)


def _kind(keywords: Container[str]) -> str:
    return "slow" if "slow" in keywords else "default"


def pytest_configure(config: pytest.Config) -> None:
    """Only in the process that the user starts: the reports of pytest-xdist's processes reach it."""
    if not config.option.collectonly and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(config))


def updated(budgets: Mapping[str, float], took: Mapping[str, float], files: Iterable[str]) -> dict[str, float]:
    """The budgets with what was measured, rounded, without files that are gone or take less than 0.1 s."""
    merged = {**budgets, **{file: round(seconds, 1) for file, seconds in took.items()}}
    there = set(files)
    return {file: merged[file] for file in sorted(merged) if file in there and merged[file] >= 0.1}


def main(words: list[str] | None = None) -> int:
    """Keep what the last run took."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--slow", action="store_true", help="of the slow tests")
    kind = "slow" if parser.parse_args(words).slow else "default"
    root = BUDGETS.parents[1]
    kept = root / ".pytest_cache" / "v" / LAST_RUN
    took = json.loads(kept.read_text(encoding="utf-8"))[kind] if kept.is_file() else {}
    if not took:
        print(f"the last run had no {kind} tests", file=sys.stderr)
        return 2
    budgets = read_budgets()
    files = [str(path.relative_to(root)) for path in (root / "tests").rglob("test_*.py")]
    budgets[kind] = updated(budgets[kind], took, files)
    BUDGETS.write_text(json.dumps(budgets, indent=1) + "\n", encoding="utf-8")
    print(f"{BUDGETS.name}: {len(took)} files, {sum(took.values()):.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
