"""Runs the server: its socket, signals and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import signal
import socket
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error, print_out
from ms_codegeex.extras.serving.app import create_app
from ms_codegeex.extras.serving.connections import BACKLOG, Connection, Flood, descriptor_room
from ms_codegeex.extras.serving.engine import EngineBackend
from ms_codegeex.extras.serving.errors import unavailable
from ms_codegeex.extras.serving.infilling import infill_prompt
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.settings import ServeSettings

KEEP_ALIVE_SECONDS = 75  # longer than nginx keeps its connections (60 s), so that nginx never writes to a closed one
LAST_SECONDS = 2  # for writing the last responses after all answers have ended
POLL_SECONDS = 0.02
TCP_OPTIONS = {  # inherited by accepted connections
    "TCP_NODELAY": 1,  # otherwise an answer waits 40 ms for the client's ACK; asyncio sets it only if proto=IPPROTO_TCP
    # probe a silent peer, and cut off one that acknowledges nothing for `TCP_USER_TIMEOUT` milliseconds
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 120_000,
}
LARGE = 1 << 20  # bytes from which blocks are returned to the system at once
MMAP_THRESHOLD, ARENA_MAX = -3, -8  # of glibc's malloc.h


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `UserError` if the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in TCP_OPTIONS.items():
        if hasattr(socket, name):
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return listening


def address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    settings: ServeSettings, models: Sequence[ServedModel], begun: tuple[Any, socket.socket] | None = None
) -> None:
    """Serve `models` (the model alone, then with each adapter) until SIGTERM or SIGINT. `begun` is an engine's process
    that was started already. Raises `UserError` or `RunFailure` if serving is impossible."""
    return_large_blocks()
    with bound(settings.host, settings.port) as listening:
        asyncio.run(_serve(EngineBackend(models[0], settings, models[1:], begun), listening))


def return_large_blocks() -> None:
    """Make glibc return the memory of long bodies to the system as soon as it is freed. By default, after the first
    free of a block of up to 32 MB, glibc takes such blocks from its per-thread heaps, where smaller blocks in between
    keep the memory occupied. Other C libraries are not affected."""
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
        set_option(MMAP_THRESHOLD, LARGE)
        set_option(ARENA_MAX, 2)


def http_server(app: FastAPI, settings: ServeSettings) -> uvicorn.Server:
    """Create the HTTP server of an application for the running event loop. Also installs the loop's exception handler
    and raises this process's limit on open files."""
    connections, backlog = descriptor_room(settings.max_connections)
    if connections < settings.max_connections:
        print_error(
            f"--max-connections: {settings.max_connections} do not fit into the hard limit on open files, so it is "
            f"{connections}; see `ulimit -Hn`"
        )
    asyncio.get_running_loop().set_exception_handler(Flood().handle)
    config = uvicorn.Config(
        app,
        http=cast(Any, partial(Connection, maximum=connections, flood=Flood())),  # uvicorn needs only a callable
        backlog=backlog,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=LAST_SECONDS,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  # `_serve` handles signals
    return server


async def _serve(backend: EngineBackend, listening: socket.socket) -> None:
    # import and prepare now what would otherwise delay the first request
    await run_in_threadpool(int)
    for model in backend.models.values():
        infill_prompt(model, "x", "x", model.context)
    app = create_app(backend.settings, backend)
    server = http_server(app, backend.settings)
    loop, asked, again = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def end() -> None:
        if asked.is_set():  # a second signal ends the server at once
            again.set()
            server.force_exit = True
        asked.set()

    for number, handle in ((signal.SIGTERM, end), (signal.SIGINT, end), (signal.SIGHUP, app.state.reload)):
        loop.add_signal_handler(number, handle)
    engine, http = asyncio.ensure_future(backend.run()), asyncio.ensure_future(server.serve(sockets=[listening]))
    helpers = [asyncio.ensure_future(asked.wait()), asyncio.ensure_future(_announce(backend, listening))]
    try:
        await asyncio.wait({engine, http, helpers[0]}, return_when=asyncio.FIRST_COMPLETED)
        if asked.is_set():
            server.config.timeout_graceful_shutdown = await _drain(backend, again)
    finally:
        backend.draining = True
        backend.fail_all(unavailable("the server is shutting down", "shutting_down"))
        server.should_exit = True
        await asyncio.wait({http})  # until the last responses are written
        for task in (engine, *helpers):
            task.cancel()
        await asyncio.wait({engine, *helpers})
    if not engine.cancelled():
        engine.result()
    http.result()


async def _announce(backend: EngineBackend, listening: socket.socket) -> None:
    while not backend.ready:
        await asyncio.sleep(POLL_SECONDS)
    print_out(f"serving {backend.model.name} at {address(listening)}")


async def _drain(backend: EngineBackend, at_once: asyncio.Event) -> int:
    """Refuse new work and wait for the answers in progress. Return the seconds left for slow readers."""
    backend.draining = True
    seconds = backend.settings.grace
    print_error(f"ending: answers in progress have {seconds:g} s")
    deadline = time.monotonic() + seconds
    while not backend.idle and not at_once.is_set() and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
    return LAST_SECONDS if at_once.is_set() else max(LAST_SECONDS, math.ceil(deadline - time.monotonic()))
