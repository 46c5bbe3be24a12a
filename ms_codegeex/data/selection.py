"""Which documents a dataset gets: the settings, and everything up to the split.

The first of two passes over the files; it keeps a digest per file and no text, so memory does not grow with the corpus.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.data import corpus, languages
from ms_codegeex.data.tokenizer import NAMES
from ms_codegeex.data.workers import Progress, Task, make_tasks
from ms_codegeex.errors import UserError

if TYPE_CHECKING:
    from ms_codegeex.data.deduplicate import Digest


@dataclass(frozen=True)
class PrepareSettings:
    """What decides the content of a dataset, apart from its sources.

    Attributes:
        languages: names or aliases; empty means all 23 training languages.
        tags: put the language's tag line before each document.
        validation_share: share of bytes for validation, 0 <= share < 1.
        seed: chooses the sample and the validation packages.
        max_bytes: most source bytes to take; a larger corpus is sampled by file.
        near_duplicates: Jaccard similarity from which a document is dropped, in (0, 1]; 0 keeps near duplicates.
        tokenizer: one of `ms_codegeex.data.tokenizer.NAMES`, or a directory with a tokenizer.
        rules: when a single file is dropped.
    """

    languages: tuple[str, ...] = ()
    tags: bool = True
    validation_share: float = 0.05
    seed: int = 0
    max_bytes: int = 64_000_000
    near_duplicates: float = 0.85
    tokenizer: str = "codegeex"
    rules: corpus.Rules = field(default_factory=corpus.Rules)

    def __post_init__(self) -> None:
        # A path in a file must mean the same from every directory; codegeex2 is a name, though one that needs a path.
        if self.tokenizer not in NAMES and (self.tokenizer != "codegeex2" or Path(self.tokenizer).is_dir()):
            object.__setattr__(self, "tokenizer", str(Path(self.tokenizer).expanduser().resolve()))
        chosen = {languages.find_language(name).name for name in self.languages}
        ordered = tuple(item.name for item in languages.LANGUAGES if not chosen or item.name in chosen)
        object.__setattr__(self, "languages", ordered)
        if not 0 <= self.validation_share < 1:
            raise UserError(
                f"validation_share {self.validation_share}: expected 0 or more and less than 1, for example 0.05"
            )
        if self.rules.min_bytes > self.rules.max_file_bytes:
            raise UserError(
                f"min_bytes {self.rules.min_bytes}: more than max_file_bytes {self.rules.max_file_bytes}, "
                "no file could be kept"
            )
        if self.max_bytes <= 0:
            raise UserError(f"max_bytes {self.max_bytes}: expected a positive number of bytes, for example 64000000")
        if not 0 <= self.near_duplicates <= 1:
            raise UserError(f"near_duplicates {self.near_duplicates}: expected 0 (off) to 1, for example 0.85")


@dataclass(frozen=True)
class Selection:
    """The documents of a dataset, before they are tokenised.

    Attributes:
        files: what is kept, sorted by identity.
        hashes: sha256 of each one's bytes, so that a change before the second pass is noticed.
        validation: identities of those that go to validation.
        split_by: `package`, or `file` when all belong to one package.
        report: `found`, `sampled` and `dropped` as they go into dataset.json.
    """

    files: list[corpus.SourceFile]
    hashes: list[bytes]
    validation: frozenset[str]
    split_by: str
    report: dict[str, Any]


def _examine(rules: corpus.Rules, task: Task) -> list[str | Digest]:
    """For each file why it is dropped, or its digest."""
    from ms_codegeex.data.deduplicate import digest

    results: list[str | Digest] = []
    for path in task.paths:
        try:
            data = path.read_bytes()
        except OSError:
            results.append("unreadable")
            continue
        results.append(corpus.rejection(data, rules) or digest(data))
    return results


class _Dropped:
    """Counts of dropped files by reason, with the first path as an example."""

    def __init__(self) -> None:
        self.reasons: dict[str, dict[str, Any]] = {}

    def add(self, reason: str, example: str, size: int = 0) -> None:
        entry = self.reasons.setdefault(reason, {"files": 0, "bytes": 0, "example": example})
        entry["files"] += 1
        entry["bytes"] += size


def _total(files: Sequence[corpus.SourceFile]) -> dict[str, int]:
    return {"files": len(files), "bytes": sum(file.size for file in files)}


def select(roots: list[corpus.Root], settings: PrepareSettings, mapper: Callable, progress: Progress) -> Selection:
    """Find, sample, judge, deduplicate and split; nothing found or nothing left is a `UserError` that says why."""
    places = ", ".join(str(root.path) for root in roots)
    dropped = _Dropped()
    progress.say(f"searching {places}")
    found, unreadable = corpus.find_sources(roots, settings.languages)
    for path in unreadable:
        dropped.add("unreadable", path)
    if not found:
        raise UserError(
            f"{places}: no source file in {', '.join(settings.languages)}; "
            "give --input other paths or --languages others"
        )
    sampled = _sample(found, settings, progress, dropped)
    kept, digests = _judge(sampled, settings, mapper, progress, dropped)
    if not kept:
        reasons = ", ".join(f"{reason} {entry['files']}" for reason, entry in sorted(dropped.reasons.items()))
        raise UserError(
            f"{places}: nothing left of {len(found)} source files (dropped: {reasons or 'none'}; "
            f"max_bytes {settings.max_bytes}); give --input more files or raise --max-bytes"
        )
    report = {"found": _total(found), "sampled": _total(sampled), "dropped": dict(sorted(dropped.reasons.items()))}
    validation, split_by = _split(kept, settings)
    return Selection(kept, [item.sha256 for item in digests], validation, split_by, report)


def _sample(
    found: list[corpus.SourceFile], settings: PrepareSettings, progress: Progress, dropped: _Dropped
) -> list[corpus.SourceFile]:
    fitting = []
    for file in found:
        reason = corpus.size_rejection(file.size, settings.rules)
        if reason:
            dropped.add(reason, file.identity, file.size)
        else:
            fitting.append(file)
    sampled = corpus.sample(fitting, settings.max_bytes, settings.seed)
    if len(sampled) < len(fitting):
        progress.say(
            f"sampled {len(sampled)} of {len(fitting)} files, {_total(sampled)['bytes'] / 1e6:.1f} of "
            f"{_total(fitting)['bytes'] / 1e6:.1f} MB; --max-bytes {settings.max_bytes} is the limit"
        )
    return sampled


def _judge(
    files: list[corpus.SourceFile], settings: PrepareSettings, mapper: Callable, progress: Progress, dropped: _Dropped
) -> tuple[list[corpus.SourceFile], list[Digest]]:
    """Files that pass the rules and repeat no other, with their digests."""
    from ms_codegeex.data.deduplicate import find_duplicates

    tasks = make_tasks(files)
    results = mapper(functools.partial(_examine, settings.rules), tasks)
    verdicts = [verdict for _, batch in progress.track(tasks, results, "examining") for verdict in batch]
    passed = []
    for file, verdict in zip(files, verdicts, strict=True):
        if isinstance(verdict, str):
            dropped.add(verdict, file.identity, file.size)
        else:
            passed.append((file, verdict))
    repeats = find_duplicates([item for _, item in passed], settings.near_duplicates or 2)
    kept = []
    for number, (file, item) in enumerate(passed):
        if number in repeats:
            reason = "exact duplicate" if repeats[number].exact else "near duplicate"
            dropped.add(reason, file.identity, file.size)
        else:
            kept.append((file, item))
    return [file for file, _ in kept], [item for _, item in kept]


def _split(kept: list[corpus.SourceFile], settings: PrepareSettings) -> tuple[frozenset[str], str]:
    """Identities of the validation files, and by what they were chosen."""
    split_by = "package" if len({file.package for file in kept}) > 1 or not settings.validation_share else "file"
    groups = {file.identity: file.package if split_by == "package" else file.identity for file in kept}
    if settings.validation_share and len(kept) == 1:
        raise UserError(
            f"{kept[0].identity}: the only document left, but training and validation need one each; "
            "give --input more files or --validation-share 0"
        )
    sizes: dict[str, int] = {}
    for file in kept:
        sizes[groups[file.identity]] = sizes.get(groups[file.identity], 0) + file.size
    chosen = corpus.choose_validation(sizes, settings.validation_share, settings.seed)
    return frozenset(identity for identity, group in groups.items() if group in chosen), split_by
