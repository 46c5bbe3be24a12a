"""A running Ray cluster: connecting to it, its nodes, and whether they run the same program as this machine."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ms_codegeex import __version__
from ms_codegeex.base.errors import UserError, first_line

CONNECT_SECONDS = 10
PROTOBUF = "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"


@dataclass(frozen=True)
class ClusterNode:
    """A live node that runs tasks, with Ray's `id` and the `cores` that Ray may use. `name` is its address, or the name
    from `ray start --node-name`, with a part of the id if another node has the same."""

    id: str
    name: str
    cores: int


def import_ray(option: str) -> Any:
    """Return the module `ray`. Raises `UserError`, which names the command line's `option`, if it is not installed."""
    before = os.environ.get(PROTOBUF)
    # MindSpore needs the implementation in Python. The first import decides, and Ray would take the other one, with
    # which MindSpore cannot be imported afterwards.
    os.environ[PROTOBUF] = "python"
    try:
        import ray
    except ImportError as error:
        remedy = "run `pip install 'ms-codegeex[ray]'` on all nodes, or leave the option out"
        raise UserError(f"{option}: Ray is not installed ({error}); {remedy}") from None
    finally:
        if before is None:
            del os.environ[PROTOBUF]
        else:
            os.environ[PROTOBUF] = before
    return ray


@contextlib.contextmanager
def connected(address: str, option: str) -> Iterator[Any]:
    """Provide the module `ray`, connected to the cluster at `address` ("auto": this machine's). `option` is the
    command-line option that asks for Ray. Raises `UserError` if Ray is not installed, the address is not of the form
    HOST:PORT, or there is no cluster."""
    if "://" in address:
        remedy = "run this command on a node of the cluster, since Ray's client (ray://) is not supported"
        raise UserError(f"--ray-address {address}: expected HOST:PORT, such as NODE:6379, without a scheme; {remedy}")
    ray = import_ray(option)
    try:
        _check_reachable(address)
        previous = signal.getsignal(signal.SIGTERM)
        ray.init(address, log_to_driver=False, logging_level="error", configure_logging=False)
        if threading.current_thread() is threading.main_thread():  # with Ray's handler, the exit status would be 15
            signal.signal(signal.SIGTERM, previous)
    except (OSError, ValueError, RuntimeError) as error:
        given = option if address == "auto" else f"--ray-address {address}"
        raise UserError(
            f"{given}: no Ray cluster was found ({first_line(error)}); run `ray start --head` on one "
            "node and `ray start --address=NODE:6379` on the others, then this command on one of them"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise `OSError` if nothing listens at `HOST:PORT`; Ray would try for a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()


def live_nodes(ray: Any) -> list[ClusterNode]:
    """Return the nodes with at least one core for tasks, under distinct names."""
    nodes = []
    for node in ray.nodes():
        if node["Alive"]:
            name, cores = node.get("NodeName") or node["NodeManagerAddress"], int(node["Resources"].get("CPU", 0))
            nodes.append(ClusterNode(node["NodeID"], name, cores))
    names = Counter(node.name for node in nodes)
    distinct = [n if names[n.name] == 1 else replace(n, name=f"{n.name} ({n.id[:8]})") for n in nodes]
    return [node for node in distinct if node.cores]


def placement(ray: Any, node: ClusterNode) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node.id, soft=False)


def program_version() -> tuple[str, str]:
    """Return the versions of this program and of Python, which must be the same on all nodes."""
    return __version__, platform.python_version()


def check_version(name: str, versions: tuple[str, str]) -> None:
    """Raise `UserError` if the node called `name` has other versions than this one."""
    if versions != program_version():
        theirs = f"has ms-codegeex {versions[0]} under Python {versions[1]}"
        ours = f"this one {__version__} under {platform.python_version()}"
        raise UserError(f"node {name}: {theirs}, {ours}; install the same on all nodes")


def cannot_run(name: str, error: BaseException) -> UserError:
    """Return the error for a node on which our own task does not even begin."""
    cause = first_line(getattr(error, "cause", None) or error)
    return UserError(f"node {name}: cannot run this program ({cause}); install ms-codegeex {__version__} on it")
