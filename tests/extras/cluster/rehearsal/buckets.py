"""Which collectives of an exported graph are sent as one: the buckets of communication fusion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ms_codegeex.extras.cluster.rehearsal.mindir import POINT_TO_POINT, CollectiveNode


@dataclass(frozen=True)
class Bucket:
    """Nodes of one kind and group that share a fusion id. Id 0 holds those that are each sent alone."""

    op: str
    ranks: tuple[int, ...]
    fusion: int
    nodes: int  # calls in a step
    bytes: int  # of all of them together

    @property
    def group_size(self) -> int:
        """Ranks that take part."""
        return len(self.ranks)

    @property
    def messages(self) -> int:
        """How many collectives a step starts for it once the back end has joined them."""
        return 1 if self.fusion else self.nodes


def buckets(collectives: Iterable[CollectiveNode]) -> list[Bucket]:
    """The collectives of one rank by kind, group and fusion id; messages between pipeline stages are never fused and
    left out."""
    found: dict[tuple[str, tuple[int, ...], int], tuple[int, int]] = {}
    for item in collectives:
        if item.op not in POINT_TO_POINT:
            key = item.op, item.ranks, item.fusion
            nodes, size = found.get(key, (0, 0))
            found[key] = nodes + item.calls, size + item.calls * item.bytes
    return [Bucket(*key, *found[key]) for key in sorted(found, key=lambda key: (key[0], len(key[1]), *key[1:]))]
