"""When a run saves, and which of its checkpoints it trusts, without an engine: what diverges never costs a good one."""

from types import SimpleNamespace

import pytest
from test_background_saving import LiveTrainer

from ms_codegeex.base.errors import Divergence, UserError
from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.runs.rank import saving as module
from ms_codegeex.runs.rank.saving import DISK_RATE, Checkpoints, SaveClock


class Stepped(LiveTrainer):
    """`run` takes its steps: "." is a finite step, "s" a skipped one."""

    def run(self, saving, steps, end=False):
        for kind in steps:
            self.step(saving, kind == "s")
        if end:
            saving.end(self)


def steps(root):
    return [int(path.name[5:]) for path in list_checkpoints(root)]


@pytest.fixture
def disk(monkeypatch):
    """Saves fail where `disk.is_full(step)`; `disk.tried` has the steps of all."""
    disk, write = SimpleNamespace(tried=[], is_full=lambda step: False), module.write_checkpoint

    def attempt(root, step, *arguments, **options):
        disk.tried.append(step)
        if disk.is_full(step):
            raise UserError("the disk is full")
        return write(root, step, *arguments, **options)

    monkeypatch.setattr(module, "write_checkpoint", attempt)
    return disk


def test_a_stopped_run_saves_what_is_not_saved_and_does_not_evaluate(tmp_path):
    for folder, written, expected in (("a", "...", [2, 3]), ("b", "..", [2]), ("c", "...sss", [2])):
        trainer, saving = Stepped(), Checkpoints(tmp_path / folder, 2, 9)
        trainer.stopped, trainer.finished = True, False
        trainer.validation_loss = None  # a call would fail
        trainer.run(saving, written, end=True)
        assert steps(tmp_path / folder) == expected
    assert [event[:2] for event in trainer.events] == [("saving", 2), ("saved", 2)]


@pytest.mark.parametrize(("loss", "left"), [(3.0, [39]), (float("nan"), [20, 30, 39])])
def test_without_a_number_of_steps_the_clock_decides_in_a_hundredth_of_the_time(tmp_path, monkeypatch, loss, left):
    now, trainer, write = [0.0], Stepped(), module.write_checkpoint

    def slow(*arguments, **options):
        now[0] += 2.0
        return write(*arguments, **options)

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "write_checkpoint", slow)
    clock, taken = SaveClock(int(0.1 * DISK_RATE), lambda: now[0]), []
    saving, trainer.loss = Checkpoints(tmp_path, None, 1, clock=clock), loss
    for _ in range(39):
        now[0] += 20.0
        trainer.run(saving, ".")
        if trainer.progress.step in steps(tmp_path):
            taken.append(now[0] - 2)
    assert taken == [40.0, 402.0, 604.0]  # after 30 s; when the two saves are a hundredth; and three
    trainer.run(saving, "", end=True)
    assert steps(tmp_path) == left


def test_a_save_that_fails_is_tried_again_and_ends_the_run_only_at_its_end(tmp_path, disk):
    trainer, saving = Stepped(), Checkpoints(tmp_path, 4, 9)
    disk.is_full = lambda step: len(disk.tried) in (1, 2, 4)
    trainer.run(saving, "." * 25)
    assert disk.tried == [4, 14, 24] and steps(tmp_path) == [24]
    assert [event for event, *_ in trainer.events if event != "saving"] == ["save failed", "save failed", "saved"]
    assert trainer.warnings[0] == "the disk is full; the run continues and tries again in about 10 steps"
    with pytest.raises(UserError, match="the disk is full"):
        trainer.run(saving, ".", end=True)


def test_a_failed_save_is_tried_again_though_no_other_is_due(tmp_path, disk):
    disk.is_full = lambda step: step == 20
    Stepped().run(Checkpoints(tmp_path, 20, 9), "." * 39)
    assert steps(tmp_path) == [30]  # ten steps later, not with the next one at 40


