"""Typed run configuration: a YAML file (with `base:` inheritance) and dotted overrides, validated before anything else
starts.

YAML keys equal field names. An unknown key, a wrong type or sizes that do not fit together are a `UserError` naming the
key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ms_codegeex.errors import UserError
from ms_codegeex.host import available_cores
from ms_codegeex.models.registry import family
from ms_codegeex.parallel.kernels import check_kernels
from ms_codegeex.parallel.mesh import Mesh, check_mesh
from ms_codegeex.shipped import find_config

Positive = Annotated[int, Field(gt=0, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Rate = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from. No `train`: the source code found on this machine, prepared once beside `output`."""

    train: str | None = None
    blend: Any = None  # instead of `train`: {directory: weight}, or stages of it (data/blend.py)
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
    """What is fused. None: chosen for the device (`parallel/kernels.py`), all of it off on a CPU but AdamW."""

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


@dataclass(frozen=True)
class RunConfig:
    """One run. `model` holds `family`, `preset` and any field of the family's config."""

    output: str = "runs/default"
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = 1234
    device: Literal["cpu", "gpu", "ascend"] = "cpu"
    devices: Positive = 1  # none in the YAML: two on a CPU with two cores or more
    model: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    @property
    def family(self) -> str:
        """Name of the model family."""
        return self.model.get("family", "codegeex")

    def model_config(self) -> Any:
        """The family's config dataclass; unknown or ill-typed fields are a `UserError`."""
        module = family(self.family).config
        base = module.build_config(self.model.get("preset"), {})
        fields = {k: v for k, v in self.model.items() if k not in ("family", "preset")}
        _check_keys("model", fields, [*(f.name for f in dataclasses.fields(base)), "family", "preset"])
        checked = validated(type(base), {**asdict(base), **fields}, "model.")
        for key, value in asdict(checked).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"model.{key}: found {value}; input should be a finite number")
        return module.build_config(self.model.get("preset"), {k: getattr(checked, k) for k in fields})

    @property
    def seq_length(self) -> int:
        """Tokens a sequence predicts."""
        return self.data.seq_length or self.model_config().max_position_embeddings

    @property
    def mesh(self) -> Mesh:
        """The axes of the device mesh."""
        parallel = self.parallel
        rest = max(1, self.devices // (parallel.tensor * parallel.pipeline))
        return Mesh(parallel.data or rest, parallel.tensor, parallel.pipeline, parallel.optimizer_shard)

    @property
    def partitioned(self) -> bool:
        """Whether the engine cuts the graph over the devices; CPU processes share only the batch."""
        return self.device != "cpu" and self.devices > 1

    @property
    def data_parallel(self) -> int:
        """Number of replicas that see different samples."""
        return self.mesh.data

    @property
    def local_batch(self) -> int:
        """Sequences a replica sees in one step."""
        return self.training.global_batch // self.data_parallel

    @property
    def micro_batch(self) -> int:
        """Sequences a replica holds at once."""
        return self.training.micro_batch or max(1, self.local_batch // (self.parallel.micro_batches or 1))

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return self.local_batch // self.micro_batch

    @property
    def steps(self) -> int:
        """Steps of the whole run; with `training.tokens` the fewest it can be: what is masked or skipped adds some."""
        if self.training.steps:
            return self.training.steps
        return -(-(self.training.tokens or 0) // (self.training.global_batch * self.seq_length))

    @property
    def loss_chunk(self) -> int:
        """Rows of logits the loss forms at once, 0 for all of them."""
        if self.training.loss_chunk is not None:
            return self.training.loss_chunk
        return 256 if self.device == "cpu" and self.training.precision == "fp32" else 0

    def validate(self) -> None:
        """Check what holds between keys; a `UserError` names the key to change."""
        model, training = self.model_config(), self.training
        check_mesh(self)
        check_kernels(self)
        if self.seq_length > model.max_position_embeddings:
            raise UserError(
                f"data.seq_length: {self.seq_length} is longer than model.max_position_embeddings "
                f"{model.max_position_embeddings}; shorten it or enlarge the model's table"
            )
        if self.data.blend is not None:
            from ms_codegeex.data.datasets.blend import parse_stages

            if self.data.train is not None:
                raise UserError("data.blend: data.train is given too; set one of them to null")
            parse_stages(self.data.blend)
        if training.steps and training.tokens:
            raise UserError("training.tokens: training.steps is given too; set one of them to null")
        if not self.steps:
            raise UserError("training.steps: missing; give training.steps or training.tokens")
        if self.partitioned and self.loss_chunk:
            raise UserError(
                f"training.loss_chunk: {self.loss_chunk}, but device: {self.device} forms all logits, which "
                "parallel.vocabulary can cut; set it to 0 or leave it out"
            )
        if training.loss_chunk and training.precision != "fp32":
            raise UserError(
                "training.loss_chunk: the chunked loss is FP32 only; set it to 0 or training.precision to fp32"
            )
        if training.schedule.warmup_steps >= training.schedule.decay_steps:
            raise UserError(
                f"training.schedule.warmup_steps: {training.schedule.warmup_steps} is not below decay_steps "
                f"{training.schedule.decay_steps}; the cosine would never start"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict with every default filled in and the model's fields resolved."""
        resolved = asdict(self)
        resolved["model"] = {"family": self.family, "preset": self.model.get("preset"), **asdict(self.model_config())}
        return resolved


def _suggestion(key: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, known, 1, 0.5)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"


def _check_keys(section: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise UserError(
                f"{section + '.' if section else ''}{key}: unknown key; {_suggestion(str(key), list(known))}"
            )


def check_tree(cls: type, given: Mapping[str, Any], prefix: str = "") -> None:
    """Unknown keys at any depth, with a suggestion."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    _check_keys(prefix, given, list(known))
    for key, value in given.items():
        section = known[key].default_factory
        if dataclasses.is_dataclass(section):
            name = f"{prefix}.{key}" if prefix else key
            if not isinstance(value, Mapping):
                keys = ", ".join(f.name for f in dataclasses.fields(section))
                raise UserError(f"{name}: found {value!r}, expected a section with keys {keys}")
            check_tree(section, value, name)


def validated(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    """A dataclass from plain values, checked against its annotations; a `UserError` names the key, after `prefix`."""
    try:
        return TypeAdapter(cls, config=None).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = prefix + ".".join(str(part) for part in first["loc"])
        raise UserError(f"{key}: found {first['input']!r}; {first['msg'][0].lower()}{first['msg'][1:]}") from None


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        # the weights of a blend belong together
        both = key != "blend" and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping with its `base` files merged below it; `base` is relative to the file that names it."""
    if path.resolve() in seen:
        raise UserError(f"{path}: its `base` chain comes back to itself; break the circle")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "unknown place"
        raise UserError(f"{path}: not valid YAML at {where} ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, Mapping):
        raise UserError(
            f"{path}: found {type(values).__name__}, expected sections with keys (model:, data:, training: …)"
        )
    values = dict(values)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise UserError(f"{path}: base: found {base!r}, expected the name of a YAML file")
    return _merge(read_yaml(path.parent / base, (*seen, path.resolve())), values)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["training.steps=40"]` -> `{"training": {"steps": 40}}`; values are YAML scalars or flow collections."""
    tree: dict[str, Any] = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UserError(f"'{text}': not an override; write key=value, for example training.steps=40")
        try:
            parsed = yaml.safe_load(value) if value else None
        except yaml.YAMLError:
            raise UserError(f"{key}: found {value!r}, which is not a YAML value; quote it") from None
        if key.startswith("data.blend."):
            raise UserError(f"{key}: weights are given together; write data.blend={{DIR: WEIGHT, DIR: WEIGHT}}")
        for part in reversed(key.split(".")):
            parsed = {part: parsed}
        tree = _merge(tree, parsed)
    return tree


def build_run_config(values: Mapping[str, Any]) -> RunConfig:
    """A validated `RunConfig` from nested plain values."""
    check_tree(RunConfig, values)
    config = validated(RunConfig, values)
    config.validate()
    return config


def _smallest_world(parallel: Any) -> int:
    """Devices that the given axes need at least; anything ill-typed is found when the configuration is built."""
    if not isinstance(parallel, Mapping):
        return 1
    sizes = [parallel.get("data") or parallel.get("optimizer_shard"), parallel.get("tensor"), parallel.get("pipeline")]
    return math.prod(size for size in sizes if type(size) is int and size > 0)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The YAML file `path`, or the shipped one of that name (none: defaults), with dotted overrides on top, checked."""
    values = _merge(read_yaml(find_config(path)) if path else {}, parse_overrides(overrides))
    if values.get("devices") is None:
        values["devices"] = _smallest_world(values.get("parallel"))
        single = build_run_config(values)
        shareable = single.devices == 1 and single.device == "cpu" and single.local_batch % 2 == 0
        if shareable and available_cores() >= 2 and (single.training.micro_batch or 1) <= single.local_batch // 2:
            values["devices"] = 1 if single.parallel.data else 2
    return build_run_config(values)


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"training": {"steps": 40}}` -> `{"training.steps": 40}`; a blend is one value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        nested = isinstance(value, Mapping) and name != "data.blend"
        flat |= flattened(value, f"{name}.") if nested else {name: value}
    return flat


RunConfig.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
