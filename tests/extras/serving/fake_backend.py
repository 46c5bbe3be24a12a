"""A backend without an engine: the answer to any prompt is a fixed text, one token a step, `slots` answers at once."""

from __future__ import annotations

import asyncio
import struct
from functools import cache
from pathlib import Path

from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
from ms_codegeex.extras.serving.backend import Backend, StreamedAnswer
from ms_codegeex.extras.serving.model import ServedModel, with_adapter
from ms_codegeex.extras.serving.settings import ServeSettings
from ms_codegeex.generation.sampling import ChosenToken

TEXT = "    return first + second  # 和\n\n\ndef other():\n    pass\n"


@cache
def cached_tokenizer() -> Tokenizer:
    """CodeGeeX's, loaded once."""
    return load_tokenizer("codegeex")


def fake_model(**changes) -> ServedModel:
    """A CodeGeeX with the real tokenizer."""
    tokenizer = cached_tokenizer()
    values = {"name": "fake", "family": "codegeex", "tokenizer": tokenizer, "context": 256}
    return ServedModel(**{**values, "allowed": tokenizer.vocab_size, **changes})


def fake_settings(**changes) -> ServeSettings:
    """Settings without a model."""
    return ServeSettings(**{"model": Path("fake"), **changes})


def key_file(path: Path, text: str, mode: int = 0o600) -> Path:
    """A file of API keys, as the server takes it by default."""
    path.write_text(text)
    path.chmod(mode)
    return path


class FakeBackend(Backend):
    """Answers `text` in steps of `step_seconds`; a log-probability is -1/8 for the token's place, from 1. `paused`: no
    steps. `texts` are given to the next answers instead, one each; `script` is the ids of all answers instead. The mean
    of the hidden states is (3, 4, 0) times the number of ids. `changes` are those of `fake_settings`."""

    def __init__(self, model=None, text=TEXT, slots=2, step_seconds=0.0, texts=(), script=None, **changes):
        model, settings = model or fake_model(), fake_settings(**changes)
        adapters = [with_adapter(model, name, path) for name, path in settings.adapter]
        super().__init__(model, settings, slots, adapters)
        self.engine_ready, self.text, self.step_seconds, self.paused = True, text, step_seconds, False
        self.texts, self.script = [*texts], script
        self.asked: list[StreamedAnswer] = []  # all answers, in the order in which the engine got them
        self.dropped: list[StreamedAnswer] = []  # those that the engine need not finish
        self._tasks: dict[int, asyncio.Task | None] = {}  # those that wait have none

    def prompt(self, number: int = -1) -> str:
        """The text that the engine was asked to continue."""
        return self.model.tokenizer.decode(self.asked[number].ids)

    def _begin(self, answer: StreamedAnswer) -> None:
        self.asked.append(answer)
        self._tasks[answer.number] = None
        self._fill()

    def _fill(self) -> None:
        self.computing = [*self._tasks][: self.slots]
        for number in self.computing:
            if self._tasks[number] is None:
                self._tasks[number] = asyncio.get_running_loop().create_task(self._play(self.answers[number]))

    def _cancel(self, answer: StreamedAnswer) -> None:
        self.dropped.append(answer)
        task = self._tasks.pop(answer.number, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self._fill()

    async def _play(self, answer: StreamedAnswer) -> None:
        own = answer.number
        ids = self.script or self.model.tokenizer.encode(self.texts.pop(0) if self.texts else self.text)
        if answer.mean is not None:
            self.feed_prompt(own, mean=struct.pack("<3f", 3 * len(answer.ids), 4 * len(answer.ids), 0))
        room = min(answer.settings.max_new_tokens, self.model.context - len(answer.ids))
        best = answer.settings.log_probabilities
        for place, number in enumerate(ids[:room], 1):
            while self.paused:
                await asyncio.sleep(0.001)
            await asyncio.sleep(self.step_seconds)
            likeliest = tuple((number + other, -(place + other) / 8) for other in range(best))
            self.feed(own, [ChosenToken(number, -place / 8, likeliest)], None)
        self._tasks.pop(own, None)
        self._fill()
        self.feed(own, [], "length" if room <= len(ids) else "eos")


def tuned(chat: str = "plain", **changes) -> FakeBackend:
    """A backend whose model is tuned for conversations."""
    return FakeBackend(model=fake_model(chat=TEMPLATES[chat]), **changes)
