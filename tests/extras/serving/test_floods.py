"""Clients that are too many: one key that fills the queue, idle sockets, no descriptors left. Over real sockets."""

import asyncio
import contextlib
import http.client
import json
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from asking import bearer, connected, raw, running, until
from conftest import ROOT
from fake_backend import TEXT, FakeBackend, key_file
from over_http import served

from ms_codegeex.extras.serving.admission import Admission, Caller
from ms_codegeex.extras.serving.connections import BACKLOG, IN_FLIGHT, QUIET_SECONDS, RESERVE, Flood, descriptor_room
from ms_codegeex.extras.serving.errors import ApiError
from ms_codegeex.generation.sampling import SamplingSettings

PATH = "/v1/completions"
GREEDY, FEW, OTHER = "0123456789abcdef", "fedcba9876543210", "00112233445566778"
AUTHORIZED = "Authorization: Bearer {}"
SETTINGS = SamplingSettings(128, temperature=0.0)


@pytest.fixture
def keys(tmp_path):
    return key_file(tmp_path / "keys", f"greedy {GREEDY}\nfew {FEW} concurrent=2\nother {OTHER}\n")


def test_a_key_that_retries_on_many_connections_leaves_room_for_another(keys):
    """16 connections that repeat their requests at once; the queue has 4 places."""
    statuses = []

    async def repeated(url, ended):
        async with httpx.AsyncClient(timeout=60, headers=bearer(GREEDY)) as client:
            while not ended.is_set():
                response = await client.post(f"{url}{PATH}", json={"prompt": "x", "max_tokens": 4})
                statuses.append(response.status_code)
                await asyncio.sleep(0.01)

    async def asked(url):
        ended = asyncio.Event()
        greedy = [asyncio.ensure_future(repeated(url, ended)) for _ in range(16)]
        while 429 not in statuses:
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(timeout=60, headers=bearer(OTHER)) as client:
            found = [await client.post(f"{url}{PATH}", json={"prompt": "x", "max_tokens": 4}) for _ in range(20)]
        ended.set()
        await asyncio.gather(*greedy)
        return [response.status_code for response in found]

    with served(api_key_file=keys, max_queue=4, step_seconds=0.002) as server:
        assert running(asked(server.url)) == [200] * 20
    assert statuses.count(200) > 20  # the slots are used by both


@pytest.mark.parametrize("path", [PATH, "/v1/chat/completions", "/v1/embeddings", "/v1/code/explain", "/infill"])
async def test_a_caller_without_a_place_is_refused_before_its_body_is_parsed(path):
    """The refusal is the queue's, though the body is not JSON; other routes are answered."""
    wrong_body = {"content": b"{", "headers": {"Content-Type": "application/json"}}
    backend = FakeBackend(max_queue=0, slots=1)
    async with connected(backend) as client:
        backend.paused = True
        first = asyncio.ensure_future(client.post(PATH, json={"prompt": "x", "max_tokens": 1}))
        await until(lambda: backend.active)
        refused = await client.post(path, **wrong_body)
        tokens = await client.post("/tokenize", json={"content": "x"})
        backend.paused = False
        first, wrong = await first, await client.post(path, **wrong_body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
    assert int(refused.headers["Retry-After"]) >= 1
    assert (tokens.status_code, first.status_code, wrong.status_code) == (200, 200, 400)


def test_an_answer_that_was_closed_a_moment_ago_does_not_count(keys):
    """An editor closes a stream at each keystroke and asks again at once, on another connection."""

    def ask(connection, stream):
        body = json.dumps({"prompt": "x", "n": 2, "stream": stream, "max_tokens": 50})
        connection.request("POST", PATH, body, {"Content-Type": "application/json", **bearer(FEW)})
        return connection.getresponse()

    with (
        served(api_key_file=keys, slots=4, step_seconds=0.01) as server,
        contextlib.closing(http.client.HTTPConnection(*place(server.url), timeout=60)) as kept,
    ):
        for _ in range(20):
            streaming = http.client.HTTPConnection(*place(server.url), timeout=60)
            response = ask(streaming, True)
            assert response.status == 200 and response.read(1)
            response.close()
            streaming.close()
            response = ask(kept, False)
            assert response.status == 200, response.read()
            response.read()


def test_a_refusal_reaches_a_client_that_sends_all_of_a_long_body_first(keys):
    """urllib, which closes its connection after each request."""
    body = json.dumps({"prompt": "x" * 3_000_000}).encode()

    with served(api_key_file=keys, slots=4) as server, socket.create_connection(place(server.url)) as held:
        server.backend.paused = True
        held.sendall(raw({"prompt": "x", "n": 2}, AUTHORIZED.format(FEW)))
        while server.backend.active < 2:
            time.sleep(0.005)
        headers = {"Content-Type": "application/json", **bearer(FEW)}
        for _ in range(5):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(f"{server.url}{PATH}", body, headers), timeout=60)
            assert refused.value.code == 429
        server.backend.paused = False


