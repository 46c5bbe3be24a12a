"""The backend: answers in progress and their text. Everything runs in one event loop. A backend passes the prompts of
admitted answers to an engine, whose scheduler decides when they are computed, and receives the tokens.
`engine.EngineBackend` uses an engine in a process of its own; tests use a backend with made-up text."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import time
from abc import abstractmethod
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ms_codegeex.base.printing import print_error
from ms_codegeex.extras.serving.admission import Admission
from ms_codegeex.extras.serving.answering import AnswerText, Piece, TextFilter
from ms_codegeex.extras.serving.errors import ApiError, failed, late
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.settings import ServeSettings
from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings
from ms_codegeex.generation.stopping import Rule

REMEMBERED, SHORT = 256, 60.0  # sampled prompts that `Draws` remembers, and for how many seconds


def _counter(help: str) -> Any:
    return field(default=0, metadata={"help": help})


@dataclass
class Counters:
    """Totals since the server's start, with their descriptions for /metrics."""

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
    """Warns, once, if a prompt is sampled again with the same seed: a client that wants different samples would get
    equal ones. Only hashes of the latest prompts are kept."""

    def __init__(self) -> None:
        self._times: dict[Any, float] = {}
        self._said = False

    def note(self, ids: Sequence[int], settings: SamplingSettings) -> None:
        """Record the start of an answer, and warn if it repeats a recent one."""
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
    """An answer that arrives in pieces: iterate over it and close it, or await `whole`. Created by `Backend.answer`."""

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
        """The answer ends at `settings.stop`, or where `rule` or the filter `through` ends it. `indent` makes the
        engine, too, end it like `IndentStop`, which frees the slot. With `prompt_scores`, `scored` is set before the
        first piece. With `prompt_only`, the answer is empty. With `with_mean`, `mean` is set at the end."""
        self.number, self.ids, self.settings, self.client = next(backend.numbers), list(ids), settings, client
        self.rule, self.prompt_scores, self.prompt_only = rule, prompt_scores, prompt_only
        self.scored: Sequence[ChosenToken] = ()  # the prompt's ids except the first, if requested
        self.mean = b"" if with_mean else None  # FP32 mean of the prompt's last hidden states, set at the end
        self.weight, self.indent = weight, indent
        self.text = AnswerText(backend.model.tokenizer, ids, settings, rule, through)
        self.began, self.first_token_at, self.reused = time.monotonic(), 0.0, 0  # reused: prompt tokens
        self.error: ApiError | None = None
        self.on_news: Callable[[], None] | None = None  # called when `news` becomes true
        self._backend, self._event = backend, asyncio.Event()
        self._end_taken, self._wants_all = False, False
        seconds = backend.settings.deadline
        self._deadline = asyncio.get_running_loop().call_later(seconds, backend.fail, self, late(seconds))

    @property
    def ended(self) -> bool:
        return self.error is not None or self.text.finish is not None

    @property
    def news(self) -> bool:
        return self.error is not None or self.text.waiting

    def take(self) -> Piece:
        """Return everything since the last call. Raises `ApiError` if the answer failed."""
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
        """Wait for the end and return the complete answer. Raises `ApiError` if it failed."""
        self._wants_all = True
        while not self.ended:
            await self._event.wait()
            self._event.clear()
        return self.take()

    def close(self) -> None:
        """Cancel the rest of the answer. Its slot is free within one step of the scheduler."""
        if self.ended:
            return
        self._backend.counters.cancelled += 1
        self._backend.forget(self)
        try:
            self.text.end("stop")
        except Exception:
            self.error = failed()
            logging.getLogger(__name__).exception("answer %d", self.number)
        self.settle()

    def tell(self) -> None:
        if self.ended or not self._wants_all:
            self._event.set()
        if self.on_news is not None:
            self.on_news()

    def settle(self) -> None:
        self._deadline.cancel()
        self.tell()


