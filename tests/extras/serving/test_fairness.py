"""One client's flood does not keep another one waiting, by counted passes; and answers that gave way stay the same."""

import itertools
from collections import Counter

import mindspore as ms
import pytest
from asking import connected
from fake_backend import FakeBackend, key_file
from stepped_engine import NumberedEngine, SteppedBackend

from ms_codegeex.extras.serving.keys import read_keys
from ms_codegeex.generation.prefixes import Prefixes
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.scheduler import Request, Scheduler
from ms_codegeex.generation.shares import TYPING_SECONDS

PATH, CAPACITY, FLOOD = "/v1/completions", 2000, 120
ALICE, FLOODER = "0123456789abcdef", "fedcba9876543210"


def settings(count, **more):
    return SamplingSettings(count, **{"temperature": 0.0, **more})


def until_first_token(backend, answer):
    """The number of steps until an answer has its first token, and the rows of those passes."""
    begun = len(backend.loop.scheduler.engine.rows)
    for steps in itertools.count(1):
        backend.step()
        if answer.text.count:
            return steps, sum(backend.loop.scheduler.engine.rows[begun:])


def ids_of(length, seed):
    """Prompts that share nothing."""
    return [seed % 80 + 1, *(1 + (seed * 7 + place) % 83 for place in range(length - 1))]


@pytest.mark.parametrize("slots", [2, 4, 16])
async def test_a_flood_of_one_client_leaves_another_ones_first_token_where_it_was(slots):
    """120 answers of a flooder, who asks again as soon as one ends; the other one asks 20 times."""
    always_away = itertools.count(0, TYPING_SECONDS)
    backend = SteppedBackend(NumberedEngine(slots), CAPACITY, clock=always_away.__next__, max_queue=256)
    idle = until_first_token(backend, backend.answer(ids_of(40, 1), settings(4), client="a"))
    assert idle == (1, 40)
    seeds = itertools.count(5)
    flood = []
    for number in range(20):
        flood = [answer for answer in flood if not answer.ended]
        while len(flood) < FLOOD:
            flood.append(backend.answer(ids_of(60, next(seeds)), settings(200), client="flooder"))
        backend.step(3 + number)
        answer = backend.answer(ids_of(40, 1000 + number), settings(4), client="a")
        steps, _ = until_first_token(backend, answer)
        assert steps <= 2 * idle[0], number
        backend.finish(answer)
    assert backend.counters.failed == 0 and backend.counters.suspended >= 15  # sometimes one is free
    ended = [answer for answer in flood if answer.text.count]
    assert len(ended) >= slots - 1  # the flooder has the rest
    backend.fail_all(None)


async def test_keystrokes_in_a_flood_find_their_slot_and_have_short_passes_of_their_own():
    # Keystrokes come within the seconds, however slow this is.
    backend = SteppedBackend(NumberedEngine(4), CAPACITY, clock=lambda: 0.0, max_queue=256)
    engine, ids, seeds = backend.loop.scheduler.engine, ids_of(600, 1), itertools.count(5)
    for number in range(30):
        while backend.queued < 50:
            backend.answer(ids_of(400, next(seeds)), settings(50), client="flooder")
        backend.step(30)
        answer = backend.answer(ids, settings(4), client="typist")
        until_first_token(backend, answer)
        if number:
            rest = len(ids) - answer.reused
            assert rest in (1, 2) and engine.rows[-1] == rest, number
            backend.step()
            assert engine.rows[-1] > rest  # the others are not passed over twice
        backend.finish(answer)
        ids = [*ids, ids[-1] % 83 + 1, 85]
    assert backend.counters.suspended <= 1 and backend.counters.failed == 0
    backend.fail_all(None)


