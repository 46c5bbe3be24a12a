"""Requests that share an engine get the ids of a full pass, or of a run alone, whatever else is computed and when."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import create_autospec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import NetworkLost, RunFailure
from ms_codegeex.generation.beams import next_tokens, search
from ms_codegeex.generation.choice import token_choice
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.scheduler import PATIENCE, Call, Request, Scheduler, Speculation
from ms_codegeex.generation.shares import CROWD, Shares
from ms_codegeex.generation.speculation import DraftSpeculation, NgramSpeculation

torch = pytest.importorskip("torch")

from twins.tiny_models import POSITIONS, Twin, drain, finish, greedy, prompt, submit  # noqa: E402

SLOTS, GUESSES = 3, 3
pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


@pytest.fixture(scope="module")
def twin():
    return Twin("codegen")


@pytest.fixture(scope="module")
def engine(twin):
    """Every test leaves it with other contents in its slots."""
    return twin.engine(slots=SLOTS, guesses=GUESSES, chunk=32)


@pytest.fixture
def scheduler(engine):
    """Of slots that hold nothing."""
    return fresh(engine)


def fresh(engine):
    engine.cached[:] = [[] for _ in engine.cached]
    return Scheduler(engine)


def sampled(ids, seed, count=12):
    return Request(ids, SamplingSettings(count, temperature=1.5, top_k=40, top_p=0.95, seed=seed), POSITIONS)


def answer(request):
    assert request.finish
    return [chosen.token for chosen in request]


def alone(engine, request):
    """The answer of an engine that has seen nothing else."""
    return drain(fresh(engine), Request(request.ids[: request.prompt], request.settings, POSITIONS))[0]


@pytest.fixture
def parts(engine, monkeypatch):
    """The (slot, begin, end) of all parts of passes."""
    found, advance = [], engine.advance
    monkeypatch.setattr(
        engine, "advance", lambda given: found.extend((p.slot, p.begin, p.end) for p in given) or advance(given)
    )
    return found


ENDS = (37, 1, POSITIONS - 1)
LENGTHS = (*ENDS, 9, 16, 17, 33, POSITIONS, 2, POSITIONS - 3)


@pytest.mark.parametrize(
    ("family", "threads", "lengths"),
    [
        ("codegeex2", 2, LENGTHS),
        pytest.param("codegeex", 2, LENGTHS, marks=pytest.mark.slow),
        pytest.param("codegen", 2, LENGTHS, marks=pytest.mark.slow),
        pytest.param("codegeex2", 0, ENDS, marks=pytest.mark.slow),
    ],
)
def test_ids_are_those_of_a_full_pass(family, threads, lengths):
    twin = Twin(family)
    engine, prompts = twin.engine(slots=SLOTS, threads=threads), [prompt(length, length) for length in lengths]
    prompts += [prompts[0], prompts[0][:20], [*prompts[0], 5]]  # parts of which others compute or have computed
    found = drain(Scheduler(engine), *map(greedy, prompts))
    for ids, new in zip(prompts, found, strict=True):
        assert len(new) == min(12, POSITIONS - len(ids))
        assert new == twin.logits(ids + new)[len(ids) - 1 : -1].argmax(-1).tolist()


def test_draws_are_those_of_the_exact_distribution(twin, engine):
    requests = [sampled(prompt(20, seed), seed) for seed in range(5)]
    for request, new in zip(requests, drain(Scheduler(engine), *requests), strict=True):
        begin, request.ids = request.prompt, request.ids[: request.prompt]
        uniform = [request.choice(new[:count]).uniform for count in range(len(new))]
        assert len(set(uniform)) == 12
        logits = twin.logits(request.ids + new)[begin - 1 : -1].astype(np.float64) / 1.5
        for row, number, token in zip(logits, uniform, new, strict=True):
            weights = np.where(row >= np.sort(row)[-40], np.exp(row - row.max()), 0)
            order = np.argsort(-weights, kind="stable")
            before = np.cumsum(weights[order]) - weights[order]
            weights[order[before >= 0.95 * weights.sum()]] = 0
            sums = weights.cumsum() / weights.sum()
            assert token == sums.searchsorted(number, side="right") or np.abs(sums - number).min() < 1e-6


def test_requests_are_admitted_in_their_order_and_end_by_eos_length_or_context(scheduler):
    requests, started = [greedy(prompt(10, n), count) for n, count in enumerate((8, 3, 5, 2, 1), 1)], []
    submit(scheduler, *requests)
    while not all(request.finish for request in requests):
        scheduler.step()
        started += [each for each in requests if len(each.ids) > each.prompt and each not in started]
    assert started == requests
    expected = answer(requests[0])
    eos = Request(prompt(10, 1), SamplingSettings(8, temperature=0.0), POSITIONS, eos=expected[3])
    full, none = greedy(prompt(POSITIONS - 2, 7)), greedy(prompt(POSITIONS, 7))
    found = drain(scheduler, eos, full, none)
    assert found[0] == expected[: expected.index(expected[3])] and len(found[1]) == 2 and found[2] == []
    assert [each.finish for each in (eos, full, none)] == ["eos", "length", "length"]


@pytest.mark.parametrize(("rows", "passes", "begun"), [(64, 10, [31, 31, 18]), (8, 28, [7, 7, 7]), (4, 60, [3, 3, 3])])
def test_long_prompts_do_not_keep_others_waiting(scheduler, parts, rows, passes, begun):
    stream, long = greedy(prompt(3, 1), passes + 10), [greedy(prompt(80, 2), 1), greedy(prompt(90, 3), 1)]
    scheduler.mixed_rows = rows
    scheduler.submit(stream)
    scheduler.step()
    submit(scheduler, *long)
    for count in range(2, passes):
        scheduler.step()
        assert len(stream.ids) == stream.prompt + count  # a token a step
    assert all(request.finish for request in long)
    assert [end - begin for slot, begin, end in parts if slot == long[0].slot][:3] == begun


def test_the_shortest_rest_of_a_prompt_comes_first(scheduler, parts):
    drain(scheduler, *(greedy(prompt(length, length), 1) for length in (90, 40, 20)))
    assert parts == [(2, 0, 20), (1, 0, 12), (1, 12, 40), (0, 0, 4), (0, 4, 36), (0, 36, 68), (0, 68, 90)]


def test_shorter_prompts_do_not_keep_a_long_one_waiting_for_ever(scheduler):
    long, short = greedy(prompt(90, 1), 1), [greedy(prompt(32, seed), 1) for seed in range(2, 60)]
    submit(scheduler, long, *short)
    # 32 rows in each last one of them; then its rest is shorter than the others
    for _ in range(2 * (PATIENCE + 1) + 1):
        assert not long.finish
        scheduler.step()
    assert long.finish == "length" and sum(bool(request.finish) for request in short) == 2 * PATIENCE
    for request in short:
        request.cancel()


def test_groups_share_the_rows_of_a_pass(engine, scheduler, parts):
    other = greedy(prompt(50, 3), 1, group="b")
    submit(scheduler, *(greedy(prompt(30, seed), 1) for seed in (1, 2)), other)
    scheduler.step()
    assert parts == [(other.slot, 0, 32)]  # who came last comes first
    scheduler.step()
    assert parts[1:] == [(other.slot, 32, 50), (0, 0, 14)]
    finish(scheduler, other)
    assert answer(other) == alone(engine, other)


@pytest.mark.parametrize(
    ("rows_cost", "typist", "typed", "requests", "rows"),
    [
        (True, "b", 1, 2, [1, CROWD]),
        (True, "b", 2, 2, [1, 1, CROWD]),  # its answer is not complete
        (True, "a", 1, 2, [1, 31]),
        (True, "b", 1, 1, [19]),
        (False, "b", 1, 2, [1, 31]),
    ],
)
def test_prompts_of_a_group_with_several_requests_have_few_rows_while_another_types(
    engine, scheduler, parts, monkeypatch, rows_cost, typist, typed, requests, rows
):
    monkeypatch.setattr(scheduler, "_shares", Shares(clock=lambda: 0.0))  # a first step may take seconds
    monkeypatch.setattr(engine, "rows_cost", rows_cost)

    def submitted(length, count, group):
        request = greedy(prompt(length, length + ord(group)), count, group=group)
        scheduler.submit(request)
        return request

    submitted(5 if requests == 2 else 60, 30, "a")
    scheduler.step()
    keystroke = submitted(9, typed, typist)
    while not keystroke.begun:
        scheduler.step()
    parts.clear()
    if requests == 2:
        submitted(60, 1, "a")
    scheduler.step()
    assert sorted(end - begin for _, begin, end in parts) == rows


def test_cancellation_takes_effect_within_a_step(engine, scheduler):
    requests = [greedy(prompt(5, 1), 40), greedy(prompt(6, 2), 40), greedy(prompt(70, 3), 40), greedy(prompt(7, 4))]
    late = [greedy(prompt(60, 5)), greedy([*prompt(70, 3)[:50], 5])]
    submit(scheduler, *requests, *late)
    scheduler.step()
    scheduler.step()
    assert not any(request.finish for request in requests)
    for request in (requests[0], requests[2], late[0]):  # decoding, in its prompt, waiting
        request.cancel()
    assert late[0].finish == "cancelled" and answer(late[0]) == []  # at once, though another one is in front of it
    before = list(requests[0].ids)
    scheduler.step()
    assert requests[0].finish == requests[2].finish == "cancelled" and requests[0].ids == before
    left = [requests[1], requests[3], late[1]]
    finish(scheduler, *left)
    assert answer(requests[2]) == []
    for request in left:
        assert answer(request) == alone(engine, request)


def test_last_hidden_states_are_transformers_whatever_the_slots_hold(twin, engine, scheduler):
    """Of prompts that another one's begins like, in several passes, with sequences that decode beside them."""
    ids = prompt(70, 8)
    drain(scheduler, greedy(ids, 3))
    lengths = (1, engine.chunk + 1)  # whose last id comes alone
    summed = [greedy(ids, 1), greedy([*ids[:40], 7, 8, 9], 1), *(greedy(prompt(each, 5), 1) for each in lengths)]
    for request in summed:
        request.states = np.zeros(twin.config.hidden_size)
    drain(scheduler, greedy(prompt(9, 3)), *summed)
    for request in summed:
        with torch.no_grad():
            hidden = twin.module.transformer(torch.tensor([request.ids[: request.prompt]])).last_hidden_state[0]
        assert np.abs(request.states - hidden.double().sum(0).numpy()).max() <= 1e-3
        assert request.computed == request.prompt