async def test_the_newest_answers_of_the_client_with_the_most_give_way():
    backend = FakeBackend(max_queue=6, slots=1)
    backend.paused = True

    def asked(client):
        backend.admit(Caller(client))
        return backend.answer([1], SETTINGS, client=client)

    begun = [asked("a") for _ in range(7)]  # of which one is computed
    with pytest.raises(ApiError, match="queue is full"):
        asked("a")
    for count in range(2):
        asked("b")
        assert [answer.ended for answer in begun] == [False] * (6 - count) + [True] * (1 + count)
    assert begun[-1].error.status == begun[-2].error.status == 429
    assert [answer.client for answer in backend.answers.values()] == [*"aaaaabb"] and backend.queued == 6
    with pytest.raises(ApiError, match="queue is full"):  # all would have 3 then, and a would lose one for nothing
        backend.check_room(Caller("b"), 2)
    backend.check_room(Caller("c"))
    backend.fail_all(ApiError(503, "end"))


def test_places_are_shared_as_evenly_as_clients_want_them():
    """Against the definition: whoever asks gets a place as long as no other one would have fewer than it."""

    class Places(Admission):
        def fail(self, answer, error):
            self.answers = {number: one for number, one in self.answers.items() if one is not answer}

    places = Places(0, 12)
    places.engine_ready = True
    for number, client in enumerate([*"aaaaaaaaaaaaaaaa", *"bbbbbbbbb", *"cccccc", *"ddd"]):
        with contextlib.suppress(ApiError):
            places.admit(Caller(client))
            places.answers[number] = SimpleNamespace(client=client)
    clients = [answer.client for answer in places.answers.values()]
    assert [clients.count(client) for client in "abcde"] == [3, 3, 3, 3, 0]


def test_a_keys_concurrent_counts_answers_and_not_connections(keys):
    async def asked(server):
        async with httpx.AsyncClient(base_url=server.url, timeout=60, headers=bearer(FEW)) as client:
            server.backend.paused = True
            first = asyncio.ensure_future(client.post(PATH, json={"prompt": "x", "n": 2, "stream": True}))
            await until(lambda: server.backend.active)
            second = await client.post(PATH, json={"prompt": "x"})
            tokens = await client.post("/tokenize", json={"content": "x"})
            server.backend.paused = False
            await first
            many = await client.post(PATH, json={"prompt": "x", "n": 3})
            wrong = await client.post(PATH, json={"prompt": 5})
            return [second, many, wrong, tokens, await client.post(PATH, json={"prompt": "x", "n": 2})]

    with served(api_key_file=keys, slots=4) as server, contextlib.ExitStack() as stack:
        for _ in range(2):  # connections whose request has not come yet count for nothing
            idle = stack.enter_context(socket.create_connection(place(server.url)))
            idle.sendall(raw("x", AUTHORIZED.format(FEW))[:-3])
        second, many, wrong, tokens, after = running(asked(server))
    assert second.status_code == 429 and second.json()["error"]["code"] == "rate_limit_exceeded"
    words = "at most 2 answers of this key at once; 2 are in progress, and 1 more are asked for"
    assert words in second.json()["error"]["message"]
    assert second.headers["Retry-After"] == "1"
    assert many.status_code == 400 and many.json()["error"]["param"] == "n"
    assert (wrong.status_code, tokens.status_code, after.status_code) == (400, 200, 200)


