"""Decide what becomes of each document: drop duplicates, sample, split.

Only the columns of the shards are read, not the texts. The work is done in phases, because decisions depend on sums
over all documents with an equal key, such as those of one repository. This process holds a few bits per document."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus.duplicates import EXACT_DUPLICATE, NEAR_DUPLICATE, Duplicates
from ms_codegeex.extras.corpus.phases import (
    DocumentBlock,
    Documents,
    Flags,
    Phases,
    directory_name,
    result_path,
    save_array,
)
from ms_codegeex.extras.corpus.settings import PrepareSettings
from ms_codegeex.extras.corpus.shards import Shard
from ms_codegeex.extras.corpus.sources import hash_key
from ms_codegeex.extras.corpus.tally import EXAMPLES

VERSION = 3
LARGE_SHARES, MAX_SHARES = 2, 3
TRAIN, VALIDATION = 0, 1
UNITS = ("package", "folder", "file")  # units of the split, coarsest first
ONLY_HELD_OUT = np.array([1], np.uint64)  # in `_Groups` by input, held-out documents have the key 1, others 0
NOT_SAMPLED = "not sampled"
REASONS = (EXACT_DUPLICATE, NEAR_DUPLICATE, NOT_SAMPLED)  # a document dropped for reason n is placed at -1 - n
SUM = np.dtype([("key", "<u8"), ("bytes", "<i8"), ("named", "?")])
SAMPLED = np.dtype([("key", "<u8"), ("number", "<i8"), ("bytes", "<i8")])


class NothingLeft(UserError):
    """Training or validation would get no document. Only other input or other settings can help."""


@dataclass(frozen=True)
class Selection:
    """What `select` decided. `split_by` is the unit of the split: `package`, `document` (each record on its own),
    `folder` or `file` (packages are too few or too large), or `input` (held-out input is named). `packages`: how many
    training and validation have; upper bounds if the files of a package may be on both sides. `dropped`: for each
    reason up to three documents, with the number of the one kept instead, or None. `remarks`: lines for the user."""

    split_by: str
    packages: tuple[int, int]
    dropped: Mapping[str, list[tuple[int, int | None]]]
    remarks: tuple[str, ...] = ()


def selection_name(duplicates: str, settings: PrepareSettings, sampling: bool) -> str:
    """Return the name of the directory for the phases' files. They depend only on the duplicates, named by their
    directory, and on some settings."""
    decisive = {"seed": settings.seed, "validation_share": settings.validation_share, "duplicates": duplicates}
    decisive |= {"whole": settings.reading.group_field is not None}
    limit = settings.max_bytes if sampling else None
    return directory_name("selection", version=VERSION, max_bytes=limit, **decisive)


def select(
    documents: Documents,
    settings: PrepareSettings,
    duplicates: Mapping[str, Duplicates],
    sampling: bool,
    phases: Phases,
) -> Selection:
    """Place every document; `placed_documents` reads the result. `duplicates` are dropped, by reason. `sampling`:
    `max_bytes` still has to be applied. Raises `NothingLeft` if training or validation would get nothing, `UserError`
    if a phase's file cannot be written or groups of `--group-field` are too large for the validation share."""
    left_out = {reason: copies.dropped for reason, copies in duplicates.items()}
    kept = ~functools.reduce(Flags.__or__, left_out.values(), Flags(len(documents)))
    if sampling and settings.max_bytes is not None:
        left_out[NOT_SAMPLED] = _not_sampled(documents, phases, settings, kept)
        kept &= ~left_out[NOT_SAMPLED]
    share = settings.validation_share
    if share and kept.count() == 1:
        name = documents.source(kept.first(1)[0])
        remedy = "give more files, or `prepare` it with --validation-share 0 for none"
        raise NothingLeft(f"{name}: the only document left, but training and validation need one each; {remedy}")
    groups = _Groups(phases, settings.seed, kept, "package")
    named = groups.named
    named_files = settings.validation or (kept & Flags.up_to(documents.held_out, kept.size)).any()
    if named_files:
        groups, chosen, remarks = _Groups(phases, settings.seed, kept, "input", documents.held_out), ONLY_HELD_OUT, ()
        _check_sides(groups, settings)
    elif share and named:
        groups, chosen, remarks = _nearest_split(documents, groups, kept, phases, settings)
    else:
        groups, chosen, remarks = groups, choose_validation(groups.sums, share), ()
    split_by = groups.unit if named or named_files else "document"
    in_validation = sum(int((rows["named"] & _among(rows["key"], chosen)).sum()) for rows in groups.sums())
    packages = (named - in_validation, in_validation) if groups.unit == "package" else (named, named)
    _place(phases, left_out, groups, chosen)
    dropped = {}
    for reason, flags in left_out.items():
        if flags.any():
            kept_instead = duplicates[reason].examples if reason in duplicates else {}
            dropped[reason] = [(number, kept_instead.get(number)) for number in flags.first(EXAMPLES)]
    return Selection(split_by, packages, dropped, remarks)


