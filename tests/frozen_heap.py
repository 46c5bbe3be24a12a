"""Objects of earlier modules are left out of garbage collections: a plugin of pytest.

MindSpore calls `gc.collect` in every compilation. With thousands of collected tests and large libraries in memory, that
takes longer than a small compilation itself: test_fused.py took 17 s of CPU time in the whole suite and 6 s alone.
`gc.freeze` sets aside what is alive.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from pathlib import Path

import pytest


class FrozenHeap:
    """Freezes the heap before the first test of each module, when the fixtures of the one before are gone, and after a
    test that imported a large library."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.modules = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None]:
        gc.disable()  # almost everything that is made here stays
        try:
            return (yield)
        finally:
            gc.enable()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if item.path != self.path or len(sys.modules) > self.modules + 200:
            self.path, self.modules = item.path, len(sys.modules)
            gc.collect()  # what is frozen as garbage would never be released
            gc.freeze()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        if nextitem is None:  # fixtures of the session may end only when they are collected
            gc.unfreeze()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FrozenHeap())
