"""What MindSpore Profiler writes about an Ascend's steps: `kernel_details.csv`, `communication.json` and
`step_trace_time.csv` of a folder `ASCEND_PROFILER_OUTPUT` (MindSpore 2.6 to 2.9, level 1 or 2).

Columns are found by their names, because versions add some and rename others that are not needed here.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json, read_regular

FOLDER = "ASCEND_PROFILER_OUTPUT"
KERNELS, MESSAGES, STEPS = "kernel_details.csv", "communication.json", "step_trace_time.csv"
MAX_BYTES = 1 << 30  # ten steps of 10,000 kernels have 30 MB
MICROSECOND, MILLISECOND, MB = 1e-6, 1e-3, 1e6
# bytes of a number by the profiler's name of its type, of which some versions write `DT_` before
TYPES = {"FLOAT16": 2, "BF16": 2, "BFLOAT16": 2, "FLOAT": 4, "FLOAT32": 4, "INT32": 4, "INT64": 8, "BOOL": 1, "INT8": 1}
TYPES |= {"UINT8": 1, "DOUBLE": 8, "UINT32": 4, "UINT64": 8, "INT16": 2, "UNDEFINED": 0}  # an input that is left out
LINKS = {"board": ("HCCS", "SIO"), "server": ("PCIE",), "cluster": ("RDMA",)}  # the profiler's names of each
PRODUCT = re.compile(r"(batch)?_?mat_?mul(?!.*(reduce|gather|scatter|all_?to_?all))", re.IGNORECASE)
SIDES = ("Input", "Output")
AGAIN = "copy the file again, or profile again"
PLAIN = ("ND", "NCHW", "NCL", "NCDHW", "NULL", "N/A", "")  # formats that keep the shape


@dataclass(frozen=True)
class KernelRun:
    """One run of a kernel. `core`: what it ran on, such as AI_CORE; `moved`: bytes of its tensors, None if unknown;
    `product`: (m, k, n, batch) of a matrix product, and bytes of its numbers."""

    kind: str
    core: str
    seconds: float
    moved: int | None = None
    product: tuple[int, int, int, int] | None = None
    width: int = 2


@dataclass(frozen=True)
class MessageRun:
    """One collective, or send or receive, over one kind of link: board, server or cluster. `bytes`: what this rank
    sent; `seconds`: in transit, without waiting."""

    op: str
    group: str
    link: str
    bytes: float
    seconds: float


@dataclass(frozen=True)
class StepTrace:
    """Seconds of one step: of kernels, of messages (`overlapped`: those under kernels), and of standing still."""

    computing: float
    messages: float
    overlapped: float
    free: float


@dataclass(frozen=True)
class RankProfile:
    """The profile of one rank."""

    kernels: tuple[KernelRun, ...]
    messages: tuple[MessageRun, ...]
    steps: tuple[StepTrace, ...]


def profiles_below(folder: Path) -> list[RankProfile]:
    """The profiles of all ranks below a folder, those of one in the order of their names.

    Raises:
        UserError: there is none, one of them is damaged, or none has what an Ascend's profile has.
    """
    folders = sorted(path for path in folder.rglob(FOLDER) if path.is_dir()) if folder.is_dir() else []
    if folder.name == FOLDER or any((folder / name).exists() for name in (KERNELS, MESSAGES, STEPS)):
        folders = [folder]
    if not folders:
        raise UserError(f"{folder}: no {FOLDER} below it; train with profile.steps, or name another folder with --from")
    found = [read_profile(path) for path in folders]
    if not any(profile.kernels or profile.messages for profile in found):
        raise UserError(
            f"{folder}: neither {KERNELS} nor {MESSAGES} has anything to fit, as of a run on a CPU or with "
            "profile.level 0; profile steps on `device: ascend` with profile.level 1"
        )
    return found


def read_profile(folder: Path) -> RankProfile:
    """The files of one rank, of which some may be missing. A damaged one is a `UserError` that names it."""
    readers = {KERNELS: _kernels, MESSAGES: _messages, STEPS: _steps}
    found = {name: tuple(read(folder / name)) for name, read in readers.items() if (folder / name).exists()}
    return RankProfile(*(found.get(name, ()) for name in readers))


def _rows(path: Path, needed: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a table, by column. `UserError` for one without the needed columns, or with a row cut short."""
    try:
        text = read_regular(path, MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError(f"{path}: not readable ({reason}); copy it again, or profile again") from None
    reader = csv.DictReader(StringIO(text), restkey="")
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r}, which MindSpore Profiler 2.6 to 2.9 writes; {AGAIN}")
    try:
        for row in reader:
            if None in row.values():
                raise UserError(f"{path}: line {reader.line_num} is cut short; {AGAIN}")
            yield row
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}; {AGAIN}") from None