def _check_sides(groups: _Groups, settings: PrepareSettings) -> None:
    keys = np.concatenate([rows["key"] for rows in groups.sums()])
    if ONLY_HELD_OUT[0] not in keys:
        raise NothingLeft(f"--validation {' '.join(settings.validation)}: nothing is left of it; give other files")
    if keys.size == 1:
        repeated = "nothing is left of --input, or only what is in --validation too"
        where = f"--validation {' '.join(settings.validation)}: " if settings.validation else ""
        raise NothingLeft(f"{where}{repeated}; give --input other files")


def _nearest_split(
    documents: Documents, packages: _Groups, kept: Flags, phases: Phases, settings: PrepareSettings
) -> tuple[_Groups, np.ndarray, tuple[str, ...]]:
    """Return the coarsest groups that meet the validation share, or those that come nearest; the keys of those for
    validation; remarks for the user. Groups of `--group-field` are not divided: `UserError` if they are too large."""
    share, best, keys, actual = settings.validation_share, packages, np.empty(0, np.uint64), math.inf
    for unit in UNITS:
        groups = packages if unit == "package" else _Groups(phases, settings.seed, kept, unit)
        if groups.count == 1:
            continue
        chosen = choose_validation(groups.sums, share)
        found = _share_of(groups, chosen)
        if abs(found - share) < abs(actual - share):
            best, actual, keys = groups, found, chosen
        factor = MAX_SHARES if unit == "package" else LARGE_SHARES
        if share / factor <= actual <= factor * share:
            break
        if unit == "package" and settings.reading.group_field is not None:
            if actual <= factor * share:
                break
            whole = f"groups of --group-field are not divided, the nearest choice has {actual:.0%} of the text"
            accepting = f"`prepare` it with --validation-share {math.ceil(100 * actual) / 100:g} to accept that"
            remedy = f"{accepting}, or with --validation-share 0 for none, or leave out --group-field to divide them"
            raise UserError(f"--validation-share {share:g}: {whole}; {remedy}")
    if best.unit == "package":
        return best, keys, _large_packages(documents, best, keys, settings)
    related = "related files may be on both sides (--validation takes held-out files of your own)"
    return best, keys, (f"--validation-share {share:g}: split by {best.unit}, {actual:.1%} of the text; {related}",)


def _share_of(groups: _Groups, chosen: np.ndarray) -> float:
    inside = total = 0
    for rows in groups.sums():
        inside += int(rows["bytes"][_among(rows["key"], chosen)].sum())
        total += int(rows["bytes"].sum())
    return inside / total


def _large_packages(
    documents: Documents, groups: _Groups, chosen: np.ndarray, settings: PrepareSettings
) -> tuple[str, ...]:
    large, share = dict[int, int](), settings.validation_share
    total = sum(int(rows["bytes"].sum()) for rows in groups.sums())
    for rows in groups.sums():
        rows = rows[_among(rows["key"], chosen)]
        rows = rows[rows["bytes"] > LARGE_SHARES * share * total]
        large |= zip(rows["key"].tolist(), rows["bytes"].tolist(), strict=True)
    names = {name for shard in documents.shards for name in shard.names()["groups"]} if large else ()
    numbers = zip(_numbers(names, settings.seed).tolist(), names, strict=True)
    return tuple(
        f"--validation-share {share:g}: {name} is not divided, and has {large[key] / total:.0%} of the text"
        for key, name in sorted(numbers, key=lambda it: it[1])
        if key in large
    )


