"""Speculative decoding: guesses of the next tokens, which the model checks in one pass. Answers do not change."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from ms_codegeex.generation.scheduler import Request, Speculation
from ms_codegeex.generation.slots import SlotEngine

MAXIMUM, DRAFTED = 7, 3  # guesses per pass; with the newest id, the rows are a power of two


class NgramSpeculation(Speculation):
    """Guesses what followed the last n ids earlier in the prompt or answer, for the first possible n of `lengths`."""

    def __init__(self, maximum: int = MAXIMUM, lengths: Sequence[int] = (4, 3, 2)):
        super().__init__(maximum)
        self.lengths = lengths
        # the index after each n-gram's last occurrence; the empty n-gram maps to the number of ids read
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
        period = ids[begin:]  # a guess longer than this repeats it
        return [period[i % len(period)] for i in range(width)]


class DraftSpeculation(Speculation):
    """Guesses with a smaller model that has the same tokenizer and as many slots. It draws with the same random
    numbers as the model, so that the choices agree more often."""

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
