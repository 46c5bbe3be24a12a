"""The phases of `prepare` on the nodes of a Ray cluster, which share a file system.

Ray runs the tasks, and repeats unfinished ones on other nodes if a node is lost. All data goes through the shared
directory, none through Ray."""

from __future__ import annotations

import collections
import contextlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.extras.ray_engines import cluster
from ms_codegeex.extras.shared.remote import RemotePath

OPTION = "--engine ray"
AHEAD = 3  # tasks per core that Ray has before the first of them is done
TASK_RETRIES = 20  # its node may be lost each time


@dataclass(frozen=True)
class RayCluster:
    """A `workers.Cluster`: the Ray cluster at `address`, or this machine's for `auto`."""

    address: str

    @contextlib.contextmanager
    def mapper(self) -> Iterator[Callable]:
        """Provide a `map` on all cores of the running cluster, in order. Raises `UserError` if there is none."""
        with cluster.connected(self.address, OPTION):
            yield _map

    def check_nodes(self, work: Path, inputs: Sequence[Path | RemotePath]) -> int:
        """Return the number of nodes. Raises `UserError` for the first with another version of the program or of
        Python, or one that does not see the directory `work`, to which all write, or one of the `inputs`."""
        ray = cluster.import_ray(OPTION)
        probe = work / f"probe-{secrets.token_hex(8)}"
        probe.touch()
        try:
            nodes, answers = cluster.live_nodes(ray), []
            for node in nodes:
                task = ray.remote(num_cpus=1, scheduling_strategy=cluster.placement(ray, node))(_probe_node)
                answers.append(task.remote([probe, *inputs]))
            for node, answer in zip(nodes, answers, strict=True):
                _check_node(node.name, work, answer)
            return len(nodes)
        finally:
            probe.unlink()


def _call(function: Callable[[Any], Any], task: Any) -> Any:
    return function(task)


def _map(function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
    ray = cluster.import_ray(OPTION)
    remote = ray.remote(num_cpus=1, max_retries=TASK_RETRIES)(_call)
    shared, waiting = ray.put(function), collections.deque()
    maximum = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    try:
        for task in tasks:
            waiting.append(remote.remote(shared, task))
            if len(waiting) >= maximum:
                yield _get(waiting.popleft())
        while waiting:
            yield _get(waiting.popleft())
    finally:
        for reference in waiting:  # after an error, or an interrupt
            ray.cancel(reference, force=True)


def _get(reference: Any) -> Any:
    """Return the result of a task, or raise its error without Ray's wrapping."""
    ray = cluster.import_ray(OPTION)
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f"Ray gave up a task after {TASK_RETRIES} retries ({first_line(error)}); run the same command again "
            "(what is finished is kept), on nodes with more memory if that is the reason"
        ) from None


def _probe_node(paths: Sequence[Path | RemotePath]) -> tuple[tuple[str, str], list[str]]:
    return cluster.program_version(), [str(path) for path in paths if not path.exists()]


def _check_node(name: str, work: Path, answer: Any) -> None:
    ray = cluster.import_ray(OPTION)
    try:
        version, missing = ray.get(answer)
    except ray.exceptions.RayError as error:
        raise cluster.cannot_run(name, error) from None
    cluster.check_version(name, version)
    if missing:
        path = work if missing[0].startswith(f"{work}/probe-") else missing[0]
        remedy = "give --input and --output paths on a file system that all nodes share"
        raise UserError(f"node {name}: does not see {path}; {remedy}")
