"""The mode of these tests does not depend on which tests the same process ran before."""

from collections.abc import Iterator

import mindspore as ms
import pytest


@pytest.fixture(autouse=True)
def pynative_mode() -> Iterator[None]:
    """Operator by operator: nothing is compiled. What is about the graph, as in a run, asks for `graph_mode`."""
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)
