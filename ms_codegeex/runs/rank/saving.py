"""Decide when a run saves checkpoints and which it keeps.

A run states the steps after which it saves; otherwise rank 0 decides by the clock (`SaveClock`). Neither changes what
the run computes. A diverging run must not replace its sound checkpoints. So nothing is saved after a skipped step, and
pruning always keeps one checkpoint that was evaluated or that ten more steps followed.

Saving continues in the background during the next steps. All ranks decide alike: they save after the same steps, wait
for the previous save, and after a failure try again at a step that rank 0 announces.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import Divergence, UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint import SETTLED_STEPS, Checkpoint, prune, step_name, step_of
from ms_codegeex.formats.checkpoint_writing import failure_file, plain_state, write_checkpoint
from ms_codegeex.runs.rank.background import HostCopy, PendingSave, SavedCheckpoint, saves_in_background
from ms_codegeex.training.faults import LOWER_RATE
from ms_codegeex.training.observers import Callback, StepRecord
from ms_codegeex.training.trainer import Trainer

RETRY_STEPS = 10  # until the next try after a failed save
STREAK = 3  # skipped steps in a row; one or two are normal while the loss scale adapts
HEAD_START_SECONDS = 0.01  # the next step starts first, or it would wait for the thread to release the interpreter
UNKNOWN = math.inf  # value of `next_try` until rank 0 announces it
CLOCK_SECONDS = 30.0  # minimum time between two saves by the clock
CLOCK_SHARE = 100  # at most a hundredth of a run's time goes into saving by the clock
DISK_RATE = 500e6  # bytes/s, assumed until a save has been measured


class SaveClock:
    """Decides when to save in a run that states no steps for it. `bytes_written`: those of one save by one rank."""

    def __init__(self, bytes_written: int, now: Callable[[], float] = time.monotonic):
        self.now, self.cost, self.spent = now, bytes_written / DISK_RATE, 0.0
        self.began = self.last = now()

    def due(self) -> bool:
        """Return whether a save now would stay within the time share for saving."""
        now = self.now()
        return now - self.last >= CLOCK_SECONDS and CLOCK_SHARE * (self.spent + self.cost) <= now - self.began

    def saved(self, since: float) -> None:
        """Record a save for which, or for whose beginning, steps have waited since the time `since`."""
        self.last = self.now()
        self.cost = self.last - since
        self.spent += self.cost


@dataclass(frozen=True)
class Writers:
    """The ranks that write a checkpoint. `job` is the same on all of them and unique among the jobs in the folder."""

    count: int = 1
    job: str = "0"


class Checkpoints(Callback):
    """Saves to `root` every `every` steps (0 or None: not by steps) and at the end. It keeps the newest `keep`
    checkpoints and a settled one, those of steps that `keep_every` divides, and with `keep_best` the one with the
    lowest validation loss, which may be that of step 0. A save due on a skipped step waits for the next finite one. The
    run continues from `restored`. `background`: the next steps compute while a copy of the state is written. If tensors
    are sharded, every rank has this callback and writes its own shards (`writers`). Data-parallel replicas are equal,
    so there only rank 0 writes. `clock` requests further saves; a run that ends at its last step removes these again.
    `agreed(step, due)` returns whether all writers save after the step, since each has its own clock."""

    def __init__(
        self,
        root: Path,
        every: int | None,
        keep: int,
        restored: Checkpoint | None = None,
        *,
        writers: Writers | None = None,
        keep_best: bool = False,
        keep_every: int = 0,
        background: bool = False,
        clock: SaveClock | None = None,
        agreed: Callable[[int, bool], bool] = lambda step, due: due,
    ):
        self.root, self.every, self.keep, self.writers = root, every, keep, writers or Writers()
        self.clock, self.agreed, self.by_clock = clock, agreed, set[int]()
        self.due = self.timely = False
        self.begun = False  # whether a step of this job has been finite
        self.skipped = 0  # in a row, since the first finite step; until then the loss scale is adapting
        self.saved: int | None = None
        self.next_try: float = 0  # step of the next try after a failed save
        self.keep_best, self.keep_every = keep_best, keep_every
        self.best: Path | None = None
        self.copy = HostCopy() if saves_in_background(background, every, keep_best) else None
        self.thread, self.saves = ThreadPoolExecutor(1, "checkpoint"), 0  # the process waits for this thread at exit
        self.pending: PendingSave | None = None
        self.failed: PendingSave | None = None  # the last save, if it failed and the next try is not yet announced
        if keep_best and restored is not None and restored.state.get("best"):
            self.best = root / step_name(restored.state["best"][0])
        self.trusted = 0  # the step that the run began from
        if restored is not None and restored.path.resolve().parent == root.resolve():
            self.saved = self.trusted = restored.step

    def start(self, trainer: Trainer) -> None:
        """With `keep_best`, save the initial model, which is the best until a step is better."""
        if self.keep_best:
            with trainer.phase("save"):
                self._begin(trainer, None)
                self._finish_save(trainer)

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        self.begun = self.begun or not record.skipped
        self.skipped = self.skipped + 1 if record.skipped and self.begun else 0
        if self.copy is not None and not self.copy.ready:  # during the first step, which is slow anyway
            with trainer.phase("save"):
                self.copy.reserve(trainer.rank_state.slices())
        self._poll(trainer)
        best = trainer.patience.best
        self.due = self.due or bool(self.every and record.step % self.every == 0)
        self.due = self.due or bool(self.keep_best and best is not None and best[0] == record.step)
        timely = self.clock is not None and self.agreed(record.step, self.clock.due())
        self.timely = self.timely or (timely and not self.due)
        self.due = self.due or timely
        if self.due and not record.skipped and record.step >= self.next_try:
            began = time.monotonic()
            self._save(trainer)
            if self.clock is not None:
                self.clock.saved(began)
            if self.timely:
                self.by_clock.add(record.step)
                self.timely = False

    def end(self, trainer: Trainer) -> None:
        """Save the last step unless saved. `Divergence` if the run ends with skipped steps and has saved before."""
        self.leave(trainer)
        present = self.saved == trainer.progress.step
        if trainer.stopped and not trainer.finished:  # time is short, and the run continues later
            if not present and not self.skipped:
                self._save_now(trainer)
            return
        if self.skipped >= STREAK and self.saved is not None and not present:
            wrong = f"the last {self.skipped} steps were skipped because gradients were not finite"
            result = f"the run has not converged, and nothing was saved after step {self.saved}"
            raise Divergence(f"{wrong}, {result}; {LOWER_RATE}", trainer.progress.step)
        if not present:
            self._save_now(trainer)
        loss = trainer.validation_loss()
        if trainer.rank == 0:
            # no step follows the last checkpoint, but it was evaluated
            settled = trainer.progress.step - (0 if math.isfinite(loss) else SETTLED_STEPS)
            if problem := self._prune(self.best, settled, last=math.isfinite(loss)):
                trainer.warn(problem)
            best = trainer.patience.best
            if self.keep_best and best is not None and not (self.root / step_name(best[0])).is_dir():
                missing = f"the lowest validation loss was that of step {best[0]}, which is not in {self.root}"
                trainer.warn(f"{missing}; the run ends with its last step instead")

    def leave(self, trainer: Trainer) -> None:
        """Wait for a save that has begun, even after an error."""
        if self.pending is not None:
            with trainer.phase("save"):
                self._finish_save(trainer)

    # -- a save ------------------------------------------------------------------------------------------------------

    def _save(self, trainer: Trainer) -> None:
        with trainer.phase("save"):
            if self.pending is not None and not self._finish_save(trainer):
                return
            self._begin(trainer, self.copy)
            if self.copy is None:
                self._finish_save(trainer)

    def _save_now(self, trainer: Trainer) -> None:
        """Save without a copy, since no step follows. `UserError` if that fails."""
        with trainer.phase("save"):
            self._begin(trainer, None)
            pending = self.pending
            if not self._finish_save(trainer, last=True):
                raise pending.outcome.exception()

    def _begin(self, trainer: Trainer, copy: HostCopy | None) -> None:
        trainer.event("saving")
        step, best = trainer.progress.step, trainer.patience.best
        self.saves += 1
        self.due, save = False, f"{self.writers.job}-{self.saves}"
        path = self.root / step_name(step) if self.keep_best and best is not None and best[0] == step else self.best
        slices, state = trainer.rank_state.slices(), plain_state(trainer.state())
        tensors = copy.snapshot(slices) if copy else slices

        rank, count = trainer.rank, self.writers.count

        def work() -> SavedCheckpoint:
            """In the thread: write, publish, and delete checkpoints that are no longer needed."""
            if copy:
                time.sleep(HEAD_START_SECONDS)
            written = write_checkpoint(self.root, step, tensors, state, rank=rank, world_size=count, save=save)
            if rank:
                return SavedCheckpoint(written)
            return SavedCheckpoint(written, self._prune(path, step - SETTLED_STEPS))

        self.pending = PendingSave(step, save, path, self.thread.submit(work))

    def _poll(self, trainer: Trainer) -> None:
        if self.pending is not None and self.pending.outcome.done():
            self._finish_save(trainer)
        waiting = self.pending or self.failed
        if waiting is None or self.writers.count == 1:
            return
        note = failure_file(self.root, waiting.step, waiting.save)
        if trainer.rank == 0 and self.failed is not None:
            next_try = trainer.progress.step + RETRY_STEPS
            with contextlib.suppress(UserError):  # a full disk: tried again after the next step
                write_json(note, {"next_try": next_try})
                self.next_try, self.failed = next_try, None
        elif trainer.rank and note.exists() and (next_try := read_json(note).get("next_try")) is not None:
            if self.pending is not None:
                self._finish_save(trainer)
            self.next_try, self.failed = next_try, None

    def _finish_save(self, trainer: Trainer, last: bool = False) -> bool:
        pending, self.pending = self.pending, None
        try:
            saved = pending.outcome.result()
        except UserError as error:
            if not last:
                self._failed(trainer, pending, error)
            return False
        trainer.event("saved", step=pending.step)
        if saved.problem:
            trainer.warn(saved.problem)
        self.saved, self.best = pending.step, pending.best
        return True

    def _failed(self, trainer: Trainer, pending: PendingSave, error: UserError) -> None:
        """Schedule another try: a full disk must not end a run before its last step."""
        again = trainer.progress.step + RETRY_STEPS
        self.due = True
        if self.writers.count == 1:
            self.next_try = again
        else:
            self.next_try, self.failed = UNKNOWN, pending
        trainer.event("save failed", step=pending.step, message=str(error))
        trainer.warn(f"{error}; the run continues and tries again in about {RETRY_STEPS} steps")

    def _prune(self, best: Path | None, settled: int, last: bool = False) -> str | None:
        """Delete old checkpoints, except the best one and those of steps that `keep_every` divides. Those up to step
        `settled` are settled, as is the one that the run began from. `last`: the run has ended, so those saved by the
        clock are deleted too. Return the problem, if any."""

        def is_protected(path: Path) -> bool:
            return path == best or bool(self.keep_every and step_of(path) % self.keep_every == 0)

        try:
            settled = max(settled, self.trusted)
            prune(self.root, self.keep, settled, is_protected, self.writers.job)
            if last and self.by_clock:
                prune(self.root, 1, settled, lambda path: is_protected(path) or step_of(path) not in self.by_clock)
        except OSError as error:
            return f"{self.root}: old checkpoints could not be deleted ({error.strerror})"
        return None