@pytest.mark.parametrize(
    ("settings", "taken", "left"),
    [
        ({"every": 5, "keep": 2, "keep_every": 15}, "." * 60, [15, 30, 45, 50, 55, 60]),  # those stay for good
        ({"every": 5, "keep": 1}, "." * 21, [10, 15, 20]),  # the newest, and one that ten steps have followed
        ({"every": 5, "keep": 3}, "." * 21, [10, 15, 20]),
        ({"every": 20, "keep": 1}, "." * 21, [20]),
        ({"every": 10, "keep": 1}, "." * 21, [10, 20]),
        ({"every": 5, "keep": 9}, "....s" + "ss..." + "....." + "....s" + "..", [8, 10, 15, 21]),  # none after a skip
    ],
)
def test_what_is_saved_and_stays(tmp_path, settings, taken, left):
    Stepped().run(Checkpoints(tmp_path, **settings), taken)
    assert steps(tmp_path) == left


def test_there_is_always_one_that_ten_steps_have_followed(tmp_path):
    trainer, saving = Stepped(), Checkpoints(tmp_path, 1, 2)
    for step in range(1, 34):
        trainer.run(saving, ".")
        assert steps(tmp_path)[-2:] == [step - 1, step][-min(step, 2) :] and len(steps(tmp_path)) <= 4
        assert step <= 10 or step - 20 < max(each for each in steps(tmp_path) if each <= step - 10)


def test_the_one_that_the_run_continues_from_stays_until_another_one_is_settled(tmp_path):
    trainer = Stepped()
    trainer.run(Checkpoints(tmp_path, 1, 2), "." * 6, end=True)
    trainer.run(Checkpoints(tmp_path, 1, 1, Checkpoint(tmp_path / "step-00000006")), "..")
    assert steps(tmp_path) == [6, 7, 8]


def test_a_streak_of_skips_saves_and_prunes_nothing(tmp_path):
    saving = Checkpoints(tmp_path, 5, 1)
    trainer = Stepped()
    trainer.run(saving, "." * 13 + "s" * 24)
    assert steps(tmp_path) == [5, 10]
    with pytest.raises(Divergence, match=r"the last 24 steps were skipped.*nothing was saved after step 10") as caught:
        trainer.run(saving, "", end=True)
    assert caught.value.step == 37


def test_the_search_for_a_loss_scale_is_no_failure(tmp_path):
    path = write_checkpoint(tmp_path, 10, {}, {})
    trainer = Stepped()
    trainer.progress.step = 10
    trainer.run(Checkpoints(tmp_path, 10, 2, Checkpoint(path)), "s" * 14 + ".", end=True)
    assert steps(tmp_path) == [10, 25]


def test_the_end_says_if_the_best_checkpoint_was_not_saved(tmp_path, disk):
    trainer, saving = Stepped(), Checkpoints(tmp_path, 0, 2, keep_best=True)
    disk.is_full = lambda step: step == 3
    trainer.patience.best = (3, 0.5)
    trainer.run(saving, "." * 5, end=True)
    assert trainer.warnings[0].startswith("the disk is full") and steps(tmp_path) == [5]
    assert f"that of step 3, which is not in {tmp_path}" in trainer.warnings[1]
    trainer.patience.best = (6, 0.4)
    trainer.run(saving, ".", end=True)
    assert len(trainer.warnings) == 2 and steps(tmp_path) == [5, 6]


def test_what_cannot_be_deleted_is_a_warning(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "prune", refused)
    trainer = Stepped()
    trainer.run(Checkpoints(tmp_path, 5, 1), "." * 5)
    assert len(trainer.warnings) == 1 and "could not be deleted (Permission denied)" in trainer.warnings[0]


@pytest.mark.parametrize(
    ("every", "keep", "taken", "left", "loss"),
    [
        (10, 1, "." * 25, [25], 3.0),  # replaces a settled one, if it evaluates
        (10, 1, "." * 25, [10, 20, 25], float("nan")),
        (2, 2, "s" * 9, [9], 3.0),  # a short trial in FP16 that still looks for its loss scale: nothing is trained
        (1, 2, "." * 9, [8, 9], 3.0),  # only what is asked for
        (3, 5, "." * 7, [3, 6, 7], 3.0),
        (3, 5, "." * 6, [3, 6], 3.0),  # the end is saved once
    ],
)
def test_what_stays_at_the_end(tmp_path, every, keep, taken, left, loss):
    trainer = Stepped()
    trainer.loss = loss
    trainer.run(Checkpoints(tmp_path, every, keep), taken, end=True)
    assert steps(tmp_path) == left
