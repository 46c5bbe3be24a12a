"""The train loop. Features that only watch are callbacks."""

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
class Record:
    """What one step has to say; the keys of a line of log.jsonl. Times in seconds, rates over the whole job."""

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
    """Watches a run; every method may be left out."""

    def status(self, text: str) -> None:
        """Something that takes a while begins."""

    def warning(self, text: str) -> None:
        """Something went wrong that does not end the run."""

    def step(self, trainer: Trainer, record: Record) -> None:
        """A step has ended."""

    def end(self, trainer: Trainer) -> None:
        """The last step has ended."""


@dataclass
class Progress:
    """Where a run stands; saved in checkpoints."""

    step: int = 0
    samples: int = 0  # global sample number the next step starts at
    tokens: int = 0  # trained on: counted by the loss, in steps that were not skipped


class Trainer:
    """Builds network, optimizer and steps from the configuration and runs them on this rank's share of the data."""

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
        self.rank, self.loaders = rank, config.mesh.stage_size  # devices that load different samples
        self.callbacks, self.matmul_peak = list(callbacks), matmul_peak
        self.progress = Progress()
        self.evaluated: tuple[int, float] | None = None  # step and validation loss
        self.compiled = False
        self.empty_steps = 0  # in a row, without a token that counts
        # what the run trains on, before it starts: a path may hold other data later. Rank 0's state is the one saved
        self.datasets = content_hashes(config.data) if rank == 0 else {}
        self.model_config = config.model.sizes
        data.check_model(self.model_config.vocab_size, self.model_config.eos_token_id)
        self.placement = Placement(config, rank)
        # the engine shortens what a device shares when it compiles; whole weights are never made on it
        with no_init_parameters() if config.partitioned else nullcontext():
            self.built = build(config, tied_group=tied_group, compile_once=True)
        self.train_step, self.optimizer = self.built.step, self.built.optimizer
        if config.partitioned:
            self._compile()
        self._initialise()

    def _compile(self) -> None:
        """Partition and compile the step; from then on parameters have the shape of this rank's part."""
        self.status("compiling the training graph")
        rows = self.config.training.global_batch // self.loaders
        ids, samples = np.zeros((rows, self.config.seq_length), np.int32), np.zeros(rows, np.int32)
        self.train_step.set_train(True)
        self.train_step.compile(*_tensors(Batch(ids, ids, ids.astype(np.float32), samples)))

    def _initialise(self) -> None:
        """Weights from seed and name; what the engine left empty otherwise (moments, buffers) becomes zero."""
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
        """Weights and moments that this rank holds, by their own names."""
        parameters = (*self.optimizer.parameters, *self.optimizer.m, *self.optimizer.v)
        return {p.name: p for p in parameters if self.placement.here(p.name)}

    def own_slices(self) -> dict[str, Slice]:
        """The parts of weights and moments that this rank has to save: together with other ranks', a checkpoint."""
        slices = {}
        for name, parameter in self.state_tensors().items():
            if self.placement.writes(name):
                shape, window = self.placement.shape(name, tuple(parameter.shape)), self.placement.window(name)
                offset = tuple(part.start for part in window) if window else (0,) * len(shape)
                slices[name] = Slice(shape, offset, parameter.asnumpy())
        return slices

    def scalars(self) -> dict[str, Any]:
        """The rest of the state, as JSON. Dropout and order are functions of seed and sample number: no generator
        state."""
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
        """Continue from a checkpoint; the state is checked against this model first."""
        parameters, place, state = self.state_tensors(), self.placement, checkpoint.state
        everything = (*self.optimizer.parameters, *self.optimizer.m, *self.optimizer.v)
        names = {place.stored_name(parameter.name) for parameter in everything}
        if names != set(checkpoint.names):
            odd = sorted(names ^ set(checkpoint.names))[0]
            raise UserError(
                f"{checkpoint.path}: tensor {odd} is on one side only; this checkpoint is of another model, "
                "choose another output or checkpoint.resume=null"
            )
        for name, parameter in parameters.items():
            shape, stored = place.shape(name, tuple(parameter.shape)), place.stored_name(name)
            if shape != checkpoint.shape(stored):
                raise UserError(
                    f"{checkpoint.path}: tensor {stored} is {checkpoint.shape(stored)}, the model has {shape}; give "
                    "the model settings of the run, or another output"
                )
        for name, parameter in parameters.items():
            _set(parameter, checkpoint.tensor(place.stored_name(name), place.window(name)))
        self.optimizer.step.set_data(Tensor(state["optimizer_step"], ms.int32))
        if (
            self.train_step.scaled and state["config"]["training"]["precision"] == "fp16"
        ):  # FP32 has no scale to hand on
            self.train_step.scale.set_data(Tensor(state["loss_scale"]["scale"], ms.float32))
            self.train_step.good_steps.set_data(Tensor(state["loss_scale"]["good_steps"], ms.int32))
        self.progress = Progress(checkpoint.step, state["samples"], state["tokens"])

    # -- running -------------------------------------------------------------------------------------------------------

    def status(self, text: str) -> None:
        """Tell the callbacks what begins now."""
        for callback in self.callbacks:
            callback.status(text)

    def warn(self, text: str) -> None:
        """Tell the callbacks what went wrong and does not end the run."""
        for callback in self.callbacks:
            callback.warning(text)

    @property
    def finished(self) -> bool:
        """Whether the run has had its steps or, with `training.tokens`, its tokens."""
        tokens = self.config.training.tokens
        return self.progress.tokens >= tokens if tokens else self.progress.step >= self.config.steps

    @property
    def steps_left(self) -> int:
        """Steps to come; with `training.tokens` an estimate."""
        tokens, done = self.config.training.tokens, self.progress
        if not tokens:
            return max(0, self.config.steps - done.step)
        slots = self.config.training.global_batch * self.config.seq_length
        return math.ceil(max(0, tokens - done.tokens) / (done.tokens / done.step if done.tokens else slots))

    def run(self) -> None:
        """Train to the end, with the next batches read while a step computes."""
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

    def _step(self, batch: Batch, began: float, waited: float) -> Record:
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
                f"Look at the data around sample {progress.samples - self.config.training.global_batch}, or go on from "
                "the last checkpoint that finite steps followed, at a lower rate: --resume auto --allow-change "
                "training.schedule training.schedule.learning_rate=…",
                progress.step,
            )
        return self._record(loss, norm if finite else None, rate, scale, not finite, seconds, waited)

    def _record(
        self, loss: float, norm: float | None, rate: float, scale: float, skipped: bool, seconds: float, waited: float
    ) -> Record:
        slots = self.config.training.global_batch * self.config.seq_length
        flops = self.model_config.flops_per_token(self.config.seq_length) * slots / seconds
        peak = self.matmul_peak * self.config.devices
        return Record(
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
        """Whether this run can: MindSpore cuts a pipeline only where there are gradients."""
        return self.config.mesh.pipeline == 1

    def validation_loss(self) -> float | None:
        """`evaluate` of the weights as they are now, computed once a step; None in a pipeline."""
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
        """What tells a language model from a table of frequencies, all on the validation split, in nats."""
        return {
            "validation_loss": self.validation_loss(),
            "unigram_entropy": unigram_entropy(self.validation),
            "shuffled_context_loss": self.evaluate(shuffled=True) if self.evaluates else None,
        }


def used_memory(device: str) -> int:
    """Bytes that this rank uses: of the host on a CPU, else the most that tensors took of the device so far."""
    return psutil.Process().memory_info().rss if device == "cpu" else ms.runtime.max_memory_allocated()


def _set(parameter: ms.Parameter, value: np.ndarray) -> None:
    if value.shape != tuple(parameter.shape):
        raise RunFailure(
            f"{parameter.name}: the engine made it {tuple(parameter.shape)}, the plan says {value.shape}; "
            "rehearse the configuration"
        )
    parameter.set_data(Tensor(np.ascontiguousarray(value)), slice_shape=True)


def _tensors(batch: Batch) -> list[Tensor]:
    return [Tensor(array) for array in batch.arrays()]


def _padded(batch: Batch, size: int) -> Batch:
    """The batch filled up to `size` rows with masked copies of its last one: a graph has one shape."""
    missing = size - len(batch.samples)
    if not missing:
        return batch
    arrays = [np.concatenate([a, np.repeat(a[-1:], missing, 0)]) for a in batch.arrays()]
    arrays[2][-missing:] = 0.0
    return Batch(*arrays)
