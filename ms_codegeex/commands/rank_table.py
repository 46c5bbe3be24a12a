"""`ms-codegeex rank-table`: make, merge and check HCCL rank tables."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_error, print_result
from ms_codegeex.base.reading import given_text
from ms_codegeex.base.verb_options import Actions, JsonOption

SUMMARY = "make, merge and check HCCL rank tables: which rank runs on which device of which Ascend server"
SUPER_POD = "Ascend910_93"  # the driver's name of a chip in a super pod
EXAMPLES = """\
  ms-codegeex rank-table make --server 10.0.0.11=/etc/hccn.conf --output server11.json
  ms-codegeex rank-table make --server 10.0.0.11=192.168.100.101,192.168.101.101 --output two_devices.json
  ms-codegeex rank-table merge server11.json server12.json --output cluster.json
  ms-codegeex rank-table check cluster.json --config codegeex_13b"""


@dataclass(frozen=True)
class ServersOptions:
    """The servers of a new table."""

    server: tuple[str, ...] = option(
        "a server's address or name, and its hccn.conf or its devices' addresses A,B,…; may be repeated",
        "ID=SOURCE",
        (),
        repeated=True,
    )
    servers: Path | None = option("file with one `ID=SOURCE` per line; paths in it are relative to FILE", "FILE")
    devices: str | None = option("use only these devices of every server", "0,1,…")


@dataclass(frozen=True)
class TablesOptions:
    """The tables to merge."""

    tables: tuple[Path, ...] = option("files, in the order of their ranks", "TABLE", REQUIRED, positional=True)


@dataclass(frozen=True)
class CheckOptions:
    """The table to check, and the run that it is for."""

    table: Path = option("file to check", "TABLE", REQUIRED, positional=True)
    config: Path | None = option("also check the table against the mesh of this run", "FILE")
    overrides: tuple[str, ...] = option("overrides of the configuration", "key=value", (), positional=True)


@dataclass(frozen=True)
class TableOptions:
    """The file to write."""

    output: Path = option("the table to write", "FILE", REQUIRED)
    replace: bool = option("replace an existing table", default=False)


WRITTEN = (TableOptions, JsonOption)
OPTIONS = Actions(
    {
        "make": ("make a table from hccn.conf files or lists of addresses", [ServersOptions, *WRITTEN]),
        "merge": ("merge several tables into one; ranks are renumbered in the given order", [TablesOptions, *WRITTEN]),
        "check": ("check every rule and report the first violation by its JSON path", [CheckOptions, JsonOption]),
    }
)


def _addresses(source: str, where: str, folder: Path) -> dict[int, str]:
    from ms_codegeex.runs.servers.rank_table import is_address, read_hccn_conf

    words = [word.strip() for word in source.split(",")]
    if len(words) == 1 and not is_address(words[0]):
        return read_hccn_conf(folder / words[0])
    for index, word in enumerate(words):
        if not is_address(word):
            raise UserError(f"{where}: device {index}: found '{word}', expected an IP address or one hccn.conf")
    return dict(enumerate(words))


def _chosen(addresses: dict[int, str], devices: list[int] | None, where: str) -> dict[int, str]:
    if devices is None:
        return addresses
    for device in devices:
        if device not in addresses:
            known = ", ".join(map(str, sorted(addresses)))
            raise UserError(f"--devices: {where} has no address for device {device}; it has {known}")
    return {device: addresses[device] for device in devices}


def _servers(arguments: argparse.Namespace) -> list[tuple[str, dict[int, str]]]:
    words = [(f"--server {word}", word, Path()) for word in arguments.server or ()]
    if arguments.servers is not None:
        for number, line in enumerate(given_text(str(arguments.servers), "--servers").splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                words.append((f"{arguments.servers}: line {number}", line.strip(), arguments.servers.parent))
    if not words:
        raise UserError("--server: none given; name each server with --server ID=SOURCE, or all in --servers FILE")
    if arguments.devices is not None and not re.fullmatch(r"\d{1,9}(,\d{1,9})*", arguments.devices):
        raise UserError(f"--devices: found '{arguments.devices[:60]}', expected numbers such as 0,1,2,3")
    devices = [int(number) for number in arguments.devices.split(",")] if arguments.devices else None
    if devices and len(set(devices)) < len(devices):
        raise UserError(f"--devices: '{arguments.devices[:60]}' has a device twice; give each once")
    servers = []
    for where, word, folder in words:
        server_id, _, source = map(str.strip, word.partition("="))
        if not source or len(server_id.split()) != 1:
            raise UserError(f"{where}: found '{word}', expected ID=SOURCE such as 10.0.0.11=/etc/hccn.conf")
        servers.append((server_id, _chosen(_addresses(source, where, folder), devices, where)))
    return servers


def run(arguments: argparse.Namespace) -> None:
    """Make, merge or check a table, and print its content."""
    from ms_codegeex.config.software import software_note
    from ms_codegeex.runs.servers import rank_table

    mesh = note = None
    if arguments.action == "check":
        path, table = arguments.table, rank_table.read_rank_table(arguments.table)
        if arguments.overrides and arguments.config is None:
            raise UserError(f"'{arguments.overrides[0]}': overrides need --config FILE")
        hardware = SUPER_POD if table.super_pods else ""
        if arguments.config is not None:
            from ms_codegeex.config.loading import load_config

            config = load_config(arguments.config, arguments.overrides)
            with located(f"{path} with {arguments.config}"):
                rank_table.check_against_config(table, config)
            mesh = str(config.mesh)
            hardware = hardware or config.parallel.hardware or ""
        note = software_note(hardware)
    else:
        path = arguments.output
        if path.exists() and not arguments.replace:
            raise UserError(f"--output: {path} exists already; choose another name or give --replace")
        if arguments.action == "make":
            table = rank_table.make_rank_table(_servers(arguments))
        else:
            tables = [rank_table.read_rank_table(file) for file in arguments.tables]
            table = rank_table.merge_rank_tables(tables)
            if lost := sorted({key for each in tables for key in each.extra} - table.extra.keys()):
                print_error(f"left out, since the tables differ in it: {', '.join(lost)}")
        rank_table.write_rank_table(path, table)
    servers = f"{len(table.servers)} server{'s' * (len(table.servers) > 1)}"
    devices = f"{table.world} device{'s' * (table.world > 1)}, ranks 0 to {table.world - 1}"
    fits = f"; fits {mesh}" if mesh else ""
    result = {
        "table": str(path),
        "servers": len(table.servers),
        "devices": table.world,
        "server_list": [
            {"server_id": server.server_id, "ranks": [server.ranks.start, server.ranks.stop - 1]}
            for server in table.servers
        ],
        "mesh": mesh,
    }
    text = f"{path}: {servers}, {devices}{fits}"
    if note and arguments.json:
        print_error(note)
    print_result(result, f"{text}\n{note}" if note else text, arguments.json)
