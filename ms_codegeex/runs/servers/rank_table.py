"""HCCL rank tables: which rank runs on which device of which server. Version 1.2 also says which servers form a super
pod, whose devices (Ascend 910C) are connected beyond their servers.

This module reads, checks and merges them, and makes them from `hccn.conf` files or address lists. A `UserError` gives
the position of a problem in the JSON file, unlike the messages of the communication library.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.files import write_json
from ms_codegeex.base.kinds import refuse_other_kind
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import read_json

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

KEYS = ("version", "server_count", "server_list", "super_pod_list", "status")
UNFINISHED, WAIT_SECONDS = "initializing", 0.5  # status of an incomplete table; seconds between two reads of it
VERSIONS = ("1.0", "1.2")  # without and with super pods
# Identifying key -> kind of table that HCCL does not read
OTHERS = {
    "prefill_device_list": "a table of disaggregated serving, with devices for prefill and decode,",
    "decode_device_list": "a table of disaggregated serving, with devices for prefill and decode,",
    "server_group_list": "MindCluster's global table of groups of servers for inference",
    "rank_list": "version 2.0, of Ascend 950,",
}
MAX_SERVER_DEVICES = 16  # of the largest servers; parallel.server_devices may be lower
SERVER_ID_LENGTH = 64  # characters; HCCL's limit
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
JSON_TYPES = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number"}


@dataclass(frozen=True)
class RankTableDevice:
    """One NPU. `device_ip`: address of its network port, "" if the table lacks it. `extra`: further keys for HCCL."""

    device_id: int
    device_ip: str
    rank: int
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RankTableServer:
    """A server, and those of its devices that take part, in rank order."""

    server_id: str
    devices: tuple[RankTableDevice, ...]
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> range:
        ranks = [device.rank for device in self.devices]
        return range(min(ranks), max(ranks) + 1)


@dataclass(frozen=True)
class RankTable:
    """A table that satisfies all rules of `parse_rank_table`; servers are in rank order. `super_pods`: super pod id ->
    ids of its servers, only in version 1.2. `extra`: further keys, with any values."""

    servers: tuple[RankTableServer, ...]
    super_pods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    version: str = VERSIONS[0]

    @property
    def world(self) -> int:
        return sum(len(server.devices) for server in self.servers)

    def to_json(self) -> dict[str, Any]:
        """Return the table in the form that HCCL reads, in which every value is a string."""
        servers = [
            {
                "server_id": server.server_id,
                **{"host_nic_ip": "reserve", **server.extra},
                "device": [
                    {"device_id": str(d.device_id), **address, **d.extra, "rank_id": str(d.rank)}
                    for d in server.devices
                    for address in [{"device_ip": d.device_ip} if d.device_ip else {}]
                ],
            }
            for server in self.servers
        ]
        pods = [
            {"super_pod_id": pod, "server_list": [{"server_id": server} for server in members]}
            for pod, members in self.super_pods.items()
        ]
        return {
            "version": self.version,
            "server_count": str(len(servers)),
            "server_list": servers,
            **({"super_pod_list": pods} if pods else {}),
            "status": "completed",
            **self.extra,
        }


# --- reading and checking ---


@dataclass(frozen=True)
class _Place:
    """A value in the file, and its JSON path."""

    value: Any
    path: str

    def shown(self) -> str:
        if isinstance(self.value, dict | list):
            return JSON_TYPES[type(self.value)]
        text, kind = json.dumps(self.value, ensure_ascii=False), JSON_TYPES.get(type(self.value))
        return f"{text} ({kind})" if kind else text

    def problem(self, expected: str, remedy: str) -> UserError:
        return UserError(f"{self.path or '(top)'}: found {self.shown()}, expected {expected}; {remedy}")

    def get(self, key: str) -> _Place:
        where = f"{self.path}.{key}" if self.path else key
        if key not in self.value:
            made = "" if "super" in key else ", or make the table with `ms-codegeex rank-table make`"
            raise UserError(f"{where}: missing; add it{made}")
        return _Place(self.value[key], where)

    def text(self) -> str:
        if not isinstance(self.value, str):
            scalar = isinstance(self.value, int | float) and not isinstance(self.value, bool)
            raise self.problem("a string", f'write "{self.value}"' if scalar else "HCCL reads strings only")
        return self.value

    def number(self) -> int:
        if not NUMBER.fullmatch(self.text()):
            raise self.problem("digits without sign, blank or leading zero", 'write it like "3"')
        return int(self.value)

    def address(self) -> str:
        if not is_address(self.text()):
            raise self.problem("an IPv4 or IPv6 address", "take it from address_N of the server's hccn.conf")
        return self.value

    def object(self) -> _Place:
        if not isinstance(self.value, dict):
            raise self.problem("an object", "make the table with `ms-codegeex rank-table make`")
        return self

    def objects(self) -> Iterator[_Place]:
        """Return the entries of a list, which must not be empty."""
        if not isinstance(self.value, list) or not self.value:
            shown = "an empty list" if self.value == [] else self.shown()
            wrong = f"found {shown}, expected a list with at least one entry"
            raise UserError(f"{self.path}: {wrong}; list every one that takes part")
        return (_Place(value, f"{self.path}[{index}]").object() for index, value in enumerate(self.value))

    def rest(self, *known: str) -> dict[str, str]:
        return {key: self.get(key).text() for key in self.value if key not in known}

    def differ(self, seen: dict[Any, str], value: Any) -> None:
        """Raise `UserError` if the value was seen at an earlier position."""
        if value in seen:
            wrong = f"found {self.shown()} again, which {seen[value]} already has"
            raise UserError(f"{self.path}: {wrong}; give each its own")
        seen[value] = self.path


def is_address(text: str) -> bool:
    """Whether `text` is an IPv4 or IPv6 address."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(text))
    return False