def _number(row: Mapping[str, Any], name: str, path: Path) -> float:
    """A number that is neither negative nor endless; empty and N/A count as 0."""
    word = str(row[name]).strip()
    try:
        value = 0.0 if word in ("", "N/A") else float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise UserError(f"{path}: {name}: found {word[:40]!r}, expected a number; {AGAIN}")
    return value


def _steps(path: Path) -> Iterator[StepTrace]:
    names = ("Computing", "Communication", "Overlapped", "Free")
    for row in _rows(path, names):
        yield StepTrace(*(_number(row, name, path) * MICROSECOND for name in names))


def _kernels(path: Path) -> Iterator[KernelRun]:
    for row in _rows(path, ("Type", "Duration(us)")):
        seconds = _number(row, "Duration(us)", path) * MICROSECOND
        core = (row.get("Accelerator Core") or "").strip()
        kind = row["Type"].strip()
        shapes = [_shapes(row.get(f"{name} Shapes")) for name in SIDES]
        types = [[x.removeprefix("DT_") for x in _words(row.get(f"{name} Data Types"))] for name in SIDES]
        moved = _moved(shapes, types)
        plain = all(x in PLAIN for name in SIDES for x in _words(row.get(f"{name} Formats")))
        product = _product(kind, *shapes) if plain and types[0][0] in TYPES else None
        yield KernelRun(kind, core, seconds, moved, product, TYPES.get(types[0][0], 2))


def _words(cell: str | None) -> list[str]:
    return [word.strip() for word in (cell or "").strip().strip('"').split(";")]


def _shapes(cell: str | None) -> list[tuple[int, ...]]:
    """`2,3;4` as [(2, 3), (4,)]; a scalar is (); nothing where there are none."""
    if cell is None or not (text := cell.strip().strip('"')) or text == "N/A":
        return []
    shapes = []
    for word in text.split(";"):
        numbers = [x.strip() for x in word.split(",") if x.strip()]
        if not all(x.isdecimal() and len(x) < 16 for x in numbers):
            return []
        shapes.append(tuple(map(int, numbers)))
    return shapes


def _moved(shapes: Sequence[Sequence[tuple[int, ...]]], types: Sequence[Sequence[str]]) -> int | None:
    """Bytes of all tensors; None without shapes, or with a type whose size is not known."""
    tensors = [pair for side in zip(shapes, types, strict=True) for pair in zip(*side, strict=False)]
    if not all(shapes) or len(tensors) != sum(map(len, shapes)) or any(kind not in TYPES for _, kind in tensors):
        return None
    return sum(math.prod(shape) * TYPES[kind] for shape, kind in tensors)


def _product(
    kind: str, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]
) -> tuple[int, int, int, int] | None:
    """(m, k, n, batch) of a matrix product, whichever operands are transposed: k follows from the sizes. None for one
    that also communicates, such as MatmulAllReduce."""
    if not PRODUCT.match(kind) or len(inputs) < 2 or not outputs:
        return None
    left, right, output = inputs[0], inputs[1], outputs[0]
    if min(map(len, (left, right, output))) < 2 or not all(map(math.prod, (left, right, output))):
        return None
    batch = math.prod(output[:-2]) if len(right) > 2 else 1
    m, n = math.prod(output[:-1]) // batch, output[-1]
    k = math.isqrt(math.prod(left) * math.prod(right) // (math.prod(output) * batch))
    return (m, k, n, batch) if k and batch * m * k == math.prod(left) else None


def _messages(path: Path) -> Iterator[MessageRun]:
    content = read_json(path, MAX_BYTES)
    for _, ops in _objects_of(content, path):
        for part in ("collective", "p2p"):
            for name, op in _objects_of(ops.get(part, {}), path):
                if not name.startswith("Total"):
                    yield from _links(name, op, path)


def _links(name: str, op: Mapping[str, Any], path: Path) -> Iterator[MessageRun]:
    """What one call sent, by kind of link; equal kinds together."""
    title, _, group = name.partition("@")
    title = re.sub(r"^hcom_|__.*$", "", title.rpartition("/")[2])
    for link, kinds in LINKS.items():
        links = dict(_objects_of(op.get("Communication Bandwidth Info", {}), path))
        sent = [links[kind] for kind in kinds if kind in links]
        sizes = [_number({"Transit Size(MB)": 0, **x}, "Transit Size(MB)", path) for x in sent]
        times = [_number({"Transit Time(ms)": 0, **x}, "Transit Time(ms)", path) for x in sent]
        if sum(sizes) > 0 and max(times) > 0:
            yield MessageRun(title, group, link, sum(sizes) * MB, max(times) * MILLISECOND)


def _objects_of(value: Any, path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if not isinstance(value, Mapping) or not all(isinstance(x, Mapping) for x in value.values()):
        raise UserError(f"{path}: not in the form of MindSpore Profiler 2.6 to 2.9; copy it again, or profile again")
    return value.items()
