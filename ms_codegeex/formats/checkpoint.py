"""Checkpoints: one safetensors file per rank, and a manifest with the place of every slice of every tensor.

A checkpoint `step-00000040/` is written under a temporary name and renamed when it is complete, so a killed run never
leaves a half-written one. Any number of devices can load it: a reader assembles only the window it needs, and checks
the hash of every slice it reads. `checkpoint_folder.py` chooses among a run's checkpoints.
Parameters carry our own names, optimizer moments are `optimizer.m.<name>` and `optimizer.v.<name>`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.errors import UserError
from ms_codegeex.files import read_json, write_json
from ms_codegeex.formats.safetensors_file import SafetensorsFile, write_safetensors
from ms_codegeex.formats.slices import Window, check_coverage, overlap, window_ranges
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, array_sha256, dtype_name, from_array

MANIFEST = "manifest.json"
FORMAT = 1
_OURS = ("format", "step", "world_size", "tensors", "files", "sha256")  # manifest keys that are not the caller's state
NAME = re.compile(r"step-(\d{8,})(\.replaced)?")
_LIKE_A_NAME = re.compile(r"step-(\d+)(\.replaced)?")


@dataclass(frozen=True)
class Slice:
    """A rank's part of a tensor: `array` belongs at `offset` of a tensor of `global_shape`.

    `dtype` is needed only for bfloat16, whose bits are held as uint16.
    """

    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    array: np.ndarray
    dtype: str | None = None


def step_name(step: int) -> str:
    """Name of the directory of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def _whole(value: np.ndarray | Slice) -> Slice:
    return value if isinstance(value, Slice) else Slice(value.shape, (0,) * value.ndim, value)


def _digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _attempt(path: Path, action: Callable[[], Any]) -> UserError | None:
    """Run `action`; return a failed write as a value, so that the rank still reaches the next barrier."""
    try:
        action()
    except UserError as error:
        return error
    except OSError as error:
        return UserError(
            f"{path}: could not be written ({error.strerror}); the previous "
            "checkpoint is unchanged, free some space or set another output"
        )
    return None


def save_slices(directory: Path, rank: int, tensors: Mapping[str, np.ndarray | Slice]) -> list[dict[str, Any]]:
    """Write a rank's slices to `directory/rank_<rank>.safetensors`; returns one record per slice for the manifest."""
    if not tensors:
        return []
    file = f"rank_{rank:05d}.safetensors"
    slices = {name: _whole(value) for name, value in tensors.items()}
    hashes = write_safetensors(directory / file, {name: from_array(s.array, s.dtype) for name, s in slices.items()})
    return [
        {
            "name": name,
            "dtype": s.dtype or dtype_name(s.array),
            "global_shape": list(s.global_shape),
            "file": file,
            "key": name,
            "offset": list(s.offset),
            "shape": list(s.array.shape),
            "sha256": hashes[name],
        }
        for name, s in slices.items()
    ]


def write_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, np.ndarray | Slice],
    state: Mapping[str, Any],
    *,
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], None] = lambda: None,
) -> Path:
    """Write `root/step-<step>`; called by every rank with its own slices and the same `step`; returns the path.

    Each part of a tensor is passed by exactly one rank: replicas by one of them, and a rank may pass nothing.
    `state` is JSON (optimizer_step, samples, loss_scale, rng, config, ...) and only rank 0's is stored. `barrier` must
    wait for all ranks; it is called three times on each, also when a write failed, so no rank waits forever.
    Raises `UserError` when the disk is full or the slices do not cover their tensors exactly once.
    """
    final = Path(root) / step_name(step)
    temporary = final.with_name(f".{final.name}.tmp")
    failure = _attempt(final, lambda: _make_empty(temporary)) if rank == 0 else None
    barrier()
    failure = failure or _attempt(
        final, lambda: write_json(temporary / f"rank_{rank:05d}.json", save_slices(temporary, rank, tensors))
    )
    barrier()
    if rank == 0:
        failure = failure or _attempt(final, lambda: _publish(temporary, final, step, state, world_size))
        shutil.rmtree(temporary, ignore_errors=True)
    barrier()
    if failure:
        raise failure
    return final


def _make_empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _publish(temporary: Path, final: Path, step: int, state: Mapping[str, Any], world_size: int) -> None:
    if clash := set(state) & set(_OURS):
        raise ValueError(f"state keys {sorted(clash)} belong to the manifest")
    manifest = {
        "format": FORMAT,
        "step": step,
        **json.loads(json.dumps(dict(state), default=_plain)),
        "world_size": world_size,
        "tensors": {},
    }
    for rank in range(world_size):
        part = temporary / f"rank_{rank:05d}.json"
        if not part.exists():
            raise UserError(f"{final}: rank {rank} did not write its part; see that rank's log")
        for record in read_json(part):
            name, dtype, shape = record.pop("name"), record.pop("dtype"), record.pop("global_shape")
            tensor = manifest["tensors"].setdefault(name, {"dtype": dtype, "shape": shape, "slices": []})
            if (tensor["dtype"], tensor["shape"]) != (dtype, shape):
                raise UserError(
                    f"{final}: rank {rank} holds {name} as {dtype} {shape}, "
                    f"an earlier rank as {tensor['dtype']} {tensor['shape']}"
                )
            tensor["slices"].append(record)
        part.unlink()
    for name, tensor in manifest["tensors"].items():
        check_coverage(name, tensor, str(final))
    manifest["files"] = {file.name: file.stat().st_size for file in sorted(temporary.glob("*.safetensors"))}
    manifest["sha256"] = _digest(manifest)
    write_json(temporary / MANIFEST, manifest)
    _swap(temporary, final)


