"""Clients that leave, queues, deadlines, limits: who gets a slot, and when it is free again. Without an engine."""

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys

import httpx
import pytest
from asking import connected, events, listening, raw, running, until
from conftest import ROOT
from fake_backend import TEXT, FakeBackend

from ms_codegeex.extras.serving import connections, guards
from ms_codegeex.generation.sampling import SamplingSettings

PATH = "/v1/completions"
CLOSING = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
SETTINGS = SamplingSettings(128, temperature=0.0)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("moment", ["queued", "before the first piece", "between pieces"])
async def test_a_client_that_leaves_frees_its_slot_and_is_in_the_log(stream, moment, tmp_path):
    log = tmp_path / "log"
    backend = FakeBackend(access_log=str(log), slots=1)
    async with listening(backend) as address:
        backend.paused = True
        others = [backend.answer([1], SETTINGS)] if moment == "queued" else []
        reader, writer = await asyncio.open_connection(*address)
        writer.write(raw({"prompt": "x", "stream": stream}))
        await until(lambda: len(backend.asked) > len(others))
        if moment == "between pieces":
            backend.paused, backend.step_seconds = False, 0.05
            await (reader.readuntil(b"data: ") if stream else until(lambda: backend.counters.completion_tokens))
        writer.close()
        await until(lambda: backend.counters.cancelled == 1)
        assert not backend.queued and backend.dropped == backend.asked[len(others) :]
        assert backend.counters.completion_tokens < len(backend.model.tokenizer.encode(TEXT))
        for answer in others:
            assert not answer.ended
            answer.close()
        await until(lambda: backend.idle and log.read_text())
    assert json.loads(log.read_text())["status"] == (200 if stream and moment == "between pieces" else 499)


async def test_several_answers_are_taken_together_or_not_at_all():
    backend = FakeBackend(max_queue=2, slots=2)
    backend.paused = True
    async with connected(backend) as client:
        first = asyncio.ensure_future(client.post(PATH, json={"prompt": "x", "n": 2}))
        await until(lambda: backend.active == 2)
        refused = await client.post(PATH, json={"prompt": "x", "n": 3})
        too_many = await client.post(PATH, json={"prompt": "x", "n": 5})
        assert (refused.status_code, too_many.status_code) == (429, 400)
        assert backend.active == 2 and not backend.queued
        backend.paused = False
        assert (await first).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_deadline_ends_a_request_wherever_it_is(stream):
    backend = FakeBackend(deadline=0.2, slots=1)
    backend.paused = True
    async with connected(backend) as client:
        asked = [client.post(PATH, json={"prompt": "x", "stream": stream}) for _ in range(3)]
        found = await asyncio.gather(*asked)
    assert backend.idle and backend.counters.failed == 3
    for response in found:
        assert response.status_code == 503 and response.json()["error"]["code"] == "deadline_exceeded"


async def test_a_stream_that_fails_ends_with_an_error_event():
    backend = FakeBackend(deadline=0.3, slots=1, step_seconds=0.05)
    async with connected(backend) as client:
        response = await client.post(PATH, json={"prompt": "x", "stream": True})
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert response.status_code == 200 and "[DONE]" not in lines and len(lines) > 1
    assert json.loads(lines[-1])["error"]["code"] == "deadline_exceeded"


async def test_while_it_drains_the_server_is_not_ready_and_takes_nothing_new():
    backend = FakeBackend(slots=1)
    backend.paused = True
    async with connected(backend) as client:
        first = asyncio.ensure_future(client.post(PATH, json={"prompt": "x"}))
        await until(lambda: backend.active == 1)
        backend.draining = True
        assert (await client.get("/ready")).status_code == 503
        assert (await client.get("/health")).status_code == 200
        refused = await client.post(PATH, json={"prompt": "x"})
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "shutting_down"
        assert "Retry-After" in refused.headers
        backend.paused = False
        assert (await first).json()["choices"][0]["text"] == TEXT


async def test_a_reader_slower_than_the_engine_gets_all_of_it_in_fewer_pieces():
    backend, pieces = FakeBackend(), []
    async for piece in backend.answer([1], SETTINGS):
        pieces.append(piece)
        await asyncio.sleep(0.05)
    assert "".join(piece.text for piece in pieces) == TEXT and len(pieces) < 5
    assert sum(len(piece.tokens) for piece in pieces) == backend.counters.completion_tokens
    assert [piece.finish for piece in pieces][-1] == "stop"


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_client_that_sends_all_before_it_reads_gets_its_413(chunked, monkeypatch):
    """As Python's `urllib`; the body is longer than what the buffers of sockets hold."""
    monkeypatch.setattr(guards, "DRAIN_SECONDS", 50)
    size, length = 4 << 20, 1 << 20
    part = b"%x\r\n" % length + b" " * length + b"\r\n" if chunked else b" " * length
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (3 * size)
    head = CLOSING + framing + b"\r\n\r\n"

    def exchange(address):
        with socket.create_connection(address) as client:
            client.sendall(head)
            for _ in range(12):
                client.sendall(part)
            client.sendall(b"0\r\n\r\n" if chunked else b"")
            return client.recv(100)

    async with listening(FakeBackend(max_body=size)) as address:
        found = await asyncio.to_thread(exchange, address)
    assert found.startswith(b"HTTP/1.1 413 ")


