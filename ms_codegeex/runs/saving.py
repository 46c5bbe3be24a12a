"""When a run saves checkpoints, and how the steps that follow show a checkpoint to be good or doubtful.

A run that diverges must not replace its sound checkpoints. So nothing is saved after a skipped step, a checkpoint
becomes good once finite steps have followed it, and pruning always keeps the last good one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from ms_codegeex.errors import NotFinite, UserError
from ms_codegeex.formats.checkpoint import Checkpoint, step_name, write_checkpoint
from ms_codegeex.formats.checkpoint_folder import DOUBTFUL, GOOD, SoundCheckpoints, note_outcome, outcome, prune
from ms_codegeex.training.trainer import Callback, StepRecord, Trainer

GOOD_AFTER = range(5, 11)  # finite steps; fewer if checkpoints are close together, so that fewer have to be kept
STREAK = 3  # skipped steps in a row; one or two are normal while the loss scale adapts


class Checkpoints(Callback):
    """Saves every `every` steps and at the end, and keeps the newest `keep` checkpoints and the last good one.

    If tensors are sharded, every rank has this callback and writes its own shards; `barrier` waits for all `writers`.
    Data-parallel replicas are equal, so there only rank 0 writes.

    Args:
        root: the folder of the checkpoints.
        every: steps between two checkpoints, 0 to save only at the end. A save that is due on a skipped step waits for
            the next finite one.
        keep: how many of the newest to keep.
        restored: the checkpoint that the run continues from.
        writers: how many ranks write.
        barrier: waits for all writers.
    """

    def __init__(
        self,
        root: Path,
        every: int,
        keep: int,
        restored: Checkpoint | None = None,
        *,
        writers: int = 1,
        barrier: Callable[[], None] = lambda: None,
    ):
        self.root, self.every, self.keep = root, every, keep
        self.writers, self.barrier = writers, barrier
        self.good_after = min(max(every, GOOD_AFTER[0]), GOOD_AFTER[-1]) if every else GOOD_AFTER[-1]
        self.sound = SoundCheckpoints()
        self.due = self.settled = False  # a save is due; a step of this job was finite
        self.skipped = 0  # in a row, after the first finite step: before it the loss scale is still adapting
        self.followers: dict[Path, int] = {}  # finite steps since each checkpoint that is not yet known to be good
        self.doubted: set[Path] = set()
        self.saved: int | None = None
        if restored is not None and restored.path.resolve().parent == root.resolve():
            self.saved = restored.step
            if outcome(restored.path) != GOOD:
                self.followers[restored.path] = 0

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """Judge earlier checkpoints by this step, and save if a save is due."""
        self.settled = self.settled or not record.skipped
        self.skipped = self.skipped + 1 if record.skipped and self.settled else 0
        if trainer.rank == 0:
            self._judge(trainer, record)
        self.due = self.due or bool(self.every and record.step % self.every == 0)
        if self.due and not record.skipped:
            self._save(trainer)

    def end(self, trainer: Trainer) -> None:
        """Save the last step unless it is saved. `NotFinite` if the run ends skipping and has saved before."""
        present = self.saved == trainer.progress.step
        if self.skipped >= STREAK and self.saved is not None and not present:
            raise NotFinite(
                f"the last {self.skipped} steps were skipped because gradients were not finite; the run has not "
                f"converged, and nothing was saved after step {self.saved}. Lower "
                "training.schedule.learning_rate and resume with --resume auto --allow-change training.schedule",
                trainer.progress.step,
            )
        if trainer.rank == 0 and not self.skipped:  # at the end of the run fewer steps are enough
            for path in [path for path, followers in self.followers.items() if followers and path.exists()]:
                if self._note(trainer, path, GOOD, trainer.progress.step):
                    del self.followers[path]
        if not present:
            self._save(trainer)
        loss = trainer.validation_loss()
        if trainer.rank == 0:
            if self.settled and loss is not None and math.isfinite(loss):
                for path in self.followers:  # no step follows the last checkpoint, but it was evaluated
                    if path.name == step_name(trainer.progress.step):
                        self._note(trainer, path, GOOD, trainer.progress.step)
            self._prune(trainer)

    def _judge(self, trainer: Trainer, record: StepRecord) -> None:
        for path in list(self.followers):
            if not path.exists():
                del self.followers[path]
            elif self.skipped >= STREAK:
                if path not in self.doubted and self._note(trainer, path, DOUBTFUL, record.step):
                    self.doubted.add(path)
            elif not record.skipped:
                self.followers[path] += 1
                if self.followers[path] >= self.good_after and self._note(trainer, path, GOOD, record.step):
                    del self.followers[path]

    @staticmethod
    def _note(trainer: Trainer, path: Path, found: str, step: int) -> bool:
        try:
            note_outcome(path, found, step)
        except UserError as error:  # a full disk
            trainer.warn(str(error))
            return False
        return True

    def _save(self, trainer: Trainer) -> None:
        path = write_checkpoint(
            self.root,
            trainer.progress.step,
            trainer.own_slices(),
            trainer.scalars(),
            rank=trainer.rank,
            world_size=self.writers,
            barrier=self.barrier,
        )
        self.saved, self.due = trainer.progress.step, False
        if trainer.rank == 0:
            self.followers[path] = 0
            self.sound.written(path)
            self._prune(trainer)

    def _prune(self, trainer: Trainer) -> None:
        try:
            prune(self.root, self.keep, self.sound)
        except OSError as error:
            trainer.warn(f"{self.root}: old checkpoints could not be deleted ({error.strerror})")
