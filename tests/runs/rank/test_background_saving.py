"""Background saving, without an engine: what is written is the state of one step, and all ranks decide alike."""

import contextlib
import threading

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.formats.checkpoint_writing import Slice
from ms_codegeex.runs.rank import saving as module
from ms_codegeex.runs.rank.saving import Checkpoints, Writers
from ms_codegeex.training.progress import Patience, TrainingProgress

SECONDS = 60


class LiveTrainer:
    """Its state is one array that every step overwrites in place, as the engine's are."""

    loss, stopped, finished = 3.0, False, True

    def __init__(self, rank=0, ranks=1):
        self.rank, self.ranks = rank, ranks
        self.progress, self.patience, self.rank_state = TrainingProgress(), Patience(0), self
        self.warnings, self.events = [], []
        self.values = np.zeros(4)

    def slices(self):
        return {"w": Slice((4 * self.ranks,), (4 * self.rank,), self.values)}

    def state(self):
        return {"samples": self.progress.step}

    def phase(self, name):
        return contextlib.nullcontext()

    def event(self, event, **content):
        self.events.append((event, content.get("step", self.progress.step), self.progress.step))

    def status(self, text):
        pass

    def warn(self, text):
        self.warnings.append(text)

    def validation_loss(self):
        return self.loss

    def step(self, saving, skipped=False):
        self.progress.step += 1
        self.values[:] = self.progress.step
        saving.step(self, Record(self.progress.step, skipped))


class Record:
    def __init__(self, step, skipped=False):
        self.step, self.skipped = step, skipped


class Gate:
    """Holds writers back until it is opened; fails the saves of chosen ranks."""

    def __init__(self, monkeypatch, fails=()):
        self.open, self.write, self.fails = threading.Event(), module.write_checkpoint, list(fails)
        monkeypatch.setattr(module, "write_checkpoint", self)

    def __call__(self, root, step, tensors, state, **options):
        assert self.open.wait(SECONDS)
        if options.get("rank", 0) in self.fails:
            self.fails.remove(options["rank"])
            tensors = {"w": Slice((4,), (2,), np.zeros(4))} if options["rank"] == 0 else Unwritable(tensors)
        return self.write(root, step, tensors, state, **options)


class Unwritable(dict):
    def items(self):
        raise OSError(28, "No space left on device")


def steps(root):
    return [Checkpoint(path).step for path in list_checkpoints(root)]


def test_later_steps_do_not_change_what_is_written(tmp_path, monkeypatch):
    gate, trainer = Gate(monkeypatch), LiveTrainer()
    saving = Checkpoints(tmp_path, 3, 2, background=True)
    for _ in range(5):
        trainer.step(saving)
    assert steps(tmp_path) == [] and trainer.events == [("saving", 3, 3)]
    gate.open.set()
    saving.leave(trainer)
    assert trainer.events[1:] == [("saved", 3, 5)]
    saved = Checkpoint(list_checkpoints(tmp_path)[0])
    assert saved.tensor("w").tolist() == [3.0] * 4 and saved.state == {"samples": 3}


def test_without_background_a_step_waits_for_its_save(tmp_path):
    trainer, saving = LiveTrainer(), Checkpoints(tmp_path, 2, 2)
    trainer.step(saving)
    trainer.step(saving)
    assert steps(tmp_path) == [2] and saving.copy is None


def test_a_save_waits_for_the_one_before_it(tmp_path, monkeypatch):
    gate, trainer = Gate(monkeypatch), LiveTrainer()
    saving = Checkpoints(tmp_path, 2, 5, background=True)
    threading.Timer(0.3, gate.open.set).start()
    for _ in range(4):
        trainer.step(saving)
    assert steps(tmp_path)[:1] == [2]  # published before the copy of step 4 replaced that of step 2
    saving.end(trainer)
    assert steps(tmp_path) == [2, 4]
    assert [Checkpoint(path).tensor("w")[0] for path in list_checkpoints(tmp_path)] == [2.0, 4.0]


