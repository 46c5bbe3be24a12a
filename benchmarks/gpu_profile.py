"""Kernels of a GPU: a trace of some work (gpu_trace.c), and tables of it for benchmarks/gpu.py."""

from __future__ import annotations

import ctypes
import math
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flattened import Operator

SOURCE = Path(__file__).with_name("gpu_trace.c")
MAX_NAMES, NAME = 60, 160  # kernels and characters of each that a side reports

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

# Kernels of an H100 80GB HBM3, measured on 2026-11-27 in a step of `base` (16 x 1,024 tokens) or alone at its sizes:
# MB that one moves, or millions of elements of its result, and its milliseconds. What walks through indices is as slow
# in FP16 as in FP32.
BY_BYTES: Mapping[str, tuple[float, float]] = {
    "thin product": (25.2, 0.012),  # ones @ x, FP16 [16384, 768]
    "Cast": (1208, 0.84),
    "elementwise": (201, 0.132),  # x * x, FP16 [16384, 3072]
    "large elementwise": (10268, 4.9),  # x * y, FP32 [16384, 52224]
    "sum": (805, 0.38),  # ReduceSum over the rows of FP32 [16, 12, 1024, 1024]
    "column sum": (101, 0.202),  # ReduceSum over the columns of FP16 [16384, 3072]
    "Softmax": (805, 0.43),  # FP16 [16, 12, 1024, 1024]
    "Softmax FP32": (1611, 0.54),
    "LogSoftmax FP32": (6845, 4.522),  # [16384, 52224]
    "LogSoftmax": (3423, 4.522 * 0.347 / 0.539),  # not measured; FP16 to FP32 as for Softmax alone
    "LogSoftmaxGrad FP32": (10268, 4.8),
    "LogSoftmaxGrad": (5134, 4.8 * 0.347 / 0.539),  # not measured; the same
    "GatherDGradV2": (3000, 1.0),  # not measured; zeros at the memory's bandwidth
    "Transpose": (50.3, 0.09),
    "Concat": (5945, 9.4),
    "BiasAdd": (201, 0.170),
    "FastGeLU": (201, 0.129),
    "FastGeLUGrad": (302, 0.126),
    "LayerNorm": (100.8, 0.12),
    "LayerNormGrad": (151, 0.158),
    "AdamWeightDecay": (3593, 2.1),
    "UnsortedSegmentSum": (211, 0.08),
    "SoftmaxBackward": (2416, 6.86),  # four kernels
}
BY_ELEMENTS: Mapping[str, tuple[float, float]] = {
    "with a number": (50.3, 0.610),  # FP16 [16384, 3072]
    "with broadcasting": (201.3, 4.2),  # scores x row, FP32
    "Tile": (201.3, 4.9),
    "OneHot": (855.6, 4.9),
    "Gather": (16.8, 0.14),  # rows of a cache in decoding, FP32
}
PEAK, SMALL, BETWEEN = 725e9, 0.002, 9.9  # FLOP a ms; ms of a small kernel; of a step between its 3,000 kernels


def kind_of(operator: Operator) -> str:
    """What an operator costs as: a row of the tables above, "product", or "small"."""
    op, result = operator.op, max(operator.outputs, key=lambda output: output.bytes)
    if operator.products:
        return "product"
    if operator.moved < 1e6 or op == "GatherD":  # a column
        return "small"
    wide = f"{op} FP32" if result.dtype == "float32" else op
    if wide in BY_BYTES or op in BY_BYTES or op in BY_ELEMENTS:
        return wide if wide in BY_BYTES else op
    if op.startswith("Reduce") or op == "SumExt":
        return "sum" if result.shape[:1] == operator.inputs[0].shape[:1] else "column sum"
    sizes = {math.prod(given.shape) for given in operator.inputs if given.bytes}
    if len(sizes) > 1:
        return "with a number" if sizes == {1, math.prod(result.shape)} else "with broadcasting"
    return "large elementwise" if operator.moved > 1e9 else "elementwise"


def milliseconds(operator: Operator, kind: str) -> float:
    """How long such an operator takes by itself."""
    if kind == "small":
        return SMALL
    size = operator.moved / 1e6 if operator.op != "GatherDGradV2" else operator.outputs[0].bytes / 1e6
    if kind == "product":
        work = sum(product.whole for product in operator.products)
        megabytes, ms = BY_BYTES["thin product"]
        return max(work / PEAK, size / megabytes * ms)
    if kind in BY_ELEMENTS:
        size = max(math.prod(output.shape) for output in operator.outputs) / 1e6
    megabytes, ms = (BY_ELEMENTS if kind in BY_ELEMENTS else BY_BYTES)[kind]
    return size / megabytes * ms


def predicted(operators: Iterable[Operator]) -> list[tuple[str, int, float]]:
    """Milliseconds of a compiled step on that card, by kind of operator with their number, longest first."""
    times, counts = Counter({"between kernels": BETWEEN}), Counter()
    for operator in operators:
        if operator.outputs and operator.moved:
            kind = kind_of(operator)
            times[kind] += milliseconds(operator, kind)
            counts[kind] += 1
    return [(kind, counts[kind], ms) for kind, ms in times.most_common()]


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

    Returns `parts` and `kernels`, rows of name, count and milliseconds, longest first, at most `MAX_NAMES` kernels;
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
        "kernels": [(name[:NAME], *numbers) for name, *numbers in _longest(kernels)[:MAX_NAMES]],
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
