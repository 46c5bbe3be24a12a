"""Which documents a dataset gets, decided over all of them at once: duplicates, the sample, the split.

This needs only the columns of `joining`, not the texts.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ms_codegeex.data.corpus.joining import Documents
from ms_codegeex.data.corpus.settings import PrepareSettings
from ms_codegeex.data.corpus.sources import choose_validation, one_line
from ms_codegeex.data.corpus.tally import EXAMPLES, Tally
from ms_codegeex.errors import UserError

DROPPED, TRAIN, VALIDATION = -1, 0, 1


def exact_duplicates(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of uint8 `[documents, 32]` that repeat an earlier one, ascending, and the first row that each repeats."""
    keys = np.ascontiguousarray(hashes).view(np.uint64)
    order = np.lexsort(keys.T)  # stable: among equal rows the first comes first
    ordered = keys[order]
    fresh = np.ones(order.size, bool)
    fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    firsts = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]] if order.size else order
    repeated, kept = order[~fresh], firsts[~fresh]
    rising = np.argsort(repeated)
    return repeated[rising], kept[rising]


def select(documents: Documents, settings: PrepareSettings, sampling: bool, tally: Tally) -> tuple[np.ndarray, str]:
    """Place every document; what is dropped is counted in `tally`.

    Args:
        documents: all of them.
        settings: how to decide.
        sampling: whether `max_bytes` still has to be applied.
        tally: what has been left out so far.

    Returns:
        `DROPPED`, `TRAIN` or `VALIDATION` for each document, int8 `[documents]`; and the unit of the split: `package`,
        `document` (each record on its own) or `file` (there is only one package).

    Raises:
        UserError: training or validation would get nothing.
    """
    kept = np.ones(len(documents), bool)
    repeated, firsts = exact_duplicates(documents.sha256)
    _drop(documents, "exact duplicate", repeated, firsts, kept, tally)
    if settings.near_duplicates:
        from ms_codegeex.data.corpus.deduplicate import find_near_duplicates

        candidates = np.flatnonzero(kept & documents.column("signed")).tolist()
        near = find_near_duplicates(documents.column("signature"), candidates, settings.near_duplicates)
        numbers = np.array(sorted(near), np.int64)
        _drop(documents, "near duplicate", numbers, np.array([near[n] for n in numbers], np.int64), kept, tally)
    if sampling and settings.max_bytes is not None:
        _sample(documents, settings, kept, tally)
    if not kept.any():
        return np.full(len(documents), DROPPED, np.int8), "package"
    return _split(documents, settings, kept)


def _drop(
    documents: Documents, reason: str, numbers: np.ndarray, stand: np.ndarray | None, kept: np.ndarray, tally: Tally
) -> None:
    """Take `numbers`, ascending, out of `kept`; `stand` are the documents kept in their place."""
    if not numbers.size:
        return
    kept[numbers] = False
    examples = [
        {
            "source": documents.source(int(number)),
            "detail": "" if stand is None else f"like {documents.source(int(stand[place]))}",
            "excerpt": "",
        }
        for place, number in enumerate(numbers[:EXAMPLES])
    ]
    tally.drop(reason, int(numbers.size), int(documents.bytes[numbers].sum()), examples)


def _sample(documents: Documents, settings: PrepareSettings, kept: np.ndarray, tally: Tally) -> None:
    """Keep at most `max_bytes`, chosen by a hash of seed and source."""
    ranks = b"".join(hashlib.sha256(f"{settings.seed}:{name}".encode()).digest()[:8] for name in documents.sources())
    numbers = np.flatnonzero(kept)
    ranked = numbers[np.argsort(np.frombuffer(ranks, ">u8")[numbers], kind="stable")]
    total, left_out = 0, []
    for number, size in zip(ranked.tolist(), documents.bytes[ranked].tolist(), strict=True):
        if total + size <= settings.max_bytes:
            total += size
        else:
            left_out.append(number)
    _drop(documents, "not sampled", np.array(sorted(left_out), np.int64), None, kept, tally)


def _split(documents: Documents, settings: PrepareSettings, kept: np.ndarray) -> tuple[np.ndarray, str]:
    numbers = np.flatnonzero(kept)
    if settings.validation_share and numbers.size == 1:
        name = one_line(documents.source(int(numbers[0])))
        raise UserError(
            f"{name}: the only document left, but training and validation need one each; "
            "give --input more files or --validation-share 0"
        )
    groups, own = documents.group[numbers], documents.group[numbers] < 0
    split_by = "document" if own.all() else "package"
    if settings.validation_share and not own.any() and (groups == groups[0]).all():
        split_by, own = "file", np.ones(numbers.size, bool)
    weights = np.bincount(groups[~own], documents.bytes[numbers][~own], len(documents.groups)).astype(np.int64)
    present = np.bincount(groups[~own], minlength=len(documents.groups)) > 0
    sizes = {documents.groups[code]: int(weights[code]) for code in np.flatnonzero(present)}
    alone = set(numbers[own].tolist())
    names = [name for number, name in enumerate(documents.sources()) if number in alone] if alone else []
    for name, size in zip(names, documents.bytes[numbers[own]].tolist(), strict=True):
        sizes[name] = sizes.get(name, 0) + size
    chosen = choose_validation(sizes, settings.validation_share, settings.seed)
    in_validation = np.array([*(name in chosen for name in documents.groups), False], bool)[groups] & ~own
    in_validation[own] = [name in chosen for name in names]
    result = np.full(len(documents), DROPPED, np.int8)
    result[numbers] = np.where(in_validation, VALIDATION, TRAIN)
    return result, split_by
