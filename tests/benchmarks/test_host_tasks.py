"""The tasks of CPU processes that communicate through files: schedules worked out by hand."""

import pytest

from benchmarks.host_tasks import HostCosts, host_tasks, repeated
from ms_codegeex.extras.cluster.rehearsal.mindir import TensorType
from ms_codegeex.extras.cluster.rehearsal.timeline.operators import Message, Operator, StepProgram
from ms_codegeex.extras.cluster.rehearsal.timeline.tasks import TaskSpan, simulate

COSTS = HostCosts({"Add": 0.25}, 1.0, {"Send": 1.0, "Receive": 1.0, "AllReduce": 2.0}, 5.0)
FOUR = TensorType((1,), "float32")  # 4 bytes


def add(*waits):
    return Operator("Add", waits, outputs=(FOUR,))  # 1 s, and 4 bytes at 0.25 s each


def message(op, tag, *waits):
    return Operator(op, waits, outputs=(FOUR,), message=Message((0, 1), 4, tag))


def program(*operators, rank=0):
    return StepProgram(rank, 0, operators, {})


def test_a_thread_is_busy_for_its_work_and_for_collectives_of_which_the_last_rank_decides():
    first = program(add(), message("AllReduce", "r", 0), Operator("Reshape", (1,), outputs=(FOUR,)), add(2))
    second = program(add(), add(0), message("AllReduce", "r", 1), rank=1)
    spans = simulate([host_tasks(first, COSTS), host_tasks(second, COSTS)])
    assert spans == [
        [TaskSpan(0, 2), TaskSpan(4, 6), TaskSpan(6, 6), TaskSpan(6, 8)],
        [TaskSpan(0, 2), TaskSpan(2, 4), TaskSpan(4, 6)],
    ]


def test_a_sender_does_not_wait_and_a_receiver_does():
    sender = program(add(), message("Send", "m", 0), add(1))
    receiver = program(message("Receive", "m"), add(0), add(), rank=1)
    (first, second) = simulate([host_tasks(sender, COSTS), host_tasks(receiver, COSTS)])
    assert first[:3] == [TaskSpan(0, 2), TaskSpan(2, 3), TaskSpan(3, 5)]
    assert second[:3] == [TaskSpan(3, 4), TaskSpan(4, 6), TaskSpan(0, 2)]  # other work while the message is on its way
    (_, blocked) = simulate([host_tasks(sender, COSTS, in_order=True), host_tasks(receiver, COSTS, in_order=True)])
    assert blocked[:3] == [TaskSpan(3, 4), TaskSpan(4, 6), TaskSpan(6, 8)]


@pytest.mark.parametrize("in_order", [False, True])
def test_a_rank_begins_its_next_step_when_its_own_has_ended(in_order):
    sender = host_tasks(program(add(), message("Send", "m", 0)), COSTS, in_order=in_order)
    receiver = host_tasks(program(message("Receive", "m"), add(0), add(1), rank=1), COSTS, in_order=in_order)
    first, second = simulate([repeated(tasks, 2, COSTS) for tasks in (sender, receiver)])
    assert max(span.end for span in first) == 2 * (5 + 2 + 1)
    assert max(span.end for span in second) == 5 + 3 + (1 + 2 + 2) + 5 + (1 + 2 + 2)  # its message is there by then
