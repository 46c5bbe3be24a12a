"""Choose the cores that each device's process is pinned to: those of the device's NUMA node, if this machine reports
it.

On a server with eight Ascend devices, the first ones may belong to the last node, so a device's number does not tell
its node. `npu-smi` reports each device's PCI address, and the kernel the node of that address.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ms_codegeex.base.host import available_cores

SYSFS = Path("/sys")
SECONDS = 30.0  # limit for all calls of npu-smi together


def core_blocks(cores: Sequence[int], count: int) -> list[list[int]]:
    size = len(cores) // count
    return [list(cores[i * size : (i + 1) * size]) for i in range(count)]


def core_list(cores: Sequence[int]) -> str:
    """Format cores as taskset and msrun do: `[0, 1, 2, 5]` -> `0-2,5`."""
    parts: list[list[int]] = []
    for core in cores:
        if parts and core == parts[-1][-1] + 1:
            parts[-1][1:] = [core]
        else:
            parts.append([core])
    return ",".join("-".join(map(str, part)) for part in parts)


def listed_cores(text: str) -> list[int]:
    """Parse a list of cores in the kernel's notation: `0-2,5` -> `[0, 1, 2, 5]`. An empty text has none."""
    bounds = [[int(end) for end in part.split("-")] for part in text.strip().split(",") if part]
    return [core for ends in bounds for core in range(ends[0], ends[-1] + 1)]


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(available_cores()))


def cores_of_devices(devices: Sequence[int], cores: Sequence[int]) -> list[list[int]]:
    """Return disjoint cores for each device's process: a share of the cores of its NUMA node. If any node is unknown or
    has too few cores, return blocks of all cores in the order of the devices."""
    nodes = {device: _node(bus) for device, bus in _buses(devices).items()}
    if None in nodes.values() or len(nodes) < len(devices):
        return core_blocks(cores, len(devices))
    blocks: dict[int, list[int]] = {}
    for node in set(nodes.values()):
        path = SYSFS / f"devices/system/node/node{node}/cpulist"
        known = set(listed_cores(path.read_text(encoding="ascii")) if path.is_file() else [])
        members = [device for device in devices if nodes[device] == node]
        shares = core_blocks([core for core in cores if core in known], len(members))
        blocks |= dict(zip(members, shares, strict=True))
    return [blocks[device] for device in devices] if all(blocks.values()) else core_blocks(cores, len(devices))


def _buses(devices: Sequence[int]) -> dict[int, str]:
    if os.environ.get("ASCEND_RT_VISIBLE_DEVICES"):
        return {}
    buses, end = {}, time.monotonic() + SECONDS
    # columns: card number, chip number, device number ("-": none), chip name
    for card, chip, device in re.findall(r"^\s*([0-9]+)\s+([0-9]+)\s+([0-9]+)\s", _answer(end, "info", "-m"), re.M):
        if int(device) in devices:
            board = _answer(end, "info", "-t", "board", "-i", card, "-c", chip)
            match = re.search(r"^\s*PCIe Bus Info\s*:\s*([0-9A-Fa-f:.]+)\s*$", board, re.MULTILINE)
            if match is None:
                break
            buses[int(device)] = match[1].lower()
    return buses


def _node(bus: str) -> int | None:
    path = SYSFS / f"bus/pci/devices/{bus}/numa_node"
    try:
        node = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _answer(end: float, *words: str) -> str:
    program = shutil.which("npu-smi")
    if program is None:
        return ""
    try:
        how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace", "check": True}
        done = subprocess.run([program, *words], timeout=max(0.0, end - time.monotonic()), **how)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
