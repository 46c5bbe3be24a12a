"""The training loop. Features that only observe a run are callbacks."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
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
from ms_codegeex.errors import NotFinite, Rewind, RunFailure, UserError
from ms_codegeex.formats.adapters import fingerprint
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.checkpoint_writing import Slice
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.parallel.placement import Placement, loaded_rows
from ms_codegeex.training.build import build
from ms_codegeex.training.evaluation import mean_loss, tensors_of
from ms_codegeex.training.faults import Faults
from ms_codegeex.training.initialise import starting_weight

EMPTY_STEPS = 100


@dataclass
class StepRecord:
    """The figures of one step, with the keys of a line of log.jsonl. Times in seconds, rates over the whole job."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    loss_scale: float | None  # None without one
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

    def pause(self, begins: bool) -> None:
        """Work between two steps, such as saving, begins or ends."""

    def event(self, event: str, **content: Any) -> None:
        """Something happened that the run's history should have."""

    def start(self, trainer: Trainer) -> None:
        """The model that a run with `training.patience` starts from has been evaluated."""

    def step(self, trainer: Trainer, record: StepRecord) -> None:
        """A step has ended."""

    def end(self, trainer: Trainer) -> None:
        """The last step has ended."""

    def leave(self, trainer: Trainer) -> None:
        """No step follows: after `end`, or after an error."""


@dataclass
class TrainingProgress:
    """How far a run has come; saved in checkpoints."""

    step: int = 0
    samples: int = 0  # global number of the sample that the next step starts with
    tokens: int = 0  # trained on: those that the loss counts in steps that were not skipped
    best: tuple[int, float] | None = None  # step and loss of the best evaluation; 0: of the model that it starts from
    worse: int = 0  # evaluations since the last that was lower than those of all steps before
    lowest: float | None = None  # loss of that one


