"""Complete answers: text up to its end, ids, log-probabilities; several answers to one prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.generation.beams import search
from ms_codegeex.generation.choice import Chosen
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.scheduler import Request
from ms_codegeex.generation.stopping import Ending, Rule, until

if TYPE_CHECKING:
    from ms_codegeex.generation.engine import Generator


@dataclass(frozen=True)
class Answer:
    """`text` ends before a stop text; `tokens` are all chosen ones except eos. `finish`: "eos", "stop" or "length".
    `score`: of a beam, else None."""

    text: str
    tokens: Sequence[Chosen]
    finish: str
    score: float | None = None


def answers(
    generator: Generator, ids: Sequence[int], settings: SamplingSettings, rule: Rule | None = None
) -> list[Answer]:
    """`settings.n` answers to a prompt; `rule` ends them too."""
    if settings.beams > 1:
        return _beams(generator, ids, settings, rule)
    seeds = (settings.seed + number for number in range(settings.n))
    requests = [generator.request(ids, replace(settings, seed=seed)) for seed in seeds]
    # slots are given in order, so this many readers follow all that are computed, and a stop text frees its slot
    with ThreadPoolExecutor(min(len(requests), generator.slots + 1)) as pool:
        try:
            return list(pool.map(lambda request: _answer(generator.tokenizer, request, rule), requests))
        finally:
            for request in requests:
                request.cancel()


def _answer(tokenizer: Tokenizer, request: Request, rule: Rule | None) -> Answer:
    chosen: list[Chosen] = []

    def tokens() -> Iterator[int]:
        for one in request:
            chosen.append(one)
            yield one.token

    ending = Ending(request.settings.stop, rule)
    text = "".join(until(tokenizer.continuation(request.ids[: request.prompt], tokens()), ending))
    request.cancel()
    return Answer(text, chosen, "stop" if ending.ended else request.finish)


def _beams(generator: Generator, ids: Sequence[int], settings: SamplingSettings, rule: Rule | None) -> list[Answer]:
    room = min(settings.max_new_tokens, generator.seq_length - len(ids))
    count = max(2 * settings.beams, settings.log_probabilities)
    eos, found = generator.tokenizer.eos_id, []
    with generator.likeliest(ids, settings.beams, count, settings.adapter) as likeliest:
        done = search(likeliest, settings.beams, room, eos, settings.length_penalty, settings.log_probabilities)
    for beam in done[: settings.n]:
        tokens, ending = [one for one in beam.tokens if one.token != eos], Ending(settings.stop, rule)
        text = "".join(until(generator.tokenizer.continuation(ids, [one.token for one in tokens]), ending))
        found.append(Answer(text, tokens, "stop" if ending.ended else beam.finish, beam.score))
    return found
