"""Derive one server's part of a job, and its processes, from the configuration and a rank table or scheduler address.

`train` starts the same processes that `train --dry-run` prints.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.processes import import_variables
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chips import check_kind
from ms_codegeex.planning.communicators import buffer_variables
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.servers.cores import core_blocks, core_list, cores_of_devices, usable_cores
from ms_codegeex.runs.servers.rank_table import RankTable, awaited_rank_table, check_against_config, is_address
from ms_codegeex.runs.servers.workers import WorkerSpec

LOCAL = "127.0.0.1"
SCHEDULER_PORT = 8118  # default for jobs of several servers, as in msrun
NODE_SECONDS = "600"  # how long the others wait for a silent rank, for example during a slow save
# Range of random seconds until a rank asks the scheduler again. MindSpore's defaults of 3 and 5 keep thousands of ranks
# apart; on one server they only delay every start by three seconds.
RETRY_SECONDS = {"MS_RETRY_INTERVAL_LOWER": "0", "MS_RETRY_INTERVAL_UPPER": "1"}
# Makes msrun ask MindCluster's agent to recover single ranks, which needs callbacks of MindSpore's `Model.train`.
RECOVERY = "MS_ENABLE_TFT"
EXECUTE_SECONDS = 7200  # timeout of a collective; the first waits for the slowest compiler
CONNECT_SECONDS = {False: 2000, True: 6000}  # how long HCCL waits for the slowest rank, by: is there a pipeline


@dataclass(frozen=True)
class Node:
    """One server's part of a job: server `rank` of `count`, its global `ranks`, and the `devices` that they use.
    `table`: the rank table that chose the devices. `master`: the scheduler's host and port, for several servers."""

    rank: int
    count: int
    ranks: range
    devices: tuple[int, ...]
    name: str = "this machine"
    table: Path | None = None
    master: tuple[str, int] | None = None

    @property
    def needs_port(self) -> bool:
        return self.master is None and len(self.ranks) > 1


def resolve_node(
    config: RunConfig,
    rank_table: Path | None = None,
    node_rank: int | None = None,
    nodes: int | None = None,
    master: str | None = None,
    dry_run: bool = False,
) -> Node:
    """Return this server's part of the job. `master` is `HOST:PORT`. Waits for a rank table that its writer has not
    completed, except in a dry run. `UserError` names the flag or key that does not fit."""
    check_kind(config)
    _check_device(config, rank_table, nodes)
    if rank_table is not None:
        table = awaited_rank_table(rank_table, config.cluster.start_timeout, dry_run)
        return _node_of_table(config, table, rank_table, node_rank, nodes, master)
    count = 1 if nodes is None else nodes
    if count < 1 or config.devices % count:
        raise UserError(f"--nodes: {count} servers cannot share devices: {config.devices} equally; change one of them")
    local = config.devices // count
    if config.device != "cpu" and local > config.parallel.server_devices:
        wrong = f"{config.devices} on {count} server{'s' * (count > 1)} of {config.parallel.server_devices}"
        least = f"set devices={count * config.parallel.server_devices}"
        ways = "give `train` --nodes N --node-rank K --master-addr HOST:PORT, or --rank-table FILE --node-rank K"
        larger = f"set parallel.server_devices={local} if a server has as many"
        raise UserError(f"devices: {wrong} (parallel.server_devices); {least}, or {ways}, or {larger}")
    if local % config.parallel.tensor:
        wrong = f"{local} devices per server split tensor-parallel groups of {config.parallel.tensor} (parallel.tensor)"
        raise UserError(f"--nodes: {wrong}; use fewer servers or a smaller parallel.tensor")
    rank = _node_rank(node_rank, count)
    if count > 1 and master is None:
        raise UserError(f"--master-addr: missing; give --master-addr HOST:PORT of server 0, where all {count} meet")
    address = _master(master) if master is not None and count > 1 else None
    ranks = range(rank * local, (rank + 1) * local)
    name = f"server {rank}" if count > 1 else "this machine"
    return Node(rank, count, ranks, tuple(range(local)), name, None, address)


def _check_device(config: RunConfig, rank_table: Path | None, nodes: int | None) -> None:
    if rank_table is not None and config.device != "ascend":
        raise UserError(f"--rank-table: rank tables are for Ascend and device is {config.device}; set device=ascend")
    if config.device != "cpu":
        return
    if (nodes or 1) > 1:
        raise UserError(f"--nodes: {nodes} servers, but device: cpu trains on one machine; set device=ascend")
    for axis in ("tensor", "pipeline", "optimizer_shard"):
        size = getattr(config.parallel, axis)
        if size > 1:
            wrong = f"{size} on device: cpu, where MindSpore has no kernels for that communication"
            raise UserError(f"parallel.{axis}: {wrong}; rehearse it with `ms-codegeex rehearse`, or set device=ascend")


