"""Hashes of what a run trains on: a path may hold other data later."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.sections import DataConfig
from ms_codegeex.data.datasets.batches import read_info
from ms_codegeex.data.datasets.layout import TABLES

RATE = 500e6  # bytes a second: slow for a disk, and a third of what XXH3 took on two shared cores
WHOLE = int(10 * RATE)  # a dataset of at most so many bytes is hashed completely, at every start
SAMPLES, BLOCK = 64, 1 << 16  # of each file of a larger one
READ = 8 << 20
CONTENT, SAMPLED = "xxh3:", "xxh3-samples:"  # how a hash begins


def content_hashes(data: DataConfig) -> dict[str, str]:
    """For each directory that a run trains on, the hash of its training split."""
    return {name: content_hash(Path(name)) for name in data.directories}


def content_hash(directory: Path) -> str:
    """Hash of a dataset's training split, which may have been replaced: `xxh3:…` of every byte up to `WHOLE` bytes, of
    more `xxh3-samples:…` of the files' sizes and times, the hashes in dataset.json, and `SAMPLES` blocks of each file,
    so that not every change is seen. `UserError` if it cannot be read."""
    info, digest = read_info(directory), xxhash.xxh3_128()
    if "infill" in info:
        digest.update(f"{json.dumps(info['infill'], sort_keys=True)}\n".encode())
    files = _train_files(directory, info)
    try:
        sizes = {path: path.stat().st_size for path in files}
        whole = sum(sizes.values()) <= WHOLE
        for path, recorded in files.items():
            digest.update(f"{path.name} {sizes[path]}\n".encode())
            if not whole:
                digest.update(f"{path.stat().st_mtime_ns} {recorded}\n".encode())
            for part in _parts(path) if whole else _samples(path):
                digest.update(part)
    except OSError as error:
        what = f"not readable ({error.strerror})"
        raise UserError(f"{error.filename or directory}: {what}; prepare the dataset again") from None
    return f"{CONTENT if whole else SAMPLED}{digest.hexdigest()}"


def _train_files(directory: Path, info: Mapping[str, Any]) -> dict[Path, str | None]:
    """The files of the training split, with the SHA-256 that dataset.json has of them."""
    recorded = info.get("files")
    entries = recorded if isinstance(recorded, dict) else {}
    names = {name for name in entries if name.startswith("train.")} | {"train.bin", "train.idx"}
    files = {name: entries.get(name) for name in sorted(names - set(TABLES))}
    return {directory / name: entry.get("sha256") if isinstance(entry, dict) else None for name, entry in files.items()}


def _parts(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as stream:
        while part := stream.read(READ):
            yield part


def _samples(path: Path) -> Iterator[bytes]:
    """Blocks spread over a file; of a small one, all of it."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        for number in range(SAMPLES):
            stream.seek(max(0, size - BLOCK) * number // (SAMPLES - 1))
            yield stream.read(BLOCK)
