"""The typed configuration of one run. It is plain data; `loading` builds and checks it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.model import ModelConfig, model_config
from ms_codegeex.config.sections import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    FaultsConfig,
    LoggingConfig,
    LoraConfig,
    ParallelConfig,
    ProfileConfig,
    ScheduleConfig,
    TrainingConfig,
)
from ms_codegeex.config.validation import Positive, Text, Whole

GRAPH_MICRO_BATCHES = 12  # per stage, unless the configuration says otherwise


@dataclass(frozen=True)
class RunConfig:
    """Everything that defines a run, and the sizes that follow from it."""

    output: Text = "runs/default"
    """The run directory."""
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = 1234
    """Initial weights, sample order, dropout."""
    device: Literal["cpu", "gpu", "ascend"] = "cpu"
    """`cpu`, `gpu` or `ascend`."""
    devices: Positive = 1
    """Worker processes; on `gpu` and `ascend` MindSpore partitions for 2, 4 or a multiple of 8 up to 4096. Left out: 2
    on a CPU with at least two cores if the batch can be divided, else 1."""
    model: Annotated[ModelConfig, PlainValidator(model_config)] = field(default_factory=lambda: model_config({}))
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    @property
    def family(self) -> str:
        return self.model.family

    @property
    def seq_length(self) -> int:
        return self.data.seq_length or self.model.sizes.max_position_embeddings

    @cached_property
    def mesh(self) -> Mesh:
        """The axes of the device mesh."""
        parallel = self.parallel
        rest = max(1, self.devices // (parallel.tensor * parallel.pipeline))
        axes = parallel.data or rest, parallel.tensor, parallel.pipeline, parallel.optimizer_shard
        return Mesh(*axes, tuple(parallel.stage_layers or ()), parallel.virtual_stages, parallel.optimizer_level)

    @property
    def partitioned(self) -> bool:
        return self.device != "cpu" and self.devices > 1

    @property
    def local_batch(self) -> int:
        return self.training.global_batch // self.mesh.data

    @property
    def micro_batch(self) -> int:
        return self.training.micro_batch or max(1, self.local_batch // (self.parallel.micro_batches or 1))

    @property
    def accumulation(self) -> int:
        return self.local_batch // self.micro_batch

    @cached_property
    def graph_micro_batches(self) -> int:
        """Micro-batches in one call of the compiled graph."""
        if not self.partitioned:
            return 1
        if self.parallel.graph_micro_batches:
            return self.parallel.graph_micro_batches
        limit = GRAPH_MICRO_BATCHES * self.mesh.pipeline
        possible = [x for x in range(2, self.accumulation + 1) if self.fills_graph(x)] or [self.accumulation]
        return max((x for x in possible if x <= limit), default=possible[0])

    def fills_graph(self, micro_batches: int) -> bool:
        """Whether calls with `micro_batches` micro-batches each make up a step and fill the pipeline."""
        stages, virtual = self.mesh.pipeline, self.mesh.virtual_stages
        fills = micro_batches >= stages and (virtual == 1 or micro_batches % stages == 0)
        return fills and self.accumulation % micro_batches == 0 and (micro_batches > 1 or self.accumulation == 1)

    @property
    def calls(self) -> int:
        return self.accumulation // self.graph_micro_batches

    @property
    def reductions(self) -> int:
        return self.calls if self.partitioned else 1

    @property
    def evaluation_micro_batches(self) -> int:
        """Micro-batches in one call of the evaluation graph: the fewest that fill the pipeline and divide those of
        training, because each costs compilation time."""
        return self.evaluated_of(self.graph_micro_batches)

    def evaluated_of(self, number: int) -> int:
        fewer = (x for x in range(self.mesh.pipeline, number) if number % x == 0 and self.fills_graph(x))
        return next(fewer, number)

    @property
    def of_a_call(self) -> RunConfig:
        """The same run with steps of a single call."""
        training = replace(
            self.training, global_batch=self.training.global_batch // self.calls, micro_batch=self.micro_batch
        )
        parallel = replace(self.parallel, micro_batches=None, graph_micro_batches=self.graph_micro_batches)
        return replace(self, training=training, parallel=parallel)

    @property
    def steps(self) -> int:
        """Steps of the whole run. With `training.tokens` a lower bound: masked tokens and skipped steps add more."""
        if self.training.steps:
            return self.training.steps
        return -(-(self.training.tokens or 0) // (self.training.global_batch * self.seq_length))

    @property
    def schedule(self) -> ScheduleConfig:
        return self.training.schedule.over(self.steps)

    @property
    def loss_chunk(self) -> int:
        """Rows of logits that the loss computes at once; 0: all."""
        if self.training.loss_chunk is not None:
            return self.training.loss_chunk
        return 256 if self.device == "cpu" and self.training.precision == "fp32" else 0

    @property
    def profiled_ranks(self) -> Collection[int]:
        """The ranks that record `profile.steps`."""
        ranks = self.profile.ranks
        if ranks is None:
            return range(0, self.devices, self.mesh.stage_size) if self.partitioned else (0,)
        return range(self.devices) if ranks == "all" else ranks

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "model": self.model.to_dict()}


RunConfig.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
