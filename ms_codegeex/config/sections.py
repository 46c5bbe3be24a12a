"""The sections of a run's configuration. Field names are the keys of the YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from ms_codegeex.config.blend import BlendWeights, checked_blend, corpora_of, parse_stages
from ms_codegeex.config.validation import Natural, Positive, Rate, Share


@dataclass(frozen=True)
class InfillConfig:
    """Training to fill in the middle: documents whose middle is moved to their end, between sentinels."""

    rate: Annotated[float, Field(ge=0, le=1)] | None = None  # share of the documents; none: what the dataset records
    mode: Literal["psm", "spm", "both"] = "both"  # prefix or suffix first, or half of each
    level: Literal["context", "document"] = "context"  # parts of documents in a sample, or whole documents
    sentinels: list[Natural] | None = None  # ids for prefix, suffix and middle; none: the tokenizer's unused ones


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from. Without `train`: the source code on this machine, prepared once next to `output`."""

    train: str | None = None
    blend: Annotated[BlendWeights | None, PlainValidator(checked_blend)] = None  # instead of `train`: a mixture
    validation: str | None = None  # a dataset directory; none: `train`, or the first of the last stage
    held_out: dict[str, str] = field(default_factory=dict)  # dataset directories by name, evaluated before and after
    seq_length: Positive | None = None  # none: the model's max_position_embeddings
    reset_at_eos: bool = True  # attention and positions restart after each document's end
    loss_after_eos: bool = False  # the loss counts the first token of a document too, predicted from the eos before it
    infill: InfillConfig = field(default_factory=InfillConfig)
    tokenizer: str | None = None  # name or directory, for a corpus prepared without `train`; none: the model's
    workers: Natural = 1  # threads that prefetch; 0: batches are read when they are needed

    @property
    def directories(self) -> list[str]:
        """Dataset directories whose training split a run reads, as they are named; none before a corpus is prepared."""
        if self.blend is not None:
            return corpora_of(parse_stages(self.blend))
        return [] if self.train is None else [self.train]


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
    """Linear warm-up, then cosine, both over the same count of updates; constant after `decay_steps`. The cosine begins
    with the warm-up (CodeGeeX release), or after it (CodeGen release)."""

    learning_rate: Rate = 1e-4
    end_learning_rate: Rate = 1e-6
    warmup_steps: Natural = 2000
    decay_steps: Positive = 200_000
    cosine_after_warmup: bool = False


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
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    # selective: attention scores and FP32 inputs of norms; full: whole blocks
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_blocks: list[Natural] | None = None  # of each stage, its first ones; the others do the next cheaper one
    dropout: Share = 0.1
    evaluate_every: Natural = 0  # 0: only at the end
    evaluate_samples: Positive = 64
    patience: Natural = 0  # evaluations without a lower validation loss after which a run ends; 0: it continues
    clip_norm: Rate = 1.0  # 0: off
    z_loss: Rate = 0.0  # adds z_loss·(log Z)² per token to the training loss (CodeGen: 1e-4)
    loss_chunk: Natural | None = None  # rows of logits at once; 0: all; none: by device and precision
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (LoRA), which are trained instead of the model's weights."""

    rank: Natural = 0  # 0: no adapters, all weights are trained
    alpha: Annotated[float, Field(gt=0)] = 16.0  # an adapter's output is multiplied by alpha / rank
    targets: list[str] = field(default_factory=lambda: ["attention"])  # linear layers, by a part of their names
    dropout: Share = 0.0  # of the adapters' inputs
    weights: str | None = None  # adapters to start from: a run, a checkpoint or a directory in PEFT's layout


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
class OverlapConfig:
    """How a step waits less for the tensor-parallel collectives."""

    # of a micro-batch: one computes during the tensor-parallel all-reduces (with `parallel.sequence`: gathers and
    # scatters) of another
    parts: Positive = 1
    recompute_collectives: bool = True  # false: recomputation reuses the all-reduce results of the forward pass


@dataclass(frozen=True)
class ParallelConfig:
    """The mesh. Without `data`, all devices that the other axes leave."""

    data: Positive | None = None
    tensor: Positive = 1
    pipeline: Positive = 1
    stage_layers: list[Positive] | None = None  # of each stage; none: numbers that differ by one at most
    virtual_stages: Positive = 1  # parts of neighbouring layers on each stage, which run in turn (interleaved 1F1B)
    optimizer_shard: Positive = 1  # replicas that weights and optimizer state are sharded over
    sequence: bool = False  # rows of norms and residuals are sharded over `tensor` too
    vocabulary: bool = True  # embedding table, head and loss are sharded over `tensor`
    micro_batches: Positive | None = None  # per step; none: follows from training.micro_batch
    server_devices: Positive = 8
    hardware: str | None = None  # none: `plan` assumes ascend910 (a100 for device: gpu), a run asks the driver
    fusion: FusionConfig = field(default_factory=FusionConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)


@dataclass(frozen=True)
class CheckpointConfig:
    """How often to save, how many checkpoints to keep, where to resume from, and what to export at the end."""

    every: Natural = 0  # 0: only at the end
    keep: Positive = 2
    keep_every: Natural = 0  # checkpoints of steps that this divides are kept for good; 0: of none
    background: bool = True  # write while the next steps compute; needs host memory for a copy of weights and moments
    resume: str | None = None  # `auto`, or a checkpoint or run directory; none: start from scratch
    grace: Rate = 50.0  # seconds in which a run that gets SIGTERM or SIGUSR1 saves and ends
    export: bool = True  # write the model directory and the PyTorch file and print a sample


@dataclass(frozen=True)
class FaultsConfig:
    """The answer to steps that are not finite or whose loss or gradient norm is a spike (training/faults.py)."""

    policy: Literal["none", "skip", "rewind", "stop"] = "none"  # none: only FP16 skips, numbers not finite end the run
    sigma: Annotated[float, Field(gt=0)] = 8.0  # robust standard deviations above the median
    window: Positive = 64  # steps of the median; before that many no step is a spike
    replicas: Natural = 0  # compare the ranks' copies of weights and moments every this many steps; 0: never
    hang: Rate = 20.0  # a step that takes this many times the median, and at least a minute, is a hang; 0: none is
    most: Positive = 5  # more faults in a row than this, or more rewinds to one checkpoint, end the run


@dataclass(frozen=True)
class LoggingConfig:
    """What a run writes about itself."""

    every: Positive = 1
    tensorboard: bool = True
    plots: bool = True
