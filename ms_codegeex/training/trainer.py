"""The training loop. Features that only observe a run are callbacks."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
import psutil
from mindspore import Tensor
from mindspore.nn.utils import no_init_parameters

from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import Batch, Sequences, shuffle_context, unigram_entropy
from ms_codegeex.data.datasets.blend import Blend
from ms_codegeex.data.datasets.opening import content_hashes
from ms_codegeex.data.datasets.prefetch import read_ahead
from ms_codegeex.errors import NotFinite, RunFailure, UserError
from ms_codegeex.formats.checkpoint import Checkpoint, Slice
from ms_codegeex.parallel.placement import Placement, loaded_rows
from ms_codegeex.training.build import build
from ms_codegeex.training.initialise import initial_weight

EMPTY_STEPS = 100


@dataclass
class StepRecord:
    """The figures of one step, with the keys of a line of log.jsonl. Times in seconds, rates over the whole job."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    loss_scale: float
    skipped: bool
    tokens: int
    tokens_per_second: float
    mfu: float
    data_wait_percent: float
    memory_bytes: int
    step_seconds: float
    compiling: bool  # the first step of a process includes compiling its graph
    validation_loss: float | None = None
    eta_seconds: float | None = None


class Callback:
    """Observes a run; a subclass overrides the methods it needs."""

    def status(self, text: str) -> None:
        """Something that takes a while begins."""

    def warning(self, text: str) -> None:
        """There is a problem that does not end the run."""

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """A step has ended."""

    def end(self, trainer: Trainer) -> None:
        """The last step has ended."""


@dataclass
class TrainingProgress:
    """How far a run has come; saved in checkpoints."""

    step: int = 0
    samples: int = 0  # global number of the sample that the next step starts with
    tokens: int = 0  # trained on: those that the loss counts in steps that were not skipped


