"""All plans of a model on a number of devices: the feasible ones ranked by step time, the others counted by reason. A
plan is feasible if it leaves `SPARE_MEMORY` to fragmentation, workspaces and what else no plan counts."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import given_values, load_config
from ms_codegeex.config.sections import OverlapConfig
from ms_codegeex.config.values import merged, parse_overrides
from ms_codegeex.extras.cluster.plans.compilation import bounded_graph, compilation
from ms_codegeex.extras.cluster.plans.planner import OVERRIDES, SPARE_MEMORY, Plan, change, changed, divisors, overrides
from ms_codegeex.extras.cluster.plans.roofline import balanced_layers
from ms_codegeex.planning.hardware_files import hardware_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ms_codegeex.base.hardware import Chip

PLAN_KEYS = (
    "parallel.tensor",
    "parallel.pipeline",
    "parallel.optimizer_shard",
    "training.recompute",
    "training.micro_batch",
)
searched = attrgetter(*OVERRIDES)  # the values of the keys that a search chooses
REFINED_PLANS = 40  # the fastest; their schedules, buckets and parts of micro-batches are varied
BUCKETS = (4, 8, 20, 40)
# What the keys that depend on the mesh are until a search chooses them.
FREE = {
    **{f"parallel.{axis}": 1 for axis in ("tensor", "pipeline", "virtual_stages", "optimizer_shard")},
    **{f"parallel.{key}": None for key in ("data", "stage_layers", "micro_batches", "graph_micro_batches")},
    **{f"training.{key}": None for key in ("micro_batch", "recompute_blocks")},
    "parallel.sequence": False,
    "parallel.overlap.parts": 1,
    "parallel.overlap.recompute_collectives": True,
}
MAX_VIRTUAL_STAGES = 5  # that are tried: more send more and hardly wait less
MAX_TRIED = 64  # optimizer shards and micro-batches that are tried
CHEAPEST_FIRST = ("none", "selective", "full")


@dataclass(frozen=True)
class SearchResult:
    """`ranked`: plans that fit, the fastest first. `reasons`: how many others failed, by the key that forbids them.
    `start`: the configuration that was searched from. `always`: the keys that each plan names, the same or not."""

    ranked: list[Plan]
    reasons: dict[str, int]
    tried: int
    start: RunConfig
    always: Collection[str]


def _powers(number: int) -> list[int]:
    return [x for x in divisors(number, MAX_TRIED) if x & (x - 1) == 0 or x == number]


def _choices(config: RunConfig) -> Iterator[dict[str, Any]]:
    layers, batch = config.model.sizes.num_layers, config.training.global_batch
    level = config.parallel.optimizer_level
    replicas_alone = config.device == "cpu"  # whose processes have no other communication (`runs/servers/node.py`)
    for tensor in divisors(config.parallel.server_devices, 1 if replicas_alone else config.devices):
        deepest = 1 if replicas_alone else layers
        depths = divisors(config.devices // tensor, deepest) if config.devices % tensor == 0 else ()
        for pipeline in depths:
            data = config.devices // (tensor * pipeline)
            local = batch // data if batch % data == 0 else 0
            batches = [x for x in _powers(local) if tensor == 1 or x % tensor == 0]
            sequences = (False, True) if tensor > 1 else (False,)
            shards = [1] if replicas_alone else _powers(data)
            for shard, sequence, size in product(shards, sequences, batches or [None]):
                yield {
                    "parallel__data": None,
                    "parallel__tensor": tensor,
                    "parallel__pipeline": pipeline,
                    "parallel__stage_layers": None,
                    "parallel__virtual_stages": 1,
                    "parallel__optimizer_shard": shard,
                    "parallel__optimizer_level": min(level, 2 if pipeline > 1 else 3) if shard > 1 else 1,
                    "parallel__sequence": sequence,
                    "parallel__overlap": config.parallel.overlap if tensor > 1 else OverlapConfig(),
                    "parallel__micro_batches": None,
                    "parallel__graph_micro_batches": None,
                    "training__micro_batch": size,
                }


def search(
    config: RunConfig,
    progress: Callable[[int], None] = lambda count: None,
    *,
    aside: Collection[str] = (),
    overlap: bool = False,
    chip: Chip | None = None,
) -> SearchResult:
    """Every plan of meshes, optimizer shards, sequence parallelism, micro-batches and recomputation, the fastest
    pipelines with virtual stages or layers by cost, and those whose equal stages do not fit with layers by cost.
    `progress` gets the number tried. `aside`: keys of the user's file that `config` does not have (`config_to_plan`).
    `overlap`: rank by the step with the estimated overlap of compiled graphs, and also try buckets of gradients and
    parts of micro-batches on the best plans.
    `chip`: instead of the one that `config` names."""
    chip = chip or hardware_of(config)
    chip.peak(config.training.precision)
    reasons: Counter[str] = Counter()
    ranked: list[Plan] = []
    fastest = attrgetter("overlapped_seconds" if overlap else "step_seconds")
    for keys in _choices(config):
        fitting, others = recomputing(config, keys, chip)
        if "memory" in others and not fitting and keys["parallel__pipeline"] > 1:  # the head's stage may be too full
            with suppress(UserError):
                layers = balanced_layers(
                    change(config, **keys, training__recompute="full", training__recompute_blocks=None)
                )
                fitting, more = recomputing(config, {**keys, "parallel__stage_layers": layers}, chip)
                others += more
        ranked += sorted(fitting, key=fastest)  # while what their times have in common with their memory is cached
        reasons.update(others)
        progress(len(ranked) + reasons.total())
    ranked.sort(key=fastest)
    for plan in [plan for plan in ranked if plan.config.mesh.pipeline > 1][:REFINED_PLANS]:
        fitting, others = other_schedules(plan)
        ranked += fitting
        reasons.update(others)
        progress(len(ranked) + reasons.total())
    tried = len(ranked) + reasons.total()
    ranked.sort(key=fastest)
    if overlap:
        more = [x for plan in ranked[:REFINED_PLANS] for x in _refined(plan)]
        tried += len(more)
        ranked += [plan for plan in more if plan.roomy]
        ranked.sort(key=fastest)
    ranked = list({repr(searched(plan.config)): plan for plan in ranked}.values())  # two ways may lead to one plan
    return SearchResult(ranked, dict(reasons.most_common()), tried, config, {*PLAN_KEYS, *aside})


def recomputing(config: RunConfig, keys: Mapping[str, Any], chip: Chip) -> tuple[list[Plan], list[str]]:
    """The roomy plans with these keys that recompute least, the fastest first, and the keys that forbid others."""
    reasons: list[str] = []
    too_large: Plan | None = None
    for recompute in CHEAPEST_FIRST:
        chosen = {**keys, "training__recompute": recompute, "training__recompute_blocks": None}
        try:
            plan = Plan(with_graph(change(config, **chosen)), chip)
        except UserError as error:
            reasons.append(str(error).partition(":")[0])
            continue
        if plan.roomy:  # more recomputation only takes more time
            mixed = _by_budget(plan, too_large) if too_large else None
            return [x for x in (mixed, plan) if x], reasons
        reasons.append("memory")
        too_large = plan
    return [], reasons


def with_graph(config: RunConfig) -> RunConfig:
    """The run with as many micro-batches in its graph as compile within bounds, since more calls take more time.
    `UserError` if even the fewest do not."""
    number = bounded_graph(config) if config.partitioned else config.graph_micro_batches
    if number is None:
        pipelines = max(1, config.accumulation // (2 * config.mesh.pipeline))  # of as many graphs
        batch = config.training.global_batch // config.accumulation * 2 * config.mesh.pipeline * pipelines
        wrong = f"{compilation(config).text}, and no part of the {config.accumulation} micro-batches compiles sooner"
        raise UserError(f"{wrong}; set training.global_batch={batch}, which is parted among several graphs")
    if number == config.graph_micro_batches:
        return config
    return change(config, parallel__graph_micro_batches=number)


def other_schedules(plan: Plan) -> tuple[list[Plan], list[str]]:
    """As `recomputing`, for other schedules of the plan's pipeline: with virtual stages, and with layers by cost."""
    config, layers, stages = plan.config, plan.config.model.sizes.attention_layers, plan.config.mesh.pipeline
    numbers = range(2, MAX_VIRTUAL_STAGES + 1) if stages > 1 else ()
    own_graph = {"parallel__graph_micro_batches": None}
    changes: list[dict[str, Any]] = [
        {"parallel__virtual_stages": number, "parallel__stage_layers": None, **own_graph}
        for number in numbers
        if layers % (stages * number) == 0
    ]
    balanced = balanced_layers(config)
    if balanced != config.mesh.layers_per_stage(layers):
        changes.append({"parallel__virtual_stages": 1, "parallel__stage_layers": balanced, **own_graph})
    results = [recomputing(config, keys, plan.chip) for keys in changes]
    return [x for fitting, _ in results for x in fitting], [x for _, reasons in results for x in reasons]


