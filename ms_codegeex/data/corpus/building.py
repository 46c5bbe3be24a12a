"""The stages of making a dataset: search, read in parallel, decide over all documents, write."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_directory, remove, remove_leftovers
from ms_codegeex.data.corpus.archives import PART_BYTES
from ms_codegeex.data.corpus.duplicates import EXACT_DUPLICATE, duplicates_name, find_duplicates
from ms_codegeex.data.corpus.filters import size_rejection
from ms_codegeex.data.corpus.reading import UNKNOWN_LICENCE, Search, Unit, find_units
from ms_codegeex.data.corpus.selection import (
    NOT_SAMPLED,
    REASONS,
    NothingLeft,
    Selection,
    placed_documents,
    select,
    selection_name,
)
from ms_codegeex.data.corpus.settings import PrepareSettings
from ms_codegeex.data.corpus.shards import (
    ENDINGS,
    Shard,
    ShardJob,
    lines_before,
    load_encoder,
    make_shard,
    read_shard,
    shard_name,
)
from ms_codegeex.data.corpus.sources import Inputs, Root, printable, sample
from ms_codegeex.data.corpus.stages import Documents, Stages
from ms_codegeex.data.corpus.summary import Summary, describe_splits, summarise_in_stages
from ms_codegeex.data.corpus.tally import EXAMPLES, Tally
from ms_codegeex.data.corpus.workers import Cluster, ProgressBar, open_mapper
from ms_codegeex.data.corpus.workspace import sweep
from ms_codegeex.data.corpus.writing import write_description, write_report, write_splits
from ms_codegeex.data.datasets.indexed import token_dtype
from ms_codegeex.data.datasets.layout import SPLITS, file_records
from ms_codegeex.data.infilling.transform import infill_record
from ms_codegeex.data.tokenizer import Tokenizer

SHARD_VERSION = 13


@dataclass(frozen=True)
class PrepareRequest:
    """`inputs` as given, the `roots` they stand for, and what decides the dataset; `search` as in `RunOptions`."""

    inputs: Inputs
    roots: Sequence[Root]
    settings: PrepareSettings
    key: str
    tokenizer: Tokenizer
    search: Search | None = None

    @property
    def places(self) -> str:
        """The input for messages."""
        return ", ".join(str(root.path) for root in self.roots)


@dataclass(frozen=True)
class FoundInput:
    """The units to read, `files` and `bytes` of all that was found (`size`) and of the `sampled` files (None:
    `max_bytes` is applied to documents later), and counts of the documents left out so far."""

    units: list[Unit]
    size: dict[str, int]
    sampled: dict[str, int] | None
    tally: Tally


def ready_workers(
    workers: int, roots: Sequence[Root], tokenizer: str, cluster: Cluster | None
) -> contextlib.AbstractContextManager[Callable]:
    """`map` in processes that share this one's tokenizer (spawned ones load it), or on the cluster."""
    if cluster is not None:
        return cluster.mapper()
    return open_mapper(min(workers, _most_units(roots, workers)), functools.partial(_load_early, tokenizer))


