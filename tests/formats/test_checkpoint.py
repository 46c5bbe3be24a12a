"""Checkpoints: any slicing loads back, whole or through any window; what is killed or damaged is never chosen."""

import contextlib
import itertools
import json
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats import checkpoint_writing as module
from ms_codegeex.formats.checkpoint import (
    Checkpoint,
    list_checkpoints,
    newest_sound,
    prune,
    resolve,
    set_aside,
    set_doubtful_aside,
)
from ms_codegeex.formats.checkpoint_writing import LazyTensor, Slice, write_checkpoint

TENSORS = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "optimizer.m.w": np.ones((3, 4), np.float32),
    "scale": np.array(3.5),
    "half": np.ones(5, np.float16),
}
STATE = {
    "optimizer_step": 4,
    "samples": 640,
    "loss_scale": 2.0**32,
    "rng": {"numpy": [1, 2**63 - 1], "seed": 7},
    "config": {"model": {"family": "codegeex"}},
}


def on_ranks(root, step, parts, state=STATE):
    """Write one checkpoint from several ranks at once; returns the error of each rank (None where all went well)."""
    errors = [None] * len(parts)

    def work(rank):
        try:
            write_checkpoint(root, step, parts[rank], state, rank=rank, world_size=len(parts), save=f"job-{step}")
        except UserError as error:
            errors[rank] = error

    with ThreadPoolExecutor(len(parts)) as threads:
        list(threads.map(work, range(len(parts))))
    return errors


def test_state_and_tensors_come_back(tmp_path):
    path = write_checkpoint(tmp_path, 40, TENSORS, STATE | {"float": np.float32(0.5)})
    assert path == tmp_path / "step-00000040" and [file.name for file in tmp_path.iterdir()] == [path.name]
    loaded = Checkpoint(path)
    assert loaded.step == 40 and loaded.state == STATE | {"float": 0.5} and set(loaded.names) == set(TENSORS)
    for name, array in TENSORS.items():
        found = loaded.tensor(name)
        assert (found.dtype, found.shape, loaded.shape(name)) == (array.dtype, array.shape, array.shape)
        assert found.tobytes() == array.tobytes() and loaded.dtype(name) == array.dtype.name
    assert loaded.verify() == sum(array.nbytes for array in TENSORS.values())


def test_bfloat16_keeps_its_name(tmp_path):
    bits = np.array([0x3F80, 0xC000], np.uint16)
    loaded = Checkpoint(write_checkpoint(tmp_path, 1, {"x": Slice((2,), (0,), bits, "bfloat16")}, {}))
    assert loaded.dtype("x") == "bfloat16" and loaded.tensor("x").tolist() == bits.tolist()