def _server_id(entry: _Place) -> str:
    """Return a server's id: any text, as in HCCL, except that one that looks like an IP address must be one."""
    value = entry.text()
    if not value.strip() or not value.isprintable() or len(value) > SERVER_ID_LENGTH:
        raise entry.problem(f"1 to {SERVER_ID_LENGTH} printable characters", "use the server's address")
    if re.fullmatch(r"[0-9.]+", value) and not is_address(value):
        raise entry.problem("an IP address or a name", "correct the server's address")
    return value


def _server(server: _Place, networked: bool) -> RankTableServer:
    server_id = _server_id(server.get("server_id"))
    devices, seen = [], {}
    for entry in server.get("device").objects():
        number = entry.get("device_id")
        if number.number() >= MAX_SERVER_DEVICES:
            expected = f"a device of one server, 0 to {MAX_SERVER_DEVICES - 1}"
            raise number.problem(expected, "device ids start at 0 on every server")
        number.differ(seen, number.number())
        address = entry.get("device_ip").address() if networked or "device_ip" in entry.value else ""
        extra = entry.rest("device_id", "device_ip", "rank_id")
        devices.append(RankTableDevice(number.number(), address, entry.get("rank_id").number(), extra))
    return RankTableServer(server_id, tuple(devices), server.rest("server_id", "device"))


def _in_rank_order(server: RankTableServer) -> RankTableServer:
    return replace(server, devices=tuple(sorted(server.devices, key=lambda device: device.rank)))


def _check_whole(servers: Sequence[RankTableServer]) -> None:
    ids, addresses, ranks = {}, {}, {}
    count = sum(len(server.devices) for server in servers)
    for i, server in enumerate(servers):
        _Place(server.server_id, f"server_list[{i}].server_id").differ(ids, server.server_id)
        for j, device in enumerate(server.devices):
            path = f"server_list[{i}].device[{j}]"
            if device.device_ip:
                _Place(device.device_ip, f"{path}.device_ip").differ(addresses, ipaddress.ip_address(device.device_ip))
            _Place(str(device.rank), f"{path}.rank_id").differ(ranks, device.rank)
    for rank, path in ranks.items():
        if rank >= count:
            expected = f"a rank below {count}, the number of devices"
            raise _Place(str(rank), path).problem(expected, "ranks are 0 to N-1 without a gap")
    for i, server in enumerate(servers):
        first, last = server.ranks.start, server.ranks.stop - 1
        if last - first >= len(server.devices):
            wrong = f"ranks {first} to {last} are on {len(server.devices)} devices, with others between them"
            raise UserError(f"server_list[{i}]: {wrong}, which is not supported; give each server contiguous ranks")