def _numbers(names: Iterable[str], seed: int) -> np.ndarray:
    """Return the first 64 bits of each name's hash, uint64 `[names]`: two of 10^8 names are unlikely to agree."""
    hashes = np.frombuffer(b"".join([hash_key(seed, name) for name in names]), ">u8")  # four numbers each
    return hashes[::4].astype(np.uint64)


def _not_sampled(documents: Documents, phases: Phases, settings: PrepareSettings, kept: Flags) -> Flags:
    not_sampled, left = Flags(kept.size), settings.max_bytes
    kept = kept & ~Flags.up_to(documents.held_out, kept.size)
    keyed = phases.keyed("sampled", SAMPLED, kept.count())
    phases.by_block(keyed.phase, functools.partial(_candidates, settings.seed), kept, keyed.write)
    for part in range(keyed.parts):
        rows = keyed.read(part)
        waiting = rows[np.argsort(rows["key"], kind="stable")]
        while waiting.size:  # take documents up to the first that does not fit, then drop all that do not fit
            count = int(np.searchsorted(np.cumsum(waiting["bytes"]), left, side="right"))
            left -= int(waiting["bytes"][:count].sum())
            waiting = waiting[count:]
            fits = waiting["bytes"] <= left
            not_sampled.set(waiting["number"][~fits])
            waiting = waiting[fits]
    return not_sampled


def _candidates(seed: int, directory: Path, block: DocumentBlock, rows: np.ndarray) -> np.ndarray:
    sources = [source for shard in block.shards for source in shard.sources()]
    table = np.empty(rows.size, SAMPLED)
    table["key"] = _numbers((sources[row] for row in rows.tolist()), seed)
    table["number"], table["bytes"] = rows + block.first, block.column("bytes")[rows]
    return table


class _Groups:
    """The kept documents, in groups of a `unit`. `package`: by the hash of their package's name, or of their source if
    they have none; `folder`: those of a package by their folder in it; `file`: by their source; `input`: the first
    `held_out` documents, and the others. Training and validation never share a group. The phase `keys` stores the keys
    of a block's documents, uint64 `[documents]`. `count` is the number of groups, `named` that of packages among
    them."""

    def __init__(self, phases: Phases, seed: int, kept: Flags, unit: str, held_out: int = 0) -> None:
        self._phases, self._kept, self.unit = phases, kept, unit
        self.keys = f"keys-{unit}"
        phases.by_block(self.keys, functools.partial(_keys, seed, unit, held_out))
        counts = [(rows.size, np.count_nonzero(rows["named"])) for rows in self.sums()]
        self.count, self.named = np.sum(counts, axis=0).tolist()

    def sums(self) -> Iterator[np.ndarray]:
        """Yield the bytes of the groups, arrays of dtype `SUM`, in the order of their keys."""
        keyed = self._phases.keyed(f"sums-{self.unit}", SUM, self._kept.count())
        make = functools.partial(_sums, self.keys)
        yield from self._phases.by_key(f"groups-{self.unit}", keyed, make, _summed, self._kept)


