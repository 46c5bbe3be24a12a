"""The engine's process. The first is forked from the server before the server has threads; after a failure, a new one
is started as `python -m ms_codegeex.extras.serving.engine_program DESCRIPTOR PARENT`. A single thread reads the
server's messages before each step of the scheduler and sends all new tokens after it, so a cancelled request takes part
in no further step. The process ends with the server."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.processes import die_with_parent
from ms_codegeex.data.tokenizer.base import Continuation
from ms_codegeex.extras.serving.answering import IndentStop
from ms_codegeex.extras.serving.messages import packed, receive, settings_from
from ms_codegeex.extras.serving.settings import ServeSettings
from ms_codegeex.generation.blocks import block
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.loading import LoadedModel, verify_stored
from ms_codegeex.generation.prefixes import Prefixes, affordable
from ms_codegeex.generation.stopping import Ending

COMPILING = 0.005  # seconds between checks for compiled grammars while nothing else is to be done


class EngineLoop:
    """A `Generator` and the requests of one connection."""

    def __init__(self, connection: Connection, generator: Any):
        self.connection, self.generator, self.scheduler = connection, generator, generator.scheduler
        self.requests: dict[int, Any] = {}
        self.forming: dict[int, tuple[Future[Any], list[Any]]] = {}  # requests whose grammars are being compiled
        self.in_slots: list[int] = []  # as last reported to the server
        self._compiler = ThreadPoolExecutor(1, "grammars")

    def run(self) -> None:
        """Work until the server is gone. The first message, which makes the server ready, is sent only after the graphs
        for usual requests are compiled."""
        self.generator.warm_up()
        if self.scheduler.prefixes is not None:
            self.scheduler.prefixes.warm_up()
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the server is gone
            self._send({"slots": self.generator.slots})
            while True:
                self._listen()
                self._begin_formed()
                self.scheduler.step()
                self._report()

    def _listen(self) -> None:
        """Handle the messages that have arrived, and wait while there is no request. Raises `EOFError` at the end."""
        while self.connection.poll(0 if self.requests else COMPILING if self.forming else None):
            name, *values = receive(self.connection)
            getattr(self, f"_{name}")(*values)

    def _begin(self, number: int, ids: list[int], values: dict[str, Any], *rest: Any) -> None:
        settings = settings_from(values)
        if settings.formed:
            message = [number, ids, {**values, "json_schema": "", "grammar": ""}, *rest]
            self.forming[number] = self._compiler.submit(self.generator.grammars.constraint, settings), message
            return
        prompt_best, (rule, indent), client, weight, mean = rest
        try:
            request = self.requests[number] = self.generator.submit(ids, settings, prompt_best, client, weight)
        except UserError as error:
            self._refuse(number, error)
            return
        request.states = np.zeros(self.generator.config.hidden_size) if mean else None
        if settings.stop or rule is not None or indent:
            ending = Ending(settings.stop, None if rule is None else block(*rule))
            request.ends = ends(Continuation(self.generator.tokenizer, ids), ending, IndentStop(indent))

    def _begin_formed(self) -> None:
        for number, (compiled, message) in list(self.forming.items()):
            if not compiled.done():
                continue
            del self.forming[number]
            try:
                constraint = compiled.result()
            except UserError as error:
                self._refuse(number, error)
                continue
            self._begin(*message)
            if number in self.requests:
                self.requests[number].constraint = constraint

    def _refuse(self, number: int, error: UserError) -> None:
        self._send([[[number, [], "error", 0, str(error), 400]], self._totals(), self.in_slots])

    def _cancel(self, number: int) -> None:
        if number in self.forming:
            self.forming.pop(number)[0].cancel()
        if number in self.requests:
            self.requests.pop(number).cancel()

    def _ping(self) -> None:
        self._send([])

    def _report(self) -> None:
        news: list[list[Any]] = []
        for number, request in list(self.requests.items()):
            tokens = request.new()
            if not tokens and not request.ended:
                continue
            news.append([number, tokens, request.finish if request.ended else None, request.computed])
            if request.error is not None:
                news[-1] += [str(request.error), 400 if isinstance(request.error, UserError) else 500]
            elif request.prompt_best is not None:
                news[-1].append(request.scored)
                request.prompt_best = None
            elif request.states is not None and request.ended:
                news[-1].append(b64encode((request.states / request.prompt).astype("<f4").tobytes()).decode())
            if request.ended:
                del self.requests[number]
        before, self.in_slots = self.in_slots, [each for each, one in self.requests.items() if one.slot >= 0]
        if news or before != self.in_slots:
            self._send([news, self._totals(), self.in_slots])

    def _totals(self) -> list[int]:
        one, prefixes = self.scheduler, self.scheduler.prefixes
        kept = [0, 0, 0] if prefixes is None else [prefixes.hits, prefixes.tokens, prefixes.size]
        return [one.guessed, one.accepted, one.reused, one.passes, one.suspended, *kept]

    def _send(self, value: Any) -> None:
        self.connection.send_bytes(packed(value))


def ends(text: Continuation, ending: Ending, lines: IndentStop) -> Callable[[int], bool]:
    """Return a function that takes the next token of a text and tells whether the text has ended, so that its slot is
    freed at once. The server searches for the end as well (`answering.py`), because it decodes every text. This thread,
    for which all answers wait, decodes only texts with a stop."""

    def ended(token: int) -> bool:
        lines.feed(ending.feed(text.feed(token)))
        return ending.ended or lines.ended

    return ended


def _loaded(
    model: Path | LoadedModel, adapters: Mapping[str, str], prefix_bytes: int | None, mixed_rows: int, **options: Any
) -> Generator:
    if options.get("device") == "gpu":
        from ms_codegeex.base.cuda.libraries import prepare

        prepare()
    generator = Generator(model, adapters={name: Path(path) for name, path in adapters.items()}, **options)
    limit = affordable(generator.engine) if prefix_bytes is None else prefix_bytes
    generator.scheduler.prefixes = Prefixes(generator.engine, limit) if limit else None
    generator.scheduler.mixed_rows = mixed_rows
    return generator


def answer_requests(connection: Connection, load: Callable[[], Generator], parent: int) -> int:
    """Load a model and serve one connection. Return this process's exit status. It ends with the process `parent`."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when this process ends
    os.dup2(2, 1)
    try:
        loop = EngineLoop(connection, load())
    except EOFError:  # the server ended before it sent the options
        return 1
    except (UserError, RunFailure) as error:
        connection.send_bytes(packed({"error": str(error), "status": 2 if isinstance(error, UserError) else 1}))
        return 1
    loop.run()
    return 0


