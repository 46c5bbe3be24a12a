"""Write checkpoints: each rank writes its slices and their hashes, rank 0 publishes them with a manifest.

A checkpoint is written under a temporary name and renamed when it is complete, so a killed run never leaves a
half-written one. Ranks agree through files in the folder of the checkpoints, which they share, because a thread must
not take part in the engine's communication."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError, remedy_of
from ms_codegeex.base.files import sync, write_json, written_back
from ms_codegeex.base.installed import versions
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.checkpoint import FORMAT, MANIFEST, RESERVED_KEYS, manifest_digest, step_name
from ms_codegeex.formats.chunks import rows_per_chunk
from ms_codegeex.formats.safetensors_file import write_safetensors
from ms_codegeex.formats.tensors import NUMPY_DTYPES, LazyTensor, check_coverage, from_array

POLL_SECONDS = (0.005, 0.5)  # between two checks for the files of other ranks: initially, and at most
LOOKS = 8  # number of checks for signs of other ranks within the patience
SLICE_SYNC_SECONDS = 0.05  # between syncs: the disk writes while the rest is hashed; 300 MB take 0.2 s
PATIENCE = 1800.0  # seconds without a sign of another rank; normally a dead rank ends the run long before
PACKAGES = ("ms-codegeex", "mindspore", "numpy", "safetensors", "xxhash")


@dataclass(frozen=True)
class Slice:
    """A rank's part of a tensor: `array` belongs at `offset` of a tensor of `global_shape`. `dtype` is needed only for
    bfloat16 in memory, whose bits are held as uint16."""

    global_shape: tuple[int, ...]
    offset: tuple[int, ...]
    array: np.ndarray | LazyTensor
    dtype: str | None = None

    @property
    def tensor(self) -> LazyTensor:
        return self.array if isinstance(self.array, LazyTensor) else from_array(self.array, self.dtype)


def save_slices(directory: Path, rank: int, tensors: Mapping[str, np.ndarray | Slice]) -> dict[str, Any]:
    """Write a rank's slices to `directory/rank_<rank>.safetensors`, and return the manifest's entry for the file."""
    if not tensors:
        return {"slices": []}
    file = f"rank_{rank:05d}.safetensors"
    slices = {
        name: value if isinstance(value, Slice) else Slice(value.shape, (0,) * value.ndim, value)
        for name, value in tensors.items()
    }
    (directory / file).touch()
    with written_back(directory / file, SLICE_SYNC_SECONDS):
        header, hashes = write_safetensors(directory / file, {name: part.tensor for name, part in slices.items()})
    records = [
        {
            "name": name,
            "dtype": part.tensor.dtype,
            "global_shape": list(part.global_shape),
            "file": file,
            "key": name,
            "offset": list(part.offset),
            "shape": list(part.tensor.shape),
            "rows": rows_per_chunk(part.tensor.shape, NUMPY_DTYPES[part.tensor.dtype].itemsize),
            "chunks": hashes[name],
        }
        for name, part in slices.items()
    ]
    return {"file": file, "header": header, "slices": records}


@dataclass(frozen=True)
class _Names:
    """The files through which the ranks of one save meet. `save` distinguishes it from earlier ones of the step."""

    final: Path
    save: str

    @property
    def temporary(self) -> Path:
        return self.final.with_name(f".{self.final.name}.{self.save}.tmp")

    @property
    def failed(self) -> Path:
        return failure_file(self.final.parent, int(self.final.name.removeprefix("step-")), self.save)

    def part(self, rank: int) -> Path:
        return self.temporary / f"rank_{rank:05d}.json"

    def rank_failure(self, rank: int) -> Path:
        return self.temporary / f"rank_{rank:05d}.failed"


def failure_file(root: Path, step: int, save: str) -> Path:
    return root / f".{step_name(step)}.{save}.failed"


def write_checkpoint(
    root: Path,
    step: int,
    tensors: Mapping[str, np.ndarray | Slice],
    state: Mapping[str, Any],
    *,
    rank: int = 0,
    world_size: int = 1,
    save: str = "0",
    patience: float = PATIENCE,
) -> Path:
    """Write `root/step-<step>`; called by every rank with its own slices and the same `step`; returns the path, once
    rank 0 has published it. Each part of a tensor is passed by exactly one rank. `state` is JSON, and only rank 0's is
    stored. With several ranks, `save` is a name that no other save in `root` has. `UserError`, on every rank, if the
    disk is full, the slices do not cover their tensors exactly once, or another rank gives no sign for `patience`
    seconds."""
    final = Path(root) / step_name(step)
    names = _Names(final, save)
    if rank:
        _write_as_follower(names, rank, tensors, patience)
        return final
    try:
        if world_size == 1:
            shutil.rmtree(names.temporary, ignore_errors=True)  # leftovers of a killed process
        names.temporary.mkdir(parents=True, exist_ok=True)
        parts = [save_slices(names.temporary, 0, tensors), *_other_parts(names, world_size, patience)]
        _publish(names.temporary, final, {"step": step, "save": save}, state, parts)
    except (UserError, OSError) as error:
        failure = _as_user_error(final, error)
        if world_size > 1:
            _leave_note(names, failure, patience)
        shutil.rmtree(names.temporary, ignore_errors=True)
        raise failure from None
    return final


def _leave_note(names: _Names, failure: UserError, patience: float) -> None:
    for silent in _looks(names, patience):
        with contextlib.suppress(UserError):
            return write_json(names.failed, {"message": str(failure)})
        shutil.rmtree(names.temporary, ignore_errors=True)
        if silent:
            return None


def _as_user_error(path: Path, error: UserError | OSError) -> UserError:
    if isinstance(error, UserError):
        return error
    remedy = f"the previous checkpoint is unchanged, {remedy_of(error, 'set another output')}"
    return UserError(f"{path}: could not be written ({error.strerror}); {remedy}")


def _looks(names: _Names, patience: float) -> Iterator[str]:
    """Sleep between checks, longer each time, and yield "", or a message once the ranks of a save have written nothing
    for longer than the patience. Their files are examined rarely, since there may be many ranks and files."""
    since = looked = time.monotonic()
    sizes: dict[str, int] | None = None
    seconds, maximum = POLL_SECONDS
    while True:
        now = time.monotonic()
        if now - looked > patience / LOOKS:
            before, sizes, looked = sizes, {}, now
            with contextlib.suppress(OSError):  # published or deleted meanwhile
                sizes = {entry.name: entry.stat().st_size for entry in os.scandir(names.temporary)}
            since = since if sizes == before else now
        yield f"no rank has written anything for {patience:g} s" if now - since > patience else ""
        time.sleep(seconds)
        seconds = min(1.2 * seconds, maximum)


def _other_parts(names: _Names, world_size: int, patience: float) -> list[Any]:
    missing, parts = set(range(1, world_size)), {}
    for silent in _looks(names, patience):
        present = {entry.name for entry in os.scandir(names.temporary)}
        if refused := [rank for rank in missing if names.rank_failure(rank).name in present]:
            message = read_json(names.rank_failure(refused[0]))["message"]
            raise UserError(f"{names.final}: rank {refused[0]} did not write its part ({message}); see its log")
        arrived = [rank for rank in missing if names.part(rank).name in present]
        parts |= {rank: read_json(names.part(rank)) for rank in arrived}
        missing -= set(arrived)
        if not missing:
            break
        if silent:
            raise UserError(f"{names.final}: rank {min(missing)} did not write its part, and {silent}; see its log")
    return [parts[rank] for rank in sorted(parts)]


def _write_as_follower(names: _Names, rank: int, tensors: Mapping[str, np.ndarray | Slice], patience: float) -> None:
    """Write a rank's part and wait until rank 0 has published the whole. Raises `UserError` if rank 0 gave up."""
    failure, refused = None, True
    try:
        if not names.failed.exists():
            names.temporary.mkdir(parents=True, exist_ok=True)
            write_json(names.part(rank), save_slices(names.temporary, rank, tensors))
    except (UserError, OSError) as error:
        if not names.failed.exists():  # otherwise the cause is that rank 0 has deleted the directory
            failure, refused = _as_user_error(names.final, error), False
    for silent in _looks(names, patience):
        if names.failed.exists():
            shutil.rmtree(names.temporary, ignore_errors=True)  # what this rank wrote after rank 0 had given up
            raise failure or UserError(f"{names.final}: another rank could not write its part; see the ranks' logs")
        if not names.temporary.exists() and _published(names):
            return
        if silent:  # rank 0 may continue nevertheless, so all files stay
            raise failure or UserError(f"{names.final}: rank 0 has not published it, and {silent}; see the ranks' logs")
        if not refused:  # on a full disk, the note may not fit at first
            with contextlib.suppress(UserError, OSError):
                (names.temporary / f"rank_{rank:05d}.safetensors").unlink(missing_ok=True)
                write_json(names.rank_failure(rank), {"message": str(failure)})
                refused = True