async def test_reading_after_a_413_ends(monkeypatch):
    monkeypatch.setattr(guards, "DRAIN_SECONDS", 0.1)
    async with listening(FakeBackend(max_body=10)) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(CLOSING + b"Content-Length: 11\r\n\r\n")
        answer = await reader.read()  # to the end of the connection
        writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_leaves_within_its_body_is_not_counted_as_wrong(tmp_path):
    log = tmp_path / "log"
    async with listening(FakeBackend(access_log=str(log))) as address:
        _, writer = await asyncio.open_connection(*address)
        writer.write(raw({"prompt": "x"})[:-5])
        await writer.drain()
        writer.close()
        await until(log.read_text)
    assert json.loads(log.read_text())["status"] == 499


def test_a_request_for_another_protocol_is_answered_without_a_warning(caplog):
    async def ask():
        async with listening(FakeBackend()) as address:
            logger.addHandler(caplog.handler)
            logger.setLevel(logging.WARNING)
            reader, writer = await asyncio.open_connection(*address)
            head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            writer.write(head)
            line = await reader.readline()
            writer.close()
        return line

    logger = logging.getLogger("uvicorn.error")
    try:
        assert running(ask()).startswith(b"HTTP/1.1 200 ")
    finally:
        logger.removeHandler(caplog.handler)
    assert not caplog.records


FIRST = """
import asyncio, http.client, json, os, signal, socket, sys
from fake_backend import FakeBackend
from ms_codegeex.extras.serving import server

class Waiting(FakeBackend):
    async def run(self):
        await asyncio.Event().wait()

def ask(port):
    known = set(sys.modules)
    client = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"prompt": "x", "stream": True})
    client.request("POST", "/infill", body, {"Content-Type": "application/json"})
    response = client.getresponse()
    response.read()
    print(json.dumps([response.status, sorted(set(sys.modules) - known)]), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

async def main():
    server.print_out = lambda line: asyncio.get_running_loop().run_in_executor(None, ask, int(line.rpartition(":")[2]))
    with server.bound("127.0.0.1", 0) as listening:
        await server._serve(Waiting(), listening)

"127.0.0.1".encode("idna")  # which the client imports
asyncio.run(main())
"""


@pytest.mark.slow
def test_the_first_request_imports_nothing():
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/extras/serving")))
    words, variables = [sys.executable, "-c", FIRST], {**os.environ, "PYTHONPATH": path}
    found = subprocess.run(words, capture_output=True, text=True, env=variables, timeout=300, check=True)
    assert json.loads(found.stdout) == [200, []]


async def test_half_a_head_and_half_a_body_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(guards.BodyLimit.__init__, "__defaults__", (0.2,))
    backend = FakeBackend()
    async with listening(backend) as address:
        silent = await asyncio.open_connection(*address)
        head = await asyncio.open_connection(*address)
        head[1].write(b"POST /v1/comp")
        body = await asyncio.open_connection(*address)
        body[1].write(raw({"prompt": "x"})[:-5])
        assert b" 408 " in await body[0].readuntil(b"\r\n")
        for reader, _ in (silent, head):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert backend.counters.answers == 0
        for _, writer in (silent, head, body):
            writer.close()


async def test_two_requests_of_one_connection_and_pieces_as_they_come():
    backend = FakeBackend(step_seconds=0.01)
    async with listening(backend) as address:
        url = f"http://{address[0]}:{address[1]}{PATH}"
        async with httpx.AsyncClient() as client:
            first = await client.post(url, json={"prompt": "x"})
            async with client.stream("POST", url, json={"prompt": "x", "stream": True}) as response:
                parts = [part async for part in response.aiter_raw()]
    assert first.json()["choices"][0]["text"] == TEXT and len(parts) > 10


async def test_an_error_of_the_engine_ends_one_answer_and_no_other():
    backend = FakeBackend(slots=2)
    backend.paused = True
    async with connected(backend) as client:
        asked = [asyncio.ensure_future(client.post(PATH, json={"prompt": "x", "stream": True})) for _ in range(2)]
        await until(lambda: backend.active == 2)
        backend.feed_error(backend.asked[0].number, "the model's logits are not finite")
        backend.paused = False
        found = await asyncio.gather(*asked)
    broken, sound = sorted(found, key=lambda response: -response.status_code)
    assert broken.status_code == 500 and "not finite" in broken.json()["error"]["message"]
    assert "".join(event["choices"][0]["text"] for event in events(sound)) == TEXT
