"""The training loop. Its parts own their state; features that only observe a run are callbacks."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from ms_codegeex.base.errors import Divergence
from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import Batch, Sequences, read_ahead, shuffle_context, unigram_entropy
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.parallel.context import before_evaluation
from ms_codegeex.parallel.gradients import narrow_sum, sixteen_bits
from ms_codegeex.parallel.sharding import Placement, loaded_rows
from ms_codegeex.training.build import TrainingCells, adamw, build
from ms_codegeex.training.faults import LOWER_RATE, Faults
from ms_codegeex.training.observers import Callback, ObservedRun, StepRecord
from ms_codegeex.training.progress import Patience, Rates, TrainingProgress
from ms_codegeex.training.rank_state import Provenance, RankState
from ms_codegeex.training.start import RankPlace, RunData, RunStart
from ms_codegeex.training.step import StepSettings, TrainStep


class Trainer(ObservedRun):
    """Builds network, optimizer and steps from the configuration and trains on this rank's share of the data."""

    def __init__(
        self, config: RunConfig, data: RunData, start: RunStart, place: RankPlace, callbacks: Sequence[Callback] = ()
    ):
        self.config, self.data, self.rank, self.callbacks = config, data.training, place.rank, list(callbacks)
        self.progress, self.patience = TrainingProgress(), Patience(config.training.patience)
        self.faults, self.rates = Faults(config.faults, start.left_out), Rates(config, place.matmul_peak)
        self.evaluated: tuple[int, float] | None = None  # step and validation loss
        self.compiled = self.stopped = False
        self.transition = start.transition
        self.provenance = Provenance(config, data, start, place.rank)
        self.data.check_model(config.model.sizes.vocab_size, config.model.sizes.eos_token_id)
        # MindSpore shards parameters when it compiles: no device allocates whole weights, and no CPU two copies
        with no_init_parameters():
            optimizer = partial(adamw, transition=start.transition, library=place.library)
            self.built = build(config, place.tied_group, True, optimizer, step_of(config), place.library)
        self.evaluation = Evaluator(config, self.built, data.validation, place.rank, self)
        if config.partitioned:  # compiling gives parameters the shape of this rank's shard
            self.status("compiling the training graph")
            loaders = config.mesh.stage_size  # devices that load different samples
            with self.phase("compile"):
                self.built.compile(config.training.global_batch // loaders // self.built.accumulation)
        self.rank_state = RankState(config, self.built, Placement(config, place.rank))
        self.rank_state.initialise(start.weights)

    def state(self) -> dict[str, Any]:
        return {
            **self.rank_state.state(),
            **self.progress.state(),
            **self.patience.state(),
            "faults": self.faults.state() if self.faults.guarded else None,
            **self.provenance.state(),
            "schedule": {"steps": self.config.steps, "transition": self.transition and asdict(self.transition)},
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. Raises `UserError` if its tensors are not those of this model."""
        with self.phase("load"):
            self.provenance.check(checkpoint)
            self.rank_state.restore(checkpoint, self.beat)
        state = checkpoint.state
        self.progress.restore(checkpoint.step, state)
        self.patience.restore(state)
        if self.faults.guarded and state.get("faults"):
            self.faults.restore(state["faults"])

    def event(self, event: str, **content: Any) -> None:
        super().event(event, **{"step": self.progress.step, **content})

    @property
    def finished(self) -> bool:
        """Return whether the run has reached its number of steps (of tokens, with `training.tokens`), or no longer
        improves."""
        tokens = self.config.training.tokens
        if self.patience.exhausted:
            return True
        return self.progress.tokens >= tokens if tokens else self.progress.step >= self.config.steps

    @property
    def ending(self) -> bool:
        return self.stopped or self.finished

    def stop(self) -> None:
        """End the run after this step, which must be the same one on all ranks."""
        self.stopped = True

    @property
    def steps_left(self) -> int:
        """Return the number of steps still to train; an estimate with `training.tokens`."""
        tokens, done = self.config.training.tokens, self.progress
        if not tokens:
            return max(0, self.config.steps - done.step)
        per_step = done.tokens / done.step if done.tokens else self.rates.step_slots
        return math.ceil(max(0, tokens - done.tokens) / per_step)

    def run(self) -> None:
        """Train to the end. The next batches are read while a step computes."""
        every = self.config.training.evaluate_every
        try:
            if not self.ending:
                self._evaluate_start()
                self.status("compiling the training graph")
            with read_ahead(self._local_batch, self._positions(), self.config.data.workers) as batches:
                while not self.ending:
                    self.tell("begin")
                    began = time.perf_counter()
                    batch = next(batches)
                    waited = time.perf_counter() - began
                    with nullcontext() if self.compiled else self.phase("compile"):  # and the first step
                        record = self._step(batch, began, waited)
                    if record.compiling:
                        self.event("compiled", seconds=record.step_seconds)
                    if record.skipped:
                        self.faults.report(self, record, (batch.first, self.progress.samples))
                    if self.finished or (every and record.step % every == 0):
                        record.validation_loss = self.validation_loss()
                        self.event("evaluation", validation_loss=record.validation_loss)
                        if not record.skipped:
                            self.patience.compare(record.step, record.validation_loss)
                        if self.patience.exhausted:
                            best, loss = self.patience.best or (None, None)
                            self.event("out of patience", best=best, validation_loss=loss)
                    self.compiled = True
                    self.tell("step", record)
                    self.faults.answer(record, batch.first)
            self.tell("end")
        finally:
            self.tell("leave")

    def _evaluate_start(self) -> None:
        kept = self.patience.limit and self.config.model.weights and self.patience.best is None
        if kept and not self.progress.step and math.isfinite(loss := self.validation_loss()):
            self.patience.start(loss)
            self.tell("start")

    def _positions(self) -> Iterator[int]:
        positions = self.faults.positions(self.progress.samples, self.config.training.global_batch)
        return positions if self.config.training.tokens else itertools.islice(positions, self.steps_left)

    def _local_batch(self, first: int) -> Batch:
        rows = loaded_rows(self.config, self.rank)
        return replace(self.data.training_batch(first + rows.start, rows.stop - rows.start), first=first)

    def _step(self, batch: Batch, began: float, waited: float) -> StepRecord:
        train_step = self.built.step.set_train(True)  # the evaluation shares the network and turns dropout off
        *others, last = batch.parts(self.built.accumulation)
        for part in others:
            self.built.accumulate_step(*tensors_of(part))
        if self.faults.guarded:
            train_step.set_limits(*self.faults.limits)
        loss, count, norm, rate, scale, updated = train_step(*tensors_of(last)).asnumpy().tolist()
        norm = norm if norm >= 0 else math.nan
        self.progress.advance(batch.first + self.config.training.global_batch, count, bool(updated))
        seconds = time.perf_counter() - began
        finite = math.isfinite(norm)
        if self.faults.guarded:
            self.faults.judge(loss, norm, lowers_scale=not finite and scale > 1.0)
        elif not finite and scale <= 1.0:  # there is no loss scale, or it cannot be lowered
            wrong = f"loss {loss}, gradient norm {norm}, nothing was saved from this step"
            look = f"look at the data around sample {batch.first}"
            where = f"step {self.progress.step}"
            raise Divergence(f"{where}: {wrong}; {look}, or {LOWER_RATE}", self.progress.step)
        return StepRecord(
            step=self.progress.step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm if finite else None,
            loss_scale=scale if train_step.scaled else None,
            skipped=not updated,
            tokens=self.progress.tokens,
            **self.rates.of(seconds, waited),
            compiling=not self.compiled,
        )

    def validation_loss(self) -> float:
        """Return the loss of the current weights on the validation split. It is computed at most once per step."""
        if self.evaluated is None or self.evaluated[0] != self.progress.step:
            self.status("evaluating" if self.evaluated else "compiling the evaluation graph and evaluating")
            self.evaluated = (self.progress.step, self.evaluation.loss())
        return self.evaluated[1]

    def losses_on(self, data: Mapping[str, Sequences]) -> dict[str, float]:
        """Return the loss of the current weights on each of `data`."""
        if data:
            self.status("evaluating " + ", ".join(data))
        return {name: self.evaluation.loss(sequences) for name, sequences in data.items()}

    def final_figures(self) -> dict[str, float]:
        """Return, in nats per token, the validation loss and two figures that tell a language model from a table of
        frequencies: the unigram entropy and the loss with shuffled contexts."""
        self.status("evaluating")
        entropy = unigram_entropy(self.evaluation.validation)
        losses = {"validation_loss": self.validation_loss(), "unigram_entropy": entropy}
        return {**losses, "shuffled_context_loss": self.evaluation.loss(shuffled=True)}


class Evaluator:
    """Evaluates the current weights, without dropout, on this rank's share of a sample, by default of `validation`."""

    def __init__(self, config: RunConfig, built: TrainingCells, validation: Sequences, rank: int, run: ObservedRun):
        self.config, self.built, self.validation, self.run = config, built, validation, run
        self.share = (rank % config.mesh.stage_size, config.mesh.stage_size)
        self.seconds = 0.0  # spent in `loss`, including compilation

    def loss(self, data: Sequences | None = None, shuffled: bool = False) -> float:
        """Return nats per token on evenly spaced sequences of `data`; `shuffled`: permute the contexts."""
        began = time.perf_counter()
        batch = (data or self.validation).evaluation_batch(*self.share, self.config.training.evaluate_samples)
        if self.config.partitioned and self.config.mesh.pipeline == 1:
            before_evaluation()
        if shuffled:
            batch = shuffle_context(batch, self.config.model.sizes.eos_token_id, self.config.seed)
        with self.run.phase("evaluation"):
            loss = mean_loss(self.built.evaluation_step, batch, self.built.evaluation_rows, self.run.beat)
        self.seconds += time.perf_counter() - began
        return loss


def mean_loss(evaluation_step: nn.Cell, batch: Batch, rows: int, beat: Callable[[], None]) -> float:
    """Return the loss in nats per token. `evaluation_step` is compiled for `rows` rows and runs without dropout. `beat`
    is called before each call of it."""
    total, tokens = 0.0, 0.0
    evaluation_step.set_train(False)
    for start in range(0, len(batch.samples), rows):
        beat()
        arrays = tensors_of(_padded(batch.rows(start, start + rows), rows))
        loss, count, _ = evaluation_step(*arrays).asnumpy().tolist()
        total, tokens = total + loss, tokens + count
    return total / max(tokens, 1.0)


def tensors_of(batch: Batch) -> list[Tensor]:
    return [Tensor(array) for array in batch.arrays()]


def _padded(batch: Batch, size: int) -> Batch:
    """Return the batch, padded to `size` rows with masked copies of its last row, because a graph has one shape."""
    missing = size - len(batch.samples)
    if not missing:
        return batch
    arrays = [np.concatenate([a, np.repeat(a[-1:], missing, 0)]) for a in batch.arrays()]
    arrays[2][-missing:] = 0.0
    return Batch(*arrays)


class ShortGradientStep(TrainStep):
    """A train step that reduces gradients between processes in 16 bits, summed in `half`. A CPU cannot send BF16, so it
    sends FP32 rounded to BF16."""

    def __init__(self, network: nn.Cell, optimizer: nn.Cell, settings: StepSettings, half: ms.Type):
        super().__init__(network, optimizer, settings)
        sent = half if half == ms.float16 else ms.float32
        self.reduce_gradient = narrow_sum(self.reduce, settings.world, half, sent)


def step_of(config: RunConfig) -> Callable[[nn.Cell, nn.Cell, StepSettings], TrainStep]:
    """Return the class of a run's train step. If MindSpore partitions the graph, it sends 16-bit gradients itself."""
    half = sixteen_bits(config)
    if half is None or config.partitioned or config.devices == 1:
        return TrainStep
    return partial(ShortGradientStep, half=half)
