"""How long the ranks of a save wait for each other, by a clock that the test moves."""

import json

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import checkpoint_writing as module
from ms_codegeex.formats.checkpoint_writing import LazyTensor, Slice, failure_file, write_checkpoint

PATIENCE = 100.0
HALF = {"w": Slice((4,), (2,), np.ones(2))}


class Clock:
    """Time that passes only in sleeps, each of which takes a second; `meanwhile` gets the number of each."""

    def __init__(self, monkeypatch, meanwhile=lambda number: None):
        self.now, self.sleeps, self.meanwhile = 0.0, 0, meanwhile
        monkeypatch.setattr(module, "time", self)

    def monotonic(self):
        return self.now

    def sleep(self, _):
        self.now += 1
        self.sleeps += 1
        self.meanwhile(self.sleeps)


def follow(root, tensors=HALF):
    return write_checkpoint(root, 5, tensors, {}, rank=1, world_size=2, save="a-1", patience=PATIENCE)


def lead(root):
    return write_checkpoint(root, 5, HALF, {}, world_size=2, save="a-1", patience=PATIENCE)


def adds(root, rank, second):
    """A rank that writes something each minute, for ten minutes."""
    if second % 60 == 0 and second < 600:
        with (root / f".step-00000005.a-1.tmp/rank_{rank:05d}.safetensors").open("ab") as stream:
            stream.write(b"some")


def test_a_rank_waits_while_another_one_writes(tmp_path, monkeypatch):
    temporary, final = tmp_path / ".step-00000005.a-1.tmp", tmp_path / "step-00000005"

    def rank_0_is_slow(number):
        adds(tmp_path, 0, number)
        if number == 600:
            (temporary / "manifest.json").write_text(json.dumps({"save": "a-1"}))
            temporary.rename(final)

    clock = Clock(monkeypatch, rank_0_is_slow)

    def load():  # its own part takes longer than the patience
        clock.now += 2 * PATIENCE
        return np.ones(2)

    assert follow(tmp_path, {"w": Slice((4,), (2,), LazyTensor("float64", (2,), load))}) == final
    assert clock.sleeps == 600


def test_a_rank_that_gives_up_deletes_nothing(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with pytest.raises(UserError, match=r"rank 0 has not published it, and no rank has written anything for 100 s"):
        follow(tmp_path)
    assert PATIENCE < clock.sleeps < 1.3 * PATIENCE
    present = {path.name for path in (tmp_path / ".step-00000005.a-1.tmp").iterdir()}
    assert present == {"rank_00001.safetensors", "rank_00001.json"}


def test_rank_0_waits_while_another_rank_writes(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, lambda number: adds(tmp_path, 1, number))
    with pytest.raises(UserError, match=r"rank 1 did not write its part, and no rank has written anything for 100 s"):
        lead(tmp_path)
    assert clock.sleeps > 600


def test_rank_0_leaves_its_note_once_the_disk_has_room(tmp_path, monkeypatch):
    """The other ranks wait for it, and rank 0 itself for them in the next step."""
    refused, write = [], module.write_json

    def full(path, value):
        if path.name.endswith(".failed") and len(refused) < 3:
            refused.append(path)
            raise UserError("the disk is full")
        write(path, value)

    def unwritable(*_):
        raise OSError(28, "No space left on device")

    Clock(monkeypatch)
    monkeypatch.setattr(module, "write_json", full)
    monkeypatch.setattr(module, "save_slices", unwritable)
    with pytest.raises(UserError, match="No space left"):
        lead(tmp_path)
    assert len(refused) == 3 and failure_file(tmp_path, 5, "a-1").exists()
