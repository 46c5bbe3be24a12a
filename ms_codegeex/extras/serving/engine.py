"""The server's side of the engine's process: starting it, exchanging messages, restarting it when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.processes import ending, import_variables
from ms_codegeex.extras.serving.backend import Backend, StreamedAnswer
from ms_codegeex.extras.serving.errors import unavailable
from ms_codegeex.extras.serving.messages import chosen_from, packed, settings_values, unpacked
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.settings import ServeSettings

LENGTH = struct.Struct("!i")  # precedes each message, as in `multiprocessing.connection`
MAX_RESTARTS = 5  # consecutive restarts without a token in between
# counters kept by the engine, in the order of its messages
TOTALS = ("guessed_tokens", "accepted_tokens", "reused_tokens", "steps", "suspended", "prefix_hits", "prefix_tokens")
PINGS = 10  # successive unanswered pings after which a process counts as hung
END_SECONDS = 5.0  # how long to wait for the end of a process whose connection has ended


class EngineProcess:
    """An engine's process and the connection to it."""

    def __init__(self, process: Any, writer: asyncio.StreamWriter, reader: asyncio.StreamReader):
        self.process, self.writer, self.reader = process, writer, reader

    @classmethod
    async def of(cls, process: Any, connection: socket.socket) -> EngineProcess:
        """Wrap a process started by `subprocess` or `forked`, and this end of its connection."""
        connection.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=connection)
        return cls(process, writer, reader)

    @classmethod
    async def start(cls, options: dict[str, Any]) -> EngineProcess:
        """Start a process and tell it which model to load."""
        ours, theirs = socket.socketpair()
        with theirs:
            program = "ms_codegeex.extras.serving.engine_program"
            process = subprocess.Popen(
                [sys.executable, "-m", program, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                env={"GLOG_v": "3", **os.environ, **import_variables()},
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C must reach only the server, which lets answers finish
            )
        engine = await cls.of(process, ours)
        engine.send(options)
        return engine

    def send(self, value: Any) -> None:
        data = packed(value)
        self.writer.write(LENGTH.pack(len(data)) + data)

    async def receive(self) -> Any:
        """Wait for the next message and return it, or None at the end of the connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
            return unpacked(await self.reader.readexactly(length))
        return None

    async def status(self) -> int | None:
        """Wait up to `END_SECONDS` for the process to end. Return its exit status, or None if it still runs."""
        deadline = time.monotonic() + END_SECONDS
        while (status := self.process.poll()) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return status

    async def end(self) -> None:
        """Kill the process and wait for its end."""
        self.writer.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await asyncio.get_running_loop().run_in_executor(None, self.process.wait)


class EngineBackend(Backend):
    """A backend whose `Generator` runs in a separate process, kept alive by `run`. `begun` is one already started."""

    def __init__(
        self,
        model: ServedModel,
        settings: ServeSettings,
        adapters: Sequence[ServedModel] = (),
        begun: tuple[Any, socket.socket] | None = None,
    ):
        super().__init__(model, settings, adapters=adapters)
        self.engine: EngineProcess | None = None
        self._begun = begun
        self._loaded = False  # whether any engine has loaded the model
        self._messages = 0  # received from all engines
        self._before = [0] * len(TOTALS)  # totals of engines that have ended

    async def run(self) -> None:
        """Keep an engine running until this is cancelled. Raises `UserError` or `RunFailure` if that is impossible."""
        failures = 0
        while True:
            answered = self.counters.completion_tokens
            try:
                status = await self._serve()
            finally:
                self.engine_ready = False
            if not self._loaded:
                raise RunFailure(f"the engine {ending(status)} before the model was loaded; its messages are above")
            failures = 1 if self.counters.completion_tokens > answered else failures + 1
            if failures > MAX_RESTARTS:
                raise RunFailure(f"the engine {ending(status)} {failures} times in a row; its messages are above")
            self.counters.restarts += 1
            pause = 2 ** (failures - 1) - 1
            print_error(f"the engine {ending(status)}; it is started again in {pause:g} s")
            await asyncio.sleep(pause)

    async def _serve(self) -> int | None:
        begun, self._begun = self._begun, None
        options = self.settings.generator_options()
        self.engine = await (EngineProcess.start(options) if begun is None else EngineProcess.of(*begun))
        try:
            first = await self.engine.receive()
            if first is not None and self._hello(first):
                await self._listen(self.engine)
            self._lost()
            return await self.engine.status()
        finally:
            self._lost()
            engine, self.engine = self.engine, None
            await asyncio.shield(engine.end())

    async def _listen(self, engine: EngineProcess) -> None:
        watch = asyncio.ensure_future(self._watch(engine))
        try:
            while (message := await engine.receive()) is not None:
                self._messages += 1
                if message:  # an empty one answers a ping
                    self._took(message)
        finally:
            watch.cancel()

    async def _watch(self, engine: EngineProcess) -> None:
        """Kill a process that sends nothing for `hang` seconds although it is pinged. Unanswered pings are counted, so
        that time in which this process is stopped as well hardly counts."""
        silent = 0
        while silent < PINGS:
            before = self._messages
            engine.send(["ping"])
            await asyncio.sleep(self.settings.hang / PINGS)
            silent = silent + 1 if self._messages == before else 0
        print_error(f"the engine hangs: no message for {self.settings.hang:g} s")
        engine.process.kill()

    def _lost(self) -> None:
        self.engine_ready = False
        self.fail_all(unavailable("the engine has ended and is started again; try again", "engine_lost"))

    def _hello(self, first: dict[str, Any]) -> bool:
        """Return whether an engine's first message says that it loaded the model; raise its error if none ever did."""
        if "error" in first:
            if not self._loaded:
                raise (UserError if first["status"] == 2 else RunFailure)(first["error"])
            print_error(first["error"])
            return False
        self.slots, self.engine_ready, self._loaded = first["slots"], True, True
        self._before = [getattr(self.counters, name) for name in TOTALS]
        return True

    def _took(self, message: list[Any]) -> None:
        news, (*totals, self.prefix_bytes), self.computing = message
        for name, before, now in zip(TOTALS, self._before, totals, strict=True):
            setattr(self.counters, name, before + now)
        for number, tokens, finish, computed, *more in news:
            if finish == "error":
                self.feed_error(number, *more)
                continue
            if more and isinstance(more[0], str):
                self.feed_prompt(number, mean=b64decode(more[0]))
            elif more:
                self.feed_prompt(number, [chosen_from(values) for values in more[0]])
            self.feed(number, [chosen_from(values) for values in tokens], finish, computed)

    def _begin(self, answer: StreamedAnswer) -> None:
        scores = answer.settings.log_probabilities if answer.prompt_scores else None
        rule = None if answer.rule is None else answer.rule.of_block
        values = settings_values(answer.settings)
        limits, caller = [rule, answer.indent], [answer.client, answer.weight]
        self.engine.send(["begin", answer.number, answer.ids, values, scores, limits, *caller, answer.mean is not None])

    def _cancel(self, answer: StreamedAnswer) -> None:
        if self.engine is not None:  # None between two engines
            self.engine.send(["cancel", answer.number])