def test_a_prompt_takes_the_slot_that_begins_like_it_or_the_one_that_waited_longest(scheduler, parts):
    second = prompt(20, 2)
    requests = [greedy(prompt(40, 1), 1), greedy(second, 2), greedy(prompt(10, 3), 3)]
    for request in requests:
        drain(scheduler, request)
    assert [request.slot for request in requests] == [0, 1, 2]
    parts.clear()
    for ids in ([*second, 7, 8], prompt(9, 4), prompt(8, 5)):
        drain(scheduler, greedy(ids, 1))
    assert parts == [(1, 20, 22), (0, 0, 9), (2, 0, 8)]


def test_what_a_busy_slot_holds_is_copied(engine, scheduler, parts):
    ids = prompt(50, 1)
    stream = greedy(ids, 30)
    scheduler.submit(stream)
    for _ in range(6):
        scheduler.step()
    copies = [sampled([*ids[:40], 9], 1), sampled(stream.ids[:54], 2)]  # its answer serves, too
    found = drain(scheduler, *copies)
    assert next((begin, end) for slot, begin, end in parts if slot == copies[0].slot) == (40, 41)
    assert next((begin, end) for slot, begin, end in parts if slot == copies[1].slot) == (53, 54)
    finish(scheduler, stream)
    for request, new in zip([*copies, stream], [*found, answer(stream)], strict=True):
        assert new == alone(engine, request)