def _node_rank(node_rank: int | None, count: int) -> int:
    if node_rank is None and count > 1:
        raise UserError(f"--node-rank: missing; give --node-rank K, this server's number, 0 to {count - 1}")
    if not 0 <= (node_rank or 0) < count:
        raise UserError(f"--node-rank: found {node_rank}, expected 0 to {count - 1}, one of the job's servers")
    return node_rank or 0


def _node_of_table(
    config: RunConfig, table: RankTable, path: Path, node_rank: int | None, nodes: int | None, master: str | None
) -> Node:
    with located(path):
        check_against_config(table, config)
    count = len(table.servers)
    if nodes not in (None, count):
        raise UserError(f"--nodes: {nodes}, but {path} has {count} servers; leave --nodes out")
    rank = _node_rank(node_rank, count)
    server = table.servers[rank]
    devices = tuple(device.device_id for device in server.devices)
    address = None
    if count > 1:
        first = table.servers[0]  # if `host_ip` is given, the id may be a name
        address = (first.extra.get("host_ip", first.server_id), SCHEDULER_PORT) if master is None else _master(master)
    return Node(rank, count, server.ranks, devices, server.server_id, Path(path).absolute(), address)


def _master(text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[^\]]+\]|[^\s,/:]+):([0-9]{4,5})", text)
    if not found or not 1024 <= int(found[2]) <= 65535:
        raise UserError(f"--master-addr: found '{text}', expected HOST:PORT with a port from 1024 to 65535")
    host, port = found[1].strip("[]"), found[2]
    if (re.fullmatch(r"[0-9.]+", host) or ":" in host) and not is_address(host):
        raise UserError(f"--master-addr: '{host}' is not an IP address; correct it or give a host name")
    return host, int(port)


# --- processes ---


def engine_environment(
    config: RunConfig, node: Node, log_directory: Path, blocks: Sequence[Sequence[int]] = ()
) -> dict[str, str]:
    """Return the variables for every worker of this server. Variables set by the user take precedence, except
    PYTHONPATH and `RECOVERY`. `blocks`: the cores that each worker is pinned to."""
    threads = min(map(len, blocks)) if blocks else len(usable_cores()) // len(node.ranks)
    values = {"MS_NODE_TIMEOUT": NODE_SECONDS, "GLOG_v": "3", "OMP_NUM_THREADS": str(max(1, threads))}
    if config.device == "ascend":
        values |= {
            **_hccl(config, node.ranks),
            **_watching(config),
            "ASCEND_GLOBAL_LOG_LEVEL": "3",
            "ASCEND_GLOBAL_EVENT_ENABLE": "1",
            "ASCEND_SLOG_PRINT_TO_STDOUT": "0",
            "ASCEND_PROCESS_LOG_PATH": str(log_directory / "ascend"),
        }
    if node.needs_port:
        values |= RETRY_SECONDS
    values = {name: os.environ.get(name, value) for name, value in values.items()}
    unused = {RECOVERY: ""} if RECOVERY in os.environ else {}
    return {**values, **unused, **import_variables()}


def _hccl(config: RunConfig, ranks: Sequence[int]) -> dict[str, str]:
    cluster, default = config.cluster, CONNECT_SECONDS[config.parallel.pipeline > 1]
    values = {
        "HCCL_CONNECT_TIMEOUT": cluster.connect_timeout or default,
        "HCCL_EXEC_TIMEOUT": cluster.execute_timeout or EXECUTE_SECONDS,
        "HCCL_SOCKET_IFNAME": cluster.interface,
        "HCCL_DETERMINISTIC": "true" if cluster.deterministic else None,
    }
    buffers = {} if "HCCL_BUFFSIZE" in os.environ else buffer_variables(config, ranks)
    return {**{name: str(value) for name, value in values.items() if value is not None}, **buffers}


def _watching(config: RunConfig) -> dict[str, str]:
    values = {"MS_ENABLE_THM": f"{{HCCL_WATCHDOG:{config.cluster.watchdog:d}}}"}
    if config.cluster.silent_check:
        values["MS_NPU_ASD_CONFIG"] = "enable:true,with_checksum:true"
        values["MS_SUBMODULE_LOG_v"] = "{ME:2,DEBUG:2}"  # the check reports by warnings, which GLOG_v hides
    return values


