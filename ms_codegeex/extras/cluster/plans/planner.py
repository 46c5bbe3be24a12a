"""What a run costs: parameters, FLOPs, memory, communication and time, from its configuration alone."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.hardware import GIB, Chip
from ms_codegeex.config.chosen_hardware import fused_kernels
from ms_codegeex.config.rules import check_mesh, dropout_obstacle
from ms_codegeex.extras.cluster.plans import roofline
from ms_codegeex.extras.cluster.plans.compilation import Compilation, compilation
from ms_codegeex.extras.cluster.plans.published import Factor, outside_roofline, published_run
from ms_codegeex.parallel.sharding import checkpoint_bytes, layouts_of
from ms_codegeex.planning.communication import PlannedCollective, collectives
from ms_codegeex.planning.communicators import Communicator, communicators_of
from ms_codegeex.planning.hardware_files import hardware_of
from ms_codegeex.planning.memory import StageMemory, memory_without_buffers, parameter_sums, state_memory, with_buffers

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig


@dataclass(frozen=True)
class Estimate:
    """Seconds of a step and model FLOPs utilisation, each with the limits between which eight of ten runs should lie.
    `source`: where the range comes from, in words."""

    seconds: float
    low: float
    high: float
    mfu: float
    mfu_low: float
    mfu_high: float
    source: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "step_seconds": self.seconds,
            "step_seconds_low": self.low,
            "step_seconds_high": self.high,
            "mfu": self.mfu,
            "mfu_low": self.mfu_low,
            "mfu_high": self.mfu_high,
            "range_from": self.source,
        }

    @property
    def step(self) -> str:
        """`41.9 (36.1 to 48.5)`, in seconds."""
        digits = 1 if self.seconds >= 20 else 2 if self.seconds >= 1 else 4
        return f"{self.seconds:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"

    @property
    def share(self) -> str:
        digits = 0 if self.mfu >= 0.1 else 1
        return f"{100 * self.mfu:.{digits}f} % ({100 * self.mfu_low:.{digits}f} to {100 * self.mfu_high:.{digits}f})"

    def text(self) -> str:
        return f"a step takes {self.step} s, MFU {self.share}; range: {self.source}"


DAY = 86400.0
SPARE_MEMORY = 0.05  # the share that a search leaves to fragmentation, which no plan counts


def change(config: RunConfig, **keys: Any) -> RunConfig:
    """The configuration with dotted keys replaced, dots written as `__`: change(c, training__recompute="full"). Its
    mesh is checked: a `UserError` names what does not fit."""
    for key, value in keys.items():
        section, _, name = key.partition("__")
        if not name:
            config = replace(config, **{section: value})
            continue
        part = getattr(config, section)
        field, _, inner = name.partition("__")
        changed = replace(part, **{field: replace(getattr(part, field), **{inner: value}) if inner else value})
        config = replace(config, **{section: changed})
    check_mesh(config)
    return config


def recomputed(what: str) -> dict[str, Any]:
    return {"training__recompute": what, "training__recompute_blocks": None}


# Keys that `overrides` may print and a search chooses, the most important ones first.
OVERRIDES = (
    "parallel.tensor",
    "parallel.pipeline",
    "parallel.stage_layers",
    "parallel.virtual_stages",
    "parallel.optimizer_shard",
    "parallel.optimizer_level",
    "parallel.sequence",
    "training.recompute",
    "training.recompute_blocks",
    "training.micro_batch",
    "parallel.micro_batches",
    "parallel.graph_micro_batches",
    "parallel.data",
    "parallel.overlap.parts",
    "parallel.overlap.recompute_collectives",
    "parallel.fusion.allreduce_groups",
)


def overrides(config: RunConfig, start: RunConfig, always: Collection[str] = ()) -> str:
    """`key=value …` that turns `start` into `config`: keys that differ, nulls too, and `always`."""
    values, given = (attrgetter(*OVERRIDES)(x) for x in (config, start))
    words = [
        override(key, value)
        for key, value, old in zip(OVERRIDES, values, given, strict=True)
        if key in always or value != old
    ]
    if words:
        # if the YAML has no `devices`, it follows from the axes or from the cores of this machine
        derived = _devices_of_axes(start) == start.devices != _devices_of_axes(config)
        if derived or start.device == "cpu":
            words.append(f"devices={config.devices}")
    return " ".join(words)


def override(key: str, value: Any) -> str:
    return f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"


def _devices_of_axes(config: RunConfig) -> int:
    parallel = config.parallel
    return (parallel.data or parallel.optimizer_shard) * parallel.tensor * parallel.pipeline


@dataclass(frozen=True)
class Plan:
    """The costs of `config` on `chip`; everything is derived from the two."""

    config: RunConfig
    chip: Chip

    @cached_property
    def memory(self) -> list[StageMemory]:
        """Bytes on one device of each stage."""
        return with_buffers(self._without_buffers, self.communicators)

    @cached_property
    def _without_buffers(self) -> list[StageMemory]:
        return memory_without_buffers(self.config, self.chip)

    @cached_property
    def communicators(self) -> list[list[Communicator]]:
        """The communicators of one device of each stage."""
        mesh = self.config.mesh
        firsts = [mesh.rank(stage, 0, 0) for stage in range(mesh.pipeline)]
        return [communicators_of(self.config, rank, self.collectives) for rank in firsts]

    @cached_property
    def time(self) -> roofline.StepTime:
        return roofline.step_time(self.config, self.chip)

    @cached_property
    def collectives(self) -> list[PlannedCollective]:
        return collectives(self.config, self.chip)

    @property
    def spare(self) -> float:
        """The share of the usable memory that the largest stage leaves free; negative: the plan does not fit."""
        return 1 - max(stage.total for stage in self.memory) / self.chip.usable_memory

    @property
    def fits(self) -> bool:
        """Whether every stage fits into the memory a run may use."""
        return self.spare >= 0

    @property
    def roomy(self) -> bool:
        """Whether the plan fits with `SPARE_MEMORY` left over, which a search requires. What takes longest to count is
        counted last, because most plans of a search fail before that."""
        limit = (1 - SPARE_MEMORY) * self.chip.usable_memory
        for counted in (state_memory, lambda _: self._without_buffers):
            if max(stage.total for stage in counted(self.config)) > limit:
                return False
        return self.spare >= SPARE_MEMORY

    @property
    def compilation(self) -> Compilation:
        return compilation(self.config)

    @property
    def host_bytes(self) -> int:
        """Host memory for the weights and moments that the ranks of a server copy there at a save; of the fullest of
        the servers with which a stage begins. Later ones of a stage save no more."""
        config, mesh = self.config, self.config.mesh
        ranks = min(config.devices, config.parallel.server_devices)
        servers = {stage * mesh.stage_size // ranks for stage in range(mesh.pipeline)}
        return max(sum(checkpoint_bytes(config, ranks * server + i) for i in range(ranks)) for server in servers)

    @property
    def parameters(self) -> int:
        return sum(x.size for x in layouts_of(self.config) if not x.copy_of)

    @property
    def stage_parameters(self) -> list[int]:
        return [sums.own for sums in parameter_sums(self.config)]

    @cached_property
    def model_flops(self) -> int:
        return roofline.model_flops(self.config)

    @cached_property
    def executed_flops(self) -> int:
        return roofline.executed_flops(self.config, self.chip)

    @cached_property
    def factor(self) -> Factor:
        return outside_roofline(self.chip, self.config.devices)

    @cached_property
    def counted_seconds(self) -> float:
        """The step before the factor: the roofline, with a hardware file that has them with overlap and gaps."""
        own, time = self.chip.calibration, self.time
        if own is None:
            return time.total
        collectives = time.micro_batches * time.slowest.activations + time.gradients
        return time.total - own.overlap * min(collectives, time.computing) + own.gaps * time.computing

    @property
    def step_seconds(self) -> float:
        return self.counted_seconds * self.factor.value

    @property
    def estimate(self) -> Estimate:
        """The step with its range, and MFU."""
        factor = self.factor
        middle, low, high = (self.counted_seconds * x for x in (factor.value, factor.low, factor.high))
        shares = (self.mfu_of(x) for x in (middle, high, low))
        return Estimate(middle, low, high, *shares, source=factor.source)

    @cached_property
    def hidden_seconds(self) -> float:
        """Seconds of collectives that run under computation in compiled graphs, estimated; before the factor."""
        return roofline.hidden_seconds(self.config, self.chip, self.time, self.collectives)

    @property
    def overlapped_seconds(self) -> float:
        return (self.time.total - self.hidden_seconds) * self.factor.value

    def mfu_of(self, step_seconds: float) -> float:
        peak = self.chip.peak(self.config.training.precision) * self.config.devices
        return self.model_flops / step_seconds / peak

    @property
    def mfu(self) -> float:
        return self.mfu_of(self.step_seconds)

    @property
    def step_tokens(self) -> int:
        return self.config.training.global_batch * self.config.seq_length

    @property
    def tokens_per_day(self) -> float:
        return self.step_tokens * DAY / self.step_seconds


def changed(plan: Plan, **keys: Any) -> Plan | None:
    """The plan with keys replaced as by `change`; None if they do not fit the mesh."""
    try:
        return Plan(change(plan.config, **keys), plan.chip)
    except UserError:
        return None


def make_plan(config: RunConfig, chip: Chip | None = None) -> Plan:
    """The plan of a checked configuration on `chip` (None: the one that it names); `UserError` for unknown hardware or
    a precision that it lacks."""
    chip = chip or hardware_of(config)
    chip.peak(config.training.precision)
    return Plan(config, chip)


@dataclass(frozen=True)
class Improvement:
    """The effect of one change. `bound`: an upper bound, with perfect overlap. `active`: already in force; the figures
    are those without it. `missing`: the device is not known to have the kernel."""

    name: str
    step_seconds: float
    mfu: float
    fits: bool
    bound: bool = False
    active: bool = False
    missing: bool = False


FUSION_NAMES = {
    "attention": "fused attention (parallel.fusion.attention)",
    "norm": "fused LayerNorm (parallel.fusion.norm)",
    "dropout": "fused dropout (parallel.fusion.dropout)",
    "graph_kernel": "graph-kernel fusion (parallel.fusion.graph_kernel)",
    "optimizer": "fused AdamW (parallel.fusion.optimizer)",
}


def improvements(plan: Plan) -> list[Improvement]:
    """Fusions, recomputation and overlaps, each with the step time that it alone would give, best first."""
    config, gains = plan.config, []
    active = fused_kernels(config, plan.chip.fused)
    changes: list[tuple[str, dict[str, Any], bool]] = []
    for name, text in FUSION_NAMES.items():
        if name == "dropout" and dropout_obstacle(config):
            continue  # the launcher rejects such a run
        keys: dict[str, Any] = {f"parallel__fusion__{name}": name not in active}
        changes.append((text, keys, name in active))
    if config.mesh.tensor > 1:
        on = config.parallel.sequence
        changes.append(("sequence parallelism (parallel.sequence)", {"parallel__sequence": not on}, on))
    if config.training.precision != "fp32" and config.mesh.stage_size > 1:
        on = config.parallel.short_gradients
        changes.append(("gradients in 16 bits (parallel.short_gradients)", {"parallel__short_gradients": not on}, on))
    if config.training.recompute == "full":
        changes.append(("recompute selectively (training.recompute=selective)", recomputed("selective"), False))
    if config.training.recompute != "none":
        changes.append(("recompute nothing", recomputed("none"), False))
    changes += _schedules(plan)
    layers = roofline.balanced_layers(config)
    if config.mesh.virtual_stages == 1 and layers != config.mesh.layers_per_stage(config.model.sizes.attention_layers):
        text = json.dumps(layers, separators=(",", ":"))
        changes.append((f"layers by cost (parallel.stage_layers={text})", {"parallel__stage_layers": layers}, False))
    for text, keys, is_active in changes:
        other = changed(plan, **keys)
        if other is None:  # not possible with the other keys, such as sequence parallelism with saved all-reduces
            continue
        kernels = {key.rpartition("__")[2] for key in keys if "fusion" in key}
        missing = not is_active and not kernels <= plan.chip.fused
        gains.append(Improvement(text, other.step_seconds, other.mfu, other.fits, active=is_active, missing=missing))
    gains += _overlaps(plan)
    return sorted(gains, key=lambda x: (x.active, x.step_seconds))


def _schedules(plan: Plan) -> list[tuple[str, dict[str, Any], bool]]:
    config = plan.config
    if config.mesh.virtual_stages > 1:
        text = f"interleaved 1F1B (parallel.virtual_stages={config.mesh.virtual_stages})"
        return [(text, {"parallel__virtual_stages": 1}, True)]
    if config.mesh.pipeline == 1:
        return []
    for number in range(2, config.model.sizes.attention_layers // config.mesh.pipeline + 1):
        keys = {"parallel__virtual_stages": number, "parallel__stage_layers": None}
        if changed(plan, **keys):
            return [(f"interleaved 1F1B (parallel.virtual_stages={number})", keys, False)]
    return []


def _overlaps(plan: Plan) -> list[Improvement]:
    """Upper bounds: communication overlapped with computation that does not depend on it."""
    time, micro = plan.time, plan.config.accumulation
    slowest = time.slowest
    savings = {
        "overlap of gradient and weight collectives with computation": min(time.gradients, micro * slowest.work.total),
        "overlap of tensor-parallel collectives with products": micro * min(slowest.activations, slowest.work.total),
        "no pipeline bubble (more virtual stages)": time.bubble * time.pipeline,
    }
    result = []
    for name, saved in savings.items():
        if saved > 1e-3 * time.total:
            seconds = (plan.counted_seconds - saved) * plan.factor.value
            result.append(Improvement(name, seconds, plan.mfu_of(seconds), plan.fits, bound=True))
    return result


def divisors(number: int, maximum: int | None = None) -> list[int]:
    return [i for i in range(1, min(number, maximum or number) + 1) if number % i == 0]


def remedies(plan: Plan) -> list[str]:
    """Single changes that make the plan fit, fastest first, as overrides: a key, and those that change with it."""
    config, mesh = plan.config, plan.config.mesh
    options = [recomputed("selective"), recomputed("full")]
    smaller = [x for x in divisors(config.local_batch) if x < config.micro_batch]
    options += [{"training__micro_batch": x, "parallel__micro_batches": None} for x in smaller]
    shards = [x for x in divisors(mesh.data) if x > mesh.optimizer_shard]
    options += [{"parallel__optimizer_shard": x} for x in shards]
    levels = (2, 3)[mesh.optimizer_level - 1 :] if mesh.optimizer_shard > 1 else ()
    options += [{"parallel__optimizer_level": x} for x in levels]
    if mesh.tensor > 1 and not config.parallel.sequence:
        options.append({"parallel__sequence": True})
    spread = [x for x in divisors(config.parallel.server_devices) if x > mesh.tensor]
    options += [{"parallel__data": None, "parallel__tensor": x} for x in spread]
    deeper = [x for x in (2, 4, 8, 16) if x > mesh.pipeline]
    options += [{"parallel__data": None, "parallel__pipeline": x, "parallel__stage_layers": None} for x in deeper]
    options += [{"parallel__virtual_stages": 1}] if mesh.virtual_stages > 1 else []
    others = filter(None, (changed(plan, **keys) for keys in options))
    fitting = [(other.step_seconds, overrides(other.config, config)) for other in others if other.fits]
    best: dict[str, str] = {}
    for _, text in sorted(fitting):
        best.setdefault(text.partition("=")[0], text)
    return list(best.values())


KEYS = {"activations": "training.micro_batch", "workspace": "training.micro_batch"}
KEYS |= {"optimizer_state": "parallel.optimizer_shard"}


def problems(plan: Plan, searched: bool = False) -> list[str]:
    """Why the plan cannot run, one line each: key, value and remedy. `searched`: a search has found nothing."""
    worst = max(range(len(plan.memory)), key=lambda i: plan.memory[i].total)
    memory, limit = plan.memory[worst], plan.chip.usable_memory
    if memory.total <= limit:
        return []
    category, size = max(asdict(memory).items(), key=lambda item: item[1])
    ways = remedies(plan)
    more = f"no single change fits; try {'' if searched else '--search, or '}more devices"
    remedy = f"fits with {', or '.join(ways[:3])}" if ways else more
    key = ways[0].partition("=")[0] if ways else KEYS.get(category, "parallel.tensor")
    return [
        f"{key}: a device of stage {worst} needs {memory.total / GIB:.1f} GiB, a run on {plan.chip.name} may use "
        f"{limit / GIB:.1f} GiB; the largest part is {category.replace('_', ' ')} with {size / GIB:.1f} GiB; {remedy}"
    ]


def to_dict(plan: Plan, tokens: float | None = None) -> dict[str, Any]:
    """Everything as plain values, for `--json`. `tokens`: the budget; None: the tokens of the configuration's steps."""
    config, time = plan.config, plan.time
    budget = tokens or config.steps * plan.step_tokens
    days = budget / plan.tokens_per_day
    return {
        "parameters": plan.parameters,
        "stage_parameters": plan.stage_parameters,
        "model_flops": plan.model_flops,
        "executed_flops": plan.executed_flops,
        "devices": config.devices,
        "hardware": plan.chip.name,
        "mesh": asdict(config.mesh),
        "micro_batch": config.micro_batch,
        "micro_batches": config.accumulation,
        "memory_bytes": {
            str(i): {**asdict(stage), "total": stage.total, "capacity": plan.chip.usable_memory}
            for i, stage in enumerate(plan.memory)
        },
        "spare": plan.spare,
        "communicators": {
            str(i): [
                {"groups": x.groups, "devices": len(x.ranks), "message_bytes": x.message, "bytes": x.bytes}
                for x in listed
            ]
            for i, listed in enumerate(plan.communicators)
        },
        "communication": communication_by_group(plan),
        "roofline_seconds": time.total,
        "outside_roofline": plan.factor.value,
        "outside_roofline_measured_on": plan.factor.measured_on,
        **plan.estimate.to_dict(),
        "bubble": time.bubble,
        "graph_micro_batches": config.graph_micro_batches,
        "compile_seconds": plan.compilation.seconds,
        "compile_bytes_of_a_server": plan.compilation.server_bytes,
        "host_bytes_of_a_server": plan.host_bytes,
        "overlapped_step_seconds": plan.overlapped_seconds,
        "overlapped_mfu": plan.mfu_of(plan.overlapped_seconds),
        "tokens_per_day": plan.tokens_per_day,
        "steps": config.steps,
        "tokens": budget,
        "published": published_to_dict(plan),
        "days": days,
        "device_hours": days * 24 * config.devices,
        "improvements": [asdict(x) for x in improvements(plan)],
        "fits": plan.fits,
        "problems": problems(plan),
    }


def published_to_dict(plan: Plan) -> dict[str, Any] | None:
    """The model's published run: steps, slots, tokens; and in how many steps packed data has as many tokens."""
    run = published_run(plan.config)
    if run is None:
        return None
    packed = math.ceil(run.tokens / plan.step_tokens)
    return {"steps": run.steps, "slots": run.slots, "tokens": run.tokens, "packed_steps": packed}


def communication_by_group(plan: Plan) -> dict[str, Any]:
    """Per group: bytes and seconds of one step on the busiest stage, and every collective of every stage."""
    groups: dict[str, Any] = {}
    for collective in plan.collectives:
        entry = groups.setdefault(collective.group, {"link": collective.link, "stages": {}, "collectives": []})
        time = roofline.collective_seconds(plan.config, plan.chip, collective)
        stage = entry["stages"].setdefault(collective.stage, [0, 0.0, 0])
        stage[0] += collective.bytes
        stage[1] += time
        stage[2] += collective.count
        entry["collectives"].append({**asdict(collective), "seconds": time})
    for entry in groups.values():
        maximum = max(entry.pop("stages").values(), key=lambda stage: stage[1])
        entry["bytes"], entry["seconds"], entry["count"] = maximum
    return groups