def test_samples_share_their_prompt(engine, scheduler, parts):
    requests = [sampled(prompt(60, 6), seed, 8) for seed in range(7)]
    found = drain(scheduler, *requests)
    assert sum(end - begin for _, begin, end in parts) == 60 + 6 * 1 + 7 * 7  # the prompt, its last row, new tokens
    assert len({tuple(new) for new in found}) == 7
    for request, new in zip(requests, found, strict=True):
        assert new == alone(engine, request)


class Told(Speculation):
    """Guesses from a list: right up to a place, then wrong."""

    def __init__(self, texts, right):
        super().__init__(GUESSES)
        self.texts, self.right = texts, right

    def guess(self, requests, room):
        guesses = []
        for request, maximum in zip(requests, room, strict=True):
            (text,) = [text for text in self.texts if text[: len(request.ids)] == request.ids]
            begin = len(request.ids)
            wrong = [(token + 1) % 100 for token in text[begin + self.right : begin + maximum]]
            guesses.append(text[begin : begin + min(self.right, maximum)] + wrong)
        return guesses


def speculations(twin):
    other = Twin("codegen")
    other.tensors = {name: array + 0.02 for name, array in twin.tensors.items()}
    yield NgramSpeculation(GUESSES, (2, 1))
    yield DraftSpeculation(twin.engine(slots=SLOTS), GUESSES)
    yield DraftSpeculation(other.engine(slots=SLOTS), GUESSES)


