"""What slots drop is kept in host memory up to a limit; restored, it gives the ids of a fresh computation."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.generation import prefixes
from ms_codegeex.generation.kernels import network
from ms_codegeex.generation.prefixes import MIN_COPIED, Prefixes
from ms_codegeex.generation.scheduler import Scheduler
from ms_codegeex.generation.shares import Shares

pytest.importorskip("torch")

from twins.tiny_models import POSITIONS, Twin, drain, finish, greedy, prompt

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
ROOM = 1 << 30


@pytest.fixture(scope="module")
def engine():
    return Twin("codegen").engine(slots=2, chunk=32)


def fresh(engine, limit=ROOM):
    """A scheduler whose slots and memory are empty."""
    engine.cached[:] = [[] for _ in engine.cached]
    return Scheduler(engine, prefixes=Prefixes(engine, limit))


def asked(scheduler, ids, count=3, **more):
    """The answer, and the positions that were computed for it."""
    begun, advance = [], scheduler.engine.advance
    scheduler.engine.advance = lambda parts: begun.extend(part.begin for part in parts) or advance(parts)
    try:
        return drain(scheduler, greedy(ids, count, **more))[0], begun
    finally:
        del scheduler.engine.advance


@pytest.mark.parametrize(
    ("family", "options", "near"),
    [
        ("codegen", {}, 0),
        ("codegeex2", {"cache_bits": 16}, 0),
        pytest.param("codegeex", {"cache_bits": 16}, 0, marks=pytest.mark.slow),
        pytest.param("codegeex2", {"threads": 0, "chunk": 16}, 1e-4, marks=pytest.mark.slow),
        pytest.param("codegeex2", {"threads": 0, "chunk": 16, "cache_bits": 16}, 1e-4, marks=pytest.mark.slow),
    ],
)
def test_a_text_that_left_its_slot_is_not_computed_again(family, options, near):
    """Three texts in turn, of which two fit into the slots."""
    engine = Twin(family).engine(slots=2, **{"chunk": 32} | options)
    texts = [prompt(length, length) for length in (60, 50, 43)]
    scheduler = fresh(engine)
    first = [asked(scheduler, ids)[0] for ids in texts]
    for ids, answer in zip(texts * 2, first * 2, strict=True):
        found, begun = asked(scheduler, ids)
        assert found == answer and begun[0] == len(ids) - 1
    assert scheduler.prefixes.hits >= 5 and scheduler.prefixes.tokens == scheduler.reused
    kept = fresh(engine).prefixes
    for ids in texts:
        engine.cached[:] = [[] for _ in engine.cached]
        expected = engine.logits(0, ids)
        kept.keep(0)
        engine.logits(0, prompt(90, 1))
        for slot, length in ((1, 37), (0, len(ids) - 1)):  # within a block of 16, and to its end
            number, longest = kept.longest(ids, 0)
            assert longest == len(ids)
            kept.restore(number, slot, length)
            assert engine.keep(slot, ids) == length
            assert np.abs(engine.logits(slot, ids) - expected).max() <= near


def test_a_beginning_is_restored_and_the_rest_computed(engine):
    scheduler, ids = fresh(engine), prompt(80, 1)
    asked(scheduler, ids)
    for seed in (2, 3):
        asked(scheduler, prompt(40, seed))
    other = [*ids[:50], *prompt(20, 4)]
    answer, begun = asked(scheduler, other)
    assert begun[0] == 50 and scheduler.prefixes.tokens == 50
    assert answer == asked(fresh(engine), other)[0]


def test_a_text_that_goes_on_stays_in_its_slot(engine):
    """Typing copies nothing, whatever answers were refused in between."""
    scheduler, ids = fresh(engine), prompt(60, 1)
    for end in range(40, 60):
        _, begun = asked(scheduler, ids[:end], 8)
        assert end == 40 or begun[0] >= end - 2
    assert len(scheduler.prefixes) == 0


def test_a_slot_with_a_long_text_is_left_to_it(engine):
    """Only 5 ids are common: they are copied to the slot that waits longest."""
    scheduler, ids = fresh(engine), prompt(60, 1)
    asked(scheduler, ids)
    _, begun = asked(scheduler, [*ids[:5], *prompt(40, 2)])
    assert begun[0] == 5 and scheduler.engine.cached[0][:60] == ids and len(scheduler.prefixes) == 0


def test_the_memory_is_bounded_and_the_least_recently_used_goes_first(engine):
    texts = [prompt(48, seed) for seed in range(4)]
    size = engine.network.cache_bytes(48)
    scheduler = fresh(engine, 2 * size + 5)
    kept = scheduler.prefixes
    for ids in texts[:3]:
        engine.logits(0, ids)
        kept.keep(0)
        assert kept.size == len(kept) * size <= kept.limit
    assert [kept.longest(ids, 0)[1] for ids in texts[:3]] == [0, 48, 48]
    kept.restore(kept.longest(texts[1], 0)[0], 1, 40)
    engine.logits(0, texts[3])
    kept.keep(0)
    assert [kept.longest(ids, 0)[1] for ids in texts] == [0, 48, 0, 48]
    assert len(engine.network._saved) == len(kept) == 2
    small = Prefixes(engine, size - 1)
    small.keep(0)
    assert len(small) == small.size == 0


def test_one_groups_flood_leaves_the_copies_of_others(engine, monkeypatch):
    monkeypatch.setattr(Shares, "owns", lambda *_: False)  # the other group's slot is taken at once
    size = engine.network.cache_bytes(48)
    scheduler = fresh(engine, 3 * size)
    for seed, group in enumerate("b" + 6 * "a"):
        drain(scheduler, greedy(prompt(46, seed), 3, group=group))
    kept = scheduler.prefixes
    assert kept.longest(prompt(46, 0), 0)[1] == 46 and len(kept) == 3
    assert [kept.longest(prompt(46, seed), 0)[1] == 46 for seed in (1, 2, 3, 4)] == [False, False, True, True]


@pytest.mark.parametrize(("typist", "beside", "kept"), [("b", "a", 0), ("", "a", 46), ("b", "c", 46)])
def test_what_a_crowd_drops_is_not_kept_while_another_group_types(engine, monkeypatch, typist, beside, kept):
    scheduler = fresh(engine)
    monkeypatch.setattr(scheduler, "_shares", Shares(clock=lambda: 0.0))  # a step may take seconds

    scheduler.submit(greedy(prompt(5, 9), 60, group=beside))  # has a slot all the time
    if typist:
        drain(scheduler, greedy(prompt(5, 3), 3, group=typist))
    drain(scheduler, greedy(prompt(46, 1), 3, group="a"))
    scheduler.submit(greedy(prompt(46, 2), 3, group="a"))
    scheduler.step()
    assert scheduler.prefixes.longest(prompt(46, 1), 0)[1] == kept


def test_a_text_is_kept_once_and_replaces_what_it_continues(engine):
    kept, ids, size = fresh(engine).prefixes, prompt(70, 5), engine.network.cache_bytes
    for length, expected in ((MIN_COPIED - 1, 0), (40, size(40)), (70, size(70)), (60, size(70))):
        engine.logits(0, ids[:length])
        kept.keep(0)
        assert kept.size == expected and len(kept) == (expected > 0)
        engine.clear(0)
    assert kept.longest(ids, 0)[1] == 70 and kept.longest(ids, 1)[1] == 0  # of another adapter


def test_a_prompt_whose_probabilities_are_wanted_is_computed_whole(engine):
    scheduler, ids = fresh(engine), prompt(50, 6)
    asked(scheduler, ids)
    for seed in (2, 3):
        asked(scheduler, prompt(40, seed))
    assert asked(scheduler, ids, prompt_best=0)[1][0] == 0


POOL = [prompt(40, 1), prompt(64, 2), [*prompt(64, 2)[:45], *prompt(9, 3)], prompt(90, 4), prompt(33, 5), prompt(8, 6)]
ALONE: dict[int, list[int]] = {}


@settings(max_examples=6)
@given(order=st.lists(st.integers(0, len(POOL) - 1), min_size=4, max_size=12), room=st.sampled_from([1, 3, 100]))
def test_any_order_gives_each_text_the_answer_of_a_fresh_engine(engine, order, room):
    for number in order:
        if number not in ALONE:
            ALONE[number] = asked(fresh(engine), POOL[number])[0]
    scheduler = fresh(engine, room * engine.network.cache_bytes(90))
    requests = [greedy(POOL[number], 3) for number in order]
    for request in requests:
        scheduler.submit(request)
        scheduler.step()
    finish(scheduler, *requests)
    assert [[chosen.token for chosen in request] for request in requests] == [ALONE[number] for number in order]
    assert scheduler.prefixes.size <= scheduler.prefixes.limit


def test_the_usual_limit_is_a_quarter_of_what_the_slots_leave(engine, monkeypatch):
    slots = 2 * engine.network.cache_bytes(POSITIONS)
    for free, expected in ((slots + 400, 100), (slots - 1, 0), (1 << 50, 2 * 10**9), (None, 2 * 10**9)):
        monkeypatch.setattr(prefixes, "available_memory", lambda free=free: free)
        assert prefixes.affordable(engine) == expected


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="needs a system with huge pages")
def test_caches_have_small_pages(monkeypatch):
    """No page of an unused slot is resident; with huge pages, a cache of 350M took three times as much."""
    found, own = [], network.aligned

    def recorded(shape, dtype, sparse=False):
        found.append(own(shape, dtype, sparse))
        return found[-1]

    monkeypatch.setattr(network, "aligned", recorded)
    Twin("codegen").engine(slots=2, chunk=32)
    parts = re.split(r"^([0-9a-f]+)-([0-9a-f]+) .*$", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]
    mappings = [(int(begin, 16), int(end, 16), text) for begin, end, text in zip(*[iter(parts)] * 3, strict=True)]
    assert found
    for cache in found:
        (text,) = (text for begin, end, text in mappings if begin <= cache.ctypes.data < end)
        assert " nh" in text[text.index("VmFlags") :]
