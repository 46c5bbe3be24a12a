"""Read checkpoints: one safetensors file per rank, and a manifest with the position of every slice of every tensor.

Any number of devices can load one: a reader assembles only the window it needs, and checks the hash of every chunk that
it reads. `checkpoint_writing.py` writes them.
Parameters carry our own names, optimizer moments are `optimizer.m.<name>` and `optimizer.v.<name>`. Chunks of slices
(`chunks.py`) and each file's header have hashes.

Of a run's checkpoints one counts for every command (`resolve`), and old ones are deleted. *Intact*: manifest and files
fit each other. *Sound*: every hash matches, too. *Settled*: at least `SETTLED_STEPS` steps came after it; a run whose
numbers are not finite goes back to such a one."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_once
from ms_codegeex.base.quarantine import check_file
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.validation import Natural, Positive, validated
from ms_codegeex.formats.chunks import count_chunks, read_hashed
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, check_coverage, checked_shape, damaged, gather

MANIFEST = "manifest.json"
FORMAT = 2
SETTLED_STEPS = 10
# manifest keys that do not belong to the caller's state
RESERVED_KEYS = ("format", "step", "world_size", "versions", "save", "tensors", "files", "headers", "sha256")
NAME = re.compile(r"step-(\d{8,})(\.replaced)?")
_LIKE_A_NAME = re.compile(r"step-(\d+)(\.replaced)?")


class DamagedFile(UserError):
    """A checkpoint's file that differs from its manifest."""


def untied(where: str, layer: str) -> UserError:
    """Return the error for continuing with adapters of earlier versions, which have an A for each fused layer."""
    return UserError(
        f"{where}: {layer} has a factor A of its own, from an earlier version; now fused layers share one, as in PEFT, "
        "so merge these adapters into their model with `ms-codegeex adapter merge` and train new ones on that"
    )


def fingerprint(tensors: Mapping[str, LazyTensor]) -> str:
    """Return 64 hex digits that identify a model: a hash of its tensors' names, shapes and first rows."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        first = tensor.window((slice(0, 1), *(slice(None),) * (len(tensor.shape) - 1)))
        digest.update(f"{name} {tensor.shape}\n".encode() + first.float32().tobytes())
    return digest.hexdigest()


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    return json_digest({key: value for key, value in manifest.items() if key != "sha256"})


@dataclass(frozen=True)
class _Slice:
    """A part of a tensor: the tensor `key` of `file`, in chunks of `rows` rows with these hashes."""

    file: str
    key: str
    offset: list[Natural]
    shape: list[Natural]
    rows: Positive
    chunks: list[str]


@dataclass(frozen=True)
class _Tensor:
    dtype: Literal[tuple(NUMPY_DTYPES)]  # type: ignore[valid-type]
    shape: list[Natural]
    slices: list[_Slice]


@dataclass(frozen=True)
class _Manifest:
    """The parts of a manifest that readers use: each file's size and header hash, and the tensors."""

    step: Natural
    files: dict[str, Natural]
    headers: dict[str, str]
    tensors: dict[str, _Tensor]


