"""HCCL rank tables (version 1.0): which rank runs on which device of which server.

This module reads them, makes them from `hccn.conf` files or address lists, merges and checks them. A problem is a
`UserError` that gives its place in the JSON file, unlike the messages of the communication library.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

VERSION = "1.0"
MAX_SERVER_DEVICES = 16  # of the largest servers; parallel.server_devices of a configuration may be lower
SERVER_ID_LENGTH = 63  # HCCL's limit
NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
JSON_TYPES = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number"}


@dataclass(frozen=True)
class RankTableDevice:
    """One NPU. `device_ip` is the address of its own network port; `extra` holds further keys that HCCL may read."""

    device_id: int
    device_ip: str
    rank: int
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RankTableServer:
    """One server and those of its devices that take part, in rank order."""

    server_id: str
    devices: tuple[RankTableDevice, ...]
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks(self) -> range:
        """The ranks on this server."""
        return range(self.devices[0].rank, self.devices[-1].rank + 1)


@dataclass(frozen=True)
class RankTable:
    """A table that satisfies all rules of `parse_rank_table`; servers are in rank order."""

    servers: tuple[RankTableServer, ...]

    @property
    def world(self) -> int:
        """The number of devices of the job."""
        return sum(len(server.devices) for server in self.servers)

    def to_json(self) -> dict[str, Any]:
        """The table in the form that HCCL reads: every value is a string."""
        servers = [
            {
                "server_id": server.server_id,
                **{"host_nic_ip": "reserve", **server.extra},
                "device": [
                    {
                        "device_id": str(device.device_id),
                        "device_ip": device.device_ip,
                        **device.extra,
                        "rank_id": str(device.rank),
                    }
                    for device in server.devices
                ],
            }
            for server in self.servers
        ]
        return {
            "version": VERSION,
            "server_count": str(len(servers)),
            "server_list": servers,
            "status": "completed",
        }


# --- reading and checking ---


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    kind = JSON_TYPES.get(type(value))
    if isinstance(value, dict | list):
        return kind or ""
    text = json.dumps(value, ensure_ascii=False)
    return f"{text} ({kind})" if kind else text


def _problem(path: str, value: Any, expected: str, remedy: str) -> UserError:
    return UserError(f"{path}: found {_shown(value)}, expected {expected}; {remedy}")


def _get(mapping: Mapping[str, Any], key: str, path: str) -> tuple[Any, str]:
    """The value of a key and its path."""
    where = f"{path}.{key}" if path else key
    if key not in mapping:
        raise UserError(f"{where}: missing; add it, or make the table with `ms-codegeex rank-table make`")
    return mapping[key], where


def _string(mapping: Mapping[str, Any], key: str, path: str) -> tuple[str, str]:
    value, where = _get(mapping, key, path)
    if not isinstance(value, str):
        scalar = isinstance(value, int | float) and not isinstance(value, bool)
        raise _problem(where, value, "a string", f'write "{value}"' if scalar else "HCCL reads strings only")
    return value, where


def _number(mapping: Mapping[str, Any], key: str, path: str) -> tuple[int, str]:
    value, where = _string(mapping, key, path)
    if not NUMBER.fullmatch(value):
        raise _problem(where, value, "digits without sign, blank or leading zero", 'write it like "3"')
    return int(value), where


def _address(mapping: Mapping[str, Any], key: str, path: str) -> str:
    value, where = _string(mapping, key, path)
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise _problem(
            where, value, "an IPv4 or IPv6 address", "take it from address_N of the server's hccn.conf"
        ) from None
    return value


def _list(mapping: Mapping[str, Any], key: str, path: str) -> tuple[list[Any], str]:
    value, where = _get(mapping, key, path)
    if not isinstance(value, list) or not value:
        shown = "an empty list" if value == [] else _shown(value)
        raise UserError(
            f"{where}: found {shown}, expected a list with at least one entry; list every one that takes part"
        )
    return value, where


def _objects(values: Iterable[Any], path: str) -> Iterator[tuple[dict[str, Any], str]]:
    for index, value in enumerate(values):
        where = f"{path}[{index}]"
        if not isinstance(value, dict):
            raise _problem(where, value, "an object", "see configs/rank_tables for samples")
        yield value, where


def _extra(mapping: Mapping[str, Any], known: Sequence[str], path: str) -> dict[str, str]:
    return {key: _string(mapping, key, path)[0] for key in mapping if key not in known}


def _server_id(mapping: Mapping[str, Any], path: str) -> str:
    """Any name without blanks; one that looks like an IP address must be one."""
    value, where = _string(mapping, "server_id", path)
    if not value or re.search(r"\s", value) or len(value) > SERVER_ID_LENGTH:
        raise _problem(where, value, f"1 to {SERVER_ID_LENGTH} characters without blanks", "use the server's address")
    if re.fullmatch(r"[0-9.]+", value):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise _problem(where, value, "an IP address or a name", "correct the server's address") from None
    return value


def _server(mapping: dict[str, Any], path: str) -> RankTableServer:
    server_id = _server_id(mapping, path)
    entries, where = _list(mapping, "device", path)
    devices, seen = [], {}
    for entry, place in _objects(entries, where):
        device_id, id_path = _number(entry, "device_id", place)
        if device_id >= MAX_SERVER_DEVICES:
            raise _problem(
                id_path,
                entry["device_id"],
                f"a device of one server, 0 to {MAX_SERVER_DEVICES - 1}",
                "device ids start at 0 on every server",
            )
        _differs(seen, device_id, id_path, entry["device_id"])
        devices.append(
            RankTableDevice(
                device_id,
                _address(entry, "device_ip", place),
                _number(entry, "rank_id", place)[0],
                _extra(entry, ("device_id", "device_ip", "rank_id"), place),
            )
        )
    return RankTableServer(server_id, tuple(devices), _extra(mapping, ("server_id", "device"), path))


def _differs(seen: dict[Any, str], value: Any, path: str, shown: Any) -> None:
    """`UserError` if the value was seen at an earlier place."""
    if value in seen:
        raise UserError(f"{path}: found {_shown(shown)} again, which {seen[value]} already has; give each its own")
    seen[value] = path


def _check_whole(servers: Sequence[RankTableServer]) -> None:
    """Check the servers together: no duplicates, and ranks 0 to N-1 in the order of the file."""
    ids, addresses, ranks = {}, {}, {}
    count = sum(len(server.devices) for server in servers)
    for i, server in enumerate(servers):
        _differs(ids, server.server_id, f"server_list[{i}].server_id", server.server_id)
        for j, device in enumerate(server.devices):
            path = f"server_list[{i}].device[{j}]"
            _differs(addresses, ipaddress.ip_address(device.device_ip), f"{path}.device_ip", device.device_ip)
            _differs(ranks, device.rank, f"{path}.rank_id", str(device.rank))
    for expected, (rank, path) in enumerate(ranks.items()):
        if rank >= count:
            raise _problem(
                path, str(rank), f"a rank below {count}, the number of devices", "ranks are 0 to N-1 without a gap"
            )
        if rank != expected:
            raise _problem(
                path, str(rank), f'"{expected}"', "ranks are contiguous on a server and in the order of the file"
            )


def parse_rank_table(value: Any) -> RankTable:
    """The table in a decoded JSON value; a `UserError` gives the JSON path of the first broken rule."""
    if not isinstance(value, dict):
        raise _problem("(top)", value, "an object", "see configs/rank_tables for samples")
    if "server_list" not in value and "group_list" in value:
        raise UserError("group_list: the old format is not supported; make a table with `ms-codegeex rank-table make`")
    version, where = _string(value, "version", "")
    if version != VERSION:
        raise _problem(where, version, f'"{VERSION}"', "no other version is supported")
    status, where = _string(value, "status", "")
    if status != "completed":
        raise _problem(
            where,
            status,
            '"completed"',
            "the table is not ready yet; wait for its writer, or make it again",
        )
    count, where = _number(value, "server_count", "")
    entries, list_path = _list(value, "server_list", "")
    servers = tuple(_server(entry, path) for entry, path in _objects(entries, list_path))
    if count != len(servers):
        raise _problem(
            where, value["server_count"], f'"{len(servers)}", the entries of server_list', "correct one of them"
        )
    _check_whole(servers)
    return RankTable(servers)


def read_rank_table(path: Path) -> RankTable:
    """The table in a file; a `UserError` gives the file and the JSON path."""
    try:
        return parse_rank_table(read_json(path))
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def check_against_config(table: RankTable, config: RunConfig) -> None:
    """`UserError` unless the mesh of the configuration fits the devices of the table."""
    mesh, limit = config.mesh, config.parallel.server_devices
    if table.world != config.devices:
        raise UserError(
            f"devices: {config.devices}, but the rank table has {table.world} in server_list; "
            f"set devices={table.world} or make a table of {config.devices}"
        )
    for i, server in enumerate(table.servers):
        for j, device in enumerate(server.devices):
            if device.device_id >= limit:
                raise _problem(
                    f"server_list[{i}].device[{j}].device_id",
                    str(device.device_id),
                    f"a device of one server, 0 to {limit - 1}",
                    "correct it, or set parallel.server_devices",
                )
        if len(server.ranks) % mesh.tensor:
            group = mesh.tensor_group(server.ranks.stop)
            raise UserError(
                f"server_list[{i}].device: ranks {server.ranks.start} to {server.ranks.stop - 1} split "
                f"the tensor-parallel group of ranks {group[0]} to {group[-1]}; give every server a multiple of "
                f"parallel.tensor {mesh.tensor} devices, or choose a smaller parallel.tensor"
            )


# --- making ---


def read_hccn_conf(path: Path) -> dict[int, str]:
    """Device id -> address of its network port, from a driver's `hccn.conf` (`address_0=192.168.100.101` …)."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is /etc/hccn.conf of the server") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable ({error})") from None
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
        if int(match[1]) in addresses:
            raise UserError(f"{path}: line {number}: {key} is given twice; keep one")
        try:
            addresses[int(match[1])] = str(ipaddress.ip_address(value))
        except ValueError:
            raise UserError(f"{path}: line {number}: {key}: found '{value}', expected an IP address") from None
    if not addresses:
        raise UserError(f"{path}: no address_N line; set the devices' addresses with hccn_tool")
    return addresses


def make_rank_table(servers: Sequence[tuple[str, Mapping[int, str]]]) -> RankTable:
    """A table of `(server_id, {device id: address})` with ranks in that order; a broken rule is a `UserError`."""
    made, rank = [], 0
    for server_id, addresses in servers:
        devices = []
        for device_id in sorted(addresses):
            devices.append(RankTableDevice(device_id, addresses[device_id], rank))
            rank += 1
        made.append(RankTableServer(server_id, tuple(devices)))
    return parse_rank_table(RankTable(tuple(made)).to_json())


def merge_rank_tables(tables: Sequence[RankTable]) -> RankTable:
    """All servers of the tables in that order, with new ranks; a broken rule is a `UserError`."""
    merged, rank = [], 0
    for server in (server for table in tables for server in table.servers):
        devices = tuple(
            RankTableDevice(d.device_id, d.device_ip, rank + i, d.extra) for i, d in enumerate(server.devices)
        )
        merged.append(RankTableServer(server.server_id, devices, server.extra))
        rank += len(devices)
    return parse_rank_table(RankTable(tuple(merged)).to_json())


def write_rank_table(path: Path, table: RankTable) -> None:
    """Write the table as JSON, atomically."""
    write_json(path, table.to_json())
