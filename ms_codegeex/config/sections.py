"""The sections of a run's configuration. Field names are the keys of the YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from ms_codegeex.config.blend import BlendWeights, checked_blend
from ms_codegeex.config.validation import Natural, Positive, Rate, Share


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from. Without `train`: the source code on this machine, prepared once next to `output`."""

    train: str | None = None
    blend: Annotated[BlendWeights | None, PlainValidator(checked_blend)] = None  # instead of `train`: a mixture
    validation: str | None = None  # a dataset directory; none: `train`, or the first of the last stage
    seq_length: Positive | None = None  # none: the model's max_position_embeddings
    reset_at_eos: bool = True  # attention and positions restart after each document's end
    tokenizer: str | None = None  # name or directory, for a corpus prepared without `train`; none: the model's
    workers: Natural = 1  # threads that prefetch; 0: batches are read when they are needed


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW as in the CodeGeeX release (betas 0.9 and 0.95, eps 1e-8, decay 0.1 except for norms and biases)."""

    beta1: Share = 0.9
    beta2: Share = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Rate = 0.1
    bias_correction: bool = False  # as in the release


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then cosine, both over the same count of updates; constant after `decay_steps`."""

    learning_rate: Rate = 1e-4
    end_learning_rate: Rate = 1e-6
    warmup_steps: Natural = 2000
    decay_steps: Positive = 200_000


@dataclass(frozen=True)
class LossScaleConfig:
    """Dynamic loss scale for FP16: times `factor` after `window` finite steps, divided by it on overflow.

    A step that overflows is skipped.
    """

    initial: Annotated[float, Field(ge=1, le=1e38)] = 2.0**32  # kept in FP32
    window: Positive = 1000
    factor: Annotated[float, Field(gt=1)] = 2.0


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch and numerics of a run. Batches are counted in sequences."""

    steps: Positive | None = None
    tokens: Positive | None = None  # instead of steps: tokens in the loss after which the run ends
    global_batch: Positive = 16
    micro_batch: Positive | None = None  # sequences that a replica processes at once; none: no accumulation
    precision: Literal["fp32", "fp16"] = "fp32"
    recompute: Literal["none", "selective", "full"] = "none"  # selective: attention scores; full: whole blocks
    dropout: Share = 0.1
    evaluate_every: Natural = 0  # 0: only at the end
    evaluate_samples: Positive = 64
    clip_norm: Rate = 1.0  # 0: off
    loss_chunk: Natural | None = None  # rows of logits at once; 0: all; none: by device and precision
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)


@dataclass(frozen=True)
class FusionConfig:
    """Fused kernels. None: the device's default (`config/fusions.py`), which on a CPU is AdamW only."""

    allreduce_groups: Natural = 4  # gradient buckets, by block number; 0: one collective per parameter
    graph_kernel: bool | None = None
    attention: bool | None = None
    norm: bool | None = None
    optimizer: bool | None = None
    dropout: bool | None = None


@dataclass(frozen=True)
class ParallelConfig:
    """The mesh. Without `data`, all devices that the other axes leave."""

    data: Positive | None = None
    tensor: Positive = 1
    pipeline: Positive = 1
    optimizer_shard: Positive = 1  # replicas that weights and optimizer state are sharded over
    sequence: bool = False  # rows of norms and residuals are sharded over `tensor` too
    vocabulary: bool = True  # embedding table, head and loss are sharded over `tensor`
    micro_batches: Positive | None = None  # per step; none: follows from training.micro_batch
    server_devices: Positive = 8
    hardware: str | None = None  # none: `plan` assumes ascend910 (a100 for device: gpu), a run asks the driver
    fusion: FusionConfig = field(default_factory=FusionConfig)


@dataclass(frozen=True)
class CheckpointConfig:
    """How often to save, how many checkpoints to keep, where to resume from, and what to export at the end."""

    every: Natural = 0  # 0: only at the end
    keep: Positive = 2
    resume: str | None = None  # `auto`, or a checkpoint or run directory; none: start from scratch
    export: bool = True  # write the model directory and the PyTorch file and print a sample


@dataclass(frozen=True)
class LoggingConfig:
    """What a run writes about itself."""

    every: Positive = 1
    tensorboard: bool = True
    plots: bool = True
