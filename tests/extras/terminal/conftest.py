"""A server of made-up answers, for commands that ask one."""

import pytest
from fake_backend import FakeBackend, fake_model, fake_settings
from over_http import served


@pytest.fixture(scope="module")
def serving():
    with served(lambda: FakeBackend(fake_settings(), fake_model(context=1024), slots=2)) as serving:
        yield serving


@pytest.fixture
def server(serving):
    """It has been asked nothing."""
    yield serving
    serving.backend.asked.clear()
    serving.backend.texts.clear()
