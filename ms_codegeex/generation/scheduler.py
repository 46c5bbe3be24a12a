"""Continuous batching: requests from any thread share the slots of an engine, which runs in one thread.

A step is one pass: a token, or a few guessed ones, of every sequence that decodes, and rows of prompts, first come,
first served. Requests wait for a slot in the order of their arrival. A slot keeps the ids of its last sequence, and a
prompt that begins like any slot's contents is not computed again. The ids of a request do not depend on its company.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np

from ms_codegeex.errors import RunFailure
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.slots import LEAST_CHUNK, Part, SlotEngine, TokenChoice, power, shared

MIXED_ROWS = 64  # of a pass in which sequences decode: prompts do not delay them for long


class Request:
    """A prompt and its answer: iterate over it for the new ids. Cancel a request whose answer nobody reads.

    `finish` says why it ended: "eos" (which is not yielded), "length" or "cancelled".
    """

    def __init__(self, ids: Sequence[int], settings: SamplingSettings, limit: int, eos: int | None = None):
        """`limit`: of prompt and answer together, as the engine's capacity."""
        self.ids, self.settings, self.eos = list(ids), settings, eos
        self.prompt = len(self.ids)
        self.limit = min(limit, self.prompt + settings.max_new_tokens)
        self.slot = -1
        self.leader: Request | None = None  # is about to compute what both begin with
        self.finish, self.cancelled = "", False
        self.guessed = self.accepted = 0
        self.error: BaseException | None = None
        self._random, self._uniform = np.random.default_rng(settings.seed), list[float]()
        self._tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def cancel(self) -> None:
        """No more tokens are computed after the present step."""
        self.cancelled = True

    def __iter__(self) -> Iterator[int]:
        while (token := self._tokens.get()) is not None:
            yield token
        if self.error is not None:
            raise self.error

    def choices(self, count: int) -> list[TokenChoice]:
        """Of the next `count` tokens. The number that decides one depends only on the seed and its place."""
        begin, settings = len(self.ids) - self.prompt, self.settings
        while len(self._uniform) < begin + count:
            self._uniform.append(self._random.random())
        chosen = self._uniform[begin : begin + count]
        return [TokenChoice(settings.temperature, settings.top_k, settings.top_p, uniform) for uniform in chosen]

    def take(self, token: int) -> None:
        """The next token."""
        if token == self.eos:
            self.finish = "eos"
            return
        self.ids.append(token)
        self._tokens.put(token)
        if len(self.ids) >= self.limit:
            self.finish = "length"

    def end(self, finish: str, error: BaseException | None = None) -> None:
        """Nothing follows."""
        self.finish, self.error = finish, error
        self._tokens.put(None)


class Call:
    """Other work for an engine and a slot that holds as much of `ids` as any."""

    def __init__(self, ids: Sequence[int], work: Callable[[int], Any]):
        self.ids, self.work, self.cancelled = list(ids), work, False
        self.result: Future[Any] = Future()

    def end(self, finish: str, error: BaseException | None = None) -> None:
        """It does not take place."""
        self.result.set_exception(error or RunFailure(f"generation: {finish}"))


class Speculation(Protocol):
    """Guesses of next tokens."""

    most: int

    def guess(self, requests: Sequence[Request], room: Sequence[int]) -> list[list[int]]:
        """Up to `room` next ids of each request."""

    def learn(self, request: Request, guessed: int, accepted: int) -> None:
        """How good a guess was."""