@pytest.mark.slow  # test_engine.py has a case of it
def test_speculation_gives_the_same_ids(twin, engine):
    def requests():
        edited = {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "logit_bias": {5: 1.0}}  # by right guesses
        penalised = Request(prompt(20, 6), SamplingSettings(30, temperature=0.7, seed=4, **edited), POSITIONS)
        drawn = [sampled(prompt(n, n), n, 30) for n in (40, 12, 98)]
        return [*(greedy(prompt(n, n), 30) for n in (5, 90, 1)), *drawn, penalised]

    expected = drain(Scheduler(engine), *requests())
    rates = []
    for speculation in speculations(twin):
        scheduler = Scheduler(engine, speculation)
        assert drain(scheduler, *requests()) == expected
        rates.append(scheduler.accepted / scheduler.guessed)
    assert rates[1] == 1 and 0 < rates[2] < 1 and 0 < rates[0] < 1
    texts = [request.ids[: request.prompt] + new for request, new in zip(requests(), expected, strict=True)]
    for right in range(GUESSES + 1):
        scheduler, asked = Scheduler(engine, Told(texts, right)), requests()
        assert drain(scheduler, *asked) == expected
        assert scheduler.accepted == sum(request.accepted for request in asked) > 0 or right == 0
        assert (scheduler.accepted == scheduler.guessed) is (right == GUESSES)


def test_ngrams_are_continued_as_they_were():
    speculation, request = NgramSpeculation(7), greedy([1, 2, 3, 4, 5, 6, 2, 3], 50)
    assert speculation.guess([request], [7]) == [[4, 5, 6]]
    speculation.learn(request, 3, 3)
    assert speculation.guess([request], [9]) == [[4, 5, 6, 2, 3, 4, 5]]  # beyond what is known the period goes on
    assert speculation.guess([request], [2]) == [[4, 5]]
    speculation.learn(request, 7, 0)
    request.ids += [9, 9, 1, 2, 3, 4, 7, 1, 2, 3]
    assert speculation.guess([request], [7]) == [[4, 7, 1]]  # the latest place
    request.ids += [4]
    assert speculation.guess([request], [7]) == [[7, 1, 2]]
    request.ids += [50]
    assert speculation.guess([request], [7]) == [[]]


