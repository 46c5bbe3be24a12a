"""The phases of making a dataset: search, read in parallel, decide over all documents, write."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ms_codegeex.base.digests import json_digest
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, atomic_file, remove, remove_leftovers
from ms_codegeex.base.printing import size_text
from ms_codegeex.data.datasets.indexed import token_dtype
from ms_codegeex.data.datasets.layout import SPLITS, file_records
from ms_codegeex.data.infilling.transform import infill_record
from ms_codegeex.data.tokenizer import Tokenizer
from ms_codegeex.extras.corpus import shards
from ms_codegeex.extras.corpus.duplicates import EXACT_DUPLICATE, duplicates_name, find_duplicates
from ms_codegeex.extras.corpus.events import Event
from ms_codegeex.extras.corpus.filters import generator_of, size_rejection
from ms_codegeex.extras.corpus.phases import Documents, Phases
from ms_codegeex.extras.corpus.reading import STRIPPED, UNKNOWN_LICENCE, Search, Unit, find_units
from ms_codegeex.extras.corpus.repositories import join_files
from ms_codegeex.extras.corpus.selection import (
    NOT_SAMPLED,
    REASONS,
    NothingLeft,
    Selection,
    placed_documents,
    select,
    selection_name,
)
from ms_codegeex.extras.corpus.settings import PrepareSettings
from ms_codegeex.extras.corpus.sources import Inputs, Root, described_roots, sample
from ms_codegeex.extras.corpus.summary import Summary, describe_splits, summarise, summarise_in_phases
from ms_codegeex.extras.corpus.tally import Tally
from ms_codegeex.extras.corpus.workers import Cluster, ProgressBar, open_mapper
from ms_codegeex.extras.corpus.workspace import sweep, work_path
from ms_codegeex.extras.corpus.writing import write_description, write_report, write_splits
from ms_codegeex.extras.shared.records import PART_BYTES

SHARD_VERSION = 16


@dataclass(frozen=True)
class PrepareRequest:
    """What to prepare: `inputs` as given, their `roots`, and the settings. The rest is as in `RunOptions`."""

    inputs: Inputs
    roots: Sequence[Root]
    settings: PrepareSettings
    key: str
    tokenizer: Tokenizer
    search: Search | None = None
    dropped: Path | None = None

    @property
    def places(self) -> str:
        return ", ".join(str(root.path) for root in self.roots)


@dataclass(frozen=True)
class FoundInput:
    """What the search found: the `units` to read; `size`, the `files` and `bytes` of everything; those of the `sampled`
    files (None: `max_bytes` is applied to documents later); `events` on files not read; `tally`, what was dropped."""

    units: list[Unit]
    size: dict[str, int]
    sampled: dict[str, int] | None
    events: list[Event]
    tally: Tally


def ready_workers(
    workers: int, roots: Sequence[Root], tokenizer: str, cluster: Cluster | None
) -> contextlib.AbstractContextManager[Callable]:
    """Return a context manager that provides `map`: in processes that share this one's tokenizer (spawned ones load
    it), or on the cluster."""
    if cluster is not None:
        return cluster.mapper()
    return open_mapper(min(workers, _most_units(roots, workers)), functools.partial(_load_early, tokenizer))


def _most_units(roots: Sequence[Root], workers: int) -> int:
    """Return how many units a few local files make at most, so no worker is idle; otherwise `workers`."""
    paths = [root.path for root in roots]
    if not all(isinstance(path, Path) and path.is_file() for path in paths):
        return workers
    return sum(-(-max(path.stat().st_size, 1) // PART_BYTES) for path in paths)


def _load_early(tokenizer: str) -> None:
    generator_of(b"", "")
    with contextlib.suppress(UserError):  # reported when this process loads it
        shards.load_encoder(tokenizer)


def build(request: PrepareRequest, output: Path, work: Path, mapper: Callable, progress: ProgressBar) -> dict[str, Any]:
    """Write the dataset and return the content of dataset.json. Finished shards stay in `work` until it is complete."""
    corpus = _search(request, output, progress)
    paths = _make_shards(request, corpus, work, mapper, progress)
    documents = Documents(_read_shards(corpus, paths), sum(unit.held_out for unit in corpus.units))
    settings = request.settings
    try:
        _check_licences(len(documents), corpus.tally)
        if not len(documents):
            raise _nothing_left(request, corpus)
        progress.say(f"comparing {len(documents)} documents")
        name, sampling = duplicates_name(paths, settings.near_duplicates), corpus.sampled is None
        instead = np.zeros(len(documents), np.int64) if request.dropped else None
        duplicates = find_duplicates(documents, settings.near_duplicates, work / name, mapper, instead)
        phases = Phases(work / selection_name(name, settings, sampling), mapper, documents.blocks())
        selection = select(documents, settings, duplicates, sampling, phases)
        for line in selection.remarks:
            progress.say(line)
        summary = summarise_in_phases(phases)
        _count(documents, selection, summary, corpus.tally)
        if not summary.counts(*range(len(SPLITS)))["documents"]:
            raise _nothing_left(request, corpus)
        placed, written, more = placed_documents(phases), summary, {}
        if settings.repositories is not None:
            progress.say(f"joining the files of repositories, at most {settings.repositories} tokens in a document")
            joined = join_files(documents, placed, settings.tokenizer, settings.repositories, phases)
            placed, more["repositories"] = joined
            written = summarise(placed)
    except NothingLeft:  # after other errors, such as a full disk, the same command continues
        remove(work)
        raise
    progress.say(f"writing {output}")
    remove_leftovers(output)
    with contextlib.ExitStack() as stack:
        if request.dropped:
            remove_leftovers(request.dropped)
            path = stack.enter_context(atomic_file(request.dropped))
            _write_dropped(path, request, corpus, documents, instead, phases)
        directory = stack.enter_context(atomic_directory(output))
        write_splits(directory, placed, token_dtype(request.tokenizer.vocab_size))
        description = _describe(request, corpus, selection, summary, written, more, directory)
    remove(work)
    return description


def _check_licences(kept: int, tally: Tally) -> None:
    """Raise `NothingLeft` if no text has a known licence, so that `--licences` can decide nothing."""
    unclear = tally.noted.get(UNKNOWN_LICENCE, {}).get("documents", 0)
    if kept == unclear and "licence" not in tally.dropped and (unclear or "unknown licence" in tally.dropped):
        where = "in its comments, in a field, or in the metadata of its package"
        raise NothingLeft(f"--licences: no text has a known licence, {where}; leave out --licences")


def _read_shards(corpus: FoundInput, paths: Sequence[Path]) -> Iterator[shards.Shard]:
    for unit, path, lines in zip(corpus.units, paths, shards.lines_before(corpus.units, paths), strict=True):
        shard, rejected = shards.read_shard(path, lines, unit.part is not None)
        corpus.tally.merge(rejected)
        yield shard


def _count(documents: Documents, selection: Selection, summary: Summary, tally: Tally) -> None:
    splits = range(len(SPLITS))
    tally.kept, tally.records = summary.counts(*splits)["documents"], summary.records_at(*splits)
    for number, reason in enumerate(REASONS):
        if reason not in selection.dropped:
            continue
        relation = "identical to" if reason == EXACT_DUPLICATE else "similar to"
        kept = ["" if it is None else f"{relation} {documents.source(it)}" for _, it in selection.dropped[reason]]
        examples = [documents.source(dropped) for dropped, _ in selection.dropped[reason]]
        counts = {**summary.counts(-1 - number), "records": summary.records_at(-1 - number)}
        tally.drop(reason, counts, zip(examples, kept, strict=True))


def _write_dropped(
    path: Path, request: PrepareRequest, corpus: FoundInput, documents: Documents, instead: np.ndarray, phases: Phases
) -> None:
    with open(path, "w", encoding="ascii") as stream:

        def write(event: Event, **more: int) -> None:
            line = {"path": event.source, "change": event.kind, "rule": event.reason, "matched": event.detail}
            line |= {"where": event.where, "bytes": event.bytes, "count": event.count, **more}
            stream.write(f"{json.dumps(line)}\n")

        for event in corpus.events:
            if event.kind in shards.LISTED:
                write(event)
        number = 0
        for shard, placed in placed_documents(phases):
            sources, gone = shard.sources(), np.flatnonzero(placed < 0).tolist()
            names = {sources[row] for row in gone}
            for event in shard.events():
                if event.kind != "changed" or event.source not in names:
                    write(event)
            sizes = shard.column("bytes")
            for row in gone:
                reason, kept = REASONS[-1 - placed[row]], len(documents) - int(instead[number + row])
                event = Event(sources[row], "dropped", reason, bytes=int(sizes[row]))
                if kept == len(documents):
                    write(event._replace(detail=f"--max-bytes {request.settings.max_bytes}"))
                else:  # the original of an exact duplicate may itself be similar to another document
                    cluster = len(documents) - int(instead[kept]) if instead[kept] else kept
                    write(event._replace(detail=documents.source(kept)), cluster=cluster)
            number += len(sources)


def _nothing_left(request: PrepareRequest, corpus: FoundInput) -> NothingLeft:
    why = corpus.tally.nothing_left("give --input other files")
    limit = f" (max_bytes {request.settings.max_bytes})" if NOT_SAMPLED in corpus.tally.dropped else ""
    return NothingLeft(f"{request.places}: nothing is left{limit}: {why}")


def _search(request: PrepareRequest, output: Path, progress: ProgressBar) -> FoundInput:
    progress.say(f"searching {request.places}")
    reading = request.settings.reading
    written = (output, *([request.dropped] if request.dropped else []))
    # Only existing paths in the input. The set is usually empty then, as for others that use a cached search.
    local = [root.path for root in request.roots if isinstance(root.path, Path)]
    real = (Path(os.path.realpath(path)) for path in written if os.path.lexists(path))
    leave_out = frozenset(path for path in real if any(path.is_relative_to(place) for place in local))
    units, events, size = (request.search or find_units)(tuple(request.roots), reading, leave_out)
    # The work directory is no input either. The search has not entered it, because its name begins with a dot.
    events = [event for event in events if PurePosixPath(event.source).name != work_path(output).name]
    corpus = FoundInput(units, size, None, events, Tally())
    for event in events:
        corpus.tally.add(event)
    _stop(request, corpus.tally)
    if not units:
        raise _nothing_left(request, corpus)
    if all(unit.part is None for unit in units):
        corpus = _sample_files(corpus, request.settings, progress)
    return corpus


def _sample_files(corpus: FoundInput, settings: PrepareSettings, progress: ProgressBar) -> FoundInput:
    files = [file for unit in corpus.units for file in unit.files]
    rules, limit = settings.reading.rules, settings.max_bytes
    fitting = [file for file in files if not file.held_out and size_rejection(file.size, rules) is None]
    sampled = fitting if limit is None else sample(fitting, limit, settings.seed)
    total = {"files": len(sampled), "bytes": sum(file.size for file in sampled)}
    gone = {file.path for file in fitting} - {file.path for file in sampled}
    if not gone:
        return replace(corpus, sampled=total)
    left = [file for file in fitting if file.path in gone]
    events = [Event(file.identity, "dropped", NOT_SAMPLED, f"--max-bytes {limit}", file.size) for file in left]
    for event in events:
        corpus.tally.add(event)
    of = f"of {size_text(sum(file.size for file in fitting))}; --max-bytes {limit} is the limit"
    progress.say(f"sampled {len(sampled)} of {len(fitting)} files, {size_text(total['bytes'])} {of}")
    smaller = [replace(it, files=tuple(file for file in it.files if file.path not in gone)) for it in corpus.units]
    units = [unit for unit in smaller if unit.files]
    return replace(corpus, units=units, sampled=total, events=[*corpus.events, *events])


def _stop(request: PrepareRequest, tally: Tally) -> None:
    """Raise `UserError` for broken input if `on_error` is `stop`."""
    if request.settings.on_error == "stop" and tally.first is not None:
        source, problem = tally.first
        raise UserError(f"{source}: {problem}; fix it, or leave such input out with --on-error skip")


def _make_shards(
    request: PrepareRequest, corpus: FoundInput, work: Path, mapper: Callable, progress: ProgressBar
) -> list[Path]:
    settings = request.settings
    signatures = settings.near_duplicates_by if settings.near_duplicates else None
    more = (request.dropped is not None, settings.repositories is not None)
    job = shards.ShardJob(settings.reading, settings.tags, settings.tokenizer, signatures, *more)
    decisive = {"version": SHARD_VERSION, **asdict(replace(job, tokenizer=request.tokenizer.fingerprint))}
    decisive |= settings.deciding_versions()
    key = json_digest(decisive)
    paths = [work / shards.shard_name(key, unit) for unit in corpus.units]
    keep = {path.name + ending for path in paths for ending in shards.ENDINGS}
    name = duplicates_name(paths, settings.near_duplicates)
    sweep(work, {*keep, name, selection_name(name, settings, corpus.sampled is None)})
    results = mapper(functools.partial(shards.make_shard, job), zip(corpus.units, paths, strict=True))
    done, before = progress.track(corpus.units, results, "tokenising"), shards.lines_before(corpus.units, paths)
    for path, _, lines in zip(paths, done, before, strict=True):
        if settings.on_error == "stop":
            _stop(request, shards.read_shard(path, lines)[1])
    return paths


def _describe(
    request: PrepareRequest,
    corpus: FoundInput,
    selection: Selection,
    summary: Summary,
    written: Summary,
    more: dict[str, Any],
    directory: Path,
) -> dict[str, Any]:
    settings, tally, splits = request.settings, corpus.tally, range(len(SPLITS))
    licences: dict[str, Any] = {**more, "licences_stripped": summary.licences}
    if settings.reading.licences:
        licences["licences"] = summary.licence_counts()
    read = {name: count + tally.total(name) for name, count in summary.counts(*splits).items() if name != "tokens"}
    read["bytes"] += sum(it["bytes"] for name, it in tally.changed.items() if name == STRIPPED)
    redacted = dict(zip(settings.reading.redact, summary.redacted, strict=True))
    size = {"files": corpus.size["files"], **read}
    write_report(directory, written, size, tally, settings.record(), {**licences, "redacted": redacted})
    left_out = tally.described()
    left_out.pop(NOT_SAMPLED, None)
    passed = summary.counts(*(number for number in summary.languages if number != -1 - REASONS.index(NOT_SAMPLED)))
    further = {
        "default_corpus": request.inputs is None,
        "sources": described_roots(request.roots),
        "split_by": selection.split_by,
        "splits": describe_splits(written, selection.packages),
        "found": corpus.size,
        "sampled": corpus.sampled or {"files": passed["documents"], "bytes": passed["bytes"]},
        "dropped": left_out,
        "tally": tally.summed(tally.kept),
        **licences,
        "files": file_records(directory),
        **infill_record(settings.infill, request.tokenizer),
        "settings": settings.record(),
        **settings.deciding_versions(),
    }
    return write_description(directory, request.tokenizer, settings.tokenizer, {"key": request.key}, further)