def test_a_failed_save_is_tried_again_and_does_not_end_the_run(tmp_path, monkeypatch):
    gate, trainer = Gate(monkeypatch, fails=[0]), LiveTrainer()
    gate.open.set()
    saving = Checkpoints(tmp_path, 4, 5, background=True)
    for _ in range(4):
        trainer.step(saving)
    saving.leave(trainer)
    assert len(trainer.warnings) == 1 and "the run continues and tries again in about 10 steps" in trainer.warnings[0]
    for _ in range(10):
        trainer.step(saving)
    saving.leave(trainer)
    assert steps(tmp_path) == [14]
    assert [event[:2] for event in trainer.events if event[0] != "saving"] == [("save failed", 4), ("saved", 14)]


def test_the_end_raises_what_its_save_fails_with(tmp_path, monkeypatch):
    gate, trainer = Gate(monkeypatch, fails=[0, 0]), LiveTrainer()
    gate.open.set()
    saving = Checkpoints(tmp_path, 2, 5, background=True)
    for _ in range(3):
        trainer.step(saving)
    with pytest.raises(UserError, match=r"held 0 times|outside it"):
        saving.end(trainer)


def test_the_old_best_checkpoint_stays_until_the_new_one_is_published(tmp_path, monkeypatch):
    gate, trainer = Gate(monkeypatch, fails=[0]), LiveTrainer()
    gate.open.set()
    saving = Checkpoints(tmp_path, 0, 1, keep_best=True, background=True)
    saving.best = tmp_path / "step-00000002"
    trainer.patience.best = (3, 0.5)
    for _ in range(3):
        trainer.step(saving)
    saving.leave(trainer)
    assert saving.best == tmp_path / "step-00000002" and trainer.events[-1][:2] == ("save failed", 3)


class Ranks:
    """Ranks that step together, as those of one run do."""

    def __init__(self, root, count, every):
        self.trainers = [LiveTrainer(rank, count) for rank in range(count)]
        self.savings = [
            Checkpoints(root, every, 9, writers=Writers(count, "a1"), background=True) for _ in self.trainers
        ]

    def together(self, action):
        errors = []

        def work(rank):
            try:
                action(self.trainers[rank], self.savings[rank])
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(self.trainers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert not errors and not any(thread.is_alive() for thread in threads)

    def run(self, count):
        for _ in range(count):
            self.together(lambda trainer, saving: trainer.step(saving))


def test_ranks_publish_one_checkpoint_together(tmp_path, monkeypatch):
    gate, ranks = Gate(monkeypatch), Ranks(tmp_path, 3, 2)
    ranks.run(3)
    gate.open.set()
    ranks.together(lambda trainer, saving: saving.leave(trainer))
    ranks.together(lambda trainer, saving: saving.end(trainer))
    assert steps(tmp_path) == [2, 3] and len(Checkpoint(list_checkpoints(tmp_path)[0]).files) == 3
    assert Checkpoint(list_checkpoints(tmp_path)[0]).tensor("w").tolist() == [2.0] * 12
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_try_again_after_the_same_step_whichever_failed(tmp_path, monkeypatch, rank):
    gate, ranks = Gate(monkeypatch, fails=[rank]), Ranks(tmp_path, 2, 4)
    ranks.run(6)
    gate.open.set()
    ranks.together(lambda trainer, saving: saving.leave(trainer))
    ranks.run(14)
    ranks.together(lambda trainer, saving: saving.end(trainer))
    (again,) = {tuple(event[1] for event in t.events if event[0] == "saving") for t in ranks.trainers}
    assert again[0] == 4 and again[1] == 17  # rank 0 has seen it after step 7, and says so
    assert steps(tmp_path) == [17, 20]
    for trainer in ranks.trainers:
        assert len(trainer.warnings) == 1