POOL = [prompt(3, 1), prompt(30, 2), prompt(30, 2)[:17], [*prompt(30, 2)[:25], 5, 6], prompt(64, 3), prompt(97, 4), [7]]
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, len(POOL) - 1), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("step"), st.integers(1, 4)),
    ),
    max_size=25,
)
ALONE: dict[tuple[int, int, int], list[int]] = {}


@settings(max_examples=30)
@given(events=EVENTS, speculate=st.booleans())
def test_any_schedule_gives_each_request_the_ids_of_a_run_alone(engine, events, speculate):
    for kind in [(number, seed) for name, number, seed, *_ in (e for e in events if e[0] == "ask")]:
        if kind not in ALONE:
            ALONE[kind] = alone(engine, _ask(*kind, 9))
    scheduler, asked = Scheduler(engine, NgramSpeculation(GUESSES, (2, 1)) if speculate else None), []
    for name, *values in events:
        if name == "ask":
            asked.append((_ask(*values), values))
            scheduler.submit(asked[-1][0])
        elif name == "cancel" and values[0] < len(asked):
            asked[values[0]][0].cancel()
        elif name == "step":
            for _ in range(values[0]):
                scheduler.step()
    finish(scheduler, *(request for request, _ in asked))
    for request, (number, seed, count) in asked:
        expected = ALONE[number, seed][:count]
        new = answer(request)
        assert new == expected or (request.cancelled and new == expected[: len(new)])


def _ask(number, seed, count):
    return sampled(POOL[number], seed, count) if seed else greedy(POOL[number], count)


def test_threads_ask_and_the_engine_works_in_one(engine, monkeypatch):
    requests = [sampled(prompt(10 + seed, seed), seed) for seed in range(12)]
    expected = [alone(engine, request) for request in requests]
    scheduler, threads, advance, found = Scheduler(engine), set(), engine.advance, {}

    def noted(parts):
        threads.add((threading.current_thread().name, threading.current_thread().daemon))
        return advance(parts)

    def ask(number):
        scheduler.submit(requests[number])
        scheduler.start()
        found[number] = [chosen.token for chosen in requests[number]]

    monkeypatch.setattr(engine, "advance", noted)
    asking = [threading.Thread(target=ask, args=(number,), daemon=True) for number in range(12)]
    for thread in asking:
        thread.start()
    scores = scheduler.call(lambda slots: engine.logits(slots[0], prompt(10, 0)), prompt(10, 0))
    for thread in asking:
        thread.join()
    assert [found[number] for number in range(12)] == expected and threads == {("generation", False)}
    assert [[scores.argmax()]] == drain(Scheduler(engine), greedy(prompt(10, 0), 1))
    for thread in threading.enumerate():
        assert thread.name != "generation" or not thread.join(60)


def test_a_failure_is_that_of_all_who_wait_and_the_next_request_works(engine, monkeypatch):
    scheduler, ids = Scheduler(engine), prompt(12, 1)
    requests = [greedy(ids), greedy(ids), greedy(prompt(5, 5)), greedy(prompt(6, 6))]
    with monkeypatch.context() as patch:
        patch.setattr(engine.network, "choose", lambda *_: 1 / 0)
        submit(scheduler, *requests)
        scheduler.start()
        for request in requests:
            with pytest.raises(ZeroDivisionError):
                list(request)
    with pytest.raises(ValueError, match=r"no such \[\d, \d, \d\]"):
        scheduler.call(lambda slots: int(f"no such {slots}"), count=9)
    assert drain(scheduler, greedy(ids))[0] == alone(engine, greedy(ids))