def _swap(temporary: Path, final: Path) -> None:
    """Rename into place. An older checkpoint of the same step waits under a name that `list_checkpoints` recognises."""
    replaced = final.with_name(f"{final.name}.replaced")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(final, replaced)
    os.replace(temporary, final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    shutil.rmtree(replaced, ignore_errors=True)


class Checkpoint:
    """A checkpoint opened for reading: the manifest is checked at once, tensors are read and hashed on demand.

    Raises `UserError` naming the file or tensor when the manifest is damaged, a file is missing or has another size,
    slices do not cover a tensor exactly once, a slice's hash does not fit, or the directory has another step's name.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open: dict[str, SafetensorsFile] = {}
        self._verified: set[tuple[str, str]] = set()  # file and key of the slices whose hash fits
        manifest = read_json(self.path / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise UserError(f"{self.path / MANIFEST}: not a checkpoint manifest of format {FORMAT}")
        if manifest.get("sha256") != _digest(manifest):
            raise UserError(f"{self.path / MANIFEST}: damaged or edited (its own hash does not fit)")
        self.manifest: dict[str, Any] = manifest
        try:
            self._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.path / MANIFEST}: not a checkpoint manifest ({error!r})") from None

    def _check(self) -> None:
        for file, size in self.manifest["files"].items():
            if Path(file).name != file:
                raise ValueError(f"file {file}")
            found = (self.path / file).stat().st_size if (self.path / file).is_file() else None
            if found != size:
                raise UserError(
                    f"{self.path / file}: "
                    + ("missing" if found is None else f"has {found} bytes, the manifest says {size}")
                )
        for name, tensor in self.manifest["tensors"].items():
            check_coverage(name, tensor, str(self.path))
        named = _LIKE_A_NAME.fullmatch(self.path.resolve().name)
        if named and int(named[1]) != self.step:
            raise UserError(
                f"{self.path}: holds step {self.step}, not the step of its name; it was copied or renamed, name it "
                f"{step_name(self.step)} again"
            )

    @property
    def step(self) -> int:
        """The training step after which it was written."""
        return self.manifest["step"]

    @property
    def state(self) -> dict[str, Any]:
        """What was passed to `write_checkpoint` as `state`, after a round trip through JSON."""
        return {key: value for key, value in self.manifest.items() if key not in _OURS}

    @property
    def names(self) -> list[str]:
        """Tensor names, optimizer moments included."""
        return list(self.manifest["tensors"])

    def _tensor(self, name: str) -> dict[str, Any]:
        if name not in self.manifest["tensors"]:
            raise UserError(f"{self.path}: missing tensor {name}")
        return self.manifest["tensors"][name]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's global shape."""
        return tuple(self._tensor(name)["shape"])

    def dtype(self, name: str) -> str:
        """A tensor's dtype, e.g. "float32"."""
        return self._tensor(name)["dtype"]

    def _view(self, name: str, record: Mapping[str, Any]) -> np.ndarray:
        file, key = self._open.get(record["file"]) or SafetensorsFile(self.path / record["file"]), record["key"]
        self._open[record["file"]] = file
        if key not in file.names or (file.dtype(key), list(file.shape(key))) != (self.dtype(name), record["shape"]):
            raise UserError(
                f"{file.path}: does not hold {name} as {self.dtype(name)} {record['shape']}, "
                "which the manifest says; the checkpoint is damaged"
            )
        view = file.view(key)
        if (record["file"], key) not in self._verified:
            if array_sha256(view) != record["sha256"]:
                raise UserError(
                    f"{self.path / record['file']}: tensor {name} at offset {record['offset']} is "
                    "damaged (its hash does not fit the manifest); use another checkpoint"
                )
            self._verified.add((record["file"], key))
        return view

    def tensor(self, name: str, window: Window | None = None) -> np.ndarray:
        """A copy of the tensor, or of a window of it: one `slice` or `(start, stop)` per axis, step 1.

        Reads only the slices that the window overlaps; the first read of a slice is complete, to check its hash.
        bfloat16 comes as raw uint16. Raises `UserError` naming the file and the tensor if a hash does not fit.
        """
        ranges = window_ranges(self.shape(name), window)
        result = np.empty([stop - start for start, stop in ranges], NUMPY_DTYPES[self.dtype(name)])
        for record in self._tensor(name)["slices"]:
            if (common := overlap(ranges, record)) is not None:
                source, target = common
                result[target] = self._view(name, record)[source]
        return result

    def lazy(self, name: str) -> LazyTensor:
        """The whole tensor, to be loaded later."""
        return LazyTensor(
            self.dtype(name), self.shape(name), lambda: self.tensor(name), lambda index: self.tensor(name, index)
        )

    def verify(self) -> int:
        """Hash every slice again; returns the bytes read. Raises `UserError` naming the file and tensor that differ."""
        self._verified.clear()
        slices = ((name, record) for name, tensor in self.manifest["tensors"].items() for record in tensor["slices"])
        return sum(self._view(name, record).nbytes for name, record in slices)