def test_short_passes_of_one_group_are_one_in_as_many_as_there_are_groups():
    scheduler, short = Scheduler(NumberedEngine(8)), []
    for number, group in enumerate("ab"):
        request = Request(ids_of(20, number), settings(300), CAPACITY)
        request.group = group
        scheduler.submit(request)
    for number in range(60):
        request = Request(ids_of(3, 10 + number), settings(1), CAPACITY)
        request.group = "c"
        scheduler.submit(request)
        scheduler.step()
        if scheduler.engine.rows[-1] == 3:
            short.append(number)
    assert len(short) >= 15 and min(after - before for before, after in itertools.pairwise(short)) >= 3


async def test_a_slot_that_nobody_returned_to_goes_to_who_waits():
    now = [0.0]
    backend = SteppedBackend(NumberedEngine(4), CAPACITY, clock=lambda: now[0])
    backend.answer(ids_of(30, 0), settings(2), client="typist")
    answers = [backend.answer(ids_of(30, seed), settings(60), client="flooder") for seed in range(1, 9)]
    backend.step(5)
    assert backend.active == 3
    now[0] = TYPING_SECONDS
    backend.step()
    assert backend.active == 4
    backend.finish()
    assert all(answer.text.finish == "length" for answer in answers)


async def test_a_long_prompt_has_half_of_the_rows_in_a_flood():
    backend = SteppedBackend(NumberedEngine(4), CAPACITY, max_queue=256)
    for seed in range(FLOOD):
        backend.answer(ids_of(300, seed), settings(100), client="flooder")
    backend.step(5)
    _, rows = until_first_token(backend, backend.answer(ids_of(600, 700), settings(4), client="a"))
    assert rows <= 2.2 * 600
    backend.fail_all(None)


async def test_a_long_prompt_comes_to_its_end_among_short_ones_that_never_end():
    backend = SteppedBackend(NumberedEngine(16, chunk=32), CAPACITY, max_queue=999)
    long, seeds = backend.answer(ids_of(320, 0), settings(1)), itertools.count(1)
    for _ in range(400):
        while backend.queued < 20:
            backend.answer(ids_of(30, next(seeds)), settings(1))
        backend.step()
        if long.ended:
            break
    assert long.ended and not long.error and next(seeds) > 100
    backend.fail_all(None)


@pytest.mark.parametrize(
    ("slots", "weights"),
    [(1, (1, 1)), (4, (3, 1)), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((4, (1, 1)), (1, (1, 2))))],
)
async def test_tokens_are_computed_by_weight(slots, weights):
    """Both have more to do than the engine can: prompts and answers of different lengths."""
    backend = SteppedBackend(NumberedEngine(slots), CAPACITY, max_queue=999)
    rows, answers = Counter(), []
    note = backend.loop.scheduler._shares.note
    backend.loop.scheduler._shares.note = lambda found, present: (rows.update(found), note(found, present))
    for number in range(120):
        for client, weight, prompt, answer in (("a", weights[0], 20, 60), ("b", weights[1], 200, 90)):
            ids = ids_of(prompt, 2 * number + (client == "b"))
            answers.append(backend.answer(ids, settings(answer), client=client, weight=weight))
    while sum(rows.values()) < 8000:
        backend.step()
    assert {request.group for request in backend.loop.scheduler._waiting} == {"a", "b"}
    share = rows["a"] / sum(rows.values())
    assert abs(share - weights[0] / sum(weights)) < 0.12
    backend.fail_all(None)


@pytest.fixture(scope="module")
def twin_engine():
    pytest.importorskip("torch")
    from twins.tiny_models import Twin

    ms.set_context(mode=ms.GRAPH_MODE)
    return Twin("codegen").engine(slots=2, chunk=32)


async def test_answers_that_gave_way_go_on_where_they_were():
    backend = SteppedBackend(NumberedEngine(3), CAPACITY)
    answers = [backend.answer(ids_of(20, seed), settings(60), client="flooder") for seed in range(9)]
    for number in range(30):
        backend.step(5)
        backend.answer(ids_of(10, 100 + number), settings(3), client=f"other {number % 3}")
    backend.finish()
    assert backend.counters.suspended >= 20 and backend.counters.failed == 0
    for answer in answers:
        last = answer.ids[-1]
        assert backend.outputs[answer.number] == [(last - 1 + place) % 90 + 1 for place in range(1, 61)]
        assert answer.text.count == 60 and answer.text.finish == "length"