@pytest.mark.parametrize("method", ["common", "keep", "copy"])
def test_a_failure_before_the_first_pass_is_that_of_one_request(engine, monkeypatch, method):
    """While a slot is chosen, cleared, or filled with what an earlier request has computed."""
    same = prompt(8, 1)
    requests = [greedy(same), greedy([*same, 3]), greedy(prompt(5, 5)), greedy(prompt(6, 6))]
    expected = [alone(engine, greedy(request.ids)) for request in requests]
    real, scheduler = getattr(engine, method), fresh(engine)
    wrong = {"common": same, "keep": [*same, 3], "copy": len(same)}[method]

    def failing(*arguments):
        assert wrong not in arguments, "broken"
        return real(*arguments)

    monkeypatch.setattr(engine, method, failing)
    call = Call(lambda slots: "done", [*same, 3])
    submit(scheduler, *requests, call)
    while not (call.result.done() and all(request.finish for request in requests)):
        scheduler.step()
    assert [answer(request) for request in requests if request is not requests[1]] == [expected[0], *expected[2:]]
    with pytest.raises(AssertionError, match="broken"):
        list(requests[1])
    if method == "common":
        with pytest.raises(AssertionError, match="broken"):
            call.result.result()


def test_a_lost_network_ends_every_request_and_the_step(engine, monkeypatch):
    """Its processes may be found dead by a copy as well as by a pass; whoever steps has to load the model again."""
    requests, scheduler = [greedy(prompt(8, 1)), greedy(prompt(8, 1)), greedy(prompt(5, 5))], Scheduler(engine)
    lost = create_autospec(engine.copy, side_effect=NetworkLost("device 0 was killed"))
    monkeypatch.setattr(engine, "copy", lost)
    with pytest.raises(NetworkLost):
        drain(scheduler, *requests)
    assert requests[1].finish == "error" and not requests[2].finish
    for request in requests:
        request.cancel()


def test_logits_that_are_not_finite_end_one_request_and_no_other(engine, monkeypatch):
    advance, requests = engine.advance, [greedy(prompt(9, seed)) for seed in range(3)]
    wanted = [alone(engine, request) for request in requests]
    broken = requests[1]

    def advancing(parts):
        found = advance(parts)
        for part, tokens in zip(parts, found, strict=True):
            if part.slot == broken.slot and len(broken.ids) == broken.prompt + 3:
                tokens[:] = [token._replace(score=float("nan")) for token in tokens]
        return found

    monkeypatch.setattr(engine, "advance", advancing)
    scheduler = Scheduler(engine)
    submit(scheduler, *requests)
    finish(scheduler, *requests)
    assert broken.finish == "error" and isinstance(broken.error, RunFailure) and not engine.cached[broken.slot]
    assert [answer(request) for request in requests if request is not broken] == [wanted[0], wanted[2]]
    tokens = iter(broken)
    assert [next(tokens).token for _ in range(3)] == wanted[1][:3]
    with pytest.raises(RunFailure, match="not finite"):
        next(tokens)


def test_a_beam_search_keeps_its_slots_and_stops_no_stream(engine, monkeypatch):
    """With a queue of streams: a search that gave its slots back after each step would wait for whole streams."""
    monkeypatch.setattr(Scheduler, "start", create_autospec(Scheduler.start))  # the steps are made here
    expected = alone(engine, greedy(prompt(9, 1), 60))
    scheduler, begun, length = Scheduler(engine), prompt(12, 2), 8
    stream, queued = greedy(prompt(9, 1), 60), [greedy(prompt(7, seed), 60) for seed in (3, 4)]
    used = []

    def searched():
        with scheduler.holding(begun, 2) as step:

            def likeliest(answers):
                sequences = [[*begun, *ids] for ids in answers]
                return step(lambda slots: used.append(slots) or next_tokens(engine, slots, sequences, 4))

            return search(likeliest, 2, length, None)

    with ThreadPoolExecutor(1) as pool:
        scheduler.submit(stream)
        result = pool.submit(searched)
        while len(scheduler._waiting) < 2:
            time.sleep(0.01)
        submit(scheduler, *queued)
        while not result.done():
            with scheduler._lock:
                ready = scheduler._steps or len(scheduler._waiting) > 2
            if ready:  # one step of the search for each of the stream
                scheduler.step()
            else:
                time.sleep(0.001)
        assert used == [used[0]] * length and stream.slot not in used[0]
        assert not stream.finish and len(stream.ids) == stream.prompt + 1 + length and queued[0].slot < 0
        finish(scheduler, stream, *queued)
    assert answer(stream) == expected

    def by_itself(answers):
        return next_tokens(engine, [0, 1], [[*begun, *ids] for ids in answers], 4)

    engine.cached[:] = [[] for _ in engine.cached]
    assert [beam.ids for beam in result.result()] == [beam.ids for beam in search(by_itself, 2, length, None)]


