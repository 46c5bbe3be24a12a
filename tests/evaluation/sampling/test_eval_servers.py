"""Servers that answer something else, or nothing: one line that says what it was, and no finished row lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.evaluation import progress
from ms_codegeex.evaluation.jsonl import read_rows
from ms_codegeex.evaluation.recipe import Recipe
from ms_codegeex.evaluation.sampling import samplers
from ms_codegeex.evaluation.sampling.samplers import ServerSampler
from ms_codegeex.evaluation.task import SampledAnswer
from ms_codegeex.generation import stopping

RECIPE = Recipe("humaneval", max_new_tokens=20)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(samplers, "RETRIES", 1)


def event(text="x", finish=None) -> bytes:
    choice = {"text": text, "index": 0, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "1", "object": "text_completion", "choices": [choice]}).encode() + b"\n\n"


@contextmanager
def server(answer: Callable[[dict], bytes], kind: str = "text/event-stream"):
    """A server that answers a request with these bytes; None: never."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.respond(answer({}))

        def do_POST(self) -> None:
            self.respond(answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def respond(self, data: bytes | None) -> None:
            if data is None:
                over.wait()
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{found.server_port}/v1"
    finally:
        over.set()
        found.shutdown()
        found.server_close()


WHOLE = json.dumps({"choices": [{"text": "x", "index": 0, "finish_reason": "stop"}]}).encode()
ANSWERS = {
    "no JSON": (event() + b"data: {oops\n\n", "text/event-stream", r"sends an event that is not JSON"),
    "no UTF-8": (event() + b"data: \xff\xfe\n\n", "text/event-stream", r"sends an event that is not UTF-8"),
    "a list": (b"data: [1, 2]\n\n", "text/event-stream", r"sends an event that does not belong to a completion"),
    "no object": (
        b'data: {"choices": 3}\n\n',
        "text/event-stream",
        r"sends an event that does not belong to a completion",
    ),
    "a number": (
        b'data: {"choices": [{"text": 7, "index": 0}]}\n\n',
        "text/event-stream",
        r"sends an event that does not belong to a completion",
    ),
    "no choices": (b'data: {"choices": []}\n\ndata: [DONE]\n\n', "text/event-stream", r"sends answers without choices"),
    "broken off": (event() + event(), "text/event-stream", r"breaks off its answers"),
    "at once": (WHOLE, "application/json", r"answers all at once, as JSON, instead of a stream of events \('\{"),
    "a page": (b"<html>Welcome</html>", "text/html", r"answers with text/html instead of .*<html>Welcome"),
    "an error": (event() + b'data: {"error": {"message": "out of\\nluck"}}\n\n', "text/event-stream", r"out of luck"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_no_answer_is_said_in_a_line(name):
    data, kind, words = ANSWERS[name]
    with server(lambda body: data, kind) as url, pytest.raises(RunFailure, match=words) as caught:
        ServerSampler(url, RECIPE, "m")("p", seed=0)
    assert "\n" not in str(caught.value) and url in str(caught.value)
    assert str(caught.value).startswith(f"{caught.value.reason}; ") and "; " not in caught.value.reason


@pytest.mark.parametrize("data", [b"<html></html>", b"[]", b'{"data": 3}', b'{"data": [{}]}'])
def test_a_list_of_models_that_is_none(data):
    with server(lambda body: data, "application/json") as url, pytest.raises(UserError, match="not a list of models"):
        ServerSampler(url, RECIPE)


def test_an_event_without_choices_in_between_is_nothing_special():
    data = event("a") + b'data: {"choices": [], "usage": {}}\n\n' + event("b", "stop") + b"data: [DONE]\n\n"
    with server(lambda body: data) as url:
        assert ServerSampler(url, RECIPE, "m")("p", seed=0) == SampledAnswer("ab", "eos")


def test_a_damaged_event_is_asked_for_again():
    answers = [event("whole", "stop"), b"data: {oops\n\n"]
    with server(lambda body: answers.pop()) as url:
        assert ServerSampler(url, RECIPE, "m")("p", seed=0).text == "whole"


def test_a_long_answer_is_read_once():
    """The rule never rereads the whole text."""

    def never(text):
        raise AssertionError("reads everything again")

    rule = stopping.Rule(never, lambda: lambda piece: None)
    data = b"".join(event("x" * 16) for _ in range(200)) + event("", "stop")
    with server(lambda body: data) as url:
        assert ServerSampler(url, RECIPE, "m")("p", seed=0, stop=rule).text == "x" * 3200


def test_a_silent_server_is_given_up():
    with server(lambda body: None) as url, pytest.raises(RunFailure, match=r"is silent for 0\.1 s \(--url-timeout\)"):
        ServerSampler(url, RECIPE, "m", timeout=0.1)("p", seed=0)


def test_one_failure_loses_nothing_that_others_have_finished():
    """Three wait until the fourth has failed, and their results are kept."""
    failed, started = threading.Event(), threading.Barrier(4)

    def work(number):
        if number < 4:
            started.wait()
        if number == 2:
            failed.set()
            raise RunFailure("the server burns")
        failed.wait()
        return 10 * number

    found = []
    with pytest.raises(RunFailure, match="burns"):
        for pair in progress.in_parallel(range(1000), work, 4, "samples", False):
            found.append(pair)
    assert {(0, 0), (1, 10), (3, 30)} <= set(found) and len(found) < 10


PROBLEM = {"task_id": "a/0", "prompt": "def f():\n", "test": "def check(f): pass\n", "entry_point": "f"}


@pytest.mark.slow
def test_a_hanging_server_does_not_keep_anybody_from_leaving(tmp_path):
    """SIGTERM while some samples exist and all connections hang: the process ends, and the samples are kept."""
    data, output, hanging = tmp_path / "he.jsonl", tmp_path / "out", threading.Event()
    data.write_text("".join(json.dumps({**PROBLEM, "task_id": f"a/{number}"}) + "\n" for number in range(6)))
    left, lock = [2], threading.Lock()

    def answer(body):
        with lock:
            left[0] -= 1
            if left[0] >= 0:
                return event("    pass\n", "stop")
        hanging.set()

    with server(answer) as url:
        words = ["evaluate", "humaneval", "--data", data, "--output", output, "--url", url, "--url-model", "m"]
        command = [sys.executable, "-m", "ms_codegeex.cli", *map(str, words), "--generate-only"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert hanging.wait(120), process.communicate()
        samples, deadline = output / "samples.jsonl", time.monotonic() + 120  # the two rows may still be on their way
        while not samples.exists() or samples.read_bytes().count(b"\n") < 2:
            assert time.monotonic() < deadline, "the rows were not written"
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)  # ten minutes before there was an end to waiting
        assert process.returncode == 128 + signal.SIGTERM
    assert len(read_rows(output / "samples.jsonl")) == 2
