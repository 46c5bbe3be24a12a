"""An engine that hangs, or cannot be loaded again: played by made-up processes."""

import asyncio

import pytest
from asking import running, until
from fake_backend import fake_model, fake_settings

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.serving import engine
from ms_codegeex.extras.serving.engine import EngineBackend
from ms_codegeex.extras.serving.errors import ApiError
from ms_codegeex.generation.sampling import SamplingSettings

HELLO, LOST = {"slots": 1}, {"error": "model: no such directory", "status": 2}


class Made:
    """In place of `EngineProcess`: says hello or `first`, then answers pings, unless it hangs."""

    def __init__(self, first, hangs):
        self.process, self.hangs, self.killed, self.ended, self.sent = self, hangs, False, False, []
        self.messages = asyncio.Queue()
        self.messages.put_nowait(first)
        if "error" in first:
            self.kill()

    def send(self, value):
        self.sent.append(value)
        if value == ["ping"] and not self.hangs:
            self.messages.put_nowait([])

    async def receive(self):
        return await self.messages.get()

    async def status(self):
        return 1

    def kill(self):
        self.killed = True
        self.messages.put_nowait(None)

    async def end(self):
        self.ended = True


def engines(monkeypatch, *scripts, pauses=None):
    """A backend whose engines are made up; the list of those that were started."""
    left, made = list(scripts), []

    async def start(options):
        made.append(Made(*left.pop(0)))
        return made[-1]

    sleep = asyncio.sleep

    async def short(seconds):
        if pauses is not None:
            pauses.append(seconds)
        await sleep(min(seconds, 0.002))

    monkeypatch.setattr(engine.EngineProcess, "start", start)
    monkeypatch.setattr(engine.asyncio, "sleep", short)
    return EngineBackend(fake_model(), fake_settings(hang=0.01)), made


async def test_an_engine_that_hangs_is_killed_and_started_again(monkeypatch, capsys):
    backend, made = engines(monkeypatch, (HELLO, True), (HELLO, False))
    task = asyncio.ensure_future(backend.run())
    await until(lambda: backend.engine_ready)
    answer = backend.answer([1], SamplingSettings())
    with pytest.raises(ApiError, match="started again") as caught:
        await answer.whole()
    await until(lambda: len(made) == 2 and made[1].sent.count(["ping"]) > 3 * engine.PINGS)
    task.cancel()
    assert caught.value.code == "engine_lost" and [one.killed for one in made] == [True, False]
    assert (backend.counters.restarts, backend.counters.steps) == (1, 0)
    assert "the engine hangs: no message for 0.01 s" in capsys.readouterr().err


async def test_a_model_that_is_gone_at_a_restart_is_tried_again(monkeypatch, capsys):
    pauses = []
    backend, made = engines(monkeypatch, (HELLO, True), (LOST, False), (LOST, False), (HELLO, False), pauses=pauses)
    task = asyncio.ensure_future(backend.run())
    await until(lambda: len(made) == 4 and backend.engine_ready)
    task.cancel()
    assert [pause for pause in pauses if pause in (1.0, 3.0)] == [1.0, 3.0]
    assert capsys.readouterr().err.count("model: no such directory\n") == 2


def test_a_model_that_stays_away_ends_the_server(monkeypatch):
    async def restart():
        backend, _ = engines(monkeypatch, (HELLO, True), *[(LOST, False)] * 10)
        await backend.run()

    with pytest.raises(RunFailure, match="6 times in a row"):
        running(restart())


def test_a_model_that_cannot_be_loaded_at_the_start_is_the_users_mistake(monkeypatch):
    async def start():
        backend, _ = engines(monkeypatch, (LOST, False))
        await backend.run()

    with pytest.raises(UserError, match="no such directory"):
        running(start())


async def test_an_engine_is_not_ready_from_the_end_of_its_connection(monkeypatch):
    """Its process may go on."""
    backend, made = engines(monkeypatch, (HELLO, False))
    states = []

    async def status(self):
        states.append((backend.ready, backend.idle))

    monkeypatch.setattr(Made, "status", status)
    served = asyncio.ensure_future(backend._serve())
    await until(lambda: backend.engine_ready)
    made[0].messages.put_nowait(None)
    assert await served is None and states == [(False, True)] and made[0].ended
