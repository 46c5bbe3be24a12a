"""Sources to a dataset directory: find, sample, judge, deduplicate, split, tokenise, write.

A dataset directory holds `train.bin/.idx`, `validation.bin/.idx` (uint16, see `ms_codegeex.data.indexed`) and
`dataset.json`. A document is its language's tag line, a newline, the exact text of the file and the end token; a
tokenizer's prefix for prompts is not part of it. A tokenizer that was given as a directory lies in `tokenizer/`.

Two passes over the files, so that memory does not grow with the corpus: the first keeps a digest per file, the second
reads the files that are kept once more and writes their ids. Both run in worker processes; results are taken in order,
so the bytes written do not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.data import corpus, languages
from ms_codegeex.data import tokenizer as tokenizers
from ms_codegeex.data.selection import PrepareSettings, Selection, select
from ms_codegeex.data.tokenizer.recorded import DIRECTORY as TOKENIZER
from ms_codegeex.data.workers import Progress, Task, make_tasks, open_mapper
from ms_codegeex.errors import UserError
from ms_codegeex.files import atomic_directory, read_json, sha256, write_json

if TYPE_CHECKING:
    import numpy as np

FORMAT = "ms-codegeex dataset"
VERSION = 1
SPLITS = ("train", "validation")
DATA_FILES = tuple(f"{split}.{ending}" for split in SPLITS for ending in ("bin", "idx"))
DATASET_JSON = "dataset.json"
LARGEST_VOCABULARY = 65536  # ids that a uint16 holds

__all__ = ["DATASET_JSON", "DATA_FILES", "FORMAT", "SPLITS", "PrepareSettings", "cached_corpus", "prepare_dataset"]


@functools.lru_cache(maxsize=1)
def _tokenizer(name: str) -> Any:
    tokenizer = tokenizers.load_tokenizer(name)  # once per process
    if tokenizer.vocab_size > LARGEST_VOCABULARY:
        raise UserError(
            f"tokenizer {name}: has {tokenizer.vocab_size} ids, a dataset's uint16 holds {LARGEST_VOCABULARY}; "
            "give one with fewer"
        )
    return tokenizer


def _tokenise(name: str, tags: bool, task: Task) -> list[tuple[bytes, np.ndarray]]:
    """For each file the sha256 of its bytes and its ids, uint16 `[size]`, the end token included."""
    import numpy as np

    tokenizer = _tokenizer(name)
    results = []
    for path, language in zip(task.paths, task.languages, strict=True):
        data = path.read_bytes()
        tag = languages.find_language(language).tag + "\n" if tags else ""
        ids = [*tokenizer.encode(tag + data.decode("utf-8", "replace")), tokenizer.eos_id]
        results.append((hashlib.sha256(data).digest(), np.array(ids, np.uint16)))
    return results


def _roots(inputs: Sequence[Path | str] | None) -> list[corpus.Root]:
    return corpus.default_roots() if inputs is None else corpus.user_roots(inputs)


def dataset_key(inputs: Sequence[Path | str] | None, settings: PrepareSettings) -> str:
    """64 hex digits over the absolute inputs, the settings, the tokenizer's files and the Python version.

    Equal keys mean equal requests. The sources themselves are not read: that is what makes a cached dataset quick.
    """
    directory = Path(settings.tokenizer)
    tables = {}
    if settings.tokenizer not in tokenizers.NAMES and directory.is_dir():
        tables = {name: sha256(directory / name) for name in tokenizers.FILES if (directory / name).is_file()}
    request = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": [corpus.printable(root.path) for root in _roots(inputs)],
        "settings": asdict(settings),
        "tokenizer": tables,
        "python": platform.python_version(),
    }
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _existing(directory: Path) -> dict[str, Any] | None:
    """The description of a complete dataset in `directory` (files of the recorded sizes), else None."""
    if not (directory / DATASET_JSON).is_file():
        return None
    description = read_json(directory / DATASET_JSON)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        return None
    files = description.get("files", {})
    sizes = {name: (directory / name).stat().st_size for name in DATA_FILES if (directory / name).is_file()}
    return description if sizes == {name: entry.get("bytes") for name, entry in files.items()} else None


def _check_output(output: Path, key: str, replace: bool) -> dict[str, Any] | None:
    """The dataset that is there already and fits, None when the way is free, a `UserError` otherwise."""
    if not output.exists():
        return None
    if not output.is_dir():
        raise UserError(f"{output}: is a file; give --output a directory")
    foreign = sorted(entry.name for entry in output.iterdir() if not _is_ours(entry))
    if foreign:  # replacing a directory deletes it, so it must be ours
        raise UserError(f"{output}: holds {foreign[0]}, which is no part of a dataset; give --output another directory")
    if replace or not any(output.iterdir()):
        return None
    description = _existing(output)
    if description is None:
        raise UserError(f"{output}: holds an incomplete dataset; prepare it again with --replace")
    if description.get("key") != key:
        raise UserError(
            f"{output}: holds a dataset made from other inputs or settings; add --replace, or give "
            "--output another directory"
        )
    return description


def _is_ours(entry: Path) -> bool:
    """Whether an entry of a dataset directory was put there by this module."""
    if entry.name != TOKENIZER or not entry.is_dir():
        return entry.name in (*DATA_FILES, DATASET_JSON)
    beside_dataset = (entry.parent / DATASET_JSON).is_file()
    return beside_dataset and all(file.name in tokenizers.FILES for file in entry.iterdir())


def prepare_dataset(
    inputs: Sequence[Path | str] | None,
    output: Path | str,
    settings: PrepareSettings,
    *,
    workers: int,
    progress: bool,
    replace: bool = False,
) -> dict[str, Any]:
    """Write a dataset directory, whole or not at all, and return what its `dataset.json` says.

    Args:
        inputs: files and directories of sources; None: the running interpreter's libraries.
        output: the directory to write. One with the same inputs and settings is reused.
        settings: what decides the content.
        workers: processes, at least 1; the result does not depend on it.
        progress: report on standard error.
        replace: write even if `output` holds a dataset.

    Returns:
        The content of `dataset.json` and besides `output`, `cached`, `seconds` and `megabytes_per_second`.

    Raises:
        UserError: a path is missing, nothing is left to write, or `output` holds something else.
    """
    started, output, report = time.perf_counter(), Path(output), Progress(progress)
    if workers < 1:
        raise UserError(f"workers {workers}: expected 1 or more processes")
    key = dataset_key(inputs, settings)
    description = _check_output(output, key, replace)
    cached = description is not None
    if cached:
        report.say(f"{output}: already prepared from the same inputs with the same settings; --replace makes it afresh")
    else:
        tokenizer = _tokenizer(settings.tokenizer)  # a wrong name is told before the search
        with open_mapper(workers) as mapper:
            selection = select(_roots(inputs), settings, mapper, report)
            with atomic_directory(output) as directory:
                splits = {
                    split: _write_split(directory, split, selection, settings, mapper, report) for split in SPLITS
                }
                if settings.tokenizer not in tokenizers.NAMES:
                    tokenizer.save(directory / TOKENIZER)
                description = _describe(directory, key, inputs, settings, selection, splits, tokenizer)
                write_json(directory / DATASET_JSON, description)
    seconds = time.perf_counter() - started
    rate = 0.0 if cached else description["sampled"]["bytes"] / 1e6 / seconds
    return {
        **description,
        "output": str(output),
        "cached": cached,
        "seconds": round(seconds, 3),
        "megabytes_per_second": round(rate, 3),
    }


def _write_split(
    directory: Path, split: str, selection: Selection, settings: PrepareSettings, mapper: Callable, progress: Progress
) -> dict[str, Any]:
    """Tokenise and write one split; its counts by language and its packages."""
    import numpy as np

    from ms_codegeex.data.indexed import IndexedWriter

    chosen = [
        (file, digest)
        for file, digest in zip(selection.files, selection.hashes, strict=True)
        if (file.identity in selection.validation) == (split == "validation")
    ]
    tasks = make_tasks(file for file, _ in chosen)
    results = mapper(functools.partial(_tokenise, settings.tokenizer, settings.tags), tasks)
    counts: dict[str, dict[str, int]] = {}
    remaining = iter(chosen)
    with IndexedWriter(directory / split, np.uint16) as writer:
        for _, batch in progress.track(tasks, results, f"tokenising {split}"):
            for digest, ids in batch:
                file, expected = next(remaining)
                if digest != expected:
                    raise UserError(f"{file.path}: changed while the dataset was made; run the command again")
                writer.add(ids)
                entry = counts.setdefault(file.language, {"documents": 0, "tokens": 0, "bytes": 0})
                for name, amount in (("documents", 1), ("tokens", ids.size), ("bytes", file.size)):
                    entry[name] += amount
    total = {name: sum(entry[name] for entry in counts.values()) for name in ("documents", "tokens", "bytes")}
    return {
        **total,
        "languages": dict(sorted(counts.items(), key=lambda item: -item[1]["bytes"])),
        "packages": sorted({file.package for file, _ in chosen}),
    }


def _describe(
    directory: Path,
    key: str,
    inputs: Sequence[Path | str] | None,
    settings: PrepareSettings,
    selection: Selection,
    splits: dict[str, Any],
    tokenizer: Any,
) -> dict[str, Any]:
    """The content of dataset.json; no times or host names, so that equal requests give equal bytes."""
    files = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": sha256(directory / name)} for name in DATA_FILES
    }
    sources = [{"path": corpus.printable(root.path), "label": root.label} for root in _roots(inputs)]
    return {
        "format": FORMAT,
        "version": VERSION,
        "key": key,
        "tokenizer": tokenizer.description(),
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "dtype": "uint16",
        "default_corpus": inputs is None,
        "sources": sources,
        "split_by": selection.split_by,
        "splits": splits,
        **selection.report,
        "files": files,
        "settings": asdict(settings),
        "python": platform.python_version(),
    }


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait until no other process works on the same corpus: two runs started together prepare it once."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def cached_corpus(
    inputs: Sequence[Path | str] | None, parent: Path | str, settings: PrepareSettings, workers: int, progress: bool
) -> Path:
    """The dataset directory for this request under `parent`, prepared on first use.

    Returns `parent/corpus-<12 hex digits of dataset_key>`. When it is complete nothing is searched or read again, also
    if the sources have changed since: delete the directory to prepare them afresh.
    """
    key = dataset_key(inputs, settings)
    directory = Path(parent) / f"corpus-{key[:12]}"
    if not _complete(directory, key):
        with _lock(directory.with_name(f".{directory.name}.lock")):
            if not _complete(directory, key):
                prepare_dataset(inputs, directory, settings, workers=workers, progress=progress, replace=True)
    return directory


def _complete(directory: Path, key: str) -> bool:
    try:
        description = _existing(directory)
    except UserError:  # a damaged description: prepared again
        return False
    return description is not None and description.get("key") == key
