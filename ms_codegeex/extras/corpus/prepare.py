"""Make a dataset directory from sources: find them, read them in parallel, select among all documents, write.

A dataset directory holds `{train,validation}.bin/.idx` (uint16, or int32 for large vocabularies, see
`ms_codegeex.data.datasets.indexed`), `{train,validation}.documents.parquet` with a row for each document, `report.json`
and `report.html`, which state what was taken and what was not, and `dataset.json`. A document is its language's tag
line, a newline, the text and the end token, without a tokenizer's prefix for prompts. A tokenizer that was given as a
directory is copied to `tokenizer/`.

Worker processes read the input once and write shards to the work directory, where they survive a killed run. Phases
over all shards decide what becomes of each document. Order and bytes depend only on the input and the settings."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ms_codegeex.base.digests import json_digest, sha256
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import remove
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.datasets.layout import DATA_FILES, DATASET_JSON, FORMAT, MASKS, TABLES, VERSION, is_occupied
from ms_codegeex.data.summary_lines import print_tally
from ms_codegeex.data.tokenizer import TOKENIZER_FILES, TOKENIZER_NAMES, load_tokenizer
from ms_codegeex.extras.corpus.reading import Search
from ms_codegeex.extras.corpus.settings import PrepareSettings
from ms_codegeex.extras.corpus.sources import Inputs, Root, printable, user_roots
from ms_codegeex.extras.corpus.workers import Cluster, ProgressBar
from ms_codegeex.extras.corpus.workspace import make_once, open_workspace, work_path
from ms_codegeex.extras.shared.remote import RemotePath, upload
from ms_codegeex.extras.shared.remote import read_json as read_remote_json

DROPPED_LINE_START = b'{"path": '
ALREADY = "already prepared from the same inputs with the same settings; --replace prepares it again"


@dataclass(frozen=True)
class RunOptions:
    """Options that do not affect the content of a dataset. `search` replaces `find_units`. The file `dropped` gets a
    line for each text that was dropped or changed."""

    workers: int
    progress: bool
    replace: bool = False
    cluster: Cluster | None = None
    search: Search | None = None
    dropped: Path | None = None


def dataset_key(inputs: Inputs, settings: PrepareSettings) -> str:
    """Return 64 hex digits that identify a request: a digest of the absolute inputs, the settings, the tokenizer's
    files and `deciding_versions`. The sources themselves are not read, so a cached dataset is quick to find."""
    directory = Path(settings.tokenizer)
    tables = {}
    if settings.tokenizer not in TOKENIZER_NAMES and directory.is_dir():
        tables = {name: sha256(directory / name) for name in TOKENIZER_FILES if (directory / name).is_file()}
    places = [printable(root.path) for root in user_roots(inputs)]  # the settings have those of validation
    request = {"format": FORMAT, "version": VERSION, "inputs": places, "settings": settings.record()}
    request |= {"tokenizer": tables, **settings.deciding_versions()}
    return json_digest(request)


def _existing(directory: Path) -> dict[str, Any] | None:
    if not (directory / DATASET_JSON).is_file():
        return None
    description = read_json(directory / DATASET_JSON)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        return None
    files, names = description.get("files", {}), (*DATA_FILES, *MASKS, *TABLES)
    sizes = {name: (directory / name).stat().st_size for name in names if (directory / name).is_file()}
    return description if sizes == {name: entry.get("bytes") for name, entry in files.items()} else None


def already_prepared(output: Path | RemotePath, key: str, replace: bool) -> dict[str, Any] | None:
    """Return the description of an existing dataset that matches `key`, or None if one may be written. Raises
    `UserError` if there is another one that must not be replaced."""
    if isinstance(output, RemotePath):
        description, kind = None if replace else read_remote_json(output / DATASET_JSON), "URL"
        if description is None:
            return None
    else:
        if not is_occupied(output) or replace:  # a directory with other content is always refused
            return None
        description, kind = _existing(output), "directory"
        if description is None:
            raise UserError(f"{output}: holds an incomplete dataset; prepare it again with --replace")
    if not isinstance(description, dict) or description.get("key") != key:
        other = f"{output}: holds a dataset made from other inputs or settings"
        raise UserError(f"{other}; add --replace, or give --output another {kind}")
    return description


def _check_places(roots: Sequence[Root], output: Path) -> None:
    if output.name in ("", ".."):
        raise UserError(f"{output}: is not the name of a directory; give --output one, for example {output / 'corpus'}")
    for directory in map(Path, map(os.path.realpath, (output, work_path(output)))):  # `resolve` fails on loops
        if inside := next((root.path for root in roots if root.path.is_relative_to(directory)), None):
            place = f"{inside}: lies in {directory}, which is written"
            raise UserError(f"{place}; give --output or --input another directory")


def _check_list(path: Path, roots: Sequence[Root], output: Path, replace: bool) -> None:
    """Raise `UserError` unless the file of `--dropped` can be written: it must be outside the directories that are
    written, and may only replace an earlier list."""
    remedy, real = "give --dropped another file", Path(os.path.realpath(path))
    if any(real.is_relative_to(os.path.realpath(each)) for each in (output, work_path(output))):
        raise UserError(f"--dropped {path}: lies in the directory that is written; {remedy}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        present, ours = os.path.lexists(path), path.is_file() and not path.is_symlink()
        if ours:
            with open(path, "rb") as stream:
                ours = stream.read(len(DROPPED_LINE_START)) in (DROPPED_LINE_START, b"")
    except OSError as error:
        raise UserError(f"--dropped {path}: cannot be written ({error.strerror}); {remedy}") from None
    if present and (not ours or real in [root.path for root in roots] or not replace):
        also = ", or add --replace" if ours else ""
        raise UserError(f"--dropped {path}: exists; {remedy}{also}")


def prepare_dataset(
    inputs: Inputs, output: Path | str, settings: PrepareSettings, options: RunOptions
) -> dict[str, Any]:
    """Write a dataset directory, completely or not at all, and return the content of its `dataset.json`, with `output`,
    `cached`, `seconds` and `megabytes_per_second` added. An interrupted run leaves its finished shards in `.NAME.work`
    next to `output`, and the same call continues with them. A second process with the same `output` waits for the
    first. A dataset of the same request is reused. Raises `UserError` if a path is missing, nothing is left to write,
    `output` holds something else, there is no room, or the input is broken and `settings.on_error` is `stop`."""
    started, output = time.perf_counter(), Path(output)
    if options.workers < 1:
        raise UserError(f"workers {options.workers}: expected 1 or more processes")
    key = dataset_key(inputs, settings)
    description, cached = already_prepared(output, key, options.replace), True
    if description is None:
        description, cached = _prepare(inputs, output, settings, key, options)
    return _result(description, output, cached, time.perf_counter() - started, options)


def _prepare(
    inputs: Inputs, output: Path, settings: PrepareSettings, key: str, options: RunOptions
) -> tuple[dict[str, Any], bool]:
    # these need NumPy, which a cached dataset does not
    from ms_codegeex.data.infilling.transform import infill_record
    from ms_codegeex.extras.corpus.building import PrepareRequest, build, ready_workers
    from ms_codegeex.extras.corpus.repositories import check_marks

    share = None if settings.validation else settings.validation_share
    roots, report = user_roots(inputs, settings.validation, share), ProgressBar(options.progress)
    _check_places(roots, output)
    if options.dropped:
        _check_list(options.dropped, roots, output, options.replace)
    with ready_workers(options.workers, roots, settings.tokenizer, options.cluster) as mapper:
        tokenizer = load_tokenizer(settings.tokenizer)  # a wrong name fails before the search
        infill_record(settings.infill, tokenizer)
        check_marks(tokenizer, settings.repositories)
        waiting = f"{output}: another process prepares it; waiting"
        with report.alive(), open_workspace(output, lambda: report.say(waiting)) as work:
            if (description := already_prepared(output, key, options.replace)) is not None:
                return description, True
            request = PrepareRequest(inputs, roots, settings, key, tokenizer, options.search, options.dropped)
            if options.cluster is not None:
                nodes = options.cluster.check_nodes(work, [root.path for root in request.roots])
                report.say(f"{nodes} nodes of the cluster")
            return build(request, output, work, mapper, report), False


def _result(
    description: dict[str, Any], output: Path | RemotePath, cached: bool, seconds: float, options: RunOptions
) -> dict[str, Any]:
    """Report and return the result of `prepare_dataset`. The rate counts bytes read, and is 0 for a cached dataset."""
    if cached and options.dropped:
        problem = f"--dropped {options.dropped}: {output} is prepared already"
        raise UserError(f"{problem}; add --replace to prepare it again")
    if cached:
        ProgressBar(options.progress).say(f"{output}: {ALREADY}")
    print_tally(description.get("tally"))
    rate = 0.0 if cached else description["sampled"]["bytes"] / 1e6 / seconds
    speed = {"seconds": round(seconds, 3), "megabytes_per_second": round(rate, 3)}
    return {**description, "output": printable(output), "cached": cached, **speed}


def prepare_remote(
    inputs: Inputs, output: RemotePath, settings: PrepareSettings, work: Path, options: RunOptions
) -> dict[str, Any]:
    """Prepare a dataset whose output is a URL: make it in the local directory `work`, then copy it, `dataset.json`
    last. If copying fails, the same call copies again."""
    key, report = dataset_key(inputs, settings), ProgressBar(options.progress)
    if (known := already_prepared(output, key, options.replace)) is not None:
        return _result(known, output, True, 0.0, options)
    local = work / f"{output.name}-{key[:12]}"
    described = prepare_dataset(inputs, local, settings, options)
    report.say(f"copying to {output}")
    upload(local, output, last=DATASET_JSON)
    remove(local)
    return {**described, "output": str(output), "cached": False}


def cached_corpus(
    inputs: Inputs,
    parent: Path | str,
    settings: PrepareSettings,
    workers: int,
    progress: bool,
    search: Search | None = None,
) -> Path:
    """Return the dataset directory for this request, `parent/corpus-<12 hex digits of dataset_key>`, prepared on first
    use. Once it is complete, nothing is searched or read again, even if the sources have changed."""
    key = dataset_key(inputs, settings)
    directory = Path(parent) / f"corpus-{key[:12]}"
    options = RunOptions(workers, progress, replace=True, search=search)

    def complete() -> bool:
        with contextlib.suppress(UserError):  # a damaged description: prepare again
            return (_existing(directory) or {}).get("key") == key
        return False

    if not make_once(directory, complete, lambda: prepare_dataset(inputs, directory, settings, options)):
        print_tally(read_json(directory / DATASET_JSON).get("tally"))
    return directory