def node_processes(
    config: RunConfig, node: Node, run: RunDirectory, command: Sequence[str], port: int | None = None
) -> list[WorkerSpec]:
    """Return the processes of this server. `command`: Python's arguments for each worker. `port`: where the workers
    meet if `node.needs_port`."""
    if node.table is not None or (node.count == 1 and (config.devices == 1 or config.device == "cpu")):
        return _own_processes(config, node, run, command, port)
    logs = tuple(run.logs / f"worker_{rank}.log" for rank in node.ranks)
    blocks = _pinned(config, node)
    environment = engine_environment(config, node, run.logs, blocks)
    host, port = node.master or (LOCAL, port or 0)
    msrun = [
        f"--worker_num={config.devices}",
        f"--local_worker_num={len(node.ranks)}",
        *([f"--node_rank={node.rank}"] if node.count > 1 else []),
        f"--master_addr={host}",
        f"--master_port={port}",
        f"--log_dir={run.logs}",
        f"--cluster_time_out={_start_timeout(config)}",
        "--join=True",
        f"--tail_worker_log={config.devices}",  # a number that no worker has: a `tail -f` would outlive a killed msrun
        *_bind(node, blocks),
    ]
    folder = str(Path(sys.executable).parent)  # msrun takes `python` from PATH
    log = run.logs / (f"msrun_{node.rank}.log" if node.count > 1 else "msrun.log")
    label = f"ranks {node.ranks.start} to {node.ranks.stop - 1} on {node.name}, logs {logs[0]} …"
    program = str(Path(folder) / "msrun")
    return [WorkerSpec(label, (program, *msrun, "python", *command), run.logs, log, environment, folder, logs)]


def _start_timeout(config: RunConfig) -> str:
    return os.environ.get("MS_TOPO_TIMEOUT") or str(config.cluster.start_timeout)


def _scheduler(
    config: RunConfig, node: Node, run: RunDirectory, words: Sequence[str], shared: Mapping[str, str], port: int | None
) -> tuple[list[WorkerSpec], dict[str, str]]:
    if config.devices == 1:
        return [], {}
    host, port = (LOCAL, port or 0) if node.master is None else (_resolved(node.master[0]), node.master[1])
    meeting = {"MS_SCHED_HOST": host, "MS_SCHED_PORT": str(port), "MS_TOPO_TIMEOUT": _start_timeout(config)}
    meeting |= {"MS_WORKER_NUM": str(config.devices), "RANK_SIZE": str(config.devices)}
    if node.rank:
        return [], meeting
    log, role = run.logs / "scheduler.log", {"MS_ROLE": "MS_SCHED", "RANK_ID": "0", "DEVICE_ID": str(node.devices[0])}
    return [WorkerSpec(f"scheduler, log {log}", words, run.logs, log, {**shared, **meeting, **role})], meeting


def _resolved(host: str) -> str:
    if is_address(host):
        return str(ipaddress.ip_address(host))
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        remedy = "give the HOST:PORT of server 0 with its IP address"
        raise UserError(f"--master-addr: '{host}' cannot be resolved ({error.strerror}); {remedy}") from None


def _bind(node: Node, blocks: Sequence[Sequence[int]]) -> list[str]:
    if not blocks:
        return []
    lists = [core_list(block).split(",") for block in blocks]  # msrun takes one range per text
    pinned = {f"device{device}": texts for device, texts in zip(node.devices, lists, strict=True)}
    return [f"--bind_core={json.dumps(pinned, separators=(',', ':'))}"]


def _pinned(config: RunConfig, node: Node) -> list[list[int]]:
    cores = usable_cores()
    if config.device == "cpu" or len(cores) < len(node.ranks):
        return []
    return cores_of_devices(node.devices, cores) if config.device == "ascend" else core_blocks(cores, len(node.ranks))


def _own_processes(
    config: RunConfig, node: Node, run: RunDirectory, command: Sequence[str], port: int | None
) -> list[WorkerSpec]:
    """Return one process per rank, and if there are several, the scheduler through which they meet. On one server msrun
    would start the same, but only after spending seconds on importing the engine. With a rank table, each process has
    its own directory, because the compiler leaves files in the working directory. The table only states which rank
    computes on which device of which server, which msrun would number itself; MindSpore 2.9 no longer starts from a
    rank table, so the ranks meet through a scheduler all the same."""
    blocks = _pinned(config, node) if node.table is not None else []
    words, shared = (sys.executable, *command), engine_environment(config, node, run.logs, blocks)
    specs, meeting = _scheduler(config, node, run, words, shared, port)
    for rank, device, block in zip(node.ranks, node.devices, blocks or [[]] * len(node.ranks), strict=True):
        log, own = run.logs / f"worker_{rank}.log", {"DEVICE_ID": str(device)}
        if meeting:
            own = {**meeting, "MS_ROLE": "MS_WORKER", "MS_NODE_ID": str(rank), "RANK_ID": str(rank), **own}
        if node.table is None:
            label = f"rank {rank} on {node.name}, log {log}"
            specs.append(WorkerSpec(label, words, run.logs, log, {**shared, **own}, worker_logs=(log,)))
            continue
        taskset = shutil.which("taskset")
        pin = [taskset, "-c", core_list(block)] if taskset and block else []
        reason = "taskset not found" if block else f"{len(usable_cores())} cores for {len(node.ranks)} processes"
        where = f"cores {core_list(block)}" if pin else f"not pinned ({reason})"
        label = f"rank {rank} on device {device} of {node.name}, {where}, log {log}"
        directory = run.logs / f"rank_{rank}"
        environment = {**engine_environment(config, node, directory, blocks), **own}
        specs.append(WorkerSpec(label, (*pin, *words), directory, log, environment, worker_logs=(log,)))
    return specs
