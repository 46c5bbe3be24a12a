"""All plans of a model on a number of devices: the feasible ones ranked by step time, the others counted by reason. A
plan is feasible if it leaves `SPARE_MEMORY` to fragmentation, workspaces and what else no plan counts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
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
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.sections import OverlapConfig
from ms_codegeex.config.values import merged, parse_overrides
from ms_codegeex.extras.cluster.plans.planner import OVERRIDES, SPARE_MEMORY, Plan, change, changed, divisors, overrides
from ms_codegeex.extras.cluster.plans.roofline import balanced_layers
from ms_codegeex.planning.hardware_files import hardware_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ms_codegeex.base.hardware import Chip

PLAN_KEYS = (
    "parallel.tensor",
    "parallel.pipeline",
    "parallel.optimizer_shard",
    "training.recompute",
    "training.micro_batch",
)
REFINED_PLANS = 40  # the fastest; their schedules, buckets and parts of micro-batches are varied
BUCKETS = (4, 8, 20, 40)
MAX_VIRTUAL_STAGES = 5  # that are tried: more send more and hardly wait less
MAX_TRIED = 64  # optimizer shards and micro-batches that are tried
CHEAPEST_FIRST = ("none", "selective", "full")


@dataclass(frozen=True)
class SearchResult:
    """`ranked`: plans that fit, the fastest first. `reasons`: how many others failed, by the key that forbids them.
    `start`: the configuration that was given; None if its mesh did not fit the devices."""

    ranked: list[Plan]
    reasons: dict[str, int]
    tried: int
    start: RunConfig | None


def _powers(number: int) -> list[int]:
    """Its divisors that are powers of two, and itself: other numbers change little."""
    return [x for x in divisors(number, MAX_TRIED) if x & (x - 1) == 0 or x == number]


def _choices(config: RunConfig) -> Iterator[dict[str, Any]]:
    """The changes of all meshes of the devices, with optimizer shards, sequence parallelism and micro-batches (None
    where no size suits the mesh), for `change`."""
    layers, batch = config.model.sizes.num_layers, config.training.global_batch
    for tensor in divisors(config.parallel.server_devices, config.devices):
        depths = divisors(config.devices // tensor, layers) if config.devices % tensor == 0 else ()
        for pipeline in depths:
            data = config.devices // (tensor * pipeline)
            local = batch // data if batch % data == 0 else 0
            batches = [x for x in _powers(local) if tensor == 1 or x % tensor == 0]
            sequences = (False, True) if tensor > 1 else (False,)
            for shard, sequence, size in product(_powers(data), sequences, batches or [None]):
                yield {
                    "parallel__data": None,
                    "parallel__tensor": tensor,
                    "parallel__pipeline": pipeline,
                    "parallel__stage_layers": None,
                    "parallel__virtual_stages": 1,
                    "parallel__optimizer_shard": shard,
                    "parallel__sequence": sequence,
                    "parallel__overlap": config.parallel.overlap if tensor > 1 else OverlapConfig(),
                    "parallel__micro_batches": None,
                    "training__micro_batch": size,
                }


def search(
    config: RunConfig,
    progress: Callable[[int], None] = lambda count: None,
    *,
    given: bool = True,
    overlap: bool = False,
) -> SearchResult:
    """Every plan of meshes, optimizer shards, sequence parallelism, micro-batches and recomputation, and the fastest
    pipelines with virtual stages or layers by cost. `progress` gets the number tried. `given`: the mesh of `config` is
    the user's, not a placeholder for one that does not fit the devices. `overlap`: rank by the step with the estimated
    overlap of compiled graphs, and also try buckets of gradients and parts of micro-batches on the best plans."""
    chip = hardware_of(config)
    chip.peak(config.training.precision)
    reasons: Counter[str] = Counter()
    ranked: list[Plan] = []
    fastest = attrgetter("overlapped_seconds" if overlap else "step_seconds")
    for keys in _choices(config):
        fitting, others = recomputing(config, keys, chip)
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
        ranked = list({repr(plan.config): plan for plan in ranked}.values())  # two ways may lead to one plan
        ranked.sort(key=attrgetter("overlapped_seconds"))
    return SearchResult(ranked, dict(reasons.most_common()), tried, config if given else None)


def recomputing(config: RunConfig, keys: Mapping[str, Any], chip: Chip) -> tuple[list[Plan], list[str]]:
    """The roomy plans with these keys that recompute least, the fastest first, and the keys that forbid others."""
    reasons: list[str] = []
    too_large: Plan | None = None
    for recompute in CHEAPEST_FIRST:
        chosen = {**keys, "training__recompute": recompute, "training__recompute_blocks": None}
        try:
            plan = Plan(change(config, **chosen), chip)
        except UserError as error:
            reasons.append(str(error).partition(":")[0])
            continue
        if plan.roomy:  # more recomputation only takes more time
            mixed = _by_budget(plan, too_large) if too_large else None
            return [x for x in (mixed, plan) if x], reasons
        reasons.append("memory")
        too_large = plan
    return [], reasons


def other_schedules(plan: Plan) -> tuple[list[Plan], list[str]]:
    """As `recomputing`, for other schedules of the plan's pipeline: with virtual stages, and with layers by cost."""
    config, layers, stages = plan.config, plan.config.model.sizes.attention_layers, plan.config.mesh.pipeline
    numbers = range(2, MAX_VIRTUAL_STAGES + 1) if stages > 1 else ()
    changes: list[dict[str, Any]] = [
        {"parallel__virtual_stages": number, "parallel__stage_layers": None}
        for number in numbers
        if layers % (stages * number) == 0
    ]
    balanced = balanced_layers(config)
    if balanced != config.mesh.layers_per_stage(layers):
        changes.append({"parallel__virtual_stages": 1, "parallel__stage_layers": balanced})
    results = [recomputing(config, keys, plan.chip) for keys in changes]
    return [x for fitting, _ in results for x in fitting], [x for _, reasons in results for x in reasons]


def _refined(plan: Plan) -> Iterator[Plan]:
    """The plan with other numbers of buckets, with micro-batches in two parts, and with virtual stages."""
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


def keys_of(plan: Plan, start: RunConfig | None) -> str:
    """The plan as overrides of `start` (none: all keys): keys that distinguish plans, and others that differ."""
    return overrides(plan.config, start, PLAN_KEYS)


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


def config_to_plan(path: Path, overrides: Sequence[str], devices: int | None) -> tuple[RunConfig, bool]:
    """The configuration, and whether its mesh is the YAML's. A search for a number of `devices` chooses the mesh
    itself, so the YAML's need not suit them; a placeholder then takes its place."""
    try:
        return load_config(path, overrides), True
    except UserError:
        if not devices or devices < 0:
            raise
        free = [f"parallel.{axis}=1" for axis in ("tensor", "pipeline", "virtual_stages", "optimizer_shard")]
        free += [f"{key}=null" for key in ("parallel.stage_layers", "parallel.micro_batches", "training.micro_batch")]
        free += ["parallel.sequence=false", "devices=1"]
        return replace(load_config(path, [*overrides, *free]), devices=devices), False


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
    """The best plans, and the reasons why others are infeasible, as plain values for `--json`."""
    ranked = [
        {
            "overrides": keys_of(plan, result.start),
            **plan.estimate.to_dict(),
            "overlapped_step_seconds": plan.overlapped_seconds,
            "memory_bytes": max(stage.total for stage in plan.memory),
        }
        for plan in result.ranked[:maximum]
    ]
    return {"ranked": ranked, "feasible": len(result.ranked), "tried": result.tried, "infeasible": result.reasons}