class Scheduler:
    """Requests and the slots of an engine. `submit` and `Request.cancel` may come from any thread."""

    def __init__(self, engine: SlotEngine, speculation: Speculation | None = None):
        self.engine, self.speculation = engine, speculation
        self.guessed = self.accepted = 0  # tokens
        self._lock, self._running = threading.Lock(), False
        self._waiting: deque[Request | Call] = deque()
        self._active: dict[int, Request] = {}  # by slot, in the order of admission
        self._used, self._clock = [0] * engine.slots, 0  # when a slot became free

    def submit(self, work: Request | Call) -> None:
        """Queue it. Somebody must call `step`, or `start` once."""
        with self._lock:
            self._waiting.append(work)

    def call(self, ids: Sequence[int], work: Callable[[int], Any]) -> Any:
        """The result of `work(slot)`, which may use the engine and the slot between two steps."""
        call = Call(ids, work)
        self.submit(call)
        self.start()
        return call.result.result()

    def start(self) -> None:
        """Work in a thread until nothing is left to do, unless one does. It ends soon after the main thread."""
        with self._lock:
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name="generation").start()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting and not self._active:
                    self._running = False
                    return
            try:
                if not threading.main_thread().is_alive():
                    raise RunFailure("generation: the program ends")
                self.step()
            except BaseException as error:  # of every request, whose threads raise it
                with self._lock:
                    left = [*self._active.values(), *self._waiting]
                    self._active.clear()
                    self._waiting.clear()
                for each in left:
                    each.end("error", error)

    def step(self) -> None:
        """Admit, compute one pass, deliver."""
        for request in list(self._active.values()):
            if request.cancelled:
                self._end(request, "cancelled")
        self._admit()
        planned = self._decoding()
        self._add_prompts(planned)
        found = self.engine.advance([part for part, _ in planned]) if planned else []
        for (part, request), chosen in zip(planned, found, strict=True):
            if chosen:
                self._deliver(request, part, [token for token, _ in chosen])

    def _left(self, request: Request) -> int:
        """How many ids are not computed yet."""
        return len(request.ids) - len(self.engine.cached[request.slot])

    def _decoding(self) -> list[tuple[Part, Request]]:
        """A part of each request that lacks only its newest id: that and guesses."""
        ready = [request for request in self._active.values() if request.leader is None and self._left(request) == 1]
        guesses: list[list[int]] = [[] for _ in ready]
        if self.speculation is not None and ready:
            room = [min(self.speculation.most, each.limit - len(each.ids) - 1) for each in ready]
            guesses = self.speculation.guess(ready, room)
        return [
            (Part(each.slot, len(each.ids) - 1, [each.ids[-1], *guess], each.choices(1 + len(guess))), each)
            for each, guess in zip(ready, guesses, strict=True)
        ]

    def _add_prompts(self, planned: list[tuple[Part, Request]]) -> None:
        """Parts of the prompts that are not computed yet, as far as they fit into the pass."""
        used, room = sum(len(part.ids) for part, _ in planned), self.engine.chunk
        if planned:
            room = min(room, max(MIXED_ROWS, power(used + LEAST_CHUNK)))
        room -= used
        decoding = {part.slot for part, _ in planned}
        for request in self._active.values():
            if room < 1:
                return
            if request.slot in decoding:
                continue
            if request.leader is not None:
                self._reuse(request)
                if request.leader is not None:
                    continue
            begin = len(self.engine.cached[request.slot])
            ids = request.ids[begin : begin + room]
            choices = request.choices(1) if begin + len(ids) == len(request.ids) else []
            planned.append((Part(request.slot, begin, ids, choices), request))
            room -= len(ids)

    def _deliver(self, request: Request, part: Part, tokens: Sequence[int]) -> None:
        """The tokens up to the first that was guessed wrong."""
        guess, accepted = part.ids[len(part.ids) - len(tokens) + 1 :], 0
        if not request.cancelled:
            request.take(tokens[0])
            for token, guessed in zip(tokens[1:], guess, strict=True):
                if request.finish or request.ids[-1] != guessed:
                    break
                request.take(token)
                accepted += 1
            if guess and self.speculation is not None:
                self.guessed, self.accepted = self.guessed + len(guess), self.accepted + accepted
                request.guessed, request.accepted = request.guessed + len(guess), request.accepted + accepted
                self.speculation.learn(request, len(guess), accepted)
        del self.engine.cached[request.slot][len(request.ids) - 1 :]
        if request.cancelled or request.finish:
            self._end(request, request.finish or "cancelled")

    def _end(self, request: Request, finish: str) -> None:
        self._free(request.slot)
        request.end(finish)

    def _free(self, slot: int) -> None:
        self._clock += 1
        self._used[slot] = self._clock
        self._active.pop(slot, None)

    def _admit(self) -> None:
        """Give free slots to those that wait."""
        while True:
            with self._lock:
                while self._waiting and self._waiting[0].cancelled:
                    self._waiting.popleft().end("cancelled")
                if not self._waiting or len(self._active) == self.engine.slots:
                    return
                work = self._waiting.popleft()
            if isinstance(work, Request) and work.prompt >= work.limit:
                work.end("length")
                continue
            slot = self._place(work.ids)
            if isinstance(work, Request):
                work.slot = slot
                self._active[slot] = work
                self._reuse(work)
                continue
            try:
                self.engine.keep(slot, work.ids)
                work.result.set_result(work.work(slot))
            except BaseException as error:
                work.end("error", error)
            self._free(slot)

    def _place(self, ids: Sequence[int]) -> int:
        """The free slot with the longest common beginning, or if that of a busy one is longer, the least recently
        used."""
        begins = [shared(cached, ids[:-1]) for cached in self.engine.cached]
        busy = max((begins[slot] for slot in self._active), default=0)
        free = [slot for slot in range(self.engine.slots) if slot not in self._active]
        best = max(begins[slot] for slot in free)
        return min((slot for slot in free if busy > best or begins[slot] == best), key=lambda slot: self._used[slot])

    def _reuse(self, request: Request) -> None:
        """Copy the longest common beginning of another slot, or wait for an earlier request that is about to compute a
        longer one."""
        cached, ids = self.engine.cached, request.ids[:-1]
        own = self.engine.keep(request.slot, request.ids)
        begins = {slot: shared(cached[slot], ids) for slot in range(self.engine.slots) if slot != request.slot}
        source = max(begins, key=begins.__getitem__, default=request.slot)
        most = max(own, begins.get(source, 0))
        request.leader = None
        for earlier in self._active.values():
            if earlier is request:
                break
            if len(cached[earlier.slot]) < (length := shared(earlier.ids[: earlier.prompt], ids)) > most:
                request.leader, most = earlier, length
        if request.leader is None and most > own:
            self.engine.copy(source, request.slot, most)
