"""The server's backend and the engine's `EngineLoop` in one process, which work a step at a time: a test counts passes.

Messages between them are those of the real connection.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from types import SimpleNamespace

from fake_backend import cached_tokenizer, fake_model, fake_settings

from ms_codegeex.extras.serving.engine import EngineBackend
from ms_codegeex.extras.serving.engine_program import EngineLoop
from ms_codegeex.extras.serving.messages import packed
from ms_codegeex.generation.sampling import ChosenToken
from ms_codegeex.generation.scheduler import Request, Scheduler
from ms_codegeex.generation.shares import Shares
from ms_codegeex.generation.slots import shared


class NumberedEngine:
    """In place of a `SlotEngine`: after each id comes the next number, up to 90. `rows` has those of each pass."""

    def __init__(self, slots, chunk=256):
        self.slots, self.chunk, self.rows_cost, self.rows = slots, chunk, True, []
        self.cached = [[] for _ in range(slots)]

    def clear(self, slot, adapter):
        self.cached[slot] = []

    def common(self, slot, ids, adapter):
        return shared(self.cached[slot], ids)

    def keep(self, slot, ids, adapter):
        del self.cached[slot][shared(self.cached[slot], ids[:-1]) :]
        return len(self.cached[slot])

    def copy(self, source, target, length):
        self.cached[target] = self.cached[source][:length]

    def advance(self, parts):
        self.rows.append(sum(len(part.ids) for part in parts))
        for part in parts:
            assert part.begin == len(self.cached[part.slot])
            self.cached[part.slot] += part.ids
        return [[ChosenToken(part.ids[-1] % 90 + 1, -0.5) for _ in part.choices] for part in parts]


class SteppedBackend(EngineBackend):
    """An `EngineBackend` whose engine works in `step`; `clock` is the scheduler's."""

    def __init__(self, engine, capacity, prefixes=None, clock=time.monotonic, **settings):
        model = fake_model(context=capacity)
        super().__init__(model, fake_settings(**settings))
        scheduler = Scheduler(engine, prefixes=prefixes)
        scheduler._shares = Shares(clock=clock)

        def submit(ids, wanted, prompt_best=None, group="", weight=1):
            request = Request(ids, wanted, capacity, prompt_best=prompt_best, group=group, weight=weight)
            scheduler.submit(request)
            return request

        generator = SimpleNamespace(scheduler=scheduler, tokenizer=cached_tokenizer(), submit=submit)
        connection = SimpleNamespace(send_bytes=lambda data: self._took(json.loads(data)))
        self.loop = EngineLoop(connection, generator)
        self.engine = SimpleNamespace(send=self._sent)
        self.outputs = defaultdict[int, list[int]](list)  # the tokens of answers by their numbers
        self._hello({"slots": engine.slots})

    def _sent(self, value):
        name, *values = json.loads(packed(value))
        getattr(self.loop, f"_{name}")(*values)

    def feed(self, number, tokens, finish, computed=None):
        """The engine's tokens are remembered."""
        self.outputs[number] += [chosen.token for chosen in tokens]
        super().feed(number, tokens, finish, computed)

    def step(self, count=1):
        """Steps of the scheduler, and their messages."""
        for _ in range(count):
            self.loop.scheduler.step()
            self.loop._report()

    def finish(self, answer=None):
        """Steps until an answer has ended, or all have."""
        while not (answer.ended if answer else self.idle):
            self.step()
