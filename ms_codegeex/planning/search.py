"""All plans of a model on a number of devices: the feasible ones ranked by step time, the others counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.errors import UserError
from ms_codegeex.planning.planner import Plan, change, overrides

if TYPE_CHECKING:
    from collections.abc import Callable

TELLING = (
    "parallel.tensor",
    "parallel.pipeline",
    "parallel.optimizer_shard",
    "training.recompute",
    "training.micro_batch",
)
LARGEST = 64  # optimizer shards and micro-batches that are tried


@dataclass(frozen=True)
class SearchResult:
    """`ranked`: plans that fit, the fastest first. `reasons`: how many others failed, by the key that forbids them.

    `start`: the configuration that was given; None if its mesh did not fit the devices.
    """

    ranked: list[Plan]
    reasons: dict[str, int]
    tried: int
    start: RunConfig | None


def _divisors(number: int, most: int) -> list[int]:
    return [i for i in range(1, min(number, most) + 1) if number % i == 0]


def _meshes(config: RunConfig) -> Iterator[dict[str, Any]]:
    layers = config.model.sizes.num_layers
    for tensor in _divisors(config.parallel.server_devices, config.devices):
        if config.devices % tensor:
            continue
        for pipeline in _divisors(config.devices // tensor, layers):
            data = config.devices // (tensor * pipeline)
            # powers of two and the whole: other numbers change little
            shards = [x for x in _divisors(data, LARGEST) if x & (x - 1) == 0 or x == data]
            for shard in shards:
                yield {
                    "parallel__data": None,
                    "parallel__tensor": tensor,
                    "parallel__pipeline": pipeline,
                    "parallel__optimizer_shard": shard,
                    "parallel__sequence": config.parallel.sequence and tensor > 1,
                    "parallel__micro_batches": None,
                    "training__micro_batch": None,
                }


def _batches(config: RunConfig, keys: dict[str, Any]) -> list[int]:
    tensor, data = keys["parallel__tensor"], config.devices // keys["parallel__tensor"] // keys["parallel__pipeline"]
    if config.training.global_batch % data:
        return []
    local = config.training.global_batch // data
    return [x for x in _divisors(local, LARGEST) if tensor == 1 or x % tensor == 0]


def search(
    config: RunConfig, progress: Callable[[int], None] = lambda count: None, *, given: bool = True
) -> SearchResult:
    """Every plan of meshes, optimizer shards, recomputation and micro-batches. `progress` gets the number tried.

    `given`: the mesh of `config` is the user's, not a placeholder for one that does not fit the devices.
    """
    chip = hardware_of(config)
    chip.peak(config.training.precision)
    reasons: Counter[str] = Counter()
    ranked: list[Plan] = []
    tried = 0
    for mesh in _meshes(config):
        batches = _batches(config, mesh)
        for batch, recompute in product(batches or [None], ("none", "selective", "full")):
            tried += 1
            progress(tried)
            try:
                candidate = change(config, **{**mesh, "training__micro_batch": batch, "training__recompute": recompute})
            except UserError as error:
                reasons[str(error).partition(":")[0]] += 1
                continue
            plan = Plan(candidate, chip)
            if plan.fits:
                ranked.append(plan)
            else:
                reasons["memory"] += 1
    ranked.sort(key=lambda plan: plan.step_seconds)
    return SearchResult(ranked, dict(reasons.most_common()), tried, config if given else None)


def keys_of(plan: Plan, start: RunConfig | None) -> str:
    """The plan as overrides of the configuration `start`: the keys that distinguish plans, and all others that differ.
    Without a `start`: all keys."""
    return overrides(plan.config, start, TELLING)


def to_dict(result: SearchResult, most: int = 50) -> dict[str, Any]:
    """The best plans, and the reasons why others are infeasible, as plain values for `--json`."""
    ranked = [
        {
            "overrides": keys_of(plan, result.start),
            "step_seconds": plan.step_seconds,
            "mfu": plan.mfu,
            "memory_bytes": max(stage.total for stage in plan.memory),
        }
        for plan in result.ranked[:most]
    ]
    return {"ranked": ranked, "feasible": len(result.ranked), "tried": result.tried, "infeasible": result.reasons}