@st.composite
def layouts(draw):
    """A shape, a partition of it into boxes (split again and again), a rank for each box, and a window."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    boxes = [((0, shape[0]), (0, shape[1]))]
    for _ in range(draw(st.integers(0, 5))):
        k, axis = draw(st.integers(0, len(boxes) - 1)), draw(st.integers(0, 1))
        low, high = boxes[k][axis]
        if high - low > 1:
            middle, box = draw(st.integers(low + 1, high - 1)), list(boxes.pop(k))
            for part in ((low, middle), (middle, high)):
                box[axis] = part
                boxes.append(tuple(box))
    ranks = draw(st.integers(1, 4))
    owners = [draw(st.integers(0, ranks - 1)) for _ in boxes]
    window = tuple(tuple(sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape)
    return shape, boxes, ranks, owners, window


@settings(max_examples=60)
@given(layouts())
def test_any_slicing_loads_back_byte_equal(layout):
    shape, boxes, ranks, owners, window = layout
    whole = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    # a rank holds one slice of a tensor, so each box beyond a rank's first belongs to a rank of its own
    parts = [{} for _ in range(ranks)]
    for (rows, columns), owner in zip(boxes, owners, strict=True):
        piece = Slice(shape, (rows[0], columns[0]), whole[slice(*rows), slice(*columns)])
        free = next((part for part in (parts[owner], *parts) if "w" not in part), None)
        if free is None:
            parts.append(free := {})
        free["w"] = piece
    root = Path(tempfile.mkdtemp())
    try:
        assert on_ranks(root, 3, parts) == [None] * len(parts)
        loaded = Checkpoint(root / "step-00000003")
        assert loaded.tensor("w").tobytes() == whole.tobytes()
        inner = tuple(slice(*part) for part in window)
        for asked in (window, inner):
            found = loaded.tensor("w", asked)
            assert found.shape == whole[inner].shape and found.tobytes() == whole[inner].tobytes()
        loaded.verify()
    finally:
        shutil.rmtree(root)


def test_a_rank_may_write_nothing(tmp_path):
    assert on_ranks(tmp_path, 1, [TENSORS, {}, {}]) == [None] * 3
    loaded = Checkpoint(tmp_path / "step-00000001")
    assert list(loaded.manifest["files"]) == ["rank_00000.safetensors"] and loaded.manifest["world_size"] == 3


def part(size, offset, count, dtype=float):
    return {"w": Slice((size,), (offset,), np.ones(count, dtype))}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([part(4, 0, 2), part(4, 3, 1)], r"part \[\[2, 3\]\].*held 0 times"),
        ([part(4, 0, 3), part(4, 2, 2)], r"part \[\[2, 3\]\].*held 2 times"),
        ([part(4, 0, 2), part(4, 3, 2)], "outside it"),
        ([{"w": np.array(1.0)}, {"w": np.array(1.0)}], "held 2 times"),
        ([part(2, 0, 1), part(2, 1, 1, np.float32)], "rank 1 holds w as f"),
        ([part(2, 0, 1), part(3, 1, 2)], "rank 1 holds w as"),
    ],
)
def test_slices_must_cover_their_tensor_once(tmp_path, parts, message):
    errors = on_ranks(tmp_path, 1, parts)
    with pytest.raises(UserError, match=message):
        raise errors[0]
    assert [path.name for path in tmp_path.iterdir()] == [".step-00000001.job-1.failed"]
    prune(tmp_path, 1, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_cannot_write_stops_the_checkpoint_but_not_the_others(tmp_path, monkeypatch):
    save = module.save_slices

    def full(directory, rank, tensors):
        if rank == 1:
            raise OSError(28, "No space left on device", str(directory))
        return save(directory, rank, tensors)

    write_checkpoint(tmp_path, 1, TENSORS, STATE)
    monkeypatch.setattr(module, "save_slices", full)
    errors = on_ranks(tmp_path, 2, [TENSORS, {}, {}])
    assert "rank 1 did not write" in str(errors[0]) and "No space left" in str(errors[1])
    assert "another rank could not write its part" in str(errors[2])  # all of them try again after the same step
    assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == ["step-00000001"]


def test_a_rank_whose_directory_is_deleted_while_it_writes_names_the_other_rank(tmp_path, monkeypatch):
    save, gone = module.save_slices, threading.Event()
    delete = module.shutil.rmtree

    def deleted(path, **options):
        delete(path, **options)
        gone.set()

    def slices(directory, rank, tensors):
        if rank == 1:
            raise OSError(28, "No space left on device", str(directory))
        if rank == 2:
            assert gone.wait(60)
        return save(directory, rank, tensors)

    monkeypatch.setattr(module, "save_slices", slices)
    monkeypatch.setattr(module.shutil, "rmtree", deleted)
    errors = on_ranks(tmp_path, 2, [TENSORS, {}, TENSORS])
    assert "No space left" in str(errors[1])
    assert "another rank could not write its part" in str(errors[2])


class Killed(BaseException):
    pass


NAMES = ("save_slices", "write_safetensors", "sync", "check_coverage", "manifest_digest", "_publish", "_swap")
POINTS = [*((module, name) for name in NAMES), (module.os, "replace"), (module.os, "fsync")]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [2, 1])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize(("owner", "name"), POINTS, ids=[name for _, name in POINTS])
def test_killed_anywhere_a_sound_checkpoint_is_left(tmp_path, monkeypatch, owner, name, call, step, when):
    """`call` counts from 1: the process dies at that call of the function, just before or just after it."""
    write_checkpoint(tmp_path, 1, {"w": np.zeros(4)}, {})
    original, calls, complete = getattr(owner, name), itertools.count(1), False

    def deadly(*arguments, **keywords):
        dies = next(calls) == call
        if dies and when == "before":
            raise Killed
        result = original(*arguments, **keywords)
        if dies:
            raise Killed
        return result

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(owner, name, deadly)
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # the dead clean nothing up
        write_checkpoint(tmp_path, step, {"w": np.ones(4)}, {})
        complete = True
    found = newest_sound(tmp_path)
    assert found is not None and found.tensor("w").tolist() in ([0] * 4, [1] * 4)
    assert not complete or found.tensor("w").tolist() == [1] * 4
    write_checkpoint(tmp_path, 3, {"w": np.full(4, 3.0)}, {})  # what the dead left is not in the way
    prune(tmp_path, 1, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


@pytest.mark.parametrize("point", ["_other_parts", "_publish", "_tensors", "sync", "_swap"])
def test_rank_0_killed_while_others_write_leaves_a_sound_checkpoint(tmp_path, monkeypatch, point):
    assert on_ranks(tmp_path, 1, [part(2, k, 1) for k in range(2)]) == [None] * 2

    def deadly(*_):
        raise Killed

    def rank_1():
        with contextlib.suppress(UserError):
            write_checkpoint(tmp_path, 2, part(2, 1, 1), {}, rank=1, world_size=2, save="a-1")

    other = threading.Thread(target=rank_1)
    with monkeypatch.context() as patch:
        patch.setattr(module, point, deadly)
        other.start()
        with pytest.raises(Killed):
            write_checkpoint(tmp_path, 2, part(2, 0, 1), {}, world_size=2, save="a-1")
    assert newest_sound(tmp_path).step == 1
    module.failure_file(tmp_path, 2, "a-1").touch()  # ends rank 1, as the launcher would
    other.join()
    parts = [{"w": Slice((2,), (k,), np.full(1, 3.0))} for k in range(2)]  # the next attempt saves the same step
    assert on_ranks(tmp_path, 2, parts) == [None] * 2
    prune(tmp_path, 1, 2, job="b")
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert Checkpoint(tmp_path / "step-00000002").tensor("w").tolist() == [3.0, 3.0]


def test_a_running_save_is_not_pruned(tmp_path):
    written(tmp_path, 1, 2)
    for name in (".step-00000003.a-2.tmp", ".step-00000003.b-2.tmp", ".step-00000003.tmp"):
        (tmp_path / name).mkdir()
    for job in "ab":
        (tmp_path / f".step-00000002.{job}-1.failed").touch()
    prune(tmp_path, 2, 2, job="a")
    left = {path.name for path in tmp_path.iterdir() if path.name[0] == "."}
    assert left == {".step-00000003.a-2.tmp", ".step-00000002.a-1.failed"}


FILE = "rank_00000.safetensors"


def flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def edit_manifest(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["samples"] += 1
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: flip(path / FILE), r"rank_00000\.safetensors: tensor half .*damaged"),
        (lambda path: (path / FILE).unlink(), r"rank_00000\.safetensors: missing"),
        (lambda path: (path / FILE).write_bytes(b"x"), r"rank_00000\.safetensors: has 1 bytes"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json"),
        (lambda path: (path / "manifest.json").write_text('{"format": 9}'), "of format 2"),
        (edit_manifest, r"manifest\.json: damaged or edited"),
        (lambda path: (path / "manifest.json").unlink(), "no such file"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_reason(tmp_path, damage, message):
    write_checkpoint(tmp_path, 1, TENSORS, STATE)
    path = write_checkpoint(tmp_path, 2, TENSORS, STATE)
    damage(path)
    reasons = []
    assert newest_sound(tmp_path, reasons).step == 1
    with pytest.raises(UserError, match=message):
        Checkpoint(path).verify()
    with pytest.raises(UserError, match=message):
        raise UserError(*reasons)


def test_tensors_of_another_checkpoint_are_noticed(tmp_path):
    a = write_checkpoint(tmp_path, 1, {"w": np.zeros((2, 3))}, {})
    b = write_checkpoint(tmp_path, 2, {"w": np.zeros((3, 2))}, {})
    shutil.copyfile(b / "rank_00000.safetensors", a / FILE)
    with pytest.raises(UserError, match="its header is damaged or belongs to another checkpoint"):
        Checkpoint(a).tensor("w")


def steps(root):
    return [int(path.name[5:]) for path in list_checkpoints(root)]


def written(root, *numbers):
    for step in numbers:
        write_checkpoint(root, step, TENSORS, STATE)


def test_prune_keeps_the_newest_intact_ones(tmp_path):
    written(tmp_path, 1, 2, 3, 4, 5)
    (tmp_path / "step-00000005" / FILE).unlink()
    (tmp_path / "notes").mkdir()
    assert [path.name for path in prune(tmp_path, 2, 4)] == ["step-00000002", "step-00000001"]
    assert steps(tmp_path) == [3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "notes"
    with pytest.raises(UserError, match=r"checkpoint\.keep"):
        prune(tmp_path, 0, 4)


def test_a_damaged_newest_checkpoint_never_costs_an_intact_one(tmp_path):
    written(tmp_path, 1, 2, 3)
    (tmp_path / "step-00000003" / "manifest.json").write_text("{}")
    prune(tmp_path, 1, 3)
    assert steps(tmp_path) == [2, 3] and newest_sound(tmp_path).step == 2
    written(tmp_path, 4)
    prune(tmp_path, 1, 4)
    assert steps(tmp_path) == [4]


def test_prune_keeps_the_last_settled_one_and_the_next(tmp_path):
    written(tmp_path, *range(1, 9))
    prune(tmp_path, 2, 3)
    assert steps(tmp_path) == [3, 4, 7, 8]
    prune(tmp_path, 1, 3)
    assert steps(tmp_path) == [3, 4, 8]
    prune(tmp_path, 1, 0)
    assert steps(tmp_path) == [3, 8]  # none is settled, and this will be the first
    written(tmp_path, 9, 10)
    prune(tmp_path, 1, 10)
    assert steps(tmp_path) == [10]


def test_doubtful_checkpoints_are_set_aside_but_not_the_last(tmp_path):
    written(tmp_path, 1, 2, 3, 4)
    (tmp_path / "step-00000003" / "manifest.json").write_text("[1")
    aside = set_doubtful_aside(tmp_path, 3, keep_one=True)
    assert [path.name for path in aside] == ["doubtful-step-00000003", "doubtful-step-00000004"]
    assert newest_sound(tmp_path).step == 2 and resolve(aside[1]).step == 4
    assert len(set_doubtful_aside(tmp_path, 1, keep_one=True)) == 1 and steps(tmp_path) == [1]
    assert len(set_doubtful_aside(tmp_path, 1, keep_one=False)) == 1 and steps(tmp_path) == []


def test_every_way_to_read_hashes_what_it_reads(tmp_path):
    path = write_checkpoint(tmp_path, 7, TENSORS, STATE)
    flip(path / FILE)  # the last tensor in the file: half
    checkpoint = Checkpoint(path)
    assert checkpoint.tensor("w").tolist() == TENSORS["w"].tolist()
    for read in (checkpoint.lazy("half").array, lambda: checkpoint.tensor("half", [(0, 1)])):
        with pytest.raises(UserError, match=r"rank_00000\.safetensors: tensor half at offset \[0\] is damaged"):
            read()


def test_name_and_manifest_must_agree(tmp_path):
    path = write_checkpoint(tmp_path, 2, TENSORS, STATE)
    shutil.copytree(path, tmp_path / "step-00000099")
    shutil.copytree(path, tmp_path / "step-9")
    with pytest.raises(UserError, match="step-9: holds step 2"):
        resolve(tmp_path / "step-9")
    shutil.copytree(path, tmp_path / "best")
    with pytest.raises(UserError, match="step-00000099: holds step 2, not the step of its name"):
        resolve(tmp_path / "step-00000099")
    assert newest_sound(tmp_path).path == path
    assert resolve(tmp_path / "best").step == 2


def test_what_is_set_aside_never_collides(tmp_path):
    for _ in range(3):
        set_aside(write_checkpoint(tmp_path, 2, TENSORS, STATE), "damaged")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["damaged-step-00000002", "damaged-step-00000002.2", "damaged-step-00000002.3"]


def test_resolve_takes_a_checkpoint_or_a_run(tmp_path):
    path = write_checkpoint(tmp_path / "checkpoints", 7, TENSORS, STATE)
    for given_path in (path, tmp_path, tmp_path / "checkpoints"):
        assert resolve(given_path).path == path
    flip(path / FILE)
    with pytest.raises(UserError, match=r"no sound checkpoint.*tensor half"):
        resolve(tmp_path)
    with pytest.raises(UserError, match="no step"):
        resolve(tmp_path / "elsewhere")


def of_run(best, patience=3):
    return {**STATE, "best": best and [best, 2.5], "config": {**STATE["config"], "training": {"patience": patience}}}


@pytest.mark.parametrize(
    ("best", "patience", "which", "step"),
    [
        (4, 3, None, 4),
        (4, 3, "best", 4),
        (4, 3, "last", 9),
        (4, 3, "7", 7),
        (9, 3, None, 9),
        (None, 3, None, 9),
        (4, 0, None, 9),  # the run does not keep it
        (4, 0, "best", 4),  # it happens to be there
        (5, 3, None, 9),  # set aside, or deleted by the user
        (5, 3, "best", "no checkpoint of step 5; give one of 4, 7, 9"),
        (None, 3, "best", "no step that was evaluated"),
        (4, 3, "8", "no checkpoint of step 8; give one of 4, 7, 9"),
    ],
)
def test_the_step_that_counts(tmp_path, best, patience, which, step):
    for each in (4, 7, 9):
        write_checkpoint(tmp_path / "checkpoints", each, TENSORS, of_run(best if each == 9 else 4, patience))
    said = []
    if isinstance(step, str):
        with pytest.raises(UserError, match=f"^--checkpoint {which}: .* has {step}"):
            resolve(tmp_path, which, said.append)
        return
    assert resolve(tmp_path, which, said.append).step == step
    other = tmp_path / "checkpoints/step-00000009"
    line = f"{tmp_path}: step 4, the best of 9; for the other: --checkpoint last, or {other}"
    assert said == ([line] if which is None and step == 4 else [])


def test_a_damaged_best_step_is_said(tmp_path):
    for each in (4, 9):
        path = write_checkpoint(tmp_path, each, TENSORS, of_run(4))
        if each == 4:
            flip(path / FILE)
    said = []
    assert resolve(tmp_path, say=said.append).step == 9
    assert said[0].startswith("skipped: ") and said[1:] == [f"{tmp_path}: step 9, since 4, the best, is damaged"]


def test_mistakes_in_calls_are_refused(tmp_path):
    with pytest.raises(ValueError, match="manifest"):
        write_checkpoint(tmp_path, 1, {}, {"files": 3})
    loaded = Checkpoint(write_checkpoint(tmp_path, 1, TENSORS, STATE))
    with pytest.raises(UserError, match="missing tensor v"):
        loaded.tensor("v")
    with pytest.raises(ValueError, match="steps other than 1"):
        loaded.tensor("half", [slice(None, None, 2)])


# -- how long ranks wait for each other, by a clock that the test moves

PATIENCE = 100.0
HALF = part(4, 2, 2)


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
    assert len(refused) == 3 and module.failure_file(tmp_path, 5, "a-1").exists()
