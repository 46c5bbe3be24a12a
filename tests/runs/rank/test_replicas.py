"""Copies of weights on several ranks, compared; stand-ins for the trainers."""

import contextlib

import numpy as np
import pytest

from ms_codegeex.base.errors import ReplicaFailure
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint import list_checkpoints
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import leave_error, left_error, set_doubtful_checkpoints_aside
from ms_codegeex.runs.rank.replicas import ReplicaCheck, first_difference


class Held:
    def __init__(self, array):
        self.array = array

    def asnumpy(self):
        return self.array


class Rank:
    """A trainer of three tensors, of which the third is sharded over pairs of ranks."""

    def __init__(self, rank):
        self.rank, self.place, self.rank_state, self.events = rank, self, self, []
        random = np.random.default_rng(4)
        self.arrays = {name: random.normal(size=(4, 6)).astype(np.float32) for name in ("a", "b", "c")}
        self.arrays["c"] = self.arrays["c"][2 * (rank % 2) :][:2].copy()

    def tensors(self):
        return {name: Held(array) for name, array in self.arrays.items()}

    def window(self, name):
        start = 2 * (self.rank % 2)
        return (slice(start, start + 2), slice(0, 6)) if name == "c" else None

    def stored_name(self, name):
        return name

    def phase(self, name):
        return contextlib.nullcontext()

    def event(self, event, **content):
        self.events.append(event)


class Record:
    def __init__(self, step):
        self.step = step


def run(tmp_path, ranks, steps, corrupt=lambda step: None):
    """All ranks after each step, rank 0 last: the worst order."""
    checks = [ReplicaCheck(tmp_path, 4, len(ranks), 0) for _ in ranks]
    for step in range(1, steps + 1):
        corrupt(step)
        for rank, check in reversed(list(zip(ranks, checks, strict=True))):
            check.step(rank, Record(step))


def test_equal_copies_go_on_and_leave_nothing(tmp_path):
    run(tmp_path, [Rank(n) for n in range(4)], 9)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name,bad", [("a", 2), ("b", 0), ("c", 3)])
def test_a_flipped_bit_is_found_with_tensor_and_rank(tmp_path, name, bad):
    ranks = [Rank(n) for n in range(4)]

    def flip(step):
        if step == 7:
            ranks[bad].arrays[name].view(np.uint32)[1, 3] ^= 1 << 3

    with pytest.raises(ReplicaFailure) as error:
        run(tmp_path, ranks, 12, flip)
    held = f"{name}[[2, 4], [0, 6]]: ranks 1 and 3 differ" if name == "c" else f"{name}: rank {bad} has other bits"
    assert held in str(error.value) and "equal after step 4" in str(error.value)
    assert error.value.step == 4 and ranks[0].events == ["corrupted"]


def test_with_two_copies_both_ranks_are_named():
    assert first_difference([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}]) == "b: ranks 0 and 1 differ"
    assert first_difference([{"a": "1"}, {"b": "3"}]) is None


def test_checkpoints_since_the_last_equal_copies_are_set_aside(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.logs.mkdir()
    for step in (2, 4, 6):
        write_checkpoint(directory.checkpoints, step, {"w": np.zeros(2)}, {})
    leave_error(directory, ReplicaFailure("a: ranks 0 and 1 differ", 4), 0)
    assert isinstance(left_error(directory), ReplicaFailure)
    set_doubtful_checkpoints_aside(directory)
    assert [path.name for path in list_checkpoints(directory.checkpoints)] == ["step-00000002", "step-00000004"]
    assert (directory.checkpoints / "doubtful-step-00000006").is_dir()
    assert read_json(directory.error)["noted"]
