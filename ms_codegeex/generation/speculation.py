"""Guesses of the next tokens, which a pass of the model checks all at once. The ids are those without guesses."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

from ms_codegeex.generation.scheduler import Request
from ms_codegeex.generation.slots import SlotEngine

MAXIMUM, FIRST = 7, 3  # guesses of a pass: with the newest id a power of two


class GuessWidth:
    """The number of tokens to guess: more after a right guess, fewer after a wrong one."""

    def __init__(self, maximum: int = MAXIMUM):
        self.maximum = maximum
        self._width: weakref.WeakKeyDictionary[Request, int] = weakref.WeakKeyDictionary()

    def _widths(self, requests: Sequence[Request], room: Sequence[int]) -> list[int]:
        return [min(maximum, self._width.get(each, FIRST)) for each, maximum in zip(requests, room, strict=True)]

    def learn(self, request: Request, guessed: int, accepted: int) -> None:
        """How good a guess was."""
        if accepted == guessed:
            self._width[request] = min(2 * guessed + 1, self.maximum)
        elif 2 * accepted < guessed:
            self._width[request] = max(guessed // 2, 1)


class _Index:
    """The last positions at which n-grams of a growing sequence were continued."""

    def __init__(self) -> None:
        self.after: dict[tuple[int, ...], int] = {}
        self.seen = 0


class NgramSpeculation(GuessWidth):
    """The ids that followed the last ids, or as many of these as possible, earlier in the prompt or answer."""

    def __init__(self, maximum: int = MAXIMUM, lengths: Sequence[int] = (4, 3, 2)):
        super().__init__(maximum)
        self.lengths = lengths
        self._indices: weakref.WeakKeyDictionary[Request, _Index] = weakref.WeakKeyDictionary()

    def guess(self, requests: Sequence[Request], room: Sequence[int]) -> list[list[int]]:
        """Up to `room` next ids of each request."""
        widths = self._widths(requests, room)
        return [self._guess(each, width) for each, width in zip(requests, widths, strict=True)]

    def _guess(self, request: Request, width: int) -> list[int]:
        index, ids = self._indices.setdefault(request, _Index()), request.ids
        for end in range(index.seen, len(ids)):
            for n in self.lengths:
                if n <= end:
                    index.after[tuple(ids[end - n : end])] = end
        index.seen = len(ids)
        begin = next((index.after[key] for n in self.lengths if (key := tuple(ids[-n:])) in index.after), None)
        if begin is None or width < 1:
            return []
        period = ids[begin:]  # repeats itself if the guess continues beyond the known ids
        return [period[i % len(period)] for i in range(width)]


class DraftSpeculation(GuessWidth):
    """A smaller model with the same tokenizer and as many slots, which chooses with the same random numbers."""

    def __init__(self, engine: SlotEngine, maximum: int = FIRST):
        super().__init__(maximum)
        self.engine = engine

    def guess(self, requests: Sequence[Request], room: Sequence[int]) -> list[list[int]]:
        """Up to `room` next ids of each request."""
        capacity = self.engine.capacity
        widths = [
            min(width, capacity - len(each.ids) + 1)
            for each, width in zip(requests, self._widths(requests, room), strict=True)
        ]
        guesses: list[list[int]] = [[] for _ in requests]
        for number in range(max(widths, default=0)):
            going = [i for i, width in enumerate(widths) if number < width]
            found = self.engine.next(
                {requests[i].slot: requests[i].ids + guesses[i] for i in going},
                {requests[i].slot: requests[i].choice(guesses[i]) for i in going},
            )
            for i in going:
                guesses[i].append(found[requests[i].slot].token)
        return guesses