def _among(keys: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    if not chosen.size:
        return np.zeros(keys.size, bool)
    return chosen[np.minimum(np.searchsorted(chosen, keys), chosen.size - 1)] == keys


def _keys(seed: int, unit: str, held_out: int, directory: Path, block: DocumentBlock, _: np.ndarray) -> np.ndarray:
    if unit == "input":
        return (np.arange(block.first, block.end) < held_out).astype(np.uint64)
    pieces = [np.empty(0, np.uint64)]
    for shard in block.shards:
        group = shard.column("group") if unit != "file" else np.full(shard.documents, -1)
        keys, own = np.empty(shard.documents, np.uint64), group < 0
        sources = shard.sources() if own.any() or unit == "folder" else []
        keys[own] = _numbers((sources[row] for row in np.flatnonzero(own).tolist()), seed)
        names = [] if own.all() else shard.names()["groups"]
        if unit == "package" and names:
            keys[~own] = _numbers(names, seed)[group[~own]]
        elif names:
            rows = np.flatnonzero(~own).tolist()
            folders = (f"{names[group[row]]}\n{sources[row].rpartition('/')[0]}" for row in rows)
            keys[~own] = _numbers(folders, seed)
        pieces.append(keys)
    return np.concatenate(pieces)


def _sums(keys: str, directory: Path, block: DocumentBlock, rows: np.ndarray) -> np.ndarray:
    table = np.empty(rows.size, SUM)
    table["key"] = np.load(result_path(directory, keys, block.number), allow_pickle=False)[rows]
    table["bytes"], table["named"] = block.column("bytes")[rows], block.column("group")[rows] >= 0
    return _summed(table)


def _summed(rows: np.ndarray) -> np.ndarray:
    keys, groups = np.unique(rows["key"], return_inverse=True)
    sums = np.zeros(keys.size, SUM)
    sums["key"] = keys
    np.add.at(sums["bytes"], groups, rows["bytes"])
    np.logical_or.at(sums["named"], groups, rows["named"])
    return sums


def choose_validation(groups: Callable[[], Iterable[np.ndarray]], share: float) -> np.ndarray:
    """Return the keys, uint64, ascending, of the groups (packages or documents) for validation: about `share` of all
    bytes. `groups()` iterates over all groups in the order of their keys, in arrays with the fields `key` and `bytes`.
    Small groups are preferred: their size is limited to a third of the target, then to the target, then to three times
    the target. If no limit gives half the target, the closest choice is taken, or a single group if that is closer.
    Neither side is left empty, unless `share` is 0, which chooses nothing."""
    sums = [(rows.size, int(rows["bytes"].sum())) for rows in groups()]
    target, maximum = share * sum(size for _, size in sums), sum(count for count, _ in sums) - 1
    if not target:
        return np.empty(0, np.uint64)
    best = (math.inf, np.empty(0, np.uint64))
    for rows in groups():
        if rows.size:
            distances = np.abs(rows["bytes"] - target)
            nearest = int(distances.argmin())
            if distances[nearest] < best[0]:
                best = (float(distances[nearest]), rows["key"][nearest : nearest + 1].copy())
    for limit in (target / 3, target, 3 * target):
        chosen, total = _first_groups(groups(), limit, target, maximum)
        if total >= target / 2:
            return chosen
        if chosen.size and abs(total - target) < best[0]:
            best = (abs(total - target), chosen)
    return best[1]


def _first_groups(groups: Iterable[np.ndarray], limit: float, target: float, maximum: int) -> tuple[np.ndarray, int]:
    """Return the keys of the first groups of at most `limit` bytes that together have `target`, and their bytes. There
    are at most `maximum` groups; after the first, only those that keep the sum within 1.5 times the target."""
    chosen, count, total = [np.empty(0, np.uint64)], 0, 0
    for rows in groups:
        taken = []
        for row in np.flatnonzero(rows["bytes"] <= limit).tolist():
            if total >= target or count == maximum:
                break
            size = int(rows["bytes"][row])
            if not count or total + size <= 1.5 * target:
                taken.append(row)
                total, count = total + size, count + 1
        chosen.append(rows["key"][taken])
        if total >= target or count == maximum:
            break
    return np.concatenate(chosen), total


def _place(phases: Phases, left_out: Mapping[str, Flags], groups: _Groups, chosen: np.ndarray) -> None:
    save_array(result_path(phases.directory, "chosen", 0), chosen)
    numbers = [number for number, reason in enumerate(REASONS) if reason in left_out]
    for number in numbers:
        save_array(result_path(phases.directory, "left_out", number), left_out[REASONS[number]].bits)
    phases.by_block("placed", functools.partial(_placed, groups.keys, numbers))


def _placed(keys: str, left_out: list[int], directory: Path, block: DocumentBlock, _: np.ndarray) -> np.ndarray:
    def load(phase: str, number: int) -> np.ndarray:
        return np.load(result_path(directory, phase, number), mmap_mode="r", allow_pickle=False)

    in_validation = _among(load(keys, block.number), load("chosen", 0))
    placed = np.where(in_validation, VALIDATION, TRAIN).astype(np.int8)
    for number in left_out:
        placed[Flags(block.end, load("left_out", number)).between(block.first, block.end)] = -1 - number
    return placed


def placed_documents(phases: Phases) -> Iterator[tuple[Shard, np.ndarray]]:
    """Yield each shard with what became of its documents, int8 `[documents]`: `TRAIN`, `VALIDATION`, or -1 - n for
    reason n of `REASONS`."""
    for block, path in zip(phases.blocks, phases.paths("placed"), strict=True):
        yield from block.by_shard(np.load(path, allow_pickle=False))
