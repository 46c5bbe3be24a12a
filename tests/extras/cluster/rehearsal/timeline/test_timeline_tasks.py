"""List scheduling against schedules worked out by hand, and what every schedule must satisfy."""

import random
from itertools import pairwise

import pytest
from critical_path import critical_path

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import COMPUTE, TaskSpan, TimelineTask, serial, simulate


def compute(seconds, *waits):
    return TimelineTask(waits, COMPUTE, seconds)


def message(seconds, *waits, tag=None, stream="data"):
    return TimelineTask(waits, stream, seconds, tag=tag)


def test_independent_work_overlaps_a_message():
    tasks = [compute(2), message(3, 0), compute(1, 0), compute(4, 1)]
    assert simulate([tasks]) == [[TaskSpan(0, 2), TaskSpan(2, 5), TaskSpan(2, 3), TaskSpan(5, 9)]]
    alone = simulate(serial([tasks]))
    assert alone == [[TaskSpan(0, 2), TaskSpan(2, 5), TaskSpan(5, 6), TaskSpan(6, 10)]]


def test_the_first_ready_task_of_the_program_runs_first():
    assert simulate([[compute(1), compute(5, 2), compute(1), compute(1)]]) == [
        [TaskSpan(0, 1), TaskSpan(2, 7), TaskSpan(1, 2), TaskSpan(7, 8)]
    ]


def test_two_messages_of_a_stream_do_not_overlap_but_those_of_two_streams_do():
    assert simulate([[message(2), message(3), message(4, stream="tensor")]]) == [
        [TaskSpan(0, 2), TaskSpan(2, 5), TaskSpan(0, 4)]
    ]


def test_what_takes_no_time_ends_when_all_it_waits_for_has_ended():
    tasks = [compute(1), message(3), TimelineTask((0, 1), "", 0.0), TimelineTask((2,), "", 0.0), compute(1, 3)]
    assert simulate([tasks])[0][2:] == [TaskSpan(3, 3), TaskSpan(3, 3), TaskSpan(3, 4)]


def test_two_stages_with_two_micro_batches_have_the_bubble_of_the_textbook():
    """1F1B of stages with equal halves of 1 s and free messages: (m + p - 1) · 2 s."""
    first = [
        compute(1),  # F0
        message(0, 0, tag="f0"),
        compute(1, 1),  # F1
        message(0, 2, tag="f1"),
        message(0, 3, tag="b0"),
        compute(1, 4),  # B0
        message(0, 5, tag="b1"),
        compute(1, 6),  # B1
    ]
    second = [
        message(0, tag="f0"),
        compute(1, 0),  # F0
        compute(1, 1),  # B0
        message(0, 2, tag="b0"),
        message(0, 3, tag="f1"),
        compute(1, 4),
        compute(1, 5),
        message(0, 6, tag="b1"),
    ]
    # the first stage sends f1 before it receives b0, the second sends b0 before it receives f1
    with pytest.raises(RunFailure, match="never starts"):
        simulate([first, second])
    second[3] = message(0, 2, tag="b0", stream="back")
    second[4] = message(0, 0, tag="f1")
    first[4] = message(0, 0, tag="b0", stream="back")
    first[6] = message(0, 4, tag="b1", stream="back")
    second[7] = message(0, 6, tag="b1", stream="back")
    spans = simulate([first, second])
    assert max(span.end for rank in spans for span in rank) == 6 == (2 + 2 - 1) * 2
    assert [spans[0][i] for i in (0, 2, 5, 7)] == [TaskSpan(0, 1), TaskSpan(1, 2), TaskSpan(3, 4), TaskSpan(5, 6)]


def test_a_message_starts_when_both_ranks_are_ready_and_leaves_its_stream_to_others_until_then():
    early = [message(2, tag="late"), message(1, tag=None)]
    late = [compute(5), message(2, 0, tag="late")]
    assert simulate([early, late]) == [[TaskSpan(5, 7), TaskSpan(0, 1)], [TaskSpan(0, 5), TaskSpan(5, 7)]]


@pytest.mark.parametrize("seed", range(20))
def test_every_schedule_keeps_edges_streams_and_bounds(seed):
    chosen = random.Random(seed)
    ranks = []
    for _ in range(chosen.choice((1, 2, 3))):
        tasks = []
        for number in range(60):
            waits = tuple(chosen.sample(range(number), min(number, chosen.choice((0, 1, 1, 2, 3)))))
            stream = chosen.choice(("", COMPUTE, COMPUTE, "tensor", "data"))
            tag = f"m{number}" if stream == "data" and number % 7 == 0 else None
            tasks.append(TimelineTask(waits, stream, chosen.choice((0.0, 1.0, 2.5)) if stream else 0.0, tag=tag))
        ranks.append(tasks)
    for given in (ranks, serial(ranks)):
        for tasks, spans in zip(given, simulate(given), strict=True):
            end = max(span.end for span in spans)
            assert all(
                spans[wait].end <= span.start for task, span in zip(tasks, spans, strict=True) for wait in task.waits
            )
            for stream in {task.stream for task in tasks} - {""}:
                mine = sorted((s.start, s.end) for t, s in zip(tasks, spans, strict=True) if t.stream == stream)
                assert all(before[1] <= after[0] for before, after in pairwise(mine))
                assert end >= sum(task.seconds for task in tasks if task.stream == stream) - 1e-9
            assert end >= critical_path(tasks)
