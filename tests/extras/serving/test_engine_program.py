"""The engine's process, without a model: what it reads between two steps and what it sends after each."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import pytest
from asking import until
from fake_backend import cached_tokenizer, fake_model, fake_settings
from stepped_engine import NumberedEngine

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer.base import Continuation
from ms_codegeex.extras.serving import engine
from ms_codegeex.extras.serving.answering import IndentStop
from ms_codegeex.extras.serving.engine import EngineBackend, EngineProcess
from ms_codegeex.extras.serving.engine_program import EngineLoop, ends
from ms_codegeex.extras.serving.errors import ApiError
from ms_codegeex.extras.serving.messages import chosen_from, packed, receive, settings_from, settings_values
from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings
from ms_codegeex.generation.scheduler import Request, Scheduler
from ms_codegeex.generation.stopping import Ending

CONTEXT, BROKEN = 50, 90


class CountingEngine(NumberedEngine):
    """`between` is called before each pass with its number, from 1; `passes` has the ids of each. The token `BROKEN`
    has no number for a score."""

    def __init__(self, between):
        super().__init__(2, chunk=8)
        self.between, self.passes = between, []

    def advance(self, parts):
        self.passes.append({part.slot: list(part.ids) for part in parts})
        self.between(len(self.passes))
        found = []
        for part in parts:
            self.cached[part.slot] += part.ids
            row = zip(part.ids[len(part.ids) - len(part.choices) :], part.choices, strict=True)
            found.append(
                [ChosenToken(choice.given if choice.given >= 0 else last + 1, self.score(last)) for last, choice in row]
            )
        return found

    @staticmethod
    def score(last):
        return float("nan") if last + 1 == BROKEN else -last / 8


class Counting:
    """In place of a `Generator`."""

    slots = 2

    def __init__(self, between):
        self.engine, self.tokenizer = CountingEngine(between), cached_tokenizer()
        self.scheduler = Scheduler(self.engine)
        self.warmed: list[int] = []  # the number of passes at each call

    def warm_up(self):
        self.warmed.append(len(self.engine.passes))

    def submit(self, ids, settings, prompt_best=None, group="", weight=1):
        if 0 in ids:
            raise UserError("prompt: 0 is not a token's id")
        request = Request(ids, settings, CONTEXT, prompt_best=prompt_best, group=group, weight=weight)
        self.scheduler.submit(request)
        return request


def played(before, at):
    """All messages of a loop that finds the messages `before`, and those of `at[k]` during pass k; None closes the
    connection. Also its passes."""
    end, theirs = socket.socketpair()
    ours = Connection(end.detach())

    def between(number):
        for message in at.get(number, []):
            if message is None:
                with socket.socket(fileno=ours.fileno()) as closing:
                    closing.shutdown(socket.SHUT_WR)
                    closing.detach()
            else:
                ours.send_bytes(packed(message))

    with ours:
        for message in before:
            ours.send_bytes(packed(message))
        generator = Counting(between)
        with Connection(theirs.detach()) as connection:
            EngineLoop(connection, generator).run()
        assert generator.warmed == [0]
        first, *rest = received(ours)
    assert first == {"slots": 2}
    return rest, generator.engine.passes


def received(connection):
    """All messages up to the end."""
    found = []
    with suppress(EOFError):
        while True:
            found.append(receive(connection))
    return found


def begin(number, ids, prompt_best=None, rule=None, client="", indent=0, **settings):
    values = settings_values(SamplingSettings(**{"max_new_tokens": 40, **settings}))
    return ["begin", number, ids, values, prompt_best, [rule, indent], client, 1, False]


def news(messages, number):
    """(tokens, finish, further) of each message about a request."""
    return [
        ([values[0] for values in tokens], finish, *more)
        for entries, *_ in messages
        for one, tokens, finish, _, *more in entries
        if one == number
    ]


def test_each_step_sends_all_new_tokens_in_one_message():
    messages, _ = played([begin(1, [10]), begin(2, [20, 21], max_new_tokens=3)], {5: [None]})
    assert news(messages, 1)[:4] == [([token], None) for token in (11, 12, 13, 14)]
    assert news(messages, 2) == [([22], None), ([23], None), ([24], "length")]
    assert [len(entries) for entries, *_ in messages][:3] == [2, 2, 2]


def test_a_cancelled_request_takes_part_in_no_further_step():
    messages, passes = played([begin(1, [10]), begin(2, [20])], {3: [["cancel", 1]], 6: [None]})
    assert [list(one.values()) for one in passes[:3]] == [[[10], [20]], [[11], [21]], [[12], [22]]]
    assert [list(one.values()) for one in passes[3:6]] == [[[23]], [[24]], [[25]]]
    assert len(news(messages, 1)) == 3


def test_a_request_that_comes_between_two_steps_is_in_the_next():
    messages, passes = played([begin(1, [10])], {2: [begin(2, [30, 31])], 4: [None]})
    assert sorted(passes[2].values()) == [[12], [30, 31]] and news(messages, 2)[0] == ([32], None)


@pytest.mark.parametrize(
    ("first", "options", "last"),  # of the tokens: an id is a character of ASCII, from 33 on
    [
        (10, {"stop": ("/0", "never")}, 15),
        (10, {"stop": ("01", "0")}, 15),
        (91, {"rule": ["Java", "{"]}, 92),  # "}"
        (10, {"rule": ["Python", ""]}, 11),
        (10, {"rule": ["Python", " "], "stop": ("0",)}, 15),
    ],
)
def test_nothing_is_computed_after_the_end_of_a_text(first, options, last):
    other = begin(2, [30])
    messages, passes = played([begin(1, [first], **options), other], {8: [None]})
    assert news(messages, 1)[-1] == ([last], "stop")
    assert [token for tokens, *_ in news(messages, 1) for token in tokens] == [*range(first + 1, last + 1)]
    assert all(ids != [last] for one in passes for ids in one.values()) and len(news(messages, 2)) == 8


def test_errors_are_of_one_request():
    asked = [begin(1, [0]), begin(2, [BROKEN - 3]), begin(3, [20])]
    messages, _ = played(asked, {8: [None]})
    assert news(messages, 1) == [([], "error", "prompt: 0 is not a token's id", 400)]
    *sound, last = news(messages, 2)
    assert sound == [([BROKEN - 2], None), ([BROKEN - 1], None)]
    assert last[:2] == ([], "error") and "not finite" in last[2]
    assert len(news(messages, 3)) == 8


def test_ids_of_a_prompt_come_with_the_first_token():
    messages, _ = played([begin(1, [*range(20, 40)], 0, max_new_tokens=2)], {4: [None]})
    first, second = news(messages, 1)
    assert first[:2] == ([40], None) and second == ([41], "length")
    assert [(token, score) for token, score, _ in first[2]] == [(place, -(place - 1) / 8) for place in range(21, 40)]


def test_passes_are_counted_and_messages_are_not():
    asked = [begin(1, [*range(20, 40)], max_new_tokens=2), begin(2, [0])]
    messages, passes = played(asked, {4: [None]})
    assert [totals[3] for _, totals, _ in messages] == [0, 1, 3, 4] and len(passes) == 4
    assert [in_slots for *_, in_slots in messages] == [[], [1], [1], []]


def test_graphs_are_made_before_the_server_hears_that_it_is_ready():
    ours, theirs = Pipe()
    generator, heard = Counting(None), []
    generator.warm_up = lambda: heard.append(ours.poll())
    with theirs:
        with ours:
            loop = threading.Thread(target=EngineLoop(theirs, generator).run)
            loop.start()
            assert receive(ours) == {"slots": 2}
        loop.join()
    assert heard == [False]


def test_a_prompt_that_comes_again_is_in_its_slot():
    """Nothing but requests touches the slots."""
    prompt = [*range(10, 14)]
    again = [begin(number, prompt, max_new_tokens=1) for number in (1, 2, 3)]
    messages, passes = played(again[:1], {1: [again[1]], 2: [again[2]], 3: [None]})
    assert [[*one.values()] for one in passes] == [[prompt], [prompt[-1:]], [prompt[-1:]]]
    assert [totals[2] for _, totals, _ in messages] == [0, 3, 6]


async def test_messages_of_any_size_arrive_whole_in_both_directions():
    values = [[], "和\n", [1, None, {"a": [-0.5]}], "x" * (1 << 20), 0]
    ours, theirs = socket.socketpair()
    process = Connection(theirs.detach())

    def echo():
        with process:
            for _ in values:
                process.send_bytes(packed(receive(process)))

    echoing = threading.Thread(target=echo)
    echoing.start()
    engine = await EngineProcess.of(None, ours)
    for value in values:
        engine.send(value)
    found = [await engine.receive() for _ in values]
    echoing.join()
    assert await engine.receive() is None
    engine.writer.close()
    assert found == values


@pytest.mark.parametrize("count", [0, 1, 4, 5])
async def test_a_message_that_breaks_off_is_the_end(count):
    reader = asyncio.StreamReader()
    reader.feed_data(b"\0\0\0\x02[]"[:count])
    reader.feed_eof()
    assert await EngineProcess(None, None, reader).receive() is None


def test_settings_and_tokens_survive_the_way():
    numbers = {"temperature": 0.5, "top_k": 3, "seed": 2**64 - 1, "logit_bias": {5: -100.0}, "log_probabilities": 4}
    settings = SamplingSettings(7, **numbers, stop=("\n", "和"), json_schema="{}", calls=("a", "{}", "b"))
    back = json.loads(packed(settings_values(settings)))
    assert settings_from(back) == settings and asdict(settings_from(back)) == asdict(settings)
    chosen = ChosenToken(3, -0.1, ((3, -0.1), (9, float("-inf"))))
    back = json.loads(packed(chosen))
    assert chosen_from(back) == chosen


def test_counts_of_an_engine_that_has_ended_are_kept():
    backend = EngineBackend(fake_model(), fake_settings())
    backend._hello({"slots": 3})
    backend._took([[], [5, 4, 30, 2, 0, 1, 20, 900], []])
    backend._took([[], [7, 5, 31, 9, 3, 2, 25, 800], []])
    backend._hello({"slots": 3})
    backend._took([[], [1, 1, 2, 4, 1, 1, 2, 300], []])
    counters = backend.counters
    assert (counters.guessed_tokens, counters.accepted_tokens, counters.reused_tokens) == (8, 6, 33)
    assert (counters.steps, counters.suspended) == (13, 4) and backend.slots == 3
    assert (counters.prefix_hits, counters.prefix_tokens, backend.prefix_bytes) == (3, 27, 300)


def test_a_ping_is_answered_between_passes():
    messages, passes = played([["ping"], begin(1, [5], max_new_tokens=3)], {2: [["ping"]], 3: [None]})
    assert [place for place, message in enumerate(messages) if not message] == [0, 3] and len(passes) == 3


async def test_a_process_that_goes_on_without_its_connection_has_no_exit_status(monkeypatch):
    monkeypatch.setattr(engine, "END_SECONDS", 0.0)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        found = await EngineProcess(process, None, None).status()
    assert found is None


async def test_a_process_that_is_killed_is_started_again(monkeypatch, tmp_path):
    """A made-up one; test_serving_faults.py has one with a model."""
    program = tmp_path / "python"
    script = Path(__file__).with_name("counting_process.py")
    program.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    backend = EngineBackend(fake_model(context=50), fake_settings())
    task = asyncio.ensure_future(backend.run())
    await until(lambda: backend.engine_ready)
    first = backend.engine.process
    answer, waiting = (backend.answer([begun], SamplingSettings(40)) for begun in (5, 6))
    await anext(answer)
    first.kill()
    for each in (answer, waiting):
        with pytest.raises(ApiError) as caught:
            await each.whole()
        assert (caught.value.status, caught.value.code) == (503, "engine_lost")
    assert not backend.ready
    await until(lambda: backend.engine_ready)
    again = await backend.answer([5], SamplingSettings(4)).whole()
    second, restarts = backend.engine.process, backend.counters.restarts
    task.cancel()
    await asyncio.wait([task])
    assert again.text == fake_model().tokenizer.decode([6, 7, 8, 9]) and restarts == 1
    assert first.pid != second.pid and first.returncode == second.returncode == -9


def test_a_line_with_less_indentation_ends_a_text_in_the_engine():
    """Ids are those of the tokenizer: a line break, blanks, text; `IndentStop` itself is the server's."""
    tokenizer = cached_tokenizer()
    for text, count in (("a\n        b\n    c", 3), ("a\n\n        b", None), ("a\nb", 1)):
        ended = ends(Continuation(tokenizer, []), Ending(()), IndentStop(8))
        found = [ended(token) for token in tokenizer.encode(text)]
        assert found.count(True) == (count is not None) and found[-1] is (count is not None)
