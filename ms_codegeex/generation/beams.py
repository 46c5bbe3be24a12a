"""Beam search: the likeliest answers to a prompt, several of which are followed at once.

In each step the twice `beams` likeliest continuations by one token are ranked. Of the first `beams` of them, those that
end with eos are done; the first `beams` others go on. At the limit the first `beams` are done as they are. The score of
an answer is its log-probability / length ** length_penalty, eos counted; the `beams` best that are done are kept. The
search ends when so many are done and the likeliest that goes on, scored with its present length, is no better than the
worst of them. So does transformers with `early_stopping=False`, its default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ms_codegeex.generation.choice import Chosen, TokenChoice
from ms_codegeex.generation.slots import SlotEngine, shared

WORTHWHILE = 16  # so many tokens are computed sooner than a slot is copied
Likeliest = Callable[[Sequence[tuple[int, ...]]], list[Sequence[tuple[int, float]]]]
"""Answers so far -> for each, its likeliest next tokens with their log-probabilities, twice as many as beams"""


@dataclass(frozen=True)
class Beam:
    """An answer, or the beginning of one: `tokens`, eos with them, and the logarithm of their probability."""

    tokens: tuple[Chosen, ...] = ()
    total: float = 0.0
    score: float = 0.0
    finish: str = ""  # "eos" or "length" of one that is done

    @property
    def ids(self) -> tuple[int, ...]:
        """Those of the tokens."""
        return tuple(chosen.token for chosen in self.tokens)

    def grown(self, best: Sequence[tuple[int, float]], reported: int) -> list[Beam]:
        """This beam with each of its likeliest next tokens."""
        kept = tuple(best[:reported])
        return [Beam((*self.tokens, Chosen(token, score, kept)), self.total + score) for token, score in best]


def search(
    likeliest: Likeliest, beams: int, limit: int, eos: int | None, length_penalty: float = 1.0, reported: int = 0
) -> list[Beam]:
    """The best answers of up to `limit` tokens, at most `beams`, best first. `reported` likeliest tokens are kept with
    each token."""
    running, done = [Beam()], list[Beam]()
    for length in range(1, limit + 1):
        found = likeliest([beam.ids for beam in running])
        grown = [new for beam, best in zip(running, found, strict=True) for new in beam.grown(best, reported)]
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
    engine: SlotEngine, slots: Sequence[int], sequences: Sequence[Sequence[int]], count: int
) -> list[Sequence[tuple[int, float]]]:
    """The `count` likeliest tokens after each sequence, computed in these slots of an engine; any number of them will
    do, and as many as there are sequences are best."""
    result: list[Sequence[tuple[int, float]]] = []
    for begin in range(0, len(sequences), len(slots)):
        group = [list(ids) for ids in sequences[begin : begin + len(slots)]]
        places = _places(engine, slots, group)
        _share(engine, places, group)
        found = engine.next(dict(zip(places, group, strict=True)), dict.fromkeys(places, TokenChoice(best=count)))
        result += [found[slot].best for slot in places]
    return result


def _places(engine: SlotEngine, slots: Sequence[int], sequences: Sequence[Sequence[int]]) -> list[int]:
    """A slot for each sequence: as far as possible one that holds its beginning."""
    common = {(i, slot): shared(engine.cached[slot], ids) for i, ids in enumerate(sequences) for slot in slots}
    places: dict[int, int] = {}
    for i, slot in sorted(common, key=lambda pair: -common[pair]):
        if i not in places and slot not in places.values():
            places[i] = slot
    return [places[i] for i in range(len(sequences))]


def _share(engine: SlotEngine, places: Sequence[int], sequences: Sequence[Sequence[int]]) -> None:
    """Copy beginnings that other slots hold, if they are much longer."""
    for slot, ids in zip(places, sequences, strict=True):
        source = max(range(engine.slots), key=lambda other: shared(engine.cached[other], ids))
        if (length := shared(engine.cached[source], ids)) > shared(engine.cached[slot], ids) + WORTHWHILE:
            engine.copy(source, slot, length)
