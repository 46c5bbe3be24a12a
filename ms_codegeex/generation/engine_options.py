"""How the engine runs a model, as options of `generate`, `serve`, `complete` and `chat`; levels of CPUs, for each of
which the operators are compiled separately."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import option

AUTO = "auto"  # the best level that this CPU can run
# an architecture, and the features that the level adds
LEVELS = {"vnni": ("x86-64-v4", "avx512vnni"), "avx512": ("x86-64-v4",), "avx2": ("x86-64-v3",), "plain": ()}
LEVEL_NAMES = (AUTO, *LEVELS)
LEVEL_HELP = "instructions of the compiled operators (default: auto, the best that this CPU has; see `doctor`)"
_AVX2 = {"avx2", "bmi1", "bmi2", "fma", "f16c", "movbe", "abm"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
NEEDED = {  # of the flags in /proc/cpuinfo
    "vnni": _AVX512 | {"avx512_vnni"},
    "avx512": _AVX512,
    "avx2": _AVX2,
    "plain": set(),
}


def possible_levels(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Those of `LEVELS` that this CPU can run, the best first."""
    flags: set[str] = set()
    if platform.machine() == "x86_64" and cpuinfo.is_file():
        line = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
        flags = set(line.split())
    return [level for level, needed in NEEDED.items() if needed <= flags]


def cpu_level(name: str = AUTO) -> str:
    """The level of this name, or the best that this CPU can run. `UserError` if it cannot run it."""
    possible = possible_levels()
    if name != AUTO and name not in possible:
        raise UserError(f"--cpu-level: this CPU cannot run {name}; choose {AUTO} or one of {', '.join(possible)}")
    return possible[0] if name == AUTO else name


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Settings of a `Generator`, by the names of its parameters. `device` is the kind of device that computes; several
    `devices` share the model."""

    threads: int | None = option(
        "threads of the compiled operators (default: one per core; 0: MindSpore's own operators)", "N", ge=0
    )
    cpu_level: Literal[LEVEL_NAMES] = option(LEVEL_HELP, default=AUTO)  # type: ignore[valid-type]
    speculate: str | None = option(
        "guess tokens from the text so far, or by a smaller model of the same tokenizer; the text stays the same",
        "ngram|DIR",
    )
    fast: bool = option("round activations too (quantised models on a CPU): faster, less exact", default=False)
    cache_bits: Literal[32, 16] = option("bits of a number in the KV cache: FP32 or FP16", default=32)
    device: Literal["cpu", "gpu", "ascend"] | None = option(
        "device that computes (default: MindSpore's choice); gpu and ascend use MindSpore's own operators"
    )
    devices: int = option("share the model among N processes, on a machine with GPUs one for each", "N", 1, ge=1)
