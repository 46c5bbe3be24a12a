"""How far a plan is from the fastest one, by a search of a few plans next to it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ms_codegeex.planning.planner import overrides
from ms_codegeex.planning.search import MeshChoice, choices, meshes, recomputing

if TYPE_CHECKING:
    from ms_codegeex.planning.planner import Plan

EXPANDED = 8  # choices whose neighbours are tried: on up to 64 devices, twice as many found nothing faster
SAME = 0.005  # a share of a step's time that is no difference


@dataclass(frozen=True)
class QuickResult:
    """`best`: the fastest plan that fits of `tried` ones and the given one; None if none fits."""

    given: Plan
    best: Plan | None
    tried: int

    @property
    def longer(self) -> float | None:
        """By what share the given step is longer than the best one; None if either does not fit."""
        if self.best is None or not self.given.fits:
            return None
        return self.given.step_seconds / self.best.step_seconds - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        best = self.best
        return {
            "tried": self.tried,
            "longer": self.longer,
            "step_seconds": None,
            **(best.estimate.to_dict() if best else {}),
            "overrides": overrides(best.config, self.given.config) if best else None,
        }

    def text(self) -> str:
        """The same as a sentence; the overrides have a line of their own, ready to be copied."""
        tried = f"a quick search ({self.tried:,} plans; --search tries all)"
        if self.best is None:
            return f"No plan of {tried} fits"
        fastest = f"{self.best.estimate.step} s with\n  {overrides(self.best.config, self.given.config)}"
        if self.longer is None:
            return f"The fastest plan of {tried} that fits: {fastest}"
        if self.longer < SAME:
            return f"No plan of {tried} is faster"
        return f"The step is {self.longer:.0%} longer than the fastest of {tried}: {fastest}"


def quick_search(plan: Plan) -> QuickResult:
    """Try the neighbours of `plan`, then those of the best one found, and so on `EXPANDED` times, also where no
    neighbour is better.

    Neighbours differ by one step, among the values that `search` tries, in optimizer shards, sequence parallelism or
    micro-batch, or are on a similar mesh. Recomputation is the least that fits, as in `search`.
    """
    around = _Neighbourhood(plan)
    seen, expanded = {around.start()}, set[MeshChoice]()
    while len(expanded) < EXPANDED and seen > expanded:
        best = min(seen - expanded, key=lambda choice: (*around.score(choice), _order(choice)))
        expanded.add(best)
        seen.update(around.next_to(best))
    fitting = [x for x in (plan, *map(around.plan, sorted(seen, key=_order))) if x is not None and x.fits]
    return QuickResult(plan, min(fitting, key=attrgetter("step_seconds"), default=None), around.tried)


class _Neighbourhood:
    """The choices of a search around `plan`, with the plans found for them."""

    def __init__(self, plan: Plan):
        self.config, self.chip = plan.config, plan.chip
        on_mesh = {mesh: [*filter(self._runs, choices(plan.config, *mesh))] for mesh in meshes(plan.config)}
        self.on_mesh = {mesh: runnable for mesh, runnable in on_mesh.items() if runnable}
        self.plans: dict[MeshChoice, Plan | None] = {}
        self.tried = 0

    def _runs(self, choice: MeshChoice) -> bool:
        """Whether the configuration's device has kernels for it: a CPU for replicas only."""
        return self.config.device != "cpu" or choice.tensor == choice.pipeline == choice.shard == 1

    def start(self) -> MeshChoice:
        """The plan's own choice, or one like it."""
        config, mesh = self.config, self.config.mesh
        own = MeshChoice(mesh.tensor, mesh.pipeline, mesh.optimizer_shard, config.parallel.sequence, config.micro_batch)
        on = min(self.on_mesh, key=lambda to: (_apart(to[0], mesh.tensor) + _apart(to[1], mesh.pipeline), to))
        return self._nearest(on, own)

    def plan(self, choice: MeshChoice) -> Plan | None:
        """The fastest plan of a choice that fits."""
        if choice not in self.plans:
            fitting, reasons = recomputing(self.config, choice.keys(self.config), self.chip)
            self.tried += len(fitting) + len(reasons)
            self.plans[choice] = min(fitting, key=attrgetter("step_seconds"), default=None)
        return self.plans[choice]

    def score(self, choice: MeshChoice) -> tuple[int, float, float]:
        """Less is better: plans that fit by their seconds, then the others by how much they share out."""
        plan = self.plan(choice)
        if plan is not None:
            return (0, plan.step_seconds, 0)
        return (1, -choice.tensor * choice.pipeline * choice.shard, choice.micro_batch or math.inf)

    def next_to(self, choice: MeshChoice) -> Iterator[MeshChoice]:
        """Choices that differ by one step in one value, and some on each similar mesh."""
        mesh = (choice.tensor, choice.pipeline)
        for name in ("shard", "sequence", "micro_batch"):
            values = {getattr(each, name) for each in self.on_mesh[mesh]}
            for value in _next_to(getattr(choice, name), values):
                yield choice._replace(**{name: value})
        tensors = {tensor for tensor, _ in self.on_mesh}
        for tensor in (choice.tensor, *_next_to(choice.tensor, tensors)):
            depths = {depth for other, depth in self.on_mesh if other == tensor}
            for other in ((tensor, x) for x in (choice.pipeline, *_next_to(choice.pipeline, depths))):
                if other in self.on_mesh and other != mesh:
                    yield from self._on(other, choice)

    def _on(self, mesh: tuple[int, int], choice: MeshChoice) -> Iterator[MeshChoice]:
        """On another mesh: micro-batches of as many sequences, or of as many rows on a device; or all optimizer shards
        and as many micro-batches."""
        data = [self.config.devices // (tensor * pipeline) for tensor, pipeline in (mesh, choice[:2])]
        size = choice.micro_batch or 1
        yield self._nearest(mesh, choice)
        yield self._nearest(mesh, choice._replace(micro_batch=size * mesh[0] / choice.tensor))
        yield self._nearest(mesh, choice._replace(shard=data[0], micro_batch=size * data[1] / data[0]))

    def _nearest(self, mesh: tuple[int, int], choice: MeshChoice) -> MeshChoice:
        """The choice on a mesh that is most like `choice`."""

        def unlike(other: MeshChoice) -> tuple[float, float, bool]:
            shards, sizes = _apart(other.shard, choice.shard), _apart(other.micro_batch or 1, choice.micro_batch or 1)
            return (shards, sizes, not other.sequence)  # sequence parallelism needs less time and memory

        return min(self.on_mesh[mesh], key=unlike)


def _order(choice: MeshChoice) -> tuple[int, ...]:
    return (*choice[:4], choice.micro_batch or 0)


def _next_to(value: Any, values: set[Any]) -> list[Any]:
    """The next smaller and the next larger one of `values`."""
    others = values - {value, None}
    if value is None:
        return sorted(others)
    return [*sorted(x for x in others if x < value)[-1:], *sorted(x for x in others if x > value)[:1]]


def _apart(one: float, other: float) -> float:
    """Distance of two sizes, in doublings."""
    return abs(math.log2(one / other))
