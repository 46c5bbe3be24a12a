"""Guesses of the next tokens, which a pass of the model checks all at once. The result is as without guesses."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from ms_codegeex.generation.scheduler import Request, Speculation
from ms_codegeex.generation.slots import SlotEngine

MAXIMUM, DRAFTED = 7, 3  # guesses in a pass; with the newest id a power of two


class NgramSpeculation(Speculation):
    """The ids that followed the last ids, or as many of these as possible, earlier in the prompt or answer."""

    def __init__(self, maximum: int = MAXIMUM, lengths: Sequence[int] = (4, 3, 2)):
        super().__init__(maximum)
        self.lengths = lengths
        # where each n-gram of a request last ended; for the empty one, how far the request was read
        self._after: weakref.WeakKeyDictionary[Request, dict[tuple[int, ...], int]] = weakref.WeakKeyDictionary()

    def guess(self, requests: Sequence[Request], room: Sequence[int]) -> list[list[int]]:
        return [self._guess(each, min(each.width, most)) for each, most in zip(requests, room, strict=True)]

    def _guess(self, request: Request, width: int) -> list[int]:
        after, ids = self._after.setdefault(request, {}), request.ids
        for end in range(after.get((), 0), len(ids)):
            after |= {tuple(ids[end - n : end]): end for n in self.lengths if n <= end}
        after[()] = len(ids)
        begin = next((after[key] for n in self.lengths if (key := tuple(ids[-n:])) in after), None)
        if begin is None or width < 1:
            return []
        period = ids[begin:]  # repeats itself if the guess continues beyond the known ids
        return [period[i % len(period)] for i in range(width)]


class DraftSpeculation(Speculation):
    """A smaller model with the same tokenizer and as many slots, which chooses with the same random numbers."""

    def __init__(self, engine: SlotEngine, maximum: int = DRAFTED):
        super().__init__(maximum)
        self.engine = engine

    def guess(self, requests: Sequence[Request], room: Sequence[int]) -> list[list[int]]:
        capacity = self.engine.capacity
        widths = [
            min(each.width, most, capacity - len(each.ids) + 1) for each, most in zip(requests, room, strict=True)
        ]
        guesses: list[list[int]] = [[] for _ in requests]
        for number in range(max(widths, default=0)):
            going = [i for i, width in enumerate(widths) if number < width]
            chosen = self.engine.next(
                {requests[i].slot: requests[i].ids + guesses[i] for i in going},
                {requests[i].slot: requests[i].choice(guesses[i]) for i in going},
            )
            for i in going:
                guesses[i].append(chosen[requests[i].slot].token)
        return guesses
