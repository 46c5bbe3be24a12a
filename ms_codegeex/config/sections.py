"""The sections of a run's configuration. Field names are the keys of the YAML."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field, PlainValidator

from ms_codegeex.config.blend import BlendWeights, checked_blend, corpora_of, parse_blend
from ms_codegeex.config.validation import Natural, Number, Positive, Rate, Share, Text, Whole, matching


@dataclass(frozen=True)
class InfillConfig:
    """Training to fill in the middle: some documents' middle is moved to their end, between sentinels."""

    rate: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Share of the documents whose middle is moved to their end, so that the model learns to fill in:
    [infilling.md](infilling.md). None: the rate that each dataset records, or 0."""
    mode: Literal["psm", "spm", "both"] = "both"
    """With a rate: prefix first (`psm`), suffix first (`spm`) or half of each."""
    level: Literal["context", "document"] = "context"
    """With a rate: parts of documents in each sample, or whole documents (`document`)."""
    sentinels: list[Natural] | None = None
    """With a rate: the ids that mark prefix, suffix and middle; none: the tokenizer's own marks, or unused ids."""


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from. Without `train`: the source code on this machine, prepared once next to `output`."""

    train: Text | None = None
    """A dataset directory; none: the source code on this machine, prepared once next to `output`."""
    blend: Annotated[BlendWeights | None, PlainValidator(checked_blend)] = None
    """Instead of `data.train`: several dataset directories and their weights, in [stages](#blends)."""
    validation: Text | None = None
    """The dataset directory whose validation split is used, or all of it if that is empty; where the run prepares its
    data itself, also files to evaluate on. Left out: `data.train`, or the first directory of a blend's
    last stage. Its tokenizer must be that of the training data, as with `data.held_out`."""
    held_out: dict[Text, Text] = field(default_factory=dict)
    """`{Python: DIR, C++: DIR}`: dataset directories. The model is evaluated on their validation splits at the end, and
    at the beginning if it starts from `model.weights`. Their tokenizer must be that of the training data, but one of
    the two may have more tokens."""
    seq_length: Positive | None = None
    """Predicted tokens per sequence; fine-tuning examples are never truncated, so at least the `seq_length` in their
    dataset.json. Left out: `model.max_position_embeddings`."""
    functions_from: Natural | None = None
    """From this step on, each training sequence begins at a function or method; none: never. That is where a keyword
    (`def`, `fn`, `fun`, `func`, `function`) begins a line, after four spaces or a tab at most. Such beginnings are at
    least 5/8 of `seq_length` apart; some text is in two sequences, text further away in none; the quarter of the
    sequences that repeat themselves most is left out. A corpus with half of its text in documents without functions
    stays continuous."""
    reset_at_eos: bool = True
    """Attention and positions restart after each document; required for fine-tuning examples, but false for those of a
    chat template that ends turns with the end token (`ends_inside` in their dataset.json), which `finetune` sets."""
    loss_after_eos: bool = False
    """The loss also counts the first token of each document, predicted from the end token before it, as in CodeGen's
    training; not for fine-tuning examples."""
    infill: InfillConfig = field(default_factory=InfillConfig)
    tokenizer: Text | None = None
    """Name or directory of the tokenizer, used only when a corpus is prepared because `data.train` is null. Left out:
    the model's."""
    tokenizer_size: Positive | None = None
    """Instead of `data.tokenizer`: a tokenizer of the family with this many ids is trained on the corpus that is
    prepared because `data.train` is null. The model needs the same `vocab_size`, and its end token: on the command
    line both follow for CodeGeeX and CodeGen."""
    languages: tuple[str, ...] = ()
    """Languages of this machine's source code that are taken when a corpus is prepared because `data.train` is null.
    Empty: all that `prepare` takes. What `--corpus` names is taken in all of them."""
    workers: Natural = 1
    """Threads that prefetch, two batches each; 0: a batch is read when its step begins."""

    @property
    def directories(self) -> list[str]:
        """Dataset directories whose training split the run reads, as named; none before a corpus is prepared."""
        if self.blend is not None:
            return corpora_of(parse_blend(self.blend))
        return [] if self.train is None else [self.train]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW as in the CodeGeeX release (betas 0.9 and 0.95, eps 1e-8, decay 0.1, not of norms and biases), or Muon."""

    name: Literal["adamw", "muon"] = "adamw"
    """`muon`: the weights of the blocks' linear layers move along their momentum made orthogonal by five Newton-Schulz
    iterations, scaled so that AdamW's learning rate and decay fit them; everything else follows AdamW. Not for several
    devices of `gpu` or `ascend`, nor for adapters."""
    momentum: Share = 0.95
    """With `muon`: decay of the momentum, which is Nesterov's."""
    beta1: Share = 0.9
    """Decay of the first moment (AdamW)."""
    beta2: Share = 0.95
    """Decay of the second moment."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-8
    """Added to the root of the second moment."""
    weight_decay: Rate = 0.1
    """Decoupled decay of the weights; norms and biases never decay."""
    bias_correction: bool = False
    """Divide the moments by 1 - beta^step; the release had none."""


@dataclass(frozen=True)
class InitialConfig:
    """Initial values of a new model's weights that are not drawn from N(0, `model.init_std`²)."""

    outputs: Literal["normal", "zero"] = "normal"
    """`zero`: the output layers of attention and feed-forward part begin at zero: at first a block changes nothing."""
    positions: Literal["normal", "sinusoid"] = "normal"
    """`sinusoid`: tables of learned positions begin as sinusoids of up to π radians a position."""
    attention: Literal["normal", "previous"] = "normal"
    """`previous`: the heads of the first block begin by attending most to one token each: the one before, the one
    before it, and so on. Needs CodeGeeX, `positions: sinusoid`, and 32 channels a head. In new models only."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Linear warm-up, then a cosine or linear decay; constant after `decay_steps`. The cosine's steps count from the
    start of the warm-up (CodeGeeX release) or from its end (CodeGen release). Numbers that are not set follow from the
    run's length (`over`)."""

    learning_rate: Rate = 1e-4
    """The highest rate, at the end of the warm-up."""
    end_learning_rate: Rate = 1e-6
    """The rate from `decay_steps` on."""
    warmup_steps: Natural | None = None
    """Steps of the linear warm-up. Left out: a tenth of the run, at most 2,000."""
    decay_steps: Positive | None = None
    """Steps of the cosine. Left out: it ends with the run's last step. With `training.tokens` the length is that of
    sequences without masked tokens; steps beyond it have the end rate. If the length changes on resume, the rate goes
    in a line to the cosine of the new length ([rule](run_directory.md#a-longer-or-shorter-run))."""
    cosine_after_warmup: bool = False
    """True: the cosine begins after the warm-up, as in CodeGen; false: it begins with the warm-up, as in CodeGeeX."""
    decay: Literal["cosine", "linear"] = "cosine"
    """`linear`: a line takes the place of the cosine."""

    def over(self, steps: int) -> ScheduleConfig:
        """Return the schedule with both step counts filled in, for a run of `steps` updates."""
        warmup = warm_up_of(steps) if self.warmup_steps is None else self.warmup_steps
        whole = max(1, steps - (warmup if self.cosine_after_warmup else 0))
        return replace(self, warmup_steps=warmup, decay_steps=self.decay_steps or whole)


def warm_up_of(steps: int) -> int:
    return min(2000, steps // 10)


@dataclass(frozen=True)
class LossScaleConfig:
    """Dynamic loss scale for FP16. It is multiplied by `factor` after `window` finite steps and divided by it on
    overflow; a step that overflows is skipped."""

    initial: Annotated[Number, Field(ge=1, le=1e38)] = 2.0**16
    """FP16 only: the first scale of the loss. The 13B's recipes state the release's 2^32, which
    skips the first 10 to 16 steps."""
    window: Positive = 1000
    """Finite steps before the scale grows."""
    factor: Annotated[Number, Field(gt=1)] = 2.0
    """What the scale is multiplied by, and divided by after an overflow."""


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch and numerics of a run. Batches are counted in sequences."""

    steps: Positive | None = None
    """Length of the run; or give `training.tokens`."""
    tokens: Positive | None = None
    """Length of the run in tokens that the loss counts, without skipped steps, whatever the batch size."""
    global_batch: Positive = 16
    """Sequences per step."""
    micro_batch: Positive | None = None
    """Sequences a replica processes at once; a smaller value means gradient accumulation. Left out: the replica's share
    of the batch."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """`fp32`, `fp16` or `bf16` (not on `device: gpu`). FP16 and BF16 keep master weights, LayerNorm, softmax, loss and
    optimizer in FP32. BF16 needs no loss scale; it runs on `ascend910b`, and on a CPU as FP32 rounded to BF16 after
    every operator."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again. `selective`: attention scores and FP32 inputs of fused norms; on `ascend`
    also what is inside activations, and casts of weights that are not sharded by `parallel.optimizer_shard`. `full`:
    every block."""
    recompute_blocks: list[Natural] | None = None
    """One number per stage, e.g. `[5, 3]`: its first N blocks use `training.recompute`; the others use the next cheaper
    setting (`full`: `selective`; `selective`: `none`). `plan --search` finds the smallest numbers that fit into memory.
    Left out: all blocks."""
    dropout: Share = 0.1
    """A function of seed, sample number and position: a resumed run, or one on another number of devices, drops the
    same elements (but see `parallel.fusion.dropout`)."""
    attention_dropout: Share | None = None
    """The same of attention weights. Left out: `training.dropout`, which is then that of hidden states alone."""
    evaluate_every: Natural = 0
    """Steps between evaluations; 0: only at the end. With a pipeline, each started global batch of validation sequences
    costs a whole training step, because MindSpore cannot run a pipeline's forward pass alone."""
    evaluate_samples: Positive = 64
    """Number of validation sequences."""
    patience: Natural = 0
    """Evaluations in a row without a lower validation loss after which the run ends; the checkpoint with the lowest one
    is kept and exported, that of step 0 if no step is better than the model that the run started from. 0: the run
    continues to its last step, and the last checkpoint is exported."""
    clip_norm: Rate = 1.0
    """Global gradient norm; 0: off."""
    z_loss: Rate = 0.0
    """Adds this times (log Z)² to a token's training loss, where Z is the sum of its exponentiated logits; this keeps
    the logits from drifting (CodeGen: 1e-4). Validation losses exclude it."""
    loss_chunk: Natural | None = None
    """Rows of logits computed at once; 0: all. Left out: 256 on a CPU in FP32, else 0. Compiled operators choose their
    own number in training steps, unless it is 0."""
    initial: InitialConfig = field(default_factory=InitialConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)

    @property
    def attention_rate(self) -> float:
        return self.dropout if self.attention_dropout is None else self.attention_dropout


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (LoRA), trained instead of the model's weights."""

    rank: Natural = 0
    """With `model.weights`: adapters of this rank (LoRA) are trained and saved instead of the model's weights; 0: none
    ([finetune.md](finetune.md))."""
    alpha: Annotated[Number, Field(gt=0)] = 16.0
    """The adapters' output is multiplied by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["attention"])
    """The linear layers that get adapters, by a part of their names: `attention`, `feed_forward`, `query`, …."""
    dropout: Share = 0.0
    """Share of each adapter's input that is dropped in training."""
    frozen: Literal["fp32", "fp16", "bf16", "int8", "int4"] = "fp32"
    """The type of the model's own matrices and tables, which do not change: 16 bits take half as much memory; `int8`
    and `int4` round the blocks' matrices as `quantize` does, tables are then `fp16`. On a CPU `fp16`, or in one process
    `int8` and `int4`, multiplied in FP32; on `gpu` and `ascend` on one device, and only the type of
    `training.precision`. Left out, `finetune` chooses it ([finetune.md](finetune.md#memory))."""
    weights: Text | None = None
    """Adapters to start from: a run, a checkpoint, or a directory in PEFT's layout. None: new ones."""

    @property
    def bits(self) -> int:
        return {"int8": 8, "int4": 4}.get(self.frozen, 0)

    @property
    def tables(self) -> str:
        return "fp16" if self.bits else self.frozen


@dataclass(frozen=True)
class FusionConfig:
    """Fused kernels. None: the device's default (`config/chosen_hardware.py`). On a CPU, only AdamW is on by default;
    in FP32 the operators of `kernels/` are used instead."""

    allreduce_groups: Natural = 4
    """Buckets, by block number, for gradients and for the weights gathered for optimizer sharding, where the engine
    partitions the graph (`gpu`, `ascend`); 0: one collective per parameter."""
    graph_kernel: bool | None = None
    """Chains of element-wise operators are compiled into one kernel (`jit_level` O1 on a device); on a CPU it changes
    results by 1e-4. Left out: `ascend`: on, else off."""
    attention: bool | None = None
    """FlashAttentionScore; only on `device: ascend`, with a head size that is a multiple of 16 up to 512. Elsewhere
    `true` is an error. Left out: on for `ascend910b` in FP16 or BF16 (CodeGen: also `model.scores_fp32: false`); `cpu`
    in FP32: compiled operators (docs/generate.md), which `false` turns off; else elementary operators. It drops the
    same attention weights as these."""
    documents: bool = False
    """Fused attention takes the ends of documents instead of a mask: short ones cost less, and no mask takes memory.
    Not with dropout of attention weights ([plan.md](plan.md#documents-by-their-ends))."""
    norm: bool | None = None
    """The engine's LayerNorm kernel; on a CPU it is slower than elementary operators. The RMSNorm kernel (CodeGeeX2)
    exists on `ascend` only. Left out: `cpu`: off, or compiled operators as for `attention`, which a value here turns
    off; else on."""
    optimizer: bool | None = None
    """The AdamWeightDecay kernel. Left out: on, or the compiled operator where the run uses those."""
    dropout: bool | None = None
    """The engine's dropout kernel and random numbers: a resumed run drops other elements, so it is not bitwise
    reproducible. Its seeds have no effect on Ascend, so it is allowed on one device without recomputation only. Left
    out: off."""


@dataclass(frozen=True)
class OverlapConfig:
    """Ways to reduce the time that a step waits for tensor-parallel collectives."""

    parts: Positive = 1
    """With `parallel.tensor`: each micro-batch is divided into this many parts, so that one part's collectives can run
    while another part computes. Without micro-batches the parts are independent; with them, the second part's forward
    pass starts when the first part's has ended ([plan.md](plan.md#overlap))."""
    recompute_collectives: bool = True
    """False: with `parallel.tensor` and `training.recompute: full`, recomputation does not repeat the all-reduce after
    attention and the matmul before it. Instead, the all-reduce's result and the block's complete input, not only a
    slice of it, are saved. Not with `parallel.sequence`, `training.recompute_blocks`, adapters or the dropout
    kernel."""


@dataclass(frozen=True)
class ParallelConfig:
    """The device mesh. Without `data`, that axis takes all devices that the others leave."""

    data: Positive | None = None
    """Data-parallel replicas. Left out: `devices` divided by the other axes."""
    tensor: Positive = 1
    """Devices that each matrix is sharded over, within one server."""
    pipeline: Positive = 1
    """Pipeline stages."""
    stage_layers: list[Positive] | None = None
    """Layers of each stage, such as `[11,10,10,9]`. Their sum is the number of blocks, and one more for CodeGeeX's top
    query layer, which is in the last stage. `plan` prints the numbers that balance the stages' times. Left out: as
    equal as possible."""
    virtual_stages: Positive = 1
    """Parts of each stage (interleaved 1F1B): the parts of all stages follow one another in turn, all with equally many
    layers, so that the pipeline waits less and sends more ([plan.md](plan.md#the-model)). Needs `parallel.pipeline`,
    layers that stages x parts divide, micro-batches that are a multiple of the stages; not with
    `parallel.stage_layers`, `parallel.overlap.*` or `training.recompute_blocks`."""
    optimizer_shard: Positive = 1
    """Replicas over which weights and optimizer state of the matrices are sharded; 1: every replica holds all of
    them."""
    optimizer_level: Literal[1, 2, 3] = 1
    """What `parallel.optimizer_shard` shards besides. 2: sums of gradients over micro-batches, each of which then
    reduces its own, and tables of tokens, unless input and output share one. 3: also, every micro-batch gathers weights
    twice, for its forward and for its backward pass, instead of keeping them; not with `parallel.pipeline`
    ([plan.md](plan.md#the-model))."""
    sequence: bool = False
    """With `parallel.tensor`: the rows of LayerNorms and residuals are sharded over those devices too."""
    short_gradients: bool = False
    """Gradients travel in the 16 bits of `training.precision`, half as many bytes; sums of micro-batches, weights and
    optimizer state stay FP32 ([plan.md](plan.md#gradients-in-16-bits))."""
    vocabulary: bool = True
    """With `parallel.tensor`: embedding table, head and loss are sharded by vocabulary."""
    micro_batches: Positive | None = None
    """Micro-batches per step, given instead of their size; a pipeline needs at least one per stage. Left out: from
    `training.micro_batch`."""
    graph_micro_batches: Positive | None = None
    """Micro-batches in the compiled graph of a run that MindSpore partitions. The host calls it until the step's
    micro-batches are done. Compilation takes time and host memory for each of them; with fewer, a pipeline is filled
    and gradients are reduced more often ([plan.md](plan.md#compilation)). Left out: the largest divisor of the
    micro-batches that is at most 12 times `parallel.pipeline`."""
    server_devices: Positive = 8
    """Devices per server; a tensor-parallel group never spans two servers."""
    hardware: str | None = None
    """`ascend910`, `ascend910b`, `ascend910c`, `a100`, `h100`, the driver's name of a 910B such as `Ascend910B4`, or a
    [hardware file](plan.md#measured-steps): the accelerator that `plan` assumes (none: `ascend910`, or `a100` for
    `device: gpu`). A run uses its kernels and no more memory than the plan assumes. On `ascend` the driver reports the
    hardware; a different value here is an error."""
    calibration: str | None = None
    """The hardware file that `hardware` named; `hardware` is then the name of its chip. Only plans read it."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    overlap: OverlapConfig = field(default_factory=OverlapConfig)


@dataclass(frozen=True)
class ClusterConfig:
    """How ranks on Ascend servers meet and how long they wait for each other. Variables that the user has set win."""

    interface: (
        Annotated[str, Field(max_length=256), matching(r"[\^=]{0,2}\w[\w.,:@-]*", "a name such as eth0")] | None
    ) = None
    """Network interface over which the servers meet (`HCCL_SOCKET_IFNAME`), such as `eth0`. Left out: the first by
    name. If the servers differ, set `HCCL_IF_IP` on each instead."""
    start_timeout: Annotated[Whole, Field(gt=0, le=2**31 - 1)] = 600
    """Seconds in which all ranks have to start (`--cluster_time_out` of `msrun`, `MS_TOPO_TIMEOUT`)."""
    connect_timeout: Annotated[Whole, Field(ge=120, le=7200)] | None = None
    """Seconds that a rank waits until the others join a communicator, 120 to 7200 (`HCCL_CONNECT_TIMEOUT`). Left out:
    2000, with a pipeline 6000."""
    execute_timeout: Annotated[Whole, Field(gt=0, le=2**31 - 1)] | None = None
    """Seconds that a collective waits for its slowest rank (`HCCL_EXEC_TIMEOUT`; on the 910 at most 17340). Left out:
    7200, because the first one waits for the rank that compiles longest; HCCL's own is 1836."""
    buffer_size: Annotated[Whole, Field(ge=1, le=4096)] | None = None
    """MiB of each of the two buffers that HCCL keeps for every communicator (`HCCL_BUFFSIZE`). Left out: what the
    largest message of a communicator needs, 16 to 200 ([plan.md](plan.md#buffers-of-communicators))."""
    device_memory: Annotated[Number, Field(gt=0, le=1024)] | None = None
    """GiB of each device that a run may fill (MindSpore's `max_device_memory`), and that `plan` fills. Left out: what
    the plan assumes, at most what is free when a rank starts less 2."""
    deterministic: bool = False
    """Sums over devices in a fixed order (`HCCL_DETERMINISTIC`): equal runs give equal bits, and take longer."""
    watchdog: bool = True
    """A thread of each rank asks HCCL every second for errors of its collectives, and ends the rank at one; false: it
    waits for `execute_timeout` (`MS_ENABLE_THM`)."""
    stress_check: Literal["none", "cores", "all"] = "none"
    """Before the first step, `cores` tests the arithmetic of every device under full load, and `all` also the links
    between the devices of a server ([watching](cluster.md#watching-a-run)). A fault ends the run."""
    silent_check: bool = False
    """Looks for hardware that computes wrongly without an error: gradients far from their average are counted, and
    after three, matrix products are checked on all devices (`MS_NPU_ASD_CONFIG`,
    [watching](cluster.md#watching-a-run)). For several 910B, not for FP16."""


@dataclass(frozen=True)
class CheckpointConfig:
    """How often to save, how many checkpoints to keep, where to resume from, and what to export at the end."""

    every: Natural | None = None
    """Steps between checkpoints; 0: only at the end. Left out: by the clock, at least 30 s apart, and so seldom that
    saving takes at most a hundredth of the run's time; a run that ends at its last step removes these again."""
    keep: Positive = 2
    """How many of the newest checkpoints are kept, besides a settled one
    ([run_directory.md](run_directory.md#checkpoints))."""
    keep_every: Natural = 0
    """Checkpoints of steps that this divides are kept for good; 0: none."""
    background: bool = True
    """Write a copy of weights and moments while training continues; false: a step waits until they are written, which
    saves the memory of the copy (12 bytes per trained weight)."""
    resume: Text | None = None
    """`auto`: resume from the newest intact checkpoint of this run, if there is one; or the path of a checkpoint or run
    directory. Everything that affects the weights must be unchanged, unless `--allow-change KEY` names it ([the
    table](run_directory.md#what-may-change-when-a-run-resumes))."""
    grace: Rate = 50.0
    """Seconds in which a run saves and ends after Ctrl-C (SIGINT), SIGTERM or SIGUSR1
    ([run_directory.md](run_directory.md#stopping-and-starting-again))."""
    export: bool = True
    """At the end, write the model directory and the PyTorch file and print a sample."""


@dataclass(frozen=True)
class FaultsConfig:
    """The response to steps that are not finite, or whose loss or gradient norm is a spike (training/faults.py)."""

    policy: Literal["none", "skip", "rewind", "stop"] = "none"
    """`skip`, `rewind` or `stop`: the response to a step that is not finite or a spike
    ([run_directory.md](run_directory.md#stopping-and-starting-again))."""
    sigma: Annotated[Number, Field(gt=0)] = 8.0
    """A spike is more than this many robust standard deviations above the median."""
    window: Positive = 64
    """Steps of that median; before that many no step is a spike."""
    replicas: Natural = 0
    """Steps between comparisons of the copies of weights and moments that ranks hold; 0: never."""
    hang: Rate = 5.0
    """After this many times the median of a step, and at least 40 s, ranks without progress count as a hang
    ([all phases](run_directory.md#hangs)); 0: never."""
    most: Positive = 5
    """More faults in a row than this, or more rewinds to one checkpoint, end the run."""


@dataclass(frozen=True)
class ProfileConfig:
    """The steps and ranks that MindSpore Profiler records."""

    steps: (
        Annotated[Text, matching(r"[1-9]\d{0,9}\.\.[1-9]\d{0,9}", "the first and the last step, as in 6..8")] | None
    ) = None
    """`A..B`: MindSpore Profiler records steps A to B into `RUN/profile/rank_N`
    ([watching](cluster.md#watching-a-run)). Left out: none."""
    ranks: list[Natural] | Literal["all"] | None = None
    """Ranks that are recorded, or `all`. Left out: the first rank of each pipeline stage."""
    level: Annotated[Whole, Field(ge=0, le=2)] = 1
    """On `ascend`: 0: times of operators; 1: also of AI Core units and of each collective; 2: also of CANN's own calls
    and of the AI CPU."""
    memory: bool = False
    """On `ascend`: also record allocations of device memory."""

    @property
    def window(self) -> range:
        first, _, last = (self.steps or "1..0").partition("..")
        return range(int(first), int(last) + 1)


@dataclass(frozen=True)
class LoggingConfig:
    """What a run logs and draws."""

    every: Positive = 1
    """Steps between lines of `log.jsonl`; steps that were evaluated or skipped are always logged."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    plots: bool = True
    """Draw `loss.png`."""
