"""Ray clusters that really run, on this machine, and end with all their processes."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

import psutil
import pytest

needs_ray = pytest.mark.skipif(
    not importlib.util.find_spec("ray"), reason="Ray is not installed: pip install 'ms-codegeex[ray]'"
)


@contextlib.contextmanager
def cluster(nodes: int, **of_others: Any) -> Iterator[tuple[Any, list[Any]]]:
    """A cluster of nodes with one core each; the cluster, and the nodes that can be lost.

    Args:
        nodes: their number, at least 1.
        of_others: for `Cluster.add_node` of all but the first.
    """
    from ray.cluster_utils import Cluster

    arguments: Mapping[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
    others = set(children())
    head = {**arguments, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    try:
        yield made, [made.add_node(**arguments, **of_others) for _ in range(nodes - 1)]
    finally:
        processes = [process for process in children() if process not in others]
        made.shutdown()
        _, alive = psutil.wait_procs(processes, timeout=30)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=30)


def children() -> list[psutil.Process]:
    """All processes below this one."""
    return psutil.Process().children(recursive=True)
