"""Hostile requests over a real socket: each gets a 4xx in the API's shape, and the server goes on."""

import contextlib
import json
import socket

import httpx
import pytest
from all_routes import BODIES
from over_http import served
from pydantic import ValidationError

from ms_codegeex.extras.serving.routes.llama_cpp import InfillRequest
from ms_codegeex.extras.serving.routes.tokens import DetokenizeRequest
from ms_codegeex.extras.serving.schemas import ChatRequest, CompletionRequest
from ms_codegeex.extras.serving.server import TCP_OPTIONS, bound

MAXIMUM = 100_000
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server():
    with served(max_body=MAXIMUM) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def the_server_goes_on(server, client):
    """After each attack."""
    yield
    response = client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
    assert response.status_code == 200 and len(response.json()["choices"]) == 1


def refused(response, *statuses):
    assert response.status_code in (statuses or (400,)), response.text
    error = json.loads(response.text, parse_constant=pytest.fail)["error"]  # a strict reader takes no NaN
    assert error["message"] and error["type"] and error.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text
    return error


MALFORMED = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"5",
    b'"x"',
    b"{'prompt': 1}",
    b'{"prompt": "\xff\xfe"}',
    b"\xff" * 100,
    b"\x00",
    b'{"prompt": 1e999, "code": 1e999, "content": 1e999, "messages": 1e999, "input_prefix": 1e999}',
    b'{"prompt": NaN, "code": NaN, "content": NaN, "messages": NaN, "input_prefix": -Infinity}',
    b"[" * 50_000,
    b'{"prompt":' * 9_000 + b"1" + b"}" * 9_000,
    b'{"n": ' + b"9" * 50_000 + b"}",
    b"\xef\xbb\xbf{}" + b" " * 10,
]


@pytest.mark.parametrize("path", BODIES)
def test_bodies_that_are_not_what_a_route_takes(client, path):
    for body in MALFORMED:
        response = client.post(path, content=body, headers=JSON)
        if path in ("/infill", "/v1/completions") and response.status_code == 200:  # every field may be left out
            assert b"{}" in body or b'{"n"' in body
        else:
            refused(response)


def test_numbers_that_are_none(client):
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "repetition_penalty"):
        for value in ("NaN", "Infinity", "-Infinity", "1e400", "-1e308", "true", '"1"', "[]"):
            body = f'{{"prompt": "x", "max_tokens": 1, "{name}": {value}}}'
            assert refused(client.post("/v1/completions", content=body, headers=JSON))["param"] == name


WRONG = [
    (CompletionRequest, "prompt", [1.5]),
    (CompletionRequest, "prompt", [[1.5]]),
    (CompletionRequest, "prompt", [[None] * 1000]),
    (CompletionRequest, "stop", [1]),
    (CompletionRequest, "logit_bias", {str(number): "x" for number in range(1000)}),
    (ChatRequest, "messages", [1]),
    (ChatRequest, "messages", [{"role": "user", "content": [1] * 1000}]),
    (InfillRequest, "logit_bias", [["x"]]),
    (InfillRequest, "logit_bias", {str(number): "x" for number in range(1000)}),
    (InfillRequest, "stop", [1]),
    (DetokenizeRequest, "tokens", [1.5]),
]


@pytest.mark.parametrize(("body", "name", "value"), WRONG)
def test_many_wrong_items_are_few_errors(body, name, value):
    """Errors cost a thousand times what items cost."""
    fields = {"prompt": "x", name: value * 1000 if isinstance(value, list) else value}
    with pytest.raises(ValidationError) as caught:
        body.model_validate(fields)
    assert caught.value.error_count() < 10


def test_too_many_answers_and_other_models(client):
    for fields in ({"n": 128, "best_of": 128, "prompt": ["x"] * 128}, {"model": "../../etc/passwd"}):
        refused(client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, **fields}), 400, 404)


def test_any_whole_number_is_a_seed(client):
    for value in (10**30, -(10**30), 2**64, -1):
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, "seed": value}).status_code == 200


def test_long_stop_texts_and_suffixes_cost_little(client):
    body = {"prompt": "x", "stop": ["a" * 20_000] * 4, "suffix": "    return " * 1000, "max_tokens": 64}
    assert client.post("/v1/completions", json=body).status_code == 200


def test_text_longer_than_any_prompt_is_not_encoded(client):
    """The context has 256 tokens, the longest token 135 bytes."""
    assert refused(client.post("/tokenize", json={"content": "x " * 20_000}))["param"] == "content"


def chunked(size):
    for _ in range(size // 1000):
        yield b"x" * 1000


def test_bodies_that_are_too_long(client):
    for content in (b"x" * (MAXIMUM + 1), chunked(2 * MAXIMUM)):
        error = refused(client.post("/v1/completions", content=content, headers=JSON), 413)
        assert str(MAXIMUM) in error["message"]


def test_a_length_that_is_a_lie(server):
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for length in (str(MAXIMUM + 1), "9" * 30, "-1", "1e3", "abc"):
        assert answered(server, f"{head}Content-Length: {length}\r\n\r\n{{}}").split()[1:2] in (["413"], ["400"])


def answered(server, text):
    """The head of the answer to raw bytes; empty if the connection was closed."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), 30) as connection:
        connection.sendall(text.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                data += more
    return data.decode("latin-1")


TEXTS = [
    "GARBAGE\r\n\r\n",
    "GET / HTTP/9.9\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
    "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET http://evil.example/v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /v1/models/..%2f..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /demo/..%2f..%2fsettings.py HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /" + "a" * 100_000 + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + "a" * 200_000 + "\r\n\r\n",
    "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{",
    "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
]


def test_requests_that_are_no_http_or_point_elsewhere(server):
    for text in TEXTS:
        head = answered(server, text)
        assert "root:" not in head and "import " not in head
        status = head.split()[1] if head else "closed"
        assert status in ("closed", "400", "403", "404", "405", "413", "414", "431"), (text[:200], head[:200])


def test_other_methods_and_types(client):
    refused(client.get("/v1/completions"), 405)
    refused(client.delete("/v1/models"), 405)
    refused(client.request("TRACE", "/health"), 405)
    refused(client.post("/v1/completions", data={"prompt": "x"}))
    refused(client.post("/v1/completions", files={"prompt": b"x"}))


def test_a_websocket_is_refused(server):
    text = (
        "GET /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert answered(server, text).split()[1] != "101"


def test_an_error_does_not_repeat_a_long_input(client):
    body = {"prompt": "x", "language": "y" * 50_000}
    assert len(client.post("/v1/completions", json=body).content) < 10_000
    assert len(client.post("/v1/completions", json={"prompt": "x", "model": "y" * 50_000}).content) < 10_000


def test_deep_json_with_unknown_fields_is_read_or_refused(client):
    body = b'{"prompt": "x", "max_tokens": 1, "more": ' + b"[" * 40_000 + b"]" * 40_000 + b"}"
    assert client.post("/v1/completions", content=body, headers=JSON).status_code in (200, 400)


def test_accepted_connections_have_the_options_of_the_listening_one():
    """Among them: no wait for acknowledgements, which would add 40 ms to each answer."""
    with bound("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for name, value in TCP_OPTIONS.items():
                assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value, name
