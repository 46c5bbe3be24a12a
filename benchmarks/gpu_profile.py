"""Kernels of a GPU: a trace of some work (gpu_trace.c), and tables of it for benchmarks/gpu.py."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("gpu_trace.c")
MOST_NAMES, NAME = 60, 160  # kernels and characters of each that a side reports

# The part of a training step that a kernel belongs to: the first whose pattern its name has. Kernels that serve several
# parts, from sums on, are listed by what they do. Names are those of cuBLAS, cuDNN, MindSpore, PyTorch and Triton.
PARTS: Mapping[str, str] = {
    "fused attention": r"flash|fmha|mha_",
    "matrix products": r"gemm|gemv|cutlass|xmma|nvjet|cublas|splitK|sm[89]\d_",
    "gradient norm": r"L2Loss|[lL]p_?[nN]orm",
    "optimizer": r"AdamWeightDecay|ApplyAdam|[fF]used_?[aA]dam|adamw|multi_tensor",
    "layer norm": r"[lL]ayer_?[nN]orm|GammaAndBeta|InputProp",
    "softmax": r"[sS]oft_?[mM]ax",
    "loss": r"CrossEntropy|cross_entropy|nll_loss|OneHot|GatherD",
    "activation": r"[gG]elu|[sS]wish|[sS]ilu|[sS]igmoid",
    "dropout": r"[dD]ropout|Philox|distribution",
    "tables": r"UnsortedSegment|Gather|embedding|index|scatter",
    "biases": r"BiasAdd|AddTensor|[oO]p_?[tT]ensor",
    "sums": r"[rR]educe|[rR]eduction|triton_(per|red)|cub\d*|Sum",
    "casts": r"Cast|direct_copy|float16_copy|bfloat16_copy",
    "elementwise with broadcasting": r"(?<!Without)[bB]roadcast|Tile|In[01]Scalar",
    "copies and transposes": r"[tT]ranspose|[cC]opy|[cC]oncat|CatArray|Slice|Split|Pack|Swap3D|memcpy|memset|[fF]ill",
    "elementwise": r"elementwise|Unary|Binary|vectorized|triton_poi|DoApply",
    "other": r"",
}


def compiled_tracer(folder: Path, compilers: Sequence[Sequence[str]]) -> Path:
    """The library of gpu_trace.c, made in `folder` by the first compiler. `OSError` if there is none, or it fails."""
    if not compilers:
        raise OSError("there is no C compiler")
    library = folder / "libgpu_trace.so"
    command = [*compilers[0], "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{compilers[0][0]}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return library


def traced(
    libraries: Mapping[str, str], scratch: Path, work: Callable[[], Any], wait: Callable[[], Any]
) -> dict[str, Any]:
    """The kernels that `work` starts; `wait` returns when the GPU is idle. `libraries`: CUPTI's and the tracer's.

    Returns `parts` and `kernels`, rows of name, count and milliseconds, longest first, at most `MOST_NAMES` kernels;
    `count` and `milliseconds` of all; `span`, milliseconds from the first begin to the last end. Or `problem`.
    """
    try:
        ctypes.CDLL(libraries["cupti"], ctypes.RTLD_GLOBAL)
        tracer = ctypes.CDLL(libraries["tracer"])
    except OSError as error:
        return {"problem": str(error)}
    tracer.trace_stop.restype = ctypes.c_long
    path = scratch / "trace.tsv"
    wait()
    if error := tracer.trace_start(str(path).encode()):
        return {"problem": f"CUPTI gave error {error}"}
    work()
    wait()
    tracer.trace_stop()
    return summary(path)


def summary(path: Path) -> dict[str, Any]:
    """The result of `traced`, of the lines of a trace."""
    kernels: dict[str, list[float]] = {}
    begins, ends = [], []
    for line in path.read_text("utf-8", "replace").splitlines():
        begin, end, name = line.split("\t", 2)
        begins.append(int(begin))
        ends.append(int(end))
        entry = kernels.setdefault(name, [0, 0.0])
        entry[0] += 1
        entry[1] += (int(end) - int(begin)) / 1e6
    if not kernels:
        return {"problem": "CUPTI recorded nothing"}
    parts: dict[str, list[float]] = {}
    for name, (count, milliseconds) in kernels.items():
        entry = parts.setdefault(part_of(name), [0, 0.0])
        entry[0] += count
        entry[1] += milliseconds
    return {
        "parts": _longest(parts),
        "kernels": [(name[:NAME], *numbers) for name, *numbers in _longest(kernels)[:MOST_NAMES]],
        "count": len(begins),
        "milliseconds": sum(milliseconds for _, milliseconds in kernels.values()),
        "span": (max(ends) - min(begins)) / 1e6,
    }


def part_of(name: str) -> str:
    """The part of a kernel."""
    return next(part for part, pattern in PARTS.items() if re.search(pattern, name))


def _longest(found: Mapping[str, Sequence[float]]) -> list[tuple[str, float, float]]:
    return sorted(((name, count, ms) for name, (count, ms) in found.items()), key=lambda row: -row[2])


def table(side: str, found: Mapping[str, Any], most: int = 15) -> list[str]:
    """Lines of a profile: parts, then the longest kernels."""
    if "problem" in found:
        return [f"  no profile of {side}: {found['problem']}"]
    total = found["milliseconds"]
    lines = [f"  kernels of a step of {side}: {found['count']:,}, {total:.1f} ms within {found['span']:.1f} ms"]
    lines += [f"    {ms:8.2f} ms {ms / total:5.1%} {count:6,.0f} x  {part}" for part, count, ms in found["parts"]]
    lines += [f"      the longest {min(most, len(found['kernels']))}:"]
    lines += [
        f"    {ms:8.2f} ms {ms / total:5.1%} {count:6,.0f} x  {name[:90]}"
        for name, count, ms in found["kernels"][:most]
    ]
    return lines