class Backend(Admission):
    """Manages the answers of a model and its adapters. `models` maps names to the model alone or with an adapter."""

    answers: dict[int, StreamedAnswer]

    def __init__(
        self, model: ServedModel, settings: ServeSettings, slots: int = 1, adapters: Sequence[ServedModel] = ()
    ):
        super().__init__(slots, settings.max_queue)
        self.model, self.settings = model, settings
        self.models = {each.name: each for each in (model, *adapters)}
        self.counters, self.prefix_bytes = Counters(), 0
        self.first_token_observers: list[Callable[[float], None]] = []  # seconds from arrival
        self.numbers, self._draws = itertools.count(1), Draws()

    def answer(
        self, ids: Sequence[int], settings: SamplingSettings, *, client: str = "", weight: int = 1, **more: Any
    ) -> StreamedAnswer:
        """Begin an admitted answer to the prompt `ids`; for `more` see `StreamedAnswer`. It must be closed unless it is
        read to its end. Clients take turns, in proportion to their `weight`."""
        if not 0 < len(ids) < self.model.context:
            raise ApiError(400, f"prompt: {len(ids)} tokens, the model's context is {self.model.context}")
        answer = StreamedAnswer(self, ids, settings, client, weight, **more)
        if not answer.prompt_only:
            self._draws.note(ids, settings)
        self.counters.answers += 1
        self.counters.prompt_tokens += len(ids)
        self.answers[answer.number] = answer
        self._begin(answer)
        return answer

    def feed(self, number: int, tokens: Sequence[ChosenToken], finish: str | None, computed: int | None = None) -> None:
        """Take an answer's tokens from one step, and the engine's `finish` if it has ended. `computed` is the number of
        rows computed for it so far; None means that no part of the prompt was reused."""
        answer = self.answers.get(number)
        if answer is None:  # cancelled in the meantime
            return
        if tokens and not answer.first_token_at:
            answer.first_token_at = time.monotonic()
            answer.reused = 0 if computed is None else max(0, len(answer.ids) - computed)
            for observe in self.first_token_observers:
                observe(answer.first_token_at - answer.began)
        if answer.prompt_only:
            tokens, finish = (), finish and "length"
            answer.text.end("length")
        try:
            for chosen in tokens:
                if answer.text.finish is None:
                    self.counters.completion_tokens += 1
                    answer.text.feed(chosen)
            if finish is not None:
                answer.text.end("length" if finish == "length" else "stop")
        except Exception:  # an error in this answer's text must not affect the others
            logging.getLogger(__name__).exception("answer %d", number)
            if finish is not None:
                del self.answers[number]  # the engine no longer has it
            self.fail(answer, failed())
            return
        if answer.text.finish is not None:
            del self.answers[number]
            if finish is None:
                self._cancel(answer)
            answer.settle()
        elif answer.text.waiting:
            answer.tell()

    def feed_prompt(self, number: int, scored: Sequence[ChosenToken] = (), mean: bytes | None = None) -> None:
        """Take the ids of a prompt except the first, with their log-probabilities, or the `mean` of the prompt's last
        hidden states as little-endian FP32 numbers."""
        if number in self.answers:
            self.answers[number].scored, self.answers[number].mean = scored, mean

    def feed_error(self, number: int, message: str, status: int = 500) -> None:
        if (answer := self.answers.pop(number, None)) is not None:
            self.fail(answer, ApiError(status, message, code="engine_error" if status == 500 else None))

    def fail(self, answer: StreamedAnswer, error: ApiError) -> None:
        """End an answer with an error."""
        if not answer.ended:
            self.counters.failed += 1
            answer.error = error
            self.forget(answer)
            answer.settle()

    def fail_all(self, error: ApiError) -> None:
        """End all answers with an error, without telling the engine, which no longer has them."""
        left, self.answers, self.computing = list(self.answers.values()), {}, ()
        for answer in left:
            self.fail(answer, error)

    def forget(self, answer: StreamedAnswer) -> None:
        if self.answers.pop(answer.number, None) is not None:
            self._cancel(answer)

    @abstractmethod
    def _begin(self, answer: StreamedAnswer) -> None:
        """Send an answer's prompt to the engine."""

    @abstractmethod
    def _cancel(self, answer: StreamedAnswer) -> None:
        """Tell the engine to drop an answer."""
