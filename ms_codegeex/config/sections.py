"""The sections of a run's configuration. Names of fields are the keys of the YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from ms_codegeex.config.blend import BlendWeights, checked_blend
from ms_codegeex.config.validation import Natural, Positive, Rate, Share


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from. No `train`: the source code found on this machine, prepared once beside `output`."""

    train: str | None = None
    blend: Annotated[BlendWeights | None, PlainValidator(checked_blend)] = None  # instead of `train`: a mixture
    validation: str | None = None  # a dataset directory; none: the one of `train`, or the last stage's first
    seq_length: Positive | None = None  # none: the model's max_position_embeddings
    reset_at_eos: bool = True  # attention and positions restart after each document's end
    tokenizer: str | None = None  # name or directory, for a corpus prepared without `train`; none: the model's
    workers: Natural = 1  # threads that read ahead; 0: batches are read when they are needed


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW as in the CodeGeeX release (betas 0.9 and 0.95, eps 1e-8, decay 0.1, none on LayerNorms and biases)."""

    beta1: Share = 0.9
    beta2: Share = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Rate = 0.1
    bias_correction: bool = False  # the release's optimizer has none


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then cosine, both indexed by the same count of updates; constant after `decay_steps`."""

    learning_rate: Rate = 1e-4
    end_learning_rate: Rate = 1e-6
    warmup_steps: Natural = 2000
    decay_steps: Positive = 200_000


@dataclass(frozen=True)
class LossScaleConfig:
    """Dynamic loss scale for FP16: doubled after `window` good steps, halved on overflow, when the step is skipped."""

    initial: Annotated[float, Field(ge=1, le=1e38)] = 2.0**32  # kept in FP32
    window: Positive = 1000
    factor: Annotated[float, Field(gt=1)] = 2.0


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch and numerics of a run. Batches count sequences; `micro_batch` is what one device holds at once."""

    steps: Positive | None = None
    tokens: Positive | None = None  # instead of steps: the run ends when the loss has counted so many
    global_batch: Positive = 16
    micro_batch: Positive | None = None  # none: no accumulation
    precision: Literal["fp32", "fp16"] = "fp32"
    recompute: Literal["none", "selective", "full"] = "none"  # selective: attention scores; full: every block
    dropout: Share = 0.1
    evaluate_every: Natural = 0  # 0: only at the end
    evaluate_samples: Positive = 64
    clip_norm: Rate = 1.0  # 0: off
    loss_chunk: Natural | None = None  # rows of logits at once; 0: all; none: chosen for device and precision
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)


@dataclass(frozen=True)
class FusionConfig:
    """What is fused. None: chosen for the device (`config/fusions.py`), all of it off on a CPU but AdamW."""

    allreduce_groups: Natural = 4  # gradient buckets, by block number; 0: every parameter alone
    graph_kernel: bool | None = None
    attention: bool | None = None
    norm: bool | None = None
    optimizer: bool | None = None
    dropout: bool | None = None


@dataclass(frozen=True)
class ParallelConfig:
    """The mesh. `data` none: all devices that the other axes leave."""

    data: Positive | None = None
    tensor: Positive = 1
    pipeline: Positive = 1
    optimizer_shard: Positive = 1  # replicas that share weights and optimizer state; 1: none do
    sequence: bool = False  # rows between the tensor-parallel parts are sharded over `tensor` too
    vocabulary: bool = True  # word table, head and loss are sharded over `tensor`
    micro_batches: Positive | None = None  # of a step; none: what training.micro_batch makes of it
    server_devices: Positive = 8
    hardware: str | None = None  # none: `plan` assumes ascend910 (a100 for device: gpu), a run asks the driver
    fusion: FusionConfig = field(default_factory=FusionConfig)


@dataclass(frozen=True)
class CheckpointConfig:
    """How often to save, how many to keep, whether to start from the newest sound one, what to write at the end."""

    every: Natural = 0  # 0: only at the end
    keep: Positive = 2
    resume: str | None = None  # `auto`, a checkpoint or run directory, or none: from scratch
    export: bool = True  # at the end, write the model directory and the PyTorch file and print a sample


@dataclass(frozen=True)
class LoggingConfig:
    """What a run writes about itself."""

    every: Positive = 1
    tensorboard: bool = True
    plots: bool = True