class Checkpoint:
    """A checkpoint opened for reading: the manifest is checked at once, tensors are read and hashed on demand.
    `UserError` names the file or tensor if the manifest is damaged, a file is missing or has another size, slices do
    not cover a tensor exactly once, a hash does not match, or the directory has another step's name."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open: dict[str, SafetensorsFile] = {}
        check_file(self.path, MANIFEST)
        manifest = read_json(self.path / MANIFEST)
        if not isinstance(manifest, dict) or type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
            raise damaged(self.path / MANIFEST, f"not a checkpoint manifest of format {FORMAT}")
        if manifest.get("sha256") != manifest_digest(manifest):
            raise damaged(self.path / MANIFEST, "damaged or edited (its own hash does not match)")
        self.manifest: dict[str, Any] = manifest
        validated(_Manifest, manifest, f"{self.path / MANIFEST}: not a checkpoint manifest; ")
        try:
            self._check()
        except (KeyError, ValueError) as error:
            raise damaged(self.path / MANIFEST, f"not a checkpoint manifest ({error!r})") from None

    def _check(self) -> None:
        for file, size in self.files.items():
            if Path(file).name != file:
                raise ValueError(f"file {file}")
            path = self.path / file
            check_file(self.path, file)
            if not path.is_file():
                raise damaged(path, "missing")
            if (actual := path.stat().st_size) != size:
                raise damaged(path, f"has {actual} bytes, the manifest says {size}")
        for name, tensor in self.manifest["tensors"].items():
            checked_shape(tensor["shape"], name)
            for record in tensor["slices"]:
                self._check_record(record, NUMPY_DTYPES[tensor["dtype"]].itemsize)
            check_coverage(name, tensor, str(self.path))
        named = _LIKE_A_NAME.fullmatch(self.path.resolve().name)
        if named and int(named[1]) != self.step:
            other = f"holds step {self.step}, not the step of its name"
            raise UserError(f"{self.path}: {other}; name it {step_name(self.step)} again")

    def _check_record(self, record: Mapping[str, Any], itemsize: int) -> None:
        """Raise `KeyError` or `ValueError` for a slice whose file or hashes the manifest does not list."""
        if math.prod(checked_shape(record["shape"], record["key"])) * itemsize > self.files[record["file"]]:
            raise ValueError(f"{record['shape']} of {record['key']} in {self.files[record['file']]} bytes")
        if record["file"] not in self.manifest["headers"]:
            raise ValueError(f"header of {record['file']}")
        if count_chunks(record["shape"], record["rows"]) != len(record["chunks"]):
            raise ValueError(f"{len(record['chunks'])} chunks of {record['rows']} rows of {record['key']}")

    @property
    def step(self) -> int:
        return self.manifest["step"]

    @property
    def state(self) -> dict[str, Any]:
        return {key: value for key, value in self.manifest.items() if key not in RESERVED_KEYS}

    @property
    def files(self) -> dict[str, int]:
        """Return the size in bytes of each file of tensors."""
        return self.manifest["files"]

    @property
    def names(self) -> list[str]:
        return list(self.manifest["tensors"])

    def _tensor(self, name: str) -> dict[str, Any]:
        if name not in self.manifest["tensors"]:
            raise UserError(f"{self.path}: missing tensor {name}; use a checkpoint of this model")
        return self.manifest["tensors"][name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name)["shape"])

    def dtype(self, name: str) -> str:
        """Return a tensor's dtype, e.g. "float32"."""
        return self._tensor(name)["dtype"]

    def slices(self, name: str) -> list[dict[str, Any]]:
        return self._tensor(name)["slices"]

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._open:
            file = SafetensorsFile(self.path / name)
            if file.header_hash != self.manifest["headers"][name]:
                reason = "its header is damaged or belongs to another checkpoint (hash mismatch)"
                raise DamagedFile(f"{file.path}: {reason}; use another checkpoint")
            self._open[name] = file
        return self._open[name]

    def _chunk_reader(self, name: str, record: Mapping[str, Any]) -> Callable[[int, np.ndarray], None]:
        """Return a function that reads a chunk of a slice, by number, into a C-contiguous array and checks its hash.
        Raises `UserError` unless the file holds the slice in the manifest's dtype and shape."""
        file, dtype = self._file(record["file"]), self.dtype(name)
        held = file.tensors.get(record["key"])
        if held is None or (held.dtype, list(held.shape)) != (dtype, record["shape"]):
            expected = f"{name} as {dtype} {record['shape']}"
            raise DamagedFile(f"{file.path}: does not hold {expected}, as the manifest says; use another checkpoint")
        row = math.prod(record["shape"][1:]) * NUMPY_DTYPES[dtype].itemsize
        first, size = file.position(record["key"]), record["rows"] * row

        def read(number: int, into: np.ndarray) -> None:
            if read_hashed(file.path, first + number * size, into) != record["chunks"][number]:
                where = f"{file.path}: tensor {name} at offset {record['offset']}"
                raise DamagedFile(f"{where} is damaged (its hash does not match the manifest); use another checkpoint")

        return read

    def tensor(self, name: str, window: Sequence[slice | tuple[int, int]] | None = None) -> np.ndarray:
        """Return a copy of the tensor or of a window of it: one `slice` or `(start, stop)` per axis, step 1. Each chunk
        that the window overlaps is read as a whole, to check its hash. bfloat16 is returned as raw uint16. Raises
        `UserError`, naming file and tensor, if a hash does not match."""
        return gather(self.shape(name), self.dtype(name), window, self.slices(name), partial(self._copy, name))

    def _copy(self, name: str, record: Mapping[str, Any], source: tuple[slice, ...], target: np.ndarray) -> None:
        read, shape, size = self._chunk_reader(name, record), record["shape"], record["rows"]
        if not shape:
            return read(0, target)
        first, end, columns = source[0].start, source[0].stop, source[1:]
        straight = target.flags.c_contiguous and target.shape[1:] == tuple(shape[1:])
        for number in range(first // size, -(-end // size)):
            begin, stop = number * size, min((number + 1) * size, shape[0])
            if straight and first <= begin and stop <= end:
                read(number, target[begin - first : stop - first])
                continue
            chunk = np.empty((stop - begin, *shape[1:]), target.dtype)
            read(number, chunk)
            low, high = max(first, begin), min(end, stop)
            target[low - first : high - first] = chunk[(slice(low - begin, high - begin), *columns)]
        return None

    def lazy(self, name: str) -> LazyTensor:
        """Return the whole tensor, to be loaded when it is used."""
        dtype, shape = self.dtype(name), self.shape(name)

        def rows(count: int) -> Iterator[np.ndarray]:
            step = count * -(-max(record["rows"] for record in self.slices(name)) // count)
            for start in range(0, shape[0], step):  # at least a chunk, because chunks are read as a whole
                window = self.tensor(name, (slice(start, start + step), *(slice(None) for _ in shape[1:])))
                yield from (window[first : first + count] for first in range(0, len(window), count))

        window = partial(self.tensor, name)
        return LazyTensor(dtype, shape, window, window, rows if shape else None)

    def verify(self, progress: Callable[[int], object] = lambda size: None) -> int:
        """Hash every slice again and return the number of bytes read. `progress` is called with the bytes of each part.
        Raises `UserError`, naming file and tensor, if a hash differs."""
        total = 0
        for file in self.files:
            self._file(file)
        for name in self.names:
            for record in self.slices(name):
                read, (length, *rest), rows = self._chunk_reader(name, record), record["shape"] or [1], record["rows"]
                buffer = np.empty((min(rows, length), *rest), NUMPY_DTYPES[self.dtype(name)])
                for number in range(len(record["chunks"])):
                    part = buffer[: min(rows, length - number * rows)]
                    read(number, part)
                    total += part.nbytes
                    progress(part.nbytes)
        return total


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoint directories in `root`, oldest first, sound or not. Half-written ones have other names."""
    by_step: dict[int, Path] = {}
    for path in sorted(Path(root).glob("step-*")):  # "step-n" sorts before "step-n.replaced"
        if (match := NAME.fullmatch(path.name)) and path.is_dir():
            by_step.setdefault(int(match[1]), path)
    return [by_step[step] for step in sorted(by_step)]


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint directory."""
    match = NAME.fullmatch(path.name)
    assert match
    return int(match[1])


def newest_sound(root: Path, reasons: list[str] | None = None, verify: bool = True) -> Checkpoint | None:
    """Return the newest sound checkpoint in `root`, or None. Without `verify` it is only known to be intact, because
    its reader checks hashes. The reasons for skipping newer ones are appended to `reasons`."""
    return _first_sound(reversed(list_checkpoints(root)), reasons if reasons is not None else [], verify)


def _first_sound(paths: Iterable[Path], reasons: list[str], verify: bool = True) -> Checkpoint | None:
    for path in paths:
        try:
            checkpoint = Checkpoint(path)
            if verify:
                checkpoint.verify()
            return checkpoint
        except UserError as error:
            reasons.append(str(error))
    return None


def best_step(state: Mapping[str, Any], kept: bool = True) -> int | None:
    """Return the step with the lowest validation loss up to a checkpoint with this state; None if there was no
    evaluation or, with `kept`, if the run does not keep that step (`training.patience`)."""
    config, best = state.get("config"), state.get("best")
    training = config.get("training") if isinstance(config, Mapping) else None
    keeps = isinstance(training, Mapping) and training.get("patience")
    step = best[0] if isinstance(best, list | tuple) and best else None
    return step if type(step) is int and (keeps or not kept) else None


def step_that_counts(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the checkpoint that counts among a run's `paths` (oldest first), then the last one if that is another. The
    best one counts if the run keeps it, which its last checkpoint records; otherwise the last one does."""
    newest = _first_sound(reversed(paths), [], verify=False)
    if newest is None:
        return ()
    best = next((path for path in paths if step_of(path) == best_step(newest.state)), newest.path)
    return tuple(dict.fromkeys((best, newest.path)))


def resolve(path: Path, which: str | None = None, say: Callable[[str], object] = print_once) -> Checkpoint:
    """Open the checkpoint at `path`; in a run directory (or its `checkpoints` folder), the sound one named by `which`:
    `last`, `best`, a step, or None for the one that counts. `say` is called with a line if others could be meant.
    Raises `UserError` if there is none."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return Checkpoint(path)
    root = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    paths, reasons = list_checkpoints(root), list[str]()
    counting, wanted = step_that_counts(paths), list(reversed(paths))
    if which is None:
        wanted = list(dict.fromkeys((*counting[:1], *wanted)))
    elif which != "last" and counting:
        step = best_step(Checkpoint(counting[-1]).state, kept=False) if which == "best" else int(which)
        if not (wanted := [each for each in paths if step_of(each) == step]):
            there = ", ".join(str(step_of(each)) for each in paths)
            lacks = f"no checkpoint of step {step}" if step is not None else "no step that was evaluated"
            raise UserError(f"--checkpoint {which}: {path} has {lacks}; give one of {there}")
    checkpoint = _first_sound(wanted, reasons)
    if checkpoint is None:
        why = "; ".join(reasons) if reasons else f"no step-* directory in {root}"
        raise UserError(f"{path}: no sound checkpoint ({why}); expected a checkpoint or run directory")
    target = checkpoint.path.resolve()
    if path.resolve() not in target.parents:  # an untrusted run could link to a model of the user's
        raise UserError(f"{checkpoint.path}: leads to {target}, outside {path}; give that checkpoint itself")
    for reason in reasons:
        say(f"skipped: {reason}")
    if which is None and len(counting) > 1:
        best, last = map(step_of, counting)
        other = f"for the other: --checkpoint last, or {counting[1].absolute()}"
        why = f"the best of {last}; {other}" if checkpoint.step == best else f"since {best}, the best, is damaged"
        say(f"{path.absolute()}: step {checkpoint.step}, {why}")
    return checkpoint


def set_aside(path: Path, why: str) -> Path:
    """Rename a skipped checkpoint, so its step can be saved again, and return the new path."""
    name = f"{why}-{path.name}"
    targets = (path.with_name(each) for each in chain([name], (f"{name}.{number}" for number in count(2))))
    return path.replace(next(target for target in targets if not target.exists()))


def set_doubtful_aside(root: Path, first: int, keep_one: bool) -> list[Path]:
    """Set aside the checkpoints of step `first` and later, and return their new paths. With `keep_one`, the oldest
    checkpoint of all stays, because the run has to begin somewhere."""
    paths = list_checkpoints(root)[keep_one:]
    return [set_aside(path, "doubtful") for path in paths if step_of(path) >= first]


def prune(
    root: Path,
    keep: int,
    settled: int,
    is_protected: Callable[[Path], bool] = lambda path: False,
    job: str | None = None,
) -> list[Path]:
    """Delete old checkpoints and leftovers of killed writes; return the deleted checkpoints, newest first. Kept are the
    newest `keep` (at least 1) that are intact, the newest of step `settled` or before, and the one after it, which is
    settled next. Damaged ones do not count, and are deleted only if they are older than a settled one. Also kept are
    those for which `is_protected` is true, and what the running `job` still writes: its `save` names begin with it."""
    if keep < 1:
        raise UserError(f"checkpoint.keep is {keep}, expected at least 1")
    checkpoints = list_checkpoints(root)
    superseded = set(Path(root).glob("step-*.replaced")) - set(checkpoints)
    doomed = _not_needed(checkpoints, keep, settled) if len(checkpoints) > keep else []
    doomed = [path for path in doomed if not is_protected(path)]
    for path in doomed:
        # a half-deleted checkpoint must not look like a damaged one
        os.replace(path, path.with_name(f".{path.name}.deleted"))
    present = (path for pattern in (".step-*.tmp", ".step-*.failed") for path in Path(root).glob(pattern))
    unfinished = [path for path in present if job is None or f".{job}-" not in path.name]
    for leftover in (*Path(root).glob(".step-*.deleted"), *unfinished, *superseded):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return doomed


def _not_needed(checkpoints: list[Path], keep: int, settled: int) -> list[Path]:
    intact: list[Path] = []  # newest first, up to the newest settled one if that is not among the first `keep`
    for path in reversed(checkpoints):
        if len(intact) >= keep and step_of(intact[-1]) <= settled:
            break
        if _is_intact(path):
            intact.append(path)
    if len(intact) < keep:
        return []
    last = next((place for place, path in enumerate(intact) if step_of(path) <= settled), len(intact))
    needed = {*intact[:keep], *intact[max(0, last - 1) : last + 1]}
    older = checkpoints[: checkpoints.index(intact[last])] if last < len(intact) else []  # including damaged ones
    return [path for path in reversed(checkpoints) if path not in needed and (path in intact or path in older)]


def _is_intact(path: Path) -> bool:
    with contextlib.suppress(UserError, OSError):
        return Checkpoint(path) is not None
    return False