def parse_rank_table(value: Any) -> RankTable:
    """Return the table in a decoded JSON value. `UserError` gives the JSON path of the first broken rule."""
    top = _Place(value, "").object()
    if "server_list" not in value and (key := next(filter(value.__contains__, OTHERS), None)):
        raise UserError(f"{key}: {OTHERS[key]} is not supported; make a table with `ms-codegeex rank-table make`")
    if (status := top.get("status")).text() != "completed":  # first, because unfinished tables may have no other key
        raise status.problem('"completed"', "the table is not ready yet; wait for its writer, or make it again")
    if "server_list" not in value and "group_list" in value:
        value = _of_groups(top)
        top = _Place(value, "")
    if (version := top.get("version")).text() not in VERSIONS:
        raise version.problem('"1.0" or "1.2"', "make such a table with `ms-codegeex rank-table make`")
    count = top.get("server_count")
    pods = value.get("super_pod_list")  # within one server or super pod, ranks need no network
    networked = count.number() > 1 and not (isinstance(pods, list) and len(pods) == 1)
    servers = tuple(_server(entry, networked) for entry in top.get("server_list").objects())
    if count.number() != len(servers):
        raise count.problem(f'"{len(servers)}", the entries of server_list', "correct one of them")
    _check_whole(servers)
    servers = tuple(sorted(map(_in_rank_order, servers), key=lambda server: server.ranks.start))
    if version.value == VERSIONS[0] and pods is not None:
        raise version.problem('"1.2", since there is a super_pod_list', "correct one of them")
    extra = {key: value[key] for key in value if key not in KEYS}
    return RankTable(servers, {} if pods is None else _super_pods(top, servers), extra, version.value)


def _of_groups(top: _Place) -> dict[str, Any]:
    ranks, servers = itertools.count(), []
    for group in top.get("group_list").objects():
        for instance in group.get("instance_list").objects():
            devices = [
                {**entry.value, "rank_id": entry.value.get("rank_id", str(next(ranks)))}
                for entry in instance.get("devices").objects()
            ]
            servers.append({"server_id": instance.get("server_id").value, "device": devices})
    return {"version": "1.0", "status": "completed", "server_count": str(len(servers)), "server_list": servers}


def _super_pods(top: _Place, servers: Sequence[RankTableServer]) -> dict[str, tuple[str, ...]]:
    pods: dict[str, tuple[str, ...]] = {}
    ids, members = {}, {}
    for entry in top.get("super_pod_list").objects():
        pod = entry.get("super_pod_id")
        if not pod.text():
            raise pod.problem("a name", "use the number of the super pod")
        pod.differ(ids, pod.text())
        listed = [server.get("server_id") for server in entry.get("server_list").objects()]
        for server in listed:
            server.differ(members, server.text())
        pods[pod.value] = tuple(server.value for server in listed)
    known, pod_of = {server.server_id for server in servers}, {name: pod for pod in pods for name in pods[pod]}
    for name, path in members.items():
        if name not in known:
            raise _Place(name, path).problem("a server of server_list", "correct one of them")
    runs = [pod for pod, _ in itertools.groupby(pod_of.get(server.server_id, "") for server in servers)]
    for pod, path in ids.items():
        if runs.count(pod) > 1:
            remedy = "which is not supported; give each super pod contiguous ranks"
            raise UserError(f"{path}: other super pods have ranks between those of {pod!r:.40}, {remedy}")
    numbers = {}
    for i, server in enumerate(servers):
        if server.server_id not in members:
            place = _Place(server.server_id, f"server_list[{i}].server_id")
            raise place.problem("a server of super_pod_list", "add it to its super pod")
        for j, device in enumerate(server.devices):
            place = _Place(dict(device.extra), f"server_list[{i}].device[{j}]").get("super_device_id")
            if not re.fullmatch(r"[0-9]{1,20}", place.text()):
                raise place.problem("digits", "it is the number of the device in its super pod")
            place.differ(numbers, (pod_of[server.server_id], int(place.value)))
    return pods


def read_rank_table(path: Path) -> RankTable:
    """Return the table in a file. `UserError` gives the file and the JSON path."""
    value = read_json(path)
    if not isinstance(value, dict) or value.keys().isdisjoint((*KEYS[1:], *OTHERS, "group_list")):
        refuse_other_kind(path, value)
    with located(path):
        return parse_rank_table(value)


def awaited_rank_table(path: Path, seconds: float, dry_run: bool = False) -> RankTable:
    """Return the table in a file that its writer may not have completed, as MindCluster does until all pods of a job
    exist. Prints a line and waits at most `seconds`; a dry run takes what the file has."""
    value = read_json(path)
    if _is_unfinished(value):
        would = "a run would be waiting" if dry_run else "waiting"
        print_error(f"{would} at most {seconds:g} s for {path}, whose status is {UNFINISHED}")
        if dry_run:
            with located(path):
                return parse_rank_table({**value, "status": "completed"})
        end = time.monotonic() + seconds
        while _is_unfinished(read_json(path)) and time.monotonic() < end:
            time.sleep(WAIT_SECONDS)
    return read_rank_table(path)


