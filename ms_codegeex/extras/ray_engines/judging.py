"""Judging on the nodes of a Ray cluster: each has an actor with a sandbox, and judges as many programs at once as it
has cores.

Ray starts the actors, carries samples and judgements, and notices when a node is gone; `engines` does the rest."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.extras.evaluation.judging.engines import NodeJudge, NodeLost, NodesEngine
from ms_codegeex.extras.evaluation.task import Task
from ms_codegeex.extras.ray_engines import cluster

OPTION = "--judge-engine ray"
PLACE = "the Ray cluster"
END_SECONDS = 10  # the longest wait for calls after their actors were killed
BUSY_SECONDS = 10  # until a line names the nodes that do not answer yet


class Actor(NodeJudge):
    """The `NodeJudge` that Ray runs on each node."""

    def version(self) -> tuple[str, str]:
        return cluster.program_version()


class JudgingEnded(Exception):
    """Judging ended, so a call has no answer. Nobody waits for one."""


class RayCalls:
    """The calls in progress on all nodes. Once `closed`, no call may begin, as Ray would reconnect for it."""

    def __init__(self) -> None:
        self._turn, self._running, self.closed = threading.Condition(), 0, False

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Count a call as in progress during the block. Raises `JudgingEnded` if `closed`."""
        with self._turn:
            if self.closed:
                raise JudgingEnded
            self._running += 1
        try:
            yield
        finally:
            with self._turn:
                self._running -= 1
                self._turn.notify_all()

    def wait(self, seconds: float) -> None:
        """Wait until no call is in progress, at most `seconds`."""
        with self._turn:
            self._turn.wait_for(lambda: not self._running, seconds)


@dataclass(frozen=True)
class RayNode:
    """A node with its actor."""

    ray: Any
    key: str  # Ray's id of the node
    name: str
    workers: int
    actor: Any
    calls: RayCalls

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method as in `JudgeNode`. Raises `JudgingEnded` if judging has ended."""
        with self.calls.one():
            try:
                return self.ray.get(getattr(self.actor, method).remote(*arguments))
            except self.ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, Exception) else error) from error
            except self.ray.exceptions.RayError as error:
                if self.calls.closed:
                    raise JudgingEnded from None
                self.ray.kill(self.actor)  # the actor may still be running
                raise NodeLost(first_line(error)) from None


@contextlib.contextmanager
def open_ray_nodes(
    address: str, build: Callable[[], Task], mode: str, workers: int | None, content: str, report: Callable[[str], None]
) -> Iterator[NodesEngine]:
    """Provide an engine over all nodes of a running cluster.

    Args:
        address: the cluster's address; "auto" is this machine's.
        workers: programs at once on each node; None: as many as it has cores.
        build, mode, content: see `NodesEngine`.
        report: prints a line for the user.

    Raises:
        UserError: if there is no cluster, or a node of it cannot judge.
    """
    with cluster.connected(address, OPTION) as ray:
        calls = RayCalls()
        nodes = _started(ray, workers, report, calls)
        try:
            engine = NodesEngine(nodes, build, mode, content, report, PLACE)
            report(f"judging on {len(engine.nodes)} nodes, {engine.workers} programs at once")
            yield engine
        finally:
            _end(ray, nodes, calls)


def _end(ray: Any, nodes: Sequence[RayNode], calls: RayCalls) -> None:
    """Kill the actors, which ends the calls in progress, and wait for these calls: after an interrupt, threads still
    wait for judgements."""
    calls.closed = True
    for node in nodes:
        with contextlib.suppress(ray.exceptions.RayError):  # the whole cluster may be gone
            ray.kill(node.actor)
    calls.wait(END_SECONDS)


def _started(ray: Any, workers: int | None, report: Callable[[str], None], calls: RayCalls) -> list[RayNode]:
    nodes = []
    for node in cluster.live_nodes(ray):
        count = workers or node.cores
        strategy = cluster.placement(ray, node)
        options = {"num_cpus": min(count, node.cores), "max_concurrency": count, "scheduling_strategy": strategy}
        nodes.append(RayNode(ray, node.id, node.name, count, ray.remote(**options)(Actor).remote(), calls))
    if not nodes:
        raise UserError(f"{OPTION}: no node of the cluster has cores for tasks; add nodes with `ray start`")
    answers = [node.actor.version.remote() for node in nodes]
    _, waiting = ray.wait(answers, num_returns=len(answers), timeout=BUSY_SECONDS)
    if waiting:
        names = ", ".join(node.name for node, answer in zip(nodes, answers, strict=True) if answer in waiting)
        report(f"waiting for node {names}, whose cores may be in use; --workers N needs only N of them")
    return [node for node, answer in zip(nodes, answers, strict=True) if _runs(ray, node, answer, report)]


def _runs(ray: Any, node: RayNode, answer: Any, report: Callable[[str], None]) -> bool:
    """Return False if the node was lost before it began, else True. `UserError` if it does not run this program."""
    try:
        version = ray.get(answer)
    except ray.exceptions.RayError as error:
        # Ray lists a dead node as alive for a while. An actor that dies before its program begins is lost with it.
        kinds = (ray.exceptions.RayActorError, ray.exceptions.ActorUnschedulableError)
        lost = isinstance(error, kinds) and not getattr(error, "actor_init_failed", False)
        if lost or node.key not in {each.id for each in cluster.live_nodes(ray)}:
            report(f"node {node.name} was lost ({first_line(error)}) before it began")
            return False
        raise cluster.cannot_run(node.name, error) from None
    cluster.check_version(node.name, version)
    return True