class Trainer:
    """Builds network, optimizer and steps from the configuration and trains on this rank's share of the data.

    Args:
        config: the run.
        data: what to train on.
        validation: the validation split.
        rank: this process's number in the job.
        matmul_peak: FLOP/s of one device, the reference for MFU; 0 if unknown.
        callbacks: observers of the run.
        left_out: global numbers of the first samples of batches that are not trained on.
        tied_group: the communication group of the tied word embedding, if this rank belongs to one.
        weights: tensors to start from, by our names; those that are missing are random.
        infill: the sentinels of the model that the run starts from; those of the data replace them.
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
        left_out: Collection[int] = (),
        tied_group: str | None = None,
        weights: Mapping[str, LazyTensor] | None = None,
        infill: Mapping[str, Any] | None = None,
    ):
        self.config, self.data, self.validation = config, data, validation
        self.rank, self.loaders = rank, config.mesh.stage_size  # loaders: devices that load different samples
        self.callbacks, self.matmul_peak = list(callbacks), matmul_peak
        self.progress, self.faults = TrainingProgress(), Faults(config.faults, left_out)
        self.fault: str | None = None  # of the last step
        self.evaluated: tuple[int, float] | None = None  # step and validation loss
        self.compiled = self.stopped = False
        self.empty_steps = 0  # in a row, without a token that counts
        # hashed before training: a path may hold other data later. Only rank 0's state is saved
        self.datasets = content_hashes(config.data) if rank == 0 else {}
        self.model_config = config.model.sizes
        per_token = self.model_config.flops_per_token(config.seq_length, config.lora.rank > 0)
        self.flops = per_token * config.training.global_batch * config.seq_length  # of a step
        self.infill = infill if data.infilling is None else data.infilling.sentinels.to_json()
        data.check_model(self.model_config.vocab_size, self.model_config.eos_token_id)
        self.placement = Placement(config, rank)
        # the engine shards parameters when it compiles; whole weights are never allocated on a device
        with no_init_parameters() if config.partitioned else nullcontext():
            self.built = build(config, tied_group=tied_group, compile_once=True)
        self.train_step, self.optimizer = self.built.step, self.built.optimizer
        if config.partitioned:
            self.compile()
        self._initialise(weights or {})
        # the model that adapters belong to; they are all that is saved
        model = set(self.model_config.parameter_shapes())
        base = {name: tensor for name, tensor in (weights or {}).items() if name in model}
        self.base = fingerprint(base) if config.lora.rank and rank == 0 else None

    def compile(self) -> None:
        """Compile the graphs of a step, always in the same order. A partitioned run does so before it starts: from then
        on parameters have the shape of this rank's shard."""
        self.status("compiling the training graph")
        rows = self.config.training.global_batch // self.loaders // self.built.accumulation
        ids, samples = np.zeros((rows, self.config.seq_length), np.int32), np.zeros(rows, np.int32)
        inputs = tensors_of(Batch(ids, ids, ids.astype(np.float32), samples))
        self.train_step.set_train(True)
        if self.built.accumulate_step is not None:
            self.built.accumulate_step.compile(*inputs)
        self.train_step.compile(*inputs)

    def _initialise(self, weights: Mapping[str, LazyTensor]) -> None:
        """Set weights from `weights`, or from seed and name; moments and buffers that the engine left empty to zero."""
        names = {*(p.name for p in self.optimizer.parameters), *self.model_config.parameter_shapes()}
        for parameter in self.train_step.get_parameters():
            name, place = parameter.name, self.placement
            if name in names:
                if place.here(name):
                    shape, window = place.shape(name, tuple(parameter.shape)), place.window(name)
                    stored = place.stored_name(name)
                    std = self.model_config.initial_std(stored)
                    _set(parameter, starting_weight(stored, shape, std, self.config.seed, window, weights))
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
            "best": self.progress.best,
            "worse": self.progress.worse,
            "lowest": self.progress.lowest,
            "faults": self.faults.state() if self.guarded else None,
            "datasets": self.datasets,
            "base": self.base,
            "rng": {"seed": self.config.seed},
            "config": self.config.to_dict(),
            "tokenizer": self.data.info.get("tokenizer"),
            "infill": self.infill,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint. `UserError` if its tensors are not those of this model."""
        parameters, place, state = self.state_tensors(), self.placement, checkpoint.state
        if state.get("base") != self.base and self.rank == 0:
            raise UserError(
                f"{checkpoint.path}: its adapters belong to another model than {self.config.model.weights}; restore "
                "that model, or choose another output"
            )
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
        best = state.get("best")  # this and the next two are missing from older checkpoints
        self.progress = TrainingProgress(
            checkpoint.step,
            state["samples"],
            state["tokens"],
            tuple(best) if best else None,
            state.get("worse", 0),
            state.get("lowest", best[1] if best else None),
        )
        if self.guarded and state.get("faults"):
            self.faults.restore(state["faults"])

    # -- running -------------------------------------------------------------------------------------------------------

    def status(self, text: str) -> None:
        """Tell the callbacks what begins now."""
        for callback in self.callbacks:
            callback.status(text)

    def warn(self, text: str) -> None:
        """Tell the callbacks about a problem that does not end the run."""
        for callback in self.callbacks:
            callback.warning(text)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Tell the callbacks about work between two steps."""
        for callback in self.callbacks:
            callback.pause(True)
        try:
            yield
        finally:
            for callback in self.callbacks:
                callback.pause(False)

    def event(self, event: str, **content: Any) -> None:
        """Report an event to the callbacks, of this step if `content` does not name another one."""
        for callback in self.callbacks:
            callback.event(event, **{"step": self.progress.step, **content})

    @property
    def guarded(self) -> bool:
        """Whether the run has a policy for faults."""
        return self.config.faults.policy != "none"

    @property
    def finished(self) -> bool:
        """Whether the run has reached its number of steps or, with `training.tokens`, of tokens; or no longer
        improves."""
        tokens, patience = self.config.training.tokens, self.config.training.patience
        if patience and self.progress.worse >= patience:
            return True
        return self.progress.tokens >= tokens if tokens else self.progress.step >= self.config.steps

    @property
    def ending(self) -> bool:
        """Whether no step follows: the run is finished, or has been stopped."""
        return self.stopped or self.finished

    def stop(self) -> None:
        """End the run after this step. All ranks have to stop after the same one."""
        self.stopped = True

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
        try:
            self._run()
        finally:
            for callback in self.callbacks:
                callback.leave(self)

    def _run(self) -> None:
        every = self.config.training.evaluate_every
        if not self.ending:
            self._evaluate_start()
            self.status("compiling the training graph")
        with read_ahead(self._local_batch, self._positions(), self.config.data.workers) as batches:
            while not self.ending:
                began = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - began
                record = self._step(batch, began, waited)
                if record.compiling:
                    self.event("compiled", seconds=record.step_seconds)
                if record.skipped:
                    self._report_skipped(record)
                if self.finished or (every and record.step % every == 0):
                    record.validation_loss = self.validation_loss()
                    self.event("evaluation", validation_loss=record.validation_loss)
                    self._compare(record)
                self.compiled = True
                for callback in self.callbacks:
                    callback.step(self, record)
                if self.fault:
                    self._answer_fault(record)
        for callback in self.callbacks:
            callback.end(self)

    def _positions(self) -> Iterator[int]:
        """Global numbers of the first samples of the batches to come, without those that are left out."""
        size = self.config.training.global_batch
        positions = filter(lambda at: at not in self.faults.left_out, itertools.count(self.progress.samples, size))
        return positions if self.config.training.tokens else itertools.islice(positions, self.steps_left)

    def _evaluate_start(self) -> None:
        """Let the model that the run starts from be a candidate for the best one, if the run keeps that."""
        progress, config = self.progress, self.config
        if progress.step or progress.best is not None or not (config.training.patience and config.model.weights):
            return
        if math.isfinite(loss := self.validation_loss()):
            progress.best = (0, loss)
            for callback in self.callbacks:
                callback.start(self)

    def _compare(self, record: StepRecord) -> None:
        """Whether this evaluation is the best so far. The patience counts evaluations that are no better than earlier
        ones: after the first steps a run is often worse than the model it starts from, and still learns."""
        progress, loss = self.progress, record.validation_loss
        if loss is None or record.skipped:
            return
        if not math.isfinite(loss) or (progress.lowest is not None and loss >= progress.lowest):
            progress.worse += 1
            return
        progress.lowest, progress.worse = loss, 0
        if progress.best is None or loss < progress.best[1]:
            progress.best = (record.step, loss)

    def _report_skipped(self, record: StepRecord) -> None:
        """Report a step that left the weights as they were, with the global numbers of its samples."""
        samples = [self.progress.samples - self.config.training.global_batch, self.progress.samples]
        if self.fault is None:  # FP16
            self.event("skip", samples=samples)
            return
        figures = {"loss": record.loss, "gradient_norm": record.gradient_norm}
        limits = dict(zip(("loss_limit", "norm_limit"), self.faults.limits, strict=True))
        self.event("fault", kind=self.fault, samples=samples, policy=self.config.faults.policy, **figures, **limits)
        if self.config.faults.policy == "rewind":  # before anything that takes time: another rank may end this one
            self.event("rewind", left_out=samples[0])
        self.warn(f"step {record.step}: loss {record.loss:.4g}, a fault ({self.fault}); samples {samples[0]} and after")

    def _answer_fault(self, record: StepRecord) -> None:
        """End the run, or this attempt of it, if the policy says so."""
        settings, first = self.config.faults, self.progress.samples - self.config.training.global_batch
        where = f"step {record.step}: loss {record.loss}, gradient norm {record.gradient_norm}, samples from {first} on"
        if settings.policy == "rewind":
            raise Rewind(f"{where}: {self.fault}; this batch is left out from now on, resume with --resume auto")
        if settings.policy == "stop":
            raise NotFinite(f"{where}: {self.fault}, and faults.policy is stop; look at these samples", record.step)
        if self.faults.in_a_row > settings.most:
            raise NotFinite(
                f"{where}: {self.fault}, as were the {settings.most} steps before it (faults.most); lower "
                "training.schedule.learning_rate and resume with --resume auto --allow-change training.schedule",
                record.step,
            )

    def _local_batch(self, first: int) -> Batch:
        rows = loaded_rows(self.config, self.rank)
        return self.data.training_batch(first + rows.start, rows.stop - rows.start)

    def _step(self, batch: Batch, began: float, waited: float) -> StepRecord:
        self.train_step.set_train(True)  # the evaluation shares the network and turns dropout off
        *others, last = batch.parts(self.built.accumulation)
        for part in others:
            self.built.accumulate_step(*tensors_of(part))
        if self.guarded:
            self.train_step.set_limits(*self.faults.limits)
        outputs = self.train_step(*tensors_of(last))
        loss, count, norm, rate, scale, updated = outputs.asnumpy().tolist()
        progress, size = self.progress, self.config.training.global_batch
        progress.step += 1
        while progress.samples in self.faults.left_out:
            progress.samples += size
        progress.samples += size
        progress.tokens += round(count) if updated else 0
        self.empty_steps = 0 if count else self.empty_steps + 1
        if self.empty_steps == EMPTY_STEPS:
            raise UserError(
                f"data: the last {EMPTY_STEPS} steps held no token that the loss counts; look at the dataset with "
                "`ms-codegeex inspect --sample`"
            )
        seconds = time.perf_counter() - began
        finite = math.isfinite(norm)
        if self.guarded:
            self.fault = self.faults.judge(loss, norm, lowers_scale=not finite and scale > 1.0)
        elif not finite and scale <= 1.0:  # no loss scale, or one that cannot be lowered
            raise NotFinite(
                f"step {progress.step}: loss {loss}, gradient norm {norm}; nothing was saved from this step. "
                f"Look at the data around sample {progress.samples - size}, or resume "
                "from the last checkpoint that finite steps followed, at a lower rate: --resume auto --allow-change "
                "training.schedule training.schedule.learning_rate=…",
                progress.step,
            )
        return self._record(loss, norm if finite else None, rate, scale, not updated, seconds, waited)

    def _record(
        self, loss: float, norm: float | None, rate: float, scale: float, skipped: bool, seconds: float, waited: float
    ) -> StepRecord:
        slots = self.config.training.global_batch * self.config.seq_length
        peak = self.matmul_peak * self.config.devices
        return StepRecord(
            step=self.progress.step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            loss_scale=scale if self.train_step.scaled else None,
            skipped=skipped,
            tokens=self.progress.tokens,
            tokens_per_second=slots / seconds,
            mfu=self.flops / seconds / peak if peak else 0.0,
            data_wait_percent=100 * waited / seconds,
            memory_bytes=used_memory(self.config.device),
            step_seconds=seconds,
            compiling=not self.compiled,
        )

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def validation_loss(self) -> float:
        """`evaluate` of the current weights, computed at most once per step."""
        if self.evaluated is None or self.evaluated[0] != self.progress.step:
            self.status("evaluating" if self.evaluated else "compiling the evaluation graph and evaluating")
            self.evaluated = (self.progress.step, self.evaluate())
        return self.evaluated[1]

    def evaluate(self, shuffled: bool = False, data: Sequences | None = None) -> float:
        """Loss in nats on evenly spaced sequences of `data`, by default of the validation data; `shuffled`: with
        permuted contexts. No dropout."""
        samples = self.config.training.evaluate_samples
        batch = (data or self.validation).evaluation_batch(self.rank % self.loaders, self.loaders, samples)
        if shuffled:
            batch = shuffle_context(batch, self.model_config.eos_token_id, self.config.seed)
        return mean_loss(self.built.evaluation_step, batch, self.built.evaluation_rows)

    def losses_on(self, data: Mapping[str, Sequences]) -> dict[str, float]:
        """`evaluate` of the current weights on each of `data`."""
        if data:
            self.status("evaluating " + ", ".join(data))
        return {name: self.evaluate(data=sequences) for name, sequences in data.items()}

    def final_figures(self) -> dict[str, float]:
        """Loss, unigram entropy and loss with shuffled contexts on the validation split, in nats: they distinguish a
        language model from a table of frequencies."""
        self.status("evaluating")
        return {
            "validation_loss": self.validation_loss(),
            "unigram_entropy": unigram_entropy(self.validation),
            "shuffled_context_loss": self.evaluate(shuffled=True),
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
