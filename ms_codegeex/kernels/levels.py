"""The instruction-set levels that the compiled operators are built for, and those that this CPU supports."""

from __future__ import annotations

import platform
from pathlib import Path

from ms_codegeex.base.errors import UserError

AUTO = "auto"  # stands for the best level that this CPU can run
# level -> architecture and additional features
LEVELS = {"vnni": ("x86-64-v4", "avx512vnni"), "avx512": ("x86-64-v4",), "avx2": ("x86-64-v3",), "plain": ()}
_AVX2 = {"avx2", "bmi1", "bmi2", "fma", "f16c", "movbe", "abm"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
NEEDED = {  # level -> required flags in /proc/cpuinfo
    "vnni": _AVX512 | {"avx512_vnni"},
    "avx512": _AVX512,
    "avx2": _AVX2,
    "plain": set(),
}


def possible_levels(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Return the levels that this CPU can run, the best first."""
    flags: set[str] = set()
    if platform.machine() == "x86_64" and cpuinfo.is_file():
        line = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
        flags = set(line.split())
    return [level for level, needed in NEEDED.items() if needed <= flags]


def cpu_level(name: str = AUTO) -> str:
    """Return the level `name`, or for `AUTO` the best one. `UserError` if this CPU cannot run it."""
    possible = possible_levels()
    if name != AUTO and name not in possible:
        raise UserError(f"--cpu-level: this CPU cannot run {name}; choose {AUTO} or one of {', '.join(possible)}")
    return possible[0] if name == AUTO else name
