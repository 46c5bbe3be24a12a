"""Requests to the application without an engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import httpx
import openai
from fake_backend import FakeBackend

from ms_codegeex.extras.serving.app import create_app
from ms_codegeex.extras.serving.server import http_server


@contextlib.asynccontextmanager
async def connected(backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application with this backend, which has been made in the same loop."""
    transport = httpx.ASGITransport(create_app(backend.settings, backend), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client


@contextlib.asynccontextmanager
async def listening(backend: FakeBackend) -> AsyncIterator[tuple[str, int]]:
    """The address of the application on a real socket."""
    server = http_server(create_app(backend.settings, backend), backend.settings)
    with socket.create_server(("127.0.0.1", 0)) as opened:
        task = asyncio.ensure_future(server.serve(sockets=[opened]))
        try:
            yield opened.getsockname()
        finally:
            backend.paused, server.should_exit = False, True
            await task


def ask(method: str, path: str, make: Callable[[], FakeBackend] = FakeBackend, **options: Any) -> httpx.Response:
    """One request, answered whole; `options` as httpx has them, such as `json`."""

    async def asked() -> httpx.Response:
        async with connected(make()) as client:
            return await client.request(method, path, **options)

    return running(asked())


def answered(
    path: str, body: dict[str, Any] | None, make: Callable[[], FakeBackend] = FakeBackend, **options: Any
) -> tuple[httpx.Response, FakeBackend]:
    """The response to a POST, and the backend that was asked."""
    backends: list[FakeBackend] = []

    def kept() -> FakeBackend:
        backends.append(make())
        return backends[0]

    sent = {} if body is None else {"json": body}
    return ask("POST", path, kept, **sent, **options), backends[0]


def ask_all(path: str, bodies: Sequence[Any], make: Callable[[], FakeBackend] = FakeBackend) -> list[httpx.Response]:
    """The responses of one application to several POSTs; httpx's own JSON has no half of a character."""

    async def asked() -> list[httpx.Response]:
        async with connected(make()) as client:
            headers = {"Content-Type": "application/json"}
            return [await client.post(path, content=json.dumps(body), headers=headers) for body in bodies]

    return running(asked())


def client_of(server: Any, **options: Any) -> openai.OpenAI:
    """OpenAI's own client of a server with this `url`."""
    return openai.OpenAI(**{"base_url": f"{server.url}/v1", "api_key": "none", "max_retries": 0, **options})


def bearer(key: str) -> dict[str, str]:
    """Headers with an API key."""
    return {"Authorization": f"Bearer {key}"}


def raw(body: Any, *headers: str) -> bytes:
    """The bytes of a POST for a completion."""
    data = json.dumps(body).encode()
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""]).encode() + data


def running(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine; it may take a minute."""
    return asyncio.run(asyncio.wait_for(work, 60))


async def until(condition: Callable[[], Any]) -> None:
    """Wait for what others do in this loop."""
    while not condition():
        await asyncio.sleep(0.005)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a streamed response but the last, which is [DONE]."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines.pop() == "data: [DONE]" and response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in lines]