def _is_unfinished(value: Any) -> bool:
    return isinstance(value, dict) and value.get("status") == UNFINISHED


def check_against_config(table: RankTable, config: RunConfig) -> None:
    """Raise `UserError` unless the mesh of the configuration fits the devices of the table."""
    mesh, limit = config.mesh, config.parallel.server_devices
    if table.world != config.devices:
        wrong = f"{config.devices}, but the rank table has {table.world} in server_list"
        raise UserError(f"devices: {wrong}; set devices={table.world} or make a table of {config.devices}")
    for i, server in enumerate(table.servers):
        for j, device in enumerate(server.devices):
            if device.device_id >= limit:
                entry = _Place(str(device.device_id), f"server_list[{i}].device[{j}].device_id")
                expected = f"a device of one server, 0 to {limit - 1}"
                raise entry.problem(expected, "correct it, or set parallel.server_devices")
        if len(server.ranks) % mesh.tensor:
            group = mesh.tensor_group(server.ranks.stop)
            split = f"split the tensor-parallel group of ranks {group[0]} to {group[-1]}"
            wrong = f"ranks {server.ranks.start} to {server.ranks.stop - 1} {split}"
            remedy = f"give every server a multiple of parallel.tensor {mesh.tensor} devices"
            raise UserError(f"server_list[{i}].device: {wrong}; {remedy}, or choose a smaller parallel.tensor")


# --- making ---


def read_hccn_conf(path: Path) -> dict[int, str]:
    """Return device id -> network address, from a driver's `hccn.conf` (`address_0=192.168.100.101` …)."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is /etc/hccn.conf of the server") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({error}); copy it from the server again") from None
    addresses: dict[int, str] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        key, separator, value = (part.strip() for part in line.partition("="))
        if not separator:
            raise UserError(f"{path}: line {number}: found '{line}', expected key=value such as address_0=192.168.1.1")
        match = re.fullmatch(r"address_(\d+)", key)
        if match is None:
            continue
        try:
            device, address = int(match[1]), str(ipaddress.ip_address(value))
        except ValueError:
            expected = "an IP address, and a device's number in the name"
            raise UserError(f"{path}: line {number}: {key[:60]}: found '{value}', expected {expected}") from None
        if device in addresses:
            raise UserError(f"{path}: line {number}: {key} is given twice; keep one")
        addresses[device] = address
    if not addresses:
        raise UserError(f"{path}: no address_N line; set the devices' addresses with hccn_tool")
    return addresses


def make_rank_table(servers: Sequence[tuple[str, Mapping[int, str]]]) -> RankTable:
    """Return a table of `(server_id, {device id: address})` pairs, with ranks in that order. `UserError` if a rule is
    broken."""
    made = (
        RankTableServer(server_id, tuple(RankTableDevice(number, addresses[number], 0) for number in sorted(addresses)))
        for server_id, addresses in servers
    )
    return _numbered(RankTable(tuple(made)))


def merge_rank_tables(tables: Sequence[RankTable]) -> RankTable:
    """Return a table with all servers in the given order and new ranks. Equal ids of super pods mean the same super
    pod. Further keys are kept if all tables have the same value. `UserError` if a rule is broken."""
    if len({(table.version, bool(table.super_pods)) for table in tables}) > 1:
        raise UserError("version: some tables are 1.2 or have super pods, others not; make all of one version")
    pods: dict[str, tuple[str, ...]] = {}
    for table in tables:
        for pod, members in table.super_pods.items():
            pods[pod] = (*pods.get(pod, ()), *members)
    first, *others = (table.extra for table in tables)
    extra = {key: first[key] for key in first if all(key in other and other[key] == first[key] for other in others)}
    servers = tuple(server for table in tables for server in table.servers)
    return _numbered(RankTable(servers, pods, extra, tables[0].version))


def _numbered(table: RankTable) -> RankTable:
    ranks = itertools.count()
    numbered = (
        replace(server, devices=tuple(replace(device, rank=next(ranks)) for device in server.devices))
        for server in table.servers
    )
    return parse_rank_table(replace(table, servers=tuple(numbered)).to_json())


def write_rank_table(path: Path, table: RankTable) -> None:
    write_json(path, table.to_json())