def _refined(plan: Plan) -> Iterator[Plan]:
    config = plan.config
    layers = config.model.sizes.attention_layers // config.mesh.pipeline
    maximum = MAX_VIRTUAL_STAGES if config.mesh.pipeline > 1 else 1
    schedules = [(2, 1), *((1, number) for number in divisors(layers, maximum))]
    start = (1, config.parallel.overlap.parts, config.parallel.fusion.allreduce_groups)
    for (parts, number), buckets in product(schedules, dict.fromkeys((*BUCKETS, start[2]))):
        if (number, parts, buckets) == start or buckets > config.model.sizes.num_layers:
            continue
        keys = {
            "parallel__overlap__parts": parts,
            "parallel__virtual_stages": number,
            "parallel__fusion__allreduce_groups": buckets,
        }
        if other := changed(plan, **keys):
            yield other


def _by_budget(plan: Plan, cheaper: Plan) -> Plan | None:
    """`plan`, which is roomy, with as few blocks that recompute as memory allows; the others do as in `cheaper`, which
    is not. None if all blocks are needed. Bisects all stages together, since they are independent."""
    if not plan.config.parallel.overlap.recompute_collectives or plan.config.mesh.virtual_stages > 1:
        return None  # not possible together
    limit, mesh, model = (1 - SPARE_MEMORY) * plan.chip.usable_memory, plan.config.mesh, plan.config.model.sizes
    counts = mesh.layers_per_stage(model.attention_layers)
    low = [int(memory.total > limit) for memory in cheaper.memory]
    high = [count if too_large else 0 for count, too_large in zip(counts, low, strict=True)]
    while low != high:
        middle = [sum(ends) // 2 for ends in zip(low, high, strict=True)]
        for stage, memory in enumerate(_with_blocks(plan, middle).memory):
            if memory.total > limit:
                low[stage] = min(middle[stage] + 1, high[stage])
            else:
                high[stage] = middle[stage]
    mixed = _with_blocks(plan, high)
    return mixed if mixed.roomy and high != counts else None


def _with_blocks(plan: Plan, blocks: list[int]) -> Plan:
    return Plan(change(plan.config, training__recompute_blocks=blocks), plan.chip)


def keys_of(plan: Plan, start: RunConfig, always: Collection[str] = PLAN_KEYS) -> str:
    return overrides(plan.config, start, always)


def yaml_of(plan: Plan, base: str, given: Mapping[str, Any]) -> str:
    """The keys that a search chooses, and those that follow, as YAML over the file `base` with overrides `given`."""
    config = plan.config
    chosen: dict[str, Any] = {"devices": config.devices}
    for key in OVERRIDES:
        *sections, name = key.split(".")
        values = chosen
        for section in sections:
            values = values.setdefault(section, {})
        values[name] = attrgetter(key)(config)
    chosen["parallel"] |= {"data": config.mesh.data, "hardware": config.parallel.calibration or plan.chip.name}
    values = merged({"base": base}, merged(given, chosen))
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)


