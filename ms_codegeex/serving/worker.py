"""The engine's process: `python -m ms_codegeex.serving.worker DESCRIPTOR PARENT`. One thread: it reads the server's
messages before each step of the scheduler and sends all new tokens after it. A request that is cancelled takes part in
no further step. The process ends with the server."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.processes import die_with_parent
from ms_codegeex.cuda.libraries import prepare
from ms_codegeex.data.tokenizer.base import Continuation
from ms_codegeex.generation.blocks import block
from ms_codegeex.generation.stopping import Ending
from ms_codegeex.serving.answering import Indented
from ms_codegeex.serving.messages import packed, receive, settings_from

COMPILING = 0.005  # seconds between two looks at grammars that are being compiled, if nothing else is done


class Worker:
    """A `Generator` and the requests of one connection."""

    def __init__(self, connection: Connection, generator: Any):
        self.connection, self.generator, self.scheduler = connection, generator, generator.scheduler
        self.requests: dict[int, Any] = {}
        self.forming: dict[int, tuple[Future[Any], list[Any]]] = {}  # requests whose grammars are being compiled
        self._compiler = ThreadPoolExecutor(1, "grammars")

    def run(self) -> None:
        """Work until the server is gone. The server is ready once this has reported: no graph of the usual requests
        is compiled after that."""
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
        """Handle the messages that have arrived; wait until there is a request. `EOFError` at the end."""
        while self.connection.poll(0 if self.requests else COMPILING if self.forming else None):
            name, *values = receive(self.connection)
            getattr(self, f"_{name}")(*values)

    def _begin(
        self,
        number: int,
        ids: list[int],
        values: dict[str, Any],
        prompt_best: int | None,
        limits: tuple[list[str] | None, int],
        output: list[int],
        client: str,
        mean: bool = False,
    ) -> None:
        settings = settings_from(values)
        if settings.formed:
            left = {**values, "json_schema": "", "grammar": ""}
            message = [number, ids, left, prompt_best, limits, output, client, mean]
            self.forming[number] = self._compiler.submit(self.generator.grammars.constraint, settings), message
            return
        try:
            request = self.requests[number] = self.generator.submit(ids, settings, prompt_best)
        except UserError as error:
            self._refuse(number, error)
            return
        request.group, request.states = client, np.zeros(self.generator.config.hidden_size) if mean else None
        request.ids += output
        rule, indent = limits
        if settings.stop or rule is not None or indent:
            ending = Ending(settings.stop, None if rule is None else block(*rule))
            request.ends = ends(Continuation(self.generator.tokenizer, ids), ending, Indented(indent))
            for token in output:
                request.ends(token)

    def _begin_formed(self) -> None:
        """Begin the requests whose grammars are compiled: that takes up to a second, and the others do not wait."""
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
        self._send([[[number, [], "error", 0, str(error), 400]], self._totals()])

    def _cancel(self, number: int) -> None:
        if number in self.forming:
            self.forming.pop(number)[0].cancel()
        if number in self.requests:
            self.requests.pop(number).cancel()

    def _ping(self) -> None:
        self._send([])

    def _report(self) -> None:
        """Send the results of the last step."""
        news: list[list[Any]] = []
        for number, request in list(self.requests.items()):
            tokens = request.new()
            if not tokens and not request.ended:
                continue
            news.append([number, tokens, request.finish if request.ended else None, request.computed])
            request.computed = 0
            if request.error is not None:
                news[-1] += [str(request.error), 400 if isinstance(request.error, UserError) else 500]
            elif request.prompt_best is not None:
                news[-1].append(request.scored)
                request.prompt_best = None
            elif request.states is not None and request.ended:
                news[-1].append(b64encode((request.states / request.prompt).astype("<f4").tobytes()).decode())
            if request.ended:
                del self.requests[number]
        if news:
            self._send([news, self._totals()])

    def _totals(self) -> list[int]:
        scheduler, prefixes = self.scheduler, self.scheduler.prefixes
        kept = [0, 0, 0] if prefixes is None else [prefixes.hits, prefixes.tokens, prefixes.size]
        return [scheduler.guessed, scheduler.accepted, scheduler.reused, scheduler.passes, *kept]

    def _send(self, value: Any) -> None:
        self.connection.send_bytes(packed(value))


def ends(text: Continuation, ending: Ending, lines: Indented) -> Callable[[int], bool]:
    """Whether a text has ended with its next token. The server finds the same place, and what is to be sent."""

    def ended(token: int) -> bool:
        lines.feed(ending.feed(text.feed(token)))
        return ending.ended or lines.ended

    return ended


def _loaded(model: str, adapters: dict[str, str], prefix_bytes: int | None, mixed_rows: int, **options: Any) -> Any:
    if options.get("device") == "gpu":
        prepare()
    from ms_codegeex.generation.engine import Generator
    from ms_codegeex.generation.prefixes import Prefixes, affordable

    generator = Generator(Path(model), adapters={name: Path(path) for name, path in adapters.items()}, **options)
    limit = affordable(generator.engine) if prefix_bytes is None else prefix_bytes
    generator.scheduler.prefixes = Prefixes(generator.engine, limit) if limit else None
    generator.scheduler.mixed_rows = mixed_rows
    return generator


def main(descriptor: int, parent: int) -> int:
    """Serve one connection. The first message names the model."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when it ends
    os.dup2(2, 1)
    connection = Connection(descriptor)
    try:
        worker = Worker(connection, _loaded(**receive(connection)))
    except EOFError:  # the server ended before it sent the options
        return 1
    except (UserError, RunFailure) as error:
        connection.send_bytes(packed({"error": str(error), "status": 2 if isinstance(error, UserError) else 1}))
        return 1
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