@pytest.mark.slow
@pytest.mark.parametrize("memory", [0, 1 << 30])
async def test_an_answer_that_gave_way_is_the_one_that_it_would_have_been(twin_engine, memory):
    """With draws, penalties and a stop text; with the memory for prefixes, or computed again."""
    from twins.tiny_models import POSITIONS, prompt

    drawn = {"temperature": 1.5, "repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.2}
    wanted = [(prompt(33 + seed, seed), settings(50, seed=seed, **drawn)) for seed in range(6)]
    expected = []
    for ids, one in wanted:
        twin_engine.cached[:] = [[], []]
        request, scheduler = Request(ids, one, POSITIONS), Scheduler(twin_engine)
        scheduler.submit(request)
        while not request.finish:
            scheduler.step()
        expected.append([chosen.token for chosen in request])
    twin_engine.cached[:] = [[], []]
    kept = Prefixes(twin_engine, memory) if memory else None
    backend = SteppedBackend(twin_engine, POSITIONS, kept, prefix_memory=memory)
    answers = [backend.answer(ids, one, client="flooder") for ids, one in wanted]
    for number in range(12):
        backend.step(7)
        backend.answer(prompt(20, 100 + number), settings(3), client=f"other {number % 2}")
    backend.finish()
    assert backend.counters.suspended >= 6
    found, hits = [backend.outputs[answer.number] for answer in answers], backend.counters.prefix_hits
    assert found == expected and bool(hits) is bool(memory)


async def test_a_stop_text_is_found_across_a_break():
    """Half of it comes before the answer gives way: ids are characters, from "!" on."""
    backend = SteppedBackend(NumberedEngine(2), CAPACITY)
    answers = [backend.answer([number], settings(60, stop=("=>?@",)), client="a") for number in (20, 25)]
    backend.step(4)
    assert backend.outputs[answers[1].number] == [26, 27, 28, 29]  # "=>" is 28 and 29 + 1
    backend.answer([70], settings(3), client="b")
    backend.finish()
    assert backend.counters.suspended == 1
    pieces = [answer.take() for answer in answers]
    assert [piece.text for piece in pieces] == ["6789:;<", ";<"]
    assert [piece.finish for piece in pieces] == ["stop", "stop"]


async def test_the_limit_of_a_minute_counts_answers(tmp_path):
    path = key_file(tmp_path / "keys", f"alice {ALICE} requests-per-minute=5\n")
    backend = FakeBackend(api_key_file=path, slots=8)
    async with connected(backend) as client:
        client.headers["Authorization"] = f"Bearer {ALICE}"
        bodies = [{"n": 3}, {"prompt": ["x", "y", "z"]}, {"n": 2}, {}, {"n": 6}]
        first, refused, second, third, many = [
            await client.post(PATH, json={"prompt": "x", "max_tokens": 1, **body}) for body in bodies
        ]
    assert [response.status_code for response in (first, refused, second, third)] == [200, 429, 429, 429]
    assert "at most 5 answers of this key in a minute" in refused.json()["error"]["message"]
    assert many.status_code == 429


async def test_more_answers_than_a_minute_has_are_never_possible():
    async with connected(FakeBackend(requests_per_minute=5, slots=8)) as client:
        response = await client.post(PATH, json={"prompt": "x", "n": 8})
    assert response.status_code == 400 and response.json()["error"]["param"] == "n"


async def test_a_weight_in_the_file_of_keys(tmp_path):
    path = key_file(tmp_path / "keys", f"alice {ALICE} weight=3\nflooder {FLOODER}\n")
    assert [key.weight for key in read_keys(path)] == [3, 1]
    backend = FakeBackend(api_key_file=path)
    async with connected(backend) as client:
        await client.post(PATH, json={"prompt": "x"}, headers={"Authorization": f"Bearer {ALICE}"})
    assert backend.asked[0].weight == 3
