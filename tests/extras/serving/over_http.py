"""The application on a real socket, in a thread, with a backend without an engine."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn
from fake_backend import FakeBackend

from ms_codegeex.extras.serving.app import create_app
from ms_codegeex.extras.serving.server import address, bound, http_server


@dataclass(frozen=True)
class Served:
    """`url`: without a path at the end. `backend` belongs to the server's thread: look, and set plain fields only."""

    url: str
    backend: FakeBackend


@contextlib.contextmanager
def served(make: Callable[..., FakeBackend] = FakeBackend, **values: Any) -> Iterator[Served]:
    """A server of its own, of the backend that `make` makes of these values."""
    started: list[Served] = []
    servers: list[uvicorn.Server] = []
    ready = threading.Event()

    async def serve() -> None:
        backend = make(**values)
        servers.append(http_server(create_app(backend.settings, backend), backend.settings))
        with bound("127.0.0.1", 0) as listening:
            started.append(Served(address(listening), backend))
            ready.set()
            await servers[0].serve(sockets=[listening])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield started[0]
    finally:
        for server in servers:
            server.force_exit = server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