def _most_units(roots: Sequence[Root], workers: int) -> int:
    """How many units a few local files make at most, so that no worker is idle; for anything else, `workers`."""
    paths = [root.path for root in roots]
    if not all(isinstance(path, Path) and path.is_file() for path in paths):
        return workers
    return sum(-(-max(path.stat().st_size, 1) // PART_BYTES) for path in paths)


def _load_early(tokenizer: str) -> None:
    with contextlib.suppress(UserError):  # this process reports it
        load_encoder(tokenizer)


def build(request: PrepareRequest, output: Path, work: Path, mapper: Callable, progress: ProgressBar) -> dict[str, Any]:
    """Write the dataset and return the content of dataset.json; finished shards stay in `work` until it is complete."""
    corpus = _search(request, output, progress)
    paths = _make_shards(request, corpus, work, mapper, progress)
    documents = Documents(_read_shards(corpus, paths))
    settings = request.settings
    try:
        _check_licences(len(documents), corpus.tally)
        if not len(documents):
            raise _nothing_left(request, corpus)
        progress.say(f"comparing {len(documents)} documents")
        name, sampling = duplicates_name(paths, settings.near_duplicates), corpus.sampled is None
        duplicates = find_duplicates(documents, settings.near_duplicates, work / name, mapper)
        stages = Stages(work / selection_name(name, settings, sampling), mapper, documents.blocks())
        selection = select(documents, settings, duplicates, sampling, stages)
        summary = summarise_in_stages(stages)
        _count_dropped(documents, selection, summary, corpus.tally)
        if not summary.counts(*range(len(SPLITS)))["documents"]:
            raise _nothing_left(request, corpus)
    except NothingLeft:  # after any other error, such as a full disk, the same command goes on
        remove(work)
        raise
    progress.say(f"writing {output}")
    remove_leftovers(output)
    with atomic_directory(output) as directory:
        write_splits(directory, placed_documents(stages), token_dtype(request.tokenizer.vocab_size))
        _report(request, corpus, summary, directory)
        description = _describe(request, corpus, selection, summary, directory)
    remove(work)
    return description


def _check_licences(kept: int, tally: Tally) -> None:
    """`NothingLeft` if no licence of any text is known, so that `--licences` can decide nothing."""
    unclear = tally.noted.get(UNKNOWN_LICENCE, {}).get("documents", 0)
    if kept == unclear and "licence" not in tally.dropped and (unclear or "unknown licence" in tally.dropped):
        where = "in its comments, in a field, or in the metadata of its package"
        raise NothingLeft(f"--licences: no text has a known licence, {where}; leave out --licences")


def _read_shards(corpus: FoundInput, paths: Sequence[Path]) -> Iterator[Shard]:
    """The finished shards, in order; their counts of left-out input are added to the tally."""
    for path, lines in zip(paths, lines_before(corpus.units, paths), strict=True):
        shard, rejected = read_shard(path, lines)
        corpus.tally.merge(rejected)
        yield shard


def _count_dropped(documents: Documents, selection: Selection, summary: Summary, tally: Tally) -> None:
    for number, reason in enumerate(REASONS):
        if reason not in selection.dropped:
            continue
        relation = "identical to" if reason == EXACT_DUPLICATE else "similar to"
        count, pairs = selection.dropped[reason]
        kept = ["" if other is None else f"{relation} {documents.source(other)}" for _, other in pairs]
        examples = [(documents.source(dropped), detail) for (dropped, _), detail in zip(pairs, kept, strict=True)]
        tally.drop(reason, count, summary.counts(-1 - number)["bytes"], examples)


def _nothing_left(request: PrepareRequest, corpus: FoundInput) -> NothingLeft:
    why = corpus.tally.nothing_left("give --input other files")
    limit = f" (max_bytes {request.settings.max_bytes})" if NOT_SAMPLED in corpus.tally.dropped else ""
    return NothingLeft(f"{request.places}: nothing is left{limit}: {why}")


def _search(request: PrepareRequest, output: Path, progress: ProgressBar) -> FoundInput:
    progress.say(f"searching {request.places}")
    reading, tally = request.settings.reading, Tally()
    leave_out = output.resolve() if output.exists() else None  # None: as for others who share the search
    units, rejected, size = (request.search or find_units)(tuple(request.roots), reading, leave_out)
    for item in rejected:
        tally.add(item)
    _stop(request, tally)
    if not units:
        raise _nothing_left(request, FoundInput([], size, None, tally))
    sampled = None
    if all(unit.part is None for unit in units):
        units, sampled = _sample_files(units, request.settings, tally, progress)
    return FoundInput(units, size, sampled, tally)


def _sample_files(
    units: Sequence[Unit], settings: PrepareSettings, tally: Tally, progress: ProgressBar
) -> tuple[list[Unit], dict[str, int]]:
    """Sample source files by size, before any is read."""
    files = [file for unit in units for file in unit.files]
    fitting = [file for file in files if size_rejection(file.size, settings.reading.rules) is None]
    limit = settings.max_bytes
    sampled = fitting if limit is None else sample(fitting, limit, settings.seed)
    total = {"files": len(sampled), "bytes": sum(file.size for file in sampled)}
    gone = {file.path for file in fitting} - {file.path for file in sampled}
    if not gone:
        return list(units), total
    left = [file for file in fitting if file.path in gone]
    examples = [(file.identity, "") for file in left[:EXAMPLES]]
    tally.drop(NOT_SAMPLED, len(left), sum(file.size for file in left), examples)
    of = f"of {sum(file.size for file in fitting) / 1e6:.1f} MB; --max-bytes {limit} is the limit"
    progress.say(f"sampled {len(sampled)} of {len(fitting)} files, {total['bytes'] / 1e6:.1f} {of}")
    smaller = [replace(unit, files=tuple(file for file in unit.files if file.path not in gone)) for unit in units]
    return [unit for unit in smaller if unit.files], total


def _stop(request: PrepareRequest, tally: Tally) -> None:
    """Raise a `UserError` for broken input if `on_error` is `stop`."""
    if request.settings.on_error == "stop" and tally.first is not None:
        source, problem = tally.first
        raise UserError(f"{source}: {problem}; fix it, or leave such input out with --on-error skip")


def _make_shards(
    request: PrepareRequest, corpus: FoundInput, work: Path, mapper: Callable, progress: ProgressBar
) -> list[Path]:
    """Make the missing shards; the paths of all of them, in the order of the units."""
    settings = request.settings
    signatures = settings.near_duplicates_by if settings.near_duplicates else None
    job = ShardJob(settings.reading, settings.tags, settings.tokenizer, signatures)
    decisive = {"version": SHARD_VERSION, **asdict(replace(job, tokenizer=request.tokenizer.fingerprint))}
    decisive |= settings.deciding_versions()
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    paths = [work / shard_name(key, unit) for unit in corpus.units]
    keep = {path.name + ending for path in paths for ending in ENDINGS}
    name = duplicates_name(paths, settings.near_duplicates)
    sweep(work, {*keep, name, selection_name(name, settings, corpus.sampled is None)})
    results = mapper(functools.partial(make_shard, job), zip(corpus.units, paths, strict=True))
    done, before = progress.track(corpus.units, results, "tokenising"), lines_before(corpus.units, paths)
    for path, _, lines in zip(paths, done, before, strict=True):
        if settings.on_error == "stop":
            _stop(request, read_shard(path, lines)[1])
    return paths


def _report(request: PrepareRequest, corpus: FoundInput, summary: Summary, directory: Path) -> None:
    tally, reading = corpus.tally, request.settings.reading
    total = summary.counts(*range(len(SPLITS)))
    documents, read = (total[name] + tally.total(name) for name in ("documents", "bytes"))
    size = {"files": corpus.size["files"], "documents": documents, "bytes": read + summary.stripped}
    redacted = dict(zip(reading.redact, summary.redacted, strict=True))
    extra = {"licences_stripped": summary.licences, "redacted": redacted}
    if reading.licences:
        extra["licences"] = summary.licence_counts()
    write_report(directory, summary, size, tally, request.settings.record(), extra)


def _describe(
    request: PrepareRequest, corpus: FoundInput, selection: Selection, summary: Summary, directory: Path
) -> dict[str, Any]:
    left_out = corpus.tally.described("files")
    left_out.pop(NOT_SAMPLED, None)
    passed = summary.counts(*(number for number in summary.languages if number != -1 - REASONS.index(NOT_SAMPLED)))
    further = {
        "default_corpus": request.inputs is None,
        "sources": [{"path": printable(root.path), "label": root.label} for root in request.roots],
        "split_by": selection.split_by,
        "splits": describe_splits(summary, selection.packages),
        "found": corpus.size,
        "sampled": corpus.sampled or {"files": passed["documents"], "bytes": passed["bytes"]},
        "dropped": left_out,
        "tally": corpus.tally.summed(summary.counts(*range(len(SPLITS)))["documents"]),
        "licences_stripped": summary.licences,
        **({"licences": summary.licence_counts()} if request.settings.reading.licences else {}),
        "files": file_records(directory),
        **infill_record(request.settings.infill, request.tokenizer),
        "settings": request.settings.record(),
        **request.settings.deciding_versions(),
    }
    return write_description(directory, request.tokenizer, request.settings.tokenizer, {"key": request.key}, further)