def _published(names: _Names) -> bool:
    with contextlib.suppress(UserError):
        return read_json(names.final / MANIFEST).get("save") == names.save
    return False


def write_ranks(path: Path, step: int, state: Mapping[str, Any], ranks: Iterable[Mapping[str, Slice]]) -> None:
    """Write a whole checkpoint to `path` in one process, one tensor at a time: `ranks` are the slices of ranks 0, 1,
    ..., which may be lazy. `UserError` as in `write_checkpoint`; nothing is left then."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        parts = [save_slices(temporary, rank, slices) for rank, slices in enumerate(ranks)]
        _publish(temporary, path, {"step": step, "save": "0"}, state, parts)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); {remedy_of(error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def plain_state(state: Mapping[str, Any]) -> dict[str, Any]:
    numpy = (np.generic, np.ndarray)
    return json.loads(json.dumps(dict(state), default=lambda x: x.tolist() if isinstance(x, numpy) else str(x)))


def _publish(
    temporary: Path, final: Path, of: Mapping[str, Any], state: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]
) -> None:
    if clash := set(state) & set(RESERVED_KEYS):
        raise ValueError(f"state keys {sorted(clash)} belong to the manifest")
    manifest = {
        "format": FORMAT,
        **of,
        **plain_state(state),
        "world_size": len(parts),
        "versions": versions(PACKAGES),
        "tensors": _tensors(parts, final),
    }
    files = [part["file"] for part in parts if "file" in part]
    manifest["files"] = {file: (temporary / file).stat().st_size for file in files}
    manifest["headers"] = {part["file"]: part["header"] for part in parts if "file" in part}
    manifest["sha256"] = manifest_digest(manifest)
    for leftover in temporary.glob("rank_*.json"):
        leftover.unlink()
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (temporary / MANIFEST).write_text(text, encoding="utf-8")
    sync(temporary / MANIFEST)
    sync(temporary)
    _swap(temporary, final)


def _tensors(parts: Sequence[Mapping[str, Any]], final: Path) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for rank, part in enumerate(parts):
        for record in part["slices"]:
            piece = {key: value for key, value in record.items() if key not in ("name", "dtype", "global_shape")}
            name, dtype, shape = record["name"], record["dtype"], record["global_shape"]
            tensor = tensors.setdefault(name, {"dtype": dtype, "shape": shape, "slices": []})
            if (tensor["dtype"], tensor["shape"]) != (dtype, shape):
                earlier = f"{tensor['dtype']} {tensor['shape']}"
                holds = f"rank {rank} holds {name} as {dtype} {shape}, an earlier rank as {earlier}"
                raise UserError(f"{final}: {holds}; see the ranks' logs")
            tensor["slices"].append(piece)
    for name, tensor in tensors.items():
        check_coverage(name, tensor, str(final))
    return tensors


def _swap(temporary: Path, final: Path) -> None:
    replaced = final.with_name(f"{final.name}.replaced")
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(final, replaced)
    os.replace(temporary, final)
    sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
