"""The mode of these tests does not depend on which tests the same process ran before, nor theirs on these."""

from collections.abc import Iterator

import mindspore as ms
import pytest


@pytest.fixture(autouse=True, scope="module")
def graph_mode_of_the_module() -> Iterator[None]:
    """Graph mode, in which the commands run, for the modules' fixtures too."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    ms.set_context(mode=before)
