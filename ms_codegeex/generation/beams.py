"""Beam search, with the semantics of transformers' default (`early_stopping=False`). Each step ranks the 2 * `beams`
likeliest continuations by one token. Of the first `beams`, those that end with eos are finished; the first `beams` of
the others continue. At the length limit the first `beams` are finished. An answer's score is its log-probability /
length ** length_penalty, both including eos. The `beams` best finished answers are kept. The search ends when there are
that many and the likeliest unfinished one, scored at its present length, is no better than the worst of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.generation.choice import TokenChoice, check_finite
from ms_codegeex.generation.sampling import ChosenToken
from ms_codegeex.generation.slots import SlotEngine

WORTHWHILE = 16  # computing this many tokens is still faster than copying a slot
Likeliest = Callable[[Sequence[tuple[int, ...]]], list[Sequence[tuple[int, float]]]]
"""Answers so far -> for each, its likeliest next tokens with their log-probabilities, twice as many as beams"""


@dataclass(frozen=True)
class Beam:
    """A complete or partial answer: its `tokens`, including eos, and their `total` log-probability."""

    tokens: tuple[ChosenToken, ...] = ()
    total: float = 0.0
    score: float = 0.0
    finish: str = ""  # "eos" or "length" once finished

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(chosen.token for chosen in self.tokens)

    def grown(self, best: Sequence[tuple[int, float]], reported: int) -> list[Beam]:
        kept = tuple(best[:reported])
        return [Beam((*self.tokens, ChosenToken(token, score, kept)), self.total + score) for token, score in best]


def search(
    likeliest: Likeliest, beams: int, limit: int, eos: int | None, length_penalty: float = 1.0, reported: int = 0
) -> list[Beam]:
    """Return up to `beams` answers of up to `limit` tokens, best first. Each token records its `reported` likeliest
    alternatives."""
    running, done = [Beam()], list[Beam]()
    for length in range(1, limit + 1):
        continuations = likeliest([beam.ids for beam in running])
        grown = [new for beam, best in zip(running, continuations, strict=True) for new in beam.grown(best, reported)]
        running = []
        for rank, beam in enumerate(sorted(grown, key=lambda beam: -beam.total)[: 2 * beams]):
            finish = "eos" if beam.tokens[-1].token == eos else "length" if length == limit else ""
            if not finish:
                running.append(beam)
            elif rank < beams:
                done.append(replace(beam, score=beam.total / length**length_penalty, finish=finish))
        running = running[:beams]
        done = sorted(done, key=lambda beam: -beam.score)[:beams]
        full = len(done) == beams
        if not running or (full and running[0].total / length**length_penalty <= done[-1].score):
            break
    return done


def next_tokens(
    engine: SlotEngine, slots: Sequence[int], sequences: Sequence[Sequence[int]], count: int, adapter: int = 0
) -> list[Sequence[tuple[int, float]]]:
    """Return the `count` likeliest tokens after each sequence, with log-probabilities, computed in the given slots. Any
    number of slots works; one per sequence is fastest. Raises `RunFailure` if logits are not finite."""
    result: list[Sequence[tuple[int, float]]] = []
    for begin in range(0, len(sequences), len(slots)):
        group = [list(ids) for ids in sequences[begin : begin + len(slots)]]
        places = _places(engine, slots, group, adapter)
        _share(engine, places, group, adapter)
        choices = dict.fromkeys(places, TokenChoice(best=count))
        chosen = engine.next(dict(zip(places, group, strict=True)), choices, adapter)
        try:
            check_finite(np.array([chosen[slot].score for slot in places]))
        except RunFailure:
            for slot in places:
                engine.clear(slot)
            raise
        result += [chosen[slot].best for slot in places]
    return result


def _places(engine: SlotEngine, slots: Sequence[int], sequences: Sequence[Sequence[int]], adapter: int) -> list[int]:
    common = {(i, slot): engine.common(slot, ids, adapter) for i, ids in enumerate(sequences) for slot in slots}
    places: dict[int, int] = {}
    for i, slot in sorted(common, key=lambda pair: -common[pair]):
        if i not in places and slot not in places.values():
            places[i] = slot
    return [places[i] for i in range(len(sequences))]


def _share(engine: SlotEngine, places: Sequence[int], sequences: Sequence[Sequence[int]], adapter: int) -> None:
    for slot, ids in zip(places, sequences, strict=True):
        begins = [engine.common(other, ids, adapter) for other in range(engine.slots)]
        source = max(range(engine.slots), key=begins.__getitem__)
        if begins[source] > begins[slot] + WORTHWHILE:
            engine.copy(source, slot, begins[source])