def without_mesh(path: Path, overrides: Sequence[str]) -> RunConfig:
    """The configuration without the keys that a search chooses; all others are checked. It has no mesh that suits its
    devices."""
    found = given_values(path, overrides).get("devices")
    free = [f"{key}={json.dumps(value)}" for key, value in FREE.items()]
    config = load_config(path, [*overrides, *free, "devices=1"])
    if type(found) is not int or found < 1:
        raise UserError(f"devices: found {found}, expected their number; give --devices N")
    return replace(config, devices=found)


def config_to_plan(path: Path, overrides: Sequence[str], searches: bool) -> tuple[RunConfig, dict[str, Any]]:
    """The configuration, and the keys that were set aside with their values. A search chooses the mesh itself, so that
    of the file need not suit the devices. Without a search, an error that another mesh would solve names it."""
    try:
        return load_config(path, overrides), {}
    except UserError as error:
        try:
            config = without_mesh(path, overrides)
        except UserError:
            raise error from None
        if not searches:
            other = f"; or add --search, which chooses the mesh for {config.devices} devices"
            raise UserError(f"{error}{other if _some_mesh_suits(config) else ''}") from None
        return config, set_aside(given_values(path, overrides))


def _some_mesh_suits(config: RunConfig) -> bool:
    for keys in _choices(config):
        with suppress(UserError):
            change(config, **keys)
            return True
    return False


def set_aside(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `FREE` that a file and its overrides give, with their values."""
    found = {}
    for key, free in FREE.items():
        value: Any = values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None and value != free:
            found[key] = value
    return found


def check_target(config: RunConfig, target: Path) -> None:
    """`UserError` if --write cannot be or would replace something; known before the search, which can take minutes."""
    if not target.parent.is_dir():
        raise UserError(f"--write: {target.parent} is not a folder; create it, or choose another file")
    if target.is_dir():
        raise UserError(f"--write: {target} is not the name of a file; choose another")
    if os.path.lexists(target):
        raise UserError(f"--write: {target} exists already; choose another name, or delete it")


def write_plan(plan: Plan, target: Path, base: Path, given: Sequence[str]) -> None:
    """The plan as a file whose base is the configuration `base`, below the overrides `given`."""
    name = str(base)
    if base.suffix or base.exists():
        found = find_config(base)
        folder = Path(os.path.realpath(found.parent))  # `..` after a link leads elsewhere
        name = os.path.relpath(folder / found.name, os.path.realpath(target.parent))
    with atomic_file(target, lambda _: check_target(plan.config, target)) as temporary:
        temporary.write_text(yaml_of(plan, name, parse_overrides(given)), encoding="utf-8")


def to_dict(result: SearchResult, maximum: int = 50) -> dict[str, Any]:
    ranked = [
        {
            "overrides": keys_of(plan, result.start, result.always),
            **plan.estimate.to_dict(),
            "overlapped_step_seconds": plan.overlapped_seconds,
            "memory_bytes": max(stage.total for stage in plan.memory),
        }
        for plan in result.ranked[:maximum]
    ]
    return {"ranked": ranked, "feasible": len(result.ranked), "tried": result.tried, "infeasible": result.reasons}