class Trainer:
    """Builds network, optimizer and steps from the configuration and trains on this rank's share of the data.

    Args:
        config: the run.
        data: what to train on.
        validation: the validation split.
        rank: this process's number in the job.
        matmul_peak: FLOP/s of one device, the reference for MFU; 0 if unknown.
        callbacks: observers of the run.
        tied_group: the communication group of the tied word embedding, if this rank belongs to one.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Sequences | Blend,
        validation: Sequences,
        *,
        rank: int = 0,
        matmul_peak: float = 0.0,
        callbacks: Sequence[Callback] = (),
        tied_group: str | None = None,
    ):
        self.config, self.data, self.validation = config, data, validation
        self.rank, self.loaders = rank, config.mesh.stage_size  # loaders: devices that load different samples
        self.callbacks, self.matmul_peak = list(callbacks), matmul_peak
        self.progress = TrainingProgress()
        self.evaluated: tuple[int, float] | None = None  # step and validation loss
        self.compiled = False
        self.empty_steps = 0  # in a row, without a token that counts
        # hashed before training: a path may hold other data later. Only rank 0's state is saved
        self.datasets = content_hashes(config.data) if rank == 0 else {}
        self.model_config = config.model.sizes
        data.check_model(self.model_config.vocab_size, self.model_config.eos_token_id)
        self.placement = Placement(config, rank)
        # the engine shards parameters when it compiles; whole weights are never allocated on a device
        with no_init_parameters() if config.partitioned else nullcontext():
            self.built = build(config, tied_group=tied_group, compile_once=True)
        self.train_step, self.optimizer = self.built.step, self.built.optimizer
        if config.partitioned:
            self._compile()
        self._initialise()

    def _compile(self) -> None:
        """Partition and compile the step; from then on parameters have the shape of this rank's shard."""
        self.status("compiling the training graph")
        rows = self.config.training.global_batch // self.loaders
        ids, samples = np.zeros((rows, self.config.seq_length), np.int32), np.zeros(rows, np.int32)
        self.train_step.set_train(True)
        self.train_step.compile(*_tensors(Batch(ids, ids, ids.astype(np.float32), samples)))

    def _initialise(self) -> None:
        """Set weights from seed and name, and moments and buffers that the engine left empty to zero."""
        weights = {p.name for p in self.optimizer.parameters}
        for parameter in self.train_step.get_parameters():
            name, place = parameter.name, self.placement
            if name in weights:
                if place.here(name):
                    shape, window = place.shape(name, tuple(parameter.shape)), place.window(name)
                    stored = place.stored_name(name)
                    std = self.model_config.initial_std(stored)
                    value = initial_weight(stored, shape, std, self.config.seed, window)
                    _set(parameter, value)
            elif self.config.partitioned and parameter.has_init:
                _set(parameter, np.zeros(parameter.shape, np.float32))

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_tensors(self) -> dict[str, ms.Parameter]:
        """Weights and moments that this rank holds, by parameter name."""
        parameters = (*self.optimizer.parameters, *self.optimizer.m, *self.optimizer.v)
        return {p.name: p for p in parameters if self.placement.here(p.name)}

    def own_slices(self) -> dict[str, Slice]:
        """The slices of weights and moments that this rank saves; those of all ranks make a checkpoint."""
        slices = {}
        for name, parameter in self.state_tensors().items():
            if self.placement.writes(name):
                shape, window = self.placement.shape(name, tuple(parameter.shape)), self.placement.window(name)
                offset = tuple(part.start for part in window) if window else (0,) * len(shape)
                slices[name] = Slice(shape, offset, parameter.asnumpy())
        return slices

    def scalars(self) -> dict[str, Any]:
        """The rest of the state as JSON values. Dropout and data order are functions of seed and sample number, so
        there is no generator state."""
        return {
            "optimizer_step": int(self.optimizer.step.asnumpy()),
            "loss_scale": {
                "scale": float(self.train_step.scale.asnumpy()),
                "good_steps": int(self.train_step.good_steps.asnumpy()),
            },
            "samples": self.progress.samples,
            "tokens": self.progress.tokens,
            "datasets": self.datasets,
            "rng": {"seed": self.config.seed},
            "config": self.config.to_dict(),
            "tokenizer": self.data.info.get("tokenizer"),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. `UserError` if its tensors are not those of this model."""
        parameters, place, state = self.state_tensors(), self.placement, checkpoint.state
        everything = (*self.optimizer.parameters, *self.optimizer.m, *self.optimizer.v)
        names = {place.stored_name(parameter.name) for parameter in everything}
        if names != set(checkpoint.names):
            odd = sorted(names ^ set(checkpoint.names))[0]
            raise UserError(
                f"{checkpoint.path}: tensor {odd} is missing from the checkpoint or from the model; this checkpoint "
                "is of another model, choose another output or checkpoint.resume=null"
            )
        for name, parameter in parameters.items():
            shape, stored = place.shape(name, tuple(parameter.shape)), place.stored_name(name)
            if shape != checkpoint.shape(stored):
                raise UserError(
                    f"{checkpoint.path}: tensor {stored} is {checkpoint.shape(stored)}, the model has {shape}; use "
                    "the model settings of the run, or another output"
                )
        for name, parameter in parameters.items():
            _set(parameter, checkpoint.tensor(place.stored_name(name), place.window(name)))
        self.optimizer.step.set_data(Tensor(state["optimizer_step"], ms.int32))
        # an FP32 run has no loss scale to continue with
        if self.train_step.scaled and state["config"]["training"]["precision"] == "fp16":
            self.train_step.scale.set_data(Tensor(state["loss_scale"]["scale"], ms.float32))
            self.train_step.good_steps.set_data(Tensor(state["loss_scale"]["good_steps"], ms.int32))
        self.progress = TrainingProgress(checkpoint.step, state["samples"], state["tokens"])

    # -- running -------------------------------------------------------------------------------------------------------

    def status(self, text: str) -> None:
        """Tell the callbacks what begins now."""
        for callback in self.callbacks:
            callback.status(text)

    def warn(self, text: str) -> None:
        """Tell the callbacks about a problem that does not end the run."""
        for callback in self.callbacks:
            callback.warning(text)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its number of steps or, with `training.tokens`, of tokens."""
        tokens = self.config.training.tokens
        return self.progress.tokens >= tokens if tokens else self.progress.step >= self.config.steps

    @property
    def steps_left(self) -> int:
        """Steps still to train; an estimate with `training.tokens`."""
        tokens, done = self.config.training.tokens, self.progress
        if not tokens:
            return max(0, self.config.steps - done.step)
        slots = self.config.training.global_batch * self.config.seq_length
        return math.ceil(max(0, tokens - done.tokens) / (done.tokens / done.step if done.tokens else slots))

    def run(self) -> None:
        """Train to the end; the next batches are read while a step computes."""
        every = self.config.training.evaluate_every
        if not self.finished:
            self.status("compiling the training graph")
        positions = itertools.count(self.progress.samples, self.config.training.global_batch)
        if not self.config.training.tokens:
            positions = itertools.islice(positions, self.steps_left)
        with read_ahead(self._local_batch, positions, self.config.data.workers) as batches:
            while not self.finished:
                began = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - began
                record = self._step(batch, began, waited)
                if self.finished or (every and record.step % every == 0):
                    record.validation_loss = self.validation_loss()
                self.compiled = True
                for callback in self.callbacks:
                    callback.step(self, record)
        for callback in self.callbacks:
            callback.end(self)

    def _local_batch(self, first: int) -> Batch:
        rows = loaded_rows(self.config, self.rank)
        return self.data.training_batch(first + rows.start, rows.stop - rows.start)

    def _step(self, batch: Batch, began: float, waited: float) -> StepRecord:
        self.train_step.set_train(True)  # the evaluation shares the network and turns dropout off
        *others, last = batch.parts(self.built.accumulation)
        for part in others:
            self.built.accumulate_step(*_tensors(part))
        outputs = self.train_step(*_tensors(last))
        loss, count, norm, rate, scale, finite = outputs.asnumpy().tolist()
        progress = self.progress
        progress.step += 1
        progress.samples += self.config.training.global_batch
        progress.tokens += round(count) if finite else 0
        self.empty_steps = 0 if count else self.empty_steps + 1
        if self.empty_steps == EMPTY_STEPS:
            raise UserError(
                f"data: the last {EMPTY_STEPS} steps held no token that the loss counts; look at the dataset with "
                "`ms-codegeex inspect --sample`"
            )
        seconds = time.perf_counter() - began
        if not finite and scale <= 1.0:  # no loss scale, or one that cannot be lowered
            raise NotFinite(
                f"step {progress.step}: loss {loss}, gradient norm {norm}; nothing was saved from this step. "
                f"Look at the data around sample {progress.samples - self.config.training.global_batch}, or resume "
                "from the last checkpoint that finite steps followed, at a lower rate: --resume auto --allow-change "
                "training.schedule training.schedule.learning_rate=…",
                progress.step,
            )
        return self._record(loss, norm if finite else None, rate, scale, not finite, seconds, waited)

    def _record(
        self, loss: float, norm: float | None, rate: float, scale: float, skipped: bool, seconds: float, waited: float
    ) -> StepRecord:
        slots = self.config.training.global_batch * self.config.seq_length
        flops = self.model_config.flops_per_token(self.config.seq_length) * slots / seconds
        peak = self.matmul_peak * self.config.devices
        return StepRecord(
            step=self.progress.step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            loss_scale=scale,
            skipped=skipped,
            tokens=self.progress.tokens,
            tokens_per_second=slots / seconds,
            mfu=flops / peak if peak else 0.0,
            data_wait_percent=100 * waited / seconds,
            memory_bytes=used_memory(self.config.device),
            step_seconds=seconds,
            compiling=not self.compiled,
        )

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @property
    def evaluates(self) -> bool:
        """Whether this run can evaluate: MindSpore partitions a pipeline only in a graph with gradients."""
        return self.config.mesh.pipeline == 1

    def validation_loss(self) -> float | None:
        """`evaluate` of the current weights, computed at most once per step; None in a pipeline."""
        if not self.evaluates:
            return None
        if self.evaluated is None or self.evaluated[0] != self.progress.step:
            self.status("evaluating" if self.evaluated else "compiling the evaluation graph and evaluating")
            self.evaluated = (self.progress.step, self.evaluate())
        return self.evaluated[1]

    def evaluate(self, shuffled: bool = False) -> float:
        """Loss in nats on evenly spaced validation sequences; `shuffled`: with permuted contexts. No dropout."""
        samples = self.config.training.evaluate_samples
        batch = self.validation.evaluation_batch(self.rank % self.loaders, self.loaders, samples)
        if shuffled:
            batch = shuffle_context(batch, self.model_config.eos_token_id, self.config.seed)
        size = self.config.micro_batch * self.config.data_parallel // self.loaders
        total, tokens = 0.0, 0.0
        self.built.evaluation_step.set_train(False)
        for start in range(0, len(batch.samples), size):
            arrays = _tensors(_padded(batch.rows(start, start + size), size))
            loss, count, _ = self.built.evaluation_step(*arrays).asnumpy().tolist()
            total, tokens = total + loss, tokens + count
        return total / max(tokens, 1.0)

    def final_figures(self) -> dict[str, float | None]:
        """Loss, unigram entropy and loss with shuffled contexts on the validation split, in nats: they tell a language
        model from a table of frequencies."""
        return {
            "validation_loss": self.validation_loss(),
            "unigram_entropy": unigram_entropy(self.validation),
            "shuffled_context_loss": self.evaluate(shuffled=True) if self.evaluates else None,
        }


def used_memory(device: str) -> int:
    """Bytes that this rank uses: host memory on a CPU, otherwise the peak of tensors on the device so far."""
    return psutil.Process().memory_info().rss if device == "cpu" else ms.runtime.max_memory_allocated()


def _set(parameter: ms.Parameter, value: np.ndarray) -> None:
    if value.shape != tuple(parameter.shape):
        raise RunFailure(
            f"{parameter.name}: the engine made it {tuple(parameter.shape)}, the plan says {value.shape}; "
            "check the configuration with `ms-codegeex rehearse`"
        )
    parameter.set_data(Tensor(np.ascontiguousarray(value)), slice_shape=True)


def _tensors(batch: Batch) -> list[Tensor]:
    return [Tensor(array) for array in batch.arrays()]


def _padded(batch: Batch, size: int) -> Batch:
    """The batch filled up to `size` rows with masked copies of its last row, because a graph has one shape."""
    missing = size - len(batch.samples)
    if not missing:
        return batch
    arrays = [np.concatenate([a, np.repeat(a[-1:], missing, 0)]) for a in batch.arrays()]
    arrays[2][-missing:] = 0.0
    return Batch(*arrays)