def verify_models(settings: ServeSettings) -> None:
    """Raise `UserError` if a file of the model or an adapter differs from its provenance statement."""
    verify_stored((settings.model, *(path for _, path in settings.adapter)))


@contextlib.contextmanager
def forked(settings: ServeSettings, model: LoadedModel) -> Iterator[tuple[Any, socket.socket] | None]:
    """Yield an engine's process, forked from this one to share what was imported and read, and the connection to it.
    It verifies the model's files before it uses them. Where forking is not safe, verify them here and yield None."""
    if sys.platform != "linux":
        verify_models(settings)
        yield None
        return
    gc.freeze()  # otherwise the garbage collector would write to shared pages, which copies them
    ours, theirs = socket.socketpair()
    run = partial(_run_forked, ours, theirs, settings, model, os.getpid())
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    theirs.close()

    try:
        poll, wait = lambda: process.exitcode, process.join  # the interface of `subprocess.Popen`
        yield SimpleNamespace(pid=process.pid, poll=poll, kill=process.kill, wait=wait), ours
    finally:
        process.kill()
        process.join()


def _run_forked(
    ours: socket.socket, theirs: socket.socket, settings: ServeSettings, model: LoadedModel, parent: int
) -> None:
    os.setsid()  # Ctrl-C must reach only the server, which lets answers finish
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("GLOG_v", "3")
    ours.close()

    def load() -> Generator:
        verify_models(settings)
        return _loaded(**{**settings.generator_options(), "model": model})

    sys.exit(answer_requests(Connection(theirs.detach()), load, parent))


def main(descriptor: int, parent: int) -> int:
    connection = Connection(descriptor)
    return answer_requests(connection, lambda: _loaded(**receive(connection)), parent)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