def test_requests_wait_quietly_for_held_slots(engine, monkeypatch):
    expected = alone(engine, greedy(prompt(9, 1)))
    scheduler, request, steps, step = Scheduler(engine), greedy(prompt(9, 1)), [], Scheduler.step
    counting = create_autospec(step, side_effect=lambda each: steps.append(len(steps)) or step(each))
    monkeypatch.setattr(Scheduler, "step", counting)
    with pytest.raises(ZeroDivisionError), scheduler.holding(prompt(5, 5), SLOTS + 2) as held:
        scheduler.submit(request)
        scheduler.start()
        assert sorted(held(list)) == [*range(SLOTS)] and not request.ids[9:]
        taken = len(steps)
        time.sleep(0.2)
        assert len(steps) <= taken + 2  # nothing to compute: the thread sleeps
        held(lambda _: 1 / 0)
    assert [chosen.token for chosen in request] == expected


def test_ids_of_a_prompt_are_scored_in_any_company(twin, engine):
    prompts = [prompt(length, 3) for length in (1, 2, 40, 70)]  # the later begin like the earlier ones
    requests = [greedy(ids, 3, prompt_best=2) for ids in prompts]
    found = drain(Scheduler(engine), *requests, greedy(prompts[2]))
    for request, ids, new in zip(requests, prompts, found, strict=False):
        assert new == twin.logits(ids + new)[len(ids) - 1 : -1].argmax(-1).tolist()
        scores = twin.scores(ids)[:-1]
        assert [chosen.token for chosen in request.scored] == ids[1:]
        given = scores[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose([chosen.score for chosen in request.scored], given, atol=1e-4)
        best = [[number for number, _ in chosen.best] for chosen in request.scored]
        assert best == np.argsort(-scores)[:, :2].tolist()


def graphs(network):
    """The number of graphs that MindSpore has compiled for a network's passes, and for copies of slots."""
    cells = {network._passage, *network._readings.values(), getattr(network._cells, "_copy", None)}
    return sum(len(cell.compile_cache) for cell in cells if cell is not None)


@pytest.mark.slow
def test_after_warming_up_no_graph_is_compiled(twin, monkeypatch):
    """Whatever was compiled before this test: passes after it have the shapes of those that warmed up."""
    kinds, engine = 9, twin.engine(slots=2, threads=0)
    network, used = engine.network, set()
    run, copy = network._run, network.copy

    def noted(cell, rows):
        """The network and what reads its states are graphs of their own."""
        read = (rows.wanted, rows.settings, rows.edits, rows.places)
        used.update([rows.rows.shape, (cell, *(each.shape for each in read))])
        return run(cell, rows)

    monkeypatch.setattr(network, "_run", noted)
    monkeypatch.setattr(network, "copy", lambda *given: used.add("copy") or copy(*given))
    engine.warm_up([token_choice(SamplingSettings(temperature=each), [], []) for each in (0.0, 1.0)])
    warmed, before = {*used}, graphs(network)
    assert before >= kinds and len(warmed - {"copy"}) >= kinds - 1 and not any(engine.cached)
    for lengths in ((1,), (5,), (3, 7)):
        requests = [greedy(prompt(length, place), 5) for place, length in enumerate(lengths)]
        requests += [sampled(prompt(length, 3), 1, 5) for length in lengths]
        drain(Scheduler(engine), *requests)
    assert graphs(network) == before and used == warmed
