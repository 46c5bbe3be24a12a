"""A mistake in our own code that one answer meets: its client is told, and all others continue."""

import asyncio
import json

import pytest
from asking import connected, running
from fake_backend import TEXT, FakeBackend

from ms_codegeex.extras.serving import logprobs
from ms_codegeex.extras.serving.responding import EventStream
from ms_codegeex.generation.stopping import Ending

PATH = "/v1/completions"
FAILING = {"prompt": "x", "stop": ["BOOM"]}
GOOD = {"prompt": "x"}


@pytest.fixture(params=["feed", "rest"])
def broken(request, monkeypatch):
    """Where the text of an answer with the stop text "BOOM" fails: at a token, or at its end."""
    real = getattr(Ending, request.param)

    def fails(self, *piece):
        if "BOOM" in [one.word for one in self._words]:
            raise RuntimeError("a mistake")
        return real(self, *piece)

    monkeypatch.setattr(Ending, request.param, fails)
    return request.param


@pytest.mark.usefixtures("broken")
async def test_only_the_client_of_a_failing_answer_is_told():
    backend = FakeBackend(step_seconds=0.001)
    async with connected(backend) as client:
        bodies = [GOOD, FAILING, {**FAILING, "stream": True}, {**FAILING, "n": 3}, {**GOOD, "stream": True}, GOOD]
        responses = await asyncio.gather(*(client.post(PATH, json=body) for body in bodies))
        again = await client.post(PATH, json=GOOD)
        good, failing, stream, several, other, queued = responses
    for response in (good, queued, again):
        assert response.status_code == 200 and response.json()["choices"][0]["text"] == TEXT
    assert other.text.endswith("data: [DONE]\n\n")
    for response in (failing, several):
        assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
    if stream.status_code == 200:  # it has begun
        assert "server_error" in stream.text.strip().split("\n\n")[-1]
    else:
        assert stream.status_code == 500
    assert backend.idle and backend.counters.failed >= 3


@pytest.mark.usefixtures("broken")
async def test_the_slots_of_a_client_that_leaves_are_free():
    backend = FakeBackend(step_seconds=0.01)
    async with connected(backend) as client:
        request = asyncio.ensure_future(client.post(PATH, json={**FAILING, "n": 2}))
        await asyncio.sleep(0.005)
        request.cancel()
        await asyncio.wait({request})
        response = await client.post(PATH, json=GOOD)
    assert response.json()["choices"][0]["text"] == TEXT and backend.idle


async def test_a_stream_that_fails_ends_with_an_event(monkeypatch):
    calls = []

    def fails(tokenizer, number, maximum=None):
        calls.append(number)
        if len(calls) > 2:
            raise RuntimeError("a mistake")
        return "x"

    monkeypatch.setattr(logprobs, "token_text", fails)
    async with connected(FakeBackend()) as client:
        found = await client.post(PATH, json={**GOOD, "stream": True, "logprobs": 0})
    *pieces, last = found.text.strip().split("\n\n")
    assert pieces and json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"


def test_an_error_before_the_first_event_is_the_applications():
    async def nothing():
        raise RuntimeError("a mistake")
        yield b""

    async def sent():
        async def receive():
            await asyncio.sleep(60)

        async def send(message):
            raise AssertionError(message)

        await EventStream(nothing())({"type": "http"}, receive, send)

    with pytest.raises(RuntimeError, match="a mistake"):
        running(sent())
