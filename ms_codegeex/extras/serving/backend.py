"""The backend: waiting answers, answers in progress, and their text. Everything runs in one event loop. A backend
passes prompts to an engine and takes its tokens. `engine.EngineBackend` does so with a process; tests have one with
made-up text."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.base.printing import print_error
from ms_codegeex.extras.serving.answering import AnswerText, Piece, TextFilter
from ms_codegeex.extras.serving.errors import ApiError, busy, failed, late, unavailable
from ms_codegeex.extras.serving.fairness import RecentClients, Turns, WaitingAnswers, check_concurrent
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.settings import ServeSettings
from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings
from ms_codegeex.generation.stopping import Rule

REMEMBERED, SHORT = 256, 60.0  # prompts that were sampled from, and for how many seconds
AHEAD = 1  # answers that the engine holds beyond its slots, so that a slot is taken in the next step


def _counter(help: str) -> Any:
    return field(default=0, metadata={"help": help})


@dataclass
class Counters:
    """Numbers since the start, with their descriptions in /metrics."""

    answers: int = _counter("Answers begun.")
    cancelled: int = _counter("Answers that nobody waited for to the end.")
    failed: int = _counter("Answers that ended with an error.")
    prompt_tokens: int = _counter("Tokens of prompts.")
    completion_tokens: int = _counter("Tokens generated.")
    reused_tokens: int = _counter("Tokens of prompts that were not computed again.")
    prefix_hits: int = _counter("Prompts that began like a text in the memory for prefixes (--prefix-memory).")
    prefix_tokens: int = _counter("Tokens of prompts that came from the memory for prefixes.")
    guessed_tokens: int = _counter("Tokens guessed by speculation.")
    accepted_tokens: int = _counter("Guessed tokens that were right.")
    suspended: int = _counter("Answers that gave their slots to other clients, and continued later.")
    steps: int = _counter("Passes of the engine.")
    restarts: int = _counter("Restarts of the engine's process.")


class Draws:
    """Notices, once, that a prompt is sampled from again with the same seed: a client that wants several samples gets
    the same one. Keeps hashes of the latest prompts."""

    def __init__(self) -> None:
        self._times: dict[Any, float] = {}
        self._said = False

    def note(self, ids: Sequence[int], settings: SamplingSettings) -> None:
        """Take note of an answer that begins."""
        if self._said or not settings.temperature:
            return
        values = (settings.seed, settings.temperature, settings.adapter)
        drawn, now = (hashlib.sha256(array("q", ids).tobytes()).digest(), *values), time.monotonic()
        self._said = now - self._times.pop(drawn, -SHORT) < SHORT
        self._times[drawn] = now
        if len(self._times) > REMEMBERED:
            del self._times[next(iter(self._times))]
        if self._said:
            self._times.clear()
            print_error(
                f"a prompt came again within {SHORT:g} s with the same seed ({settings.seed}) and temperature "
                f"{settings.temperature:g}: its answers are equal; for different samples send another seed, or none "
                "(printed once)"
            )


class StreamedAnswer(AsyncIterator[Piece]):
    """An answer in pieces: iterate over it and close it, or await `whole`. Made by `Backend.answer`."""

    def __init__(
        self,
        backend: Backend,
        ids: Sequence[int],
        settings: SamplingSettings,
        client: str,
        weight: int,
        *,
        rule: Rule | None = None,
        through: TextFilter | None = None,
        prompt_scores: bool = False,
        prompt_only: bool = False,
        indent: int = 0,
        with_mean: bool = False,
    ):
        """It ends at `settings.stop` and where `rule` says. Its text goes `through` a filter of its own. With an
        `indent`, one of this ends it like `IndentStop`; the engine does so too. With `prompt_scores`, `scored` is
        available with the first piece. With `prompt_only`, the prompt is computed and the answer is empty. With
        `with_mean`, it has a `mean` at its end."""
        self.number, self.ids, self.settings, self.client = next(backend.numbers), list(ids), settings, client
        self.rule, self.prompt_scores, self.prompt_only = rule, prompt_scores, prompt_only
        self.scored: Sequence[ChosenToken] = ()  # each id of the prompt but the first, if requested
        self.mean = b"" if with_mean else None  # at the end, the mean of the prompt's last hidden states: FP32
        self.weight, self.indent, self.output = weight, indent, list[int]()  # ids so far
        self.computed = 0  # tokens since it got its slot
        self.estimate = 0  # tokens that were charged before the engine said how many it has computed
        self.text = AnswerText(backend.model.tokenizer, ids, settings, rule, through)
        self.began, self.first_token_at, self.reused = time.monotonic(), 0.0, 0  # reused: tokens of the prompt
        self.error: ApiError | None = None
        self.on_news: Callable[[], None] | None = None  # called when `news` becomes true
        self._backend, self._event = backend, asyncio.Event()
        self._end_taken, self._wants_all = False, False
        seconds = backend.settings.deadline
        self._deadline = asyncio.get_running_loop().call_later(seconds, backend.fail, self, late(seconds))

    @property
    def ended(self) -> bool:
        """Whether the answer is complete."""
        return self.error is not None or self.text.finish is not None

    @property
    def news(self) -> bool:
        """Whether `take` has something to return."""
        return self.error is not None or self.text.waiting

    def take(self) -> Piece:
        """All text since the last call; `ApiError` if the answer failed."""
        self._event.clear()
        self._end_taken = self.ended
        if self.error is not None:
            raise self.error
        return self.text.take()

    async def __anext__(self) -> Piece:
        if self._end_taken:
            raise StopAsyncIteration
        while not self.news:
            await self._event.wait()
            self._event.clear()
        return self.take()

    async def whole(self) -> Piece:
        """Wait for the end and return the complete answer."""
        self._wants_all = True
        while not self.ended:
            await self._event.wait()
            self._event.clear()
        return self.take()

    def close(self) -> None:
        """Cancel the rest. The slot is free within a step."""
        self._backend.leave(self)

    def tell(self) -> None:
        """Wake the reader."""
        if self.ended or not self._wants_all:
            self._event.set()
        if self.on_news is not None:
            self.on_news()

    def settle(self) -> None:
        """Note the end of the answer, for whatever reason."""
        self._deadline.cancel()
        self.tell()


class Backend(ABC):
    """Answers from a model and its adapters, `slots` at once; `models` by their names. `ready`: it can answer;
    `draining`: it takes no new work."""

    def __init__(
        self, model: ServedModel, settings: ServeSettings, slots: int = 1, adapters: Sequence[ServedModel] = ()
    ):
        self.model, self.settings, self.slots = model, settings, slots
        self.models = {each.name: each for each in (model, *adapters)}
        self.engine_ready, self.draining = False, False
        self.counters, self.prefix_bytes = Counters(), 0
        self.first_token_observers: list[Callable[[float], None]] = []  # seconds from arrival
        self.numbers = itertools.count(1)
        self._waiting, self._active = WaitingAnswers[StreamedAnswer](), dict[int, StreamedAnswer]()
        self._turns, self._recent, self._draws = Turns(), RecentClients(), Draws()

    @property
    def ready(self) -> bool:
        """Whether a request would be answered."""
        return self.engine_ready and not self.draining

    @property
    def queued(self) -> int:
        """Number of answers that wait for a slot."""
        return len(self._waiting) + max(0, len(self._active) - self.slots)

    @property
    def active(self) -> int:
        """Number of answers that are computed."""
        return min(len(self._active), self.slots)

    @property
    def in_slots(self) -> list[StreamedAnswer]:
        """The answers that are computed. The engine gives slots in the order in which it hears of answers."""
        return list(self._active.values())[: self.slots]

    @property
    def idle(self) -> bool:
        """Whether no answer is in progress."""
        return not self._active and not len(self._waiting)

    def check_room(self, count: int = 1, client: str = "", concurrent: int | None = None) -> Sequence[StreamedAnswer]:
        """The waiting answers of others that make room for `count` new ones of a client. `ApiError` if it may not have
        them now: at most `concurrent` of its answers may be in progress."""
        if self.draining:
            raise unavailable("the server is shutting down", "shutting_down")
        if not self.engine_ready:
            raise unavailable("the model is being loaded; try again later", "loading", 5)
        maximum = self.slots + self.settings.max_queue
        if count > maximum:
            raise ApiError(400, f"n: {count} answers at once, the server takes {maximum}; ask for fewer", param="n")
        held = sum(answer.client == client for answer in (*self._active.values(), *self._waiting))
        check_concurrent(concurrent, held, count)
        over = len(self._active) + len(self._waiting) + count - self.slots - self.settings.max_queue
        displaced = self._waiting.displaced(over, client, count)
        if displaced is None:
            raise busy(self.settings.max_queue)
        return displaced

    def answer(
        self, ids: Sequence[int], settings: SamplingSettings, *, client: str = "", weight: int = 1, **more: Any
    ) -> StreamedAnswer:
        """Begin an answer to a prompt's ids; `more` as in `StreamedAnswer`. Close it if it is not read to its end.
        `ApiError` if there is no room. Clients take turns, and one with a higher `weight` gets more. In a full queue,
        the answer replaces one of a client that has more of them."""
        displaced = self.check_room(1, client)
        if not 0 < len(ids) < self.model.context:
            raise ApiError(400, f"prompt: {len(ids)} tokens, the model's context is {self.model.context}")
        for other in displaced:
            self.fail(other, busy(self.settings.max_queue))
        answer = StreamedAnswer(self, ids, settings, client, weight, **more)
        if not answer.prompt_only:
            self._draws.note(ids, settings)
        self.counters.answers += 1
        self.counters.prompt_tokens += len(ids)
        self._turns.enter(client, weight, {each.client for each in (*self._active.values(), *self._waiting)})
        self._waiting.add(answer)
        self._dispatch()
        return answer

    def _dispatch(self) -> None:
        if not len(self._waiting) or not self.engine_ready:
            return
        slices = self.settings.prefix_memory != 0  # otherwise all that was computed would be computed again
        present = {answer.client for answer in (*self._active.values(), *self._waiting)}
        slots = self.slots - self._recent.expected(present, self.slots)
        while exchanged := self._exchanged(slots, slices):
            answer, taker = exchanged
            for ahead in list(self._active.values())[self.slots :]:  # the slot is not for these
                self._take_back(ahead)
            self._take_back(answer)
            self.counters.suspended += 1
            self._start(self._waiting.first(taker))
        # with several clients nobody goes ahead: the next answer may be that of the client whose slot becomes free
        room = slots + AHEAD if len(present) == 1 and slots == self.slots else slots
        while len(self._waiting) and len(self._active) < room:
            returned = self._recent.names.difference(each.client for each in self._active.values())
            self._start(self._waiting.next(self._turns.used, returned))

    def _exchanged(self, slots: int, slices: bool) -> tuple[StreamedAnswer, str] | None:
        """The answer that gives up its slot, and the client that gets it, if `slots` are taken."""
        if len(in_slots := self.in_slots) < slots:
            return None
        able = [answer for answer in in_slots if not answer.prompt_scores]
        return self._turns.exchange(able, self._waiting.clients, slices)

    def _start(self, answer: StreamedAnswer) -> None:
        if not answer.output:  # the rest of one that was suspended is mostly there
            answer.estimate = len(answer.ids)
            self._turns.charge(answer.client, answer.estimate)
        answer.number, answer.computed = next(self.numbers), 0  # what is still on its way has the old number
        self._active[answer.number] = answer
        self._begin(answer)

    def _take_back(self, answer: StreamedAnswer) -> None:
        """Let an answer wait again, before the client's others."""
        del self._active[answer.number]
        self._cancel(answer)
        self._turns.charge(answer.client, -answer.estimate)
        answer.estimate = 0
        self._waiting.add(answer, first=True)

    def feed(self, number: int, tokens: Sequence[ChosenToken], finish: str | None, computed: int | None = None) -> None:
        """Take the tokens that a step gave an answer, and the engine's reason if it has ended. `computed`: tokens that
        the engine has computed for it since the last call; by default those of the prompt and these."""
        answer = self._active.get(number)
        if answer is None:  # cancelled meanwhile, or suspended
            return
        count = len(tokens) + answer.estimate if computed is None else computed
        self._turns.charge(answer.client, count - answer.estimate)
        answer.computed, answer.estimate = answer.computed + count, 0
        if tokens and not answer.first_token_at:
            answer.first_token_at, answer.reused = time.monotonic(), max(0, len(answer.ids) - answer.computed)
            for observe in self.first_token_observers:
                observe(answer.first_token_at - answer.began)
        if answer.prompt_only:
            tokens, finish = (), finish and "length"
            answer.text.end("length")
        try:
            for chosen in tokens:
                if answer.text.finish is None:
                    self.counters.completion_tokens += 1
                    answer.output.append(chosen.token)
                    answer.text.feed(chosen)
            if finish is not None:
                answer.text.end("length" if finish == "length" else "stop")
        except Exception:  # from this answer's text; the other answers continue
            logging.getLogger(__name__).exception("answer %d", number)
            if finish is not None:
                del self._active[number]  # the engine no longer has it
            self.fail(answer, failed())
            self._dispatch()
            return
        if answer.text.finish is not None:
            del self._active[number]
            self._note_end(answer.client)
            if finish is None:
                self._cancel(answer)
            answer.settle()
        elif answer.text.waiting:
            answer.tell()
        self._dispatch()

    def feed_prompt(self, number: int, scored: Sequence[ChosenToken]) -> None:
        """The ids of a prompt but the first, with their log-probabilities."""
        if number in self._active:
            self._active[number].scored = scored

    def feed_mean(self, number: int, mean: bytes) -> None:
        """The mean of a prompt's last hidden states, in little-endian FP32 numbers."""
        if number in self._active:
            self._active[number].mean = mean

    def feed_error(self, number: int, message: str, status: int = 500) -> None:
        """End an answer that the engine could not compute; status 400 if the request was the reason."""
        if (answer := self._active.pop(number, None)) is not None:
            self.fail(answer, ApiError(status, message, code="engine_error" if status == 500 else None))
            self._dispatch()

    def fail(self, answer: StreamedAnswer, error: ApiError) -> None:
        """End an answer with an error."""
        if not answer.ended:
            self.counters.failed += 1
            answer.error = error
            self._forget(answer)
            answer.settle()

    def fail_all(self, error: ApiError) -> None:
        """End all answers with an error; the engine no longer has any of them."""
        left = [*self._active.values(), *self._waiting]
        self._active, self._waiting = {}, WaitingAnswers[StreamedAnswer]()
        for answer in left:
            self.fail(answer, error)

    def leave(self, answer: StreamedAnswer) -> None:
        """Cancel an answer whose client has left."""
        if not answer.ended:
            self.counters.cancelled += 1
            self._forget(answer)
            try:
                answer.text.end("stop")
            except Exception:
                answer.error = failed()
                logging.getLogger(__name__).exception("answer %d", answer.number)
            answer.settle()

    def _note_end(self, client: str) -> None:
        if all(answer.client != client for answer in (*self._active.values(), *self._waiting)):
            self._recent.leave(client)

    def _forget(self, answer: StreamedAnswer) -> None:
        if not self._waiting.remove(answer) and self._active.pop(answer.number, None) is not None:
            self._note_end(answer.client)
            self._cancel(answer)
            self._dispatch()

    @abstractmethod
    def block(self, language: str, prompt: str) -> Rule:
        """The rule that ends the block which a prompt began."""

    @abstractmethod
    def _begin(self, answer: StreamedAnswer) -> None:
        """Send an answer's prompt to the engine."""

    @abstractmethod
    def _cancel(self, answer: StreamedAnswer) -> None:
        """Let the engine drop an answer."""