def place(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def status(url, path="/health"):
    """Of a new connection."""
    with urllib.request.urlopen(f"{url}{path}", timeout=60) as response:
        return response.status


def test_idle_connections_make_room_for_new_ones(capsys):
    with served(max_connections=12, slots=4) as server, contextlib.ExitStack() as stack:
        server.backend.paused = True
        busy = stack.enter_context(socket.create_connection(place(server.url)))
        busy.sendall(raw({"prompt": "x"}, "Connection: close"))
        kept = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
        assert kept.get("/health").status_code == 200
        for _ in range(60):
            stack.enter_context(socket.create_connection(place(server.url)))
            assert status(server.url) == 200
        assert kept.get("/health").status_code == 200  # a connection that has been used stays longer than a silent one
        server.backend.paused = False
        busy.settimeout(60)
        answer = b""
        while part := busy.recv(1 << 16):
            answer += part
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"] == TEXT
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "the limit of 12 connections is reached" in errors


def test_a_connection_beyond_the_limit_gets_a_503_if_all_others_are_busy(capsys):
    with served(max_connections=3, slots=4) as server, contextlib.ExitStack() as stack:
        server.backend.paused = True
        for _ in range(3):
            stack.enter_context(socket.create_connection(place(server.url))).sendall(raw({"prompt": "x"}))
        while server.backend.active < 3:
            time.sleep(0.005)
        for _ in range(5):
            refused = httpx.post(f"{server.url}{PATH}", json={"prompt": "x"}, timeout=60)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["code"] == "too_many_connections"
        server.backend.paused = False
        while server.backend.active:
            time.sleep(0.005)
        assert status(server.url) == 200
    assert capsys.readouterr().err.count("\n") == 1


def test_requests_without_the_end_of_their_bodies_do_not_keep_others_out(capsys, keys):
    """Also of a client with a key."""
    with served(max_connections=12, api_key_file=keys) as server, contextlib.ExitStack() as stack:
        begun = raw({"prompt": "x"}, AUTHORIZED.format(GREEDY))[:-5]
        for _ in range(60):
            stack.enter_context(socket.create_connection(place(server.url))).sendall(begun)
            assert status(server.url) == 200
    assert capsys.readouterr().err.count("\n") == 1


CHILD = """
import os, resource, sys, time
from fake_backend import FakeBackend
from over_http import served
from fake_backend import cached_tokenizer
cached_tokenizer()
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 160))
with served(FakeBackend) as server:
    print(server.url, *resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
    sys.stdin.readline()
    taken, failed = [], 0
    while failed < 10:  # the server's thread may still be closing connections
        try:
            taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            failed += 1
            time.sleep(0.02)
    print("none left", flush=True)
    sys.stdin.readline()
    for each in taken:
        os.close(each)
    print("free", flush=True)
    sys.stdin.readline()
"""


def test_descriptors_do_not_run_out_and_if_they_do_one_line_says_so(tmp_path):
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{Path(__file__).parent}", "PATH": "/usr/bin:/bin"}
    log = tmp_path / "log"
    with open(log, "w") as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
    with child, contextlib.ExitStack() as stack:
        try:
            url, soft, hard = child.stdout.readline().split()
            assert (int(soft), int(hard)) == (160, 160)  # the soft limit was raised
            for number in range(200):
                stack.enter_context(socket.create_connection(place(url)))
                if number % 8 == 0:  # a longer burst would fill the kernel's queue, which delays the next by a second
                    assert status(url) == 200
            lines = log.read_text().splitlines()
            assert len(lines) == 2 and "hard limit on open files" in lines[0] and "connections is reached" in lines[1]

            stack.close()
            assert status(url) == 200  # those that the kernel still held have been accepted, too
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "none left\n"
            for _ in range(5):
                stack.enter_context(socket.create_connection(place(url), 60))  # the kernel holds it
            while "cannot be accepted" not in log.read_text():
                assert child.poll() is None
                time.sleep(0.01)
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline() == "free\n"
            assert status(url) == 200
            assert len(log.read_text().splitlines()) == 3, log.read_text()
        finally:
            child.kill()


def test_room_for_descriptors(monkeypatch):
    set_ = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: set_.append((kind, limits)))
    infinite = resource.RLIM_INFINITY
    for limits, wanted, expected, raised in (
        ((1024, 1 << 20), 1024, (1024, BACKLOG), 1024 + IN_FLIGHT * BACKLOG + RESERVE),
        ((1024, infinite), 1024, (1024, BACKLOG), 1024 + IN_FLIGHT * BACKLOG + RESERVE),
        ((infinite, infinite), 1024, (1024, BACKLOG), None),
        ((1 << 20, 1 << 20), 5000, (5000, BACKLOG), None),
        ((1024, 1024), 1024, (1024 - 256 - RESERVE, 64), 1024),
        ((256, 4096), 100_000, (4096 - 1024 - RESERVE, 256), 4096),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limits=limits: limits)
        set_.clear()
        assert descriptor_room(wanted) == expected
        assert set_ == ([] if raised is None else [(resource.RLIMIT_NOFILE, (raised, limits[1]))])


def test_a_flood_is_reported_once_and_the_next_one_again(capsys):
    now = [0.0]
    flood = Flood(lambda: now[0])
    for second in range(0, 300, 10):
        now[0] = second
        flood.report("many")
    assert capsys.readouterr().err == "many\n"
    now[0] += QUIET_SECONDS
    flood.report("again")
    assert capsys.readouterr().err == "again\n"
