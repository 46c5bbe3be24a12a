"""Which tests one process of pytest-xdist runs, one by one: those of a file, or of a folder whose tests start many
processes each. A plugin of pytest."""

from __future__ import annotations

from typing import Any

import pytest

FOLDERS = (
    "tests/extras/cluster/rehearsal/",
)  # up to eight ranks with their graphs: two such tests at a time need 20 GB


def unit_of(file: str) -> str:
    """The folder or file whose tests run in one process, one by one."""
    return next((folder for folder in FOLDERS if file.startswith(folder)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For `--dist loadfile`; any other way of sharing out tests stays as it is."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class ByUnit(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(super()._split_scope(nodeid))

    return ByUnit(config, log)
