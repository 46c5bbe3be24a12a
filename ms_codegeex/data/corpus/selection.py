"""Selects the documents of a dataset, over all of them at once: drops duplicates, samples, splits.

This needs only the columns of `joining`, not the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ms_codegeex.data.corpus.duplicates import EXACT_DUPLICATE, Duplicates
from ms_codegeex.data.corpus.joining import Documents
from ms_codegeex.data.corpus.settings import PrepareSettings
from ms_codegeex.data.corpus.sources import hash_key, one_line
from ms_codegeex.data.corpus.tally import EXAMPLES, Tally
from ms_codegeex.errors import UserError

DROPPED, TRAIN, VALIDATION = -1, 0, 1


def select(
    documents: Documents, settings: PrepareSettings, duplicates: Mapping[str, Duplicates], sampling: bool, tally: Tally
) -> tuple[np.ndarray, str]:
    """Place every document; dropped ones are counted in `tally`.

    Args:
        documents: all of them.
        settings: how to decide.
        duplicates: documents to drop, by reason.
        sampling: whether `max_bytes` still has to be applied.
        tally: counts of the documents left out so far.

    Returns:
        `DROPPED`, `TRAIN` or `VALIDATION` for each document, int8 `[documents]`; and the unit of the split: `package`,
        `document` (each record on its own) or `file` (there is only one package).

    Raises:
        UserError: training or validation would get nothing.
    """
    kept = np.ones(len(documents), bool)
    for reason, found in duplicates.items():
        _drop(documents, reason, np.flatnonzero(found.dropped), found.examples, kept, tally)
    if sampling and settings.max_bytes is not None:
        _sample(documents, settings, kept, tally)
    if not kept.any():
        return np.full(len(documents), DROPPED, np.int8), "package"
    return _split(documents, settings, kept)


def _drop(
    documents: Documents,
    reason: str,
    numbers: np.ndarray,
    representative: Mapping[int, int],
    kept: np.ndarray,
    tally: Tally,
) -> None:
    """Take `numbers`, ascending, out of `kept`; `representative` names the documents that are kept in place of
    the first of them."""
    if not numbers.size:
        return
    kept[numbers] = False
    relation = "identical to" if reason == EXACT_DUPLICATE else "similar to"
    examples = [
        {
            "source": documents.source(number),
            "detail": f"{relation} {documents.source(representative[number])}" if number in representative else "",
            "excerpt": "",
        }
        for number in numbers[:EXAMPLES].tolist()
    ]
    tally.drop(reason, int(numbers.size), int(documents.bytes[numbers].sum()), examples)


def _hash_keys(seed: int, names: Iterable[str]) -> np.ndarray:
    """The first 64 bits of what orders names by chance, uint64 `[names]`; of hundreds of millions no two are likely to
    have the same."""
    return np.fromiter((int.from_bytes(hash_key(seed, name)[:8], "big") for name in names), np.uint64)


def _sample(documents: Documents, settings: PrepareSettings, kept: np.ndarray, tally: Tally) -> None:
    """Keep at most `max_bytes`, chosen by a hash of seed and source."""
    keys, numbers = _hash_keys(settings.seed, documents.sources()), np.flatnonzero(kept)
    waiting = numbers[np.argsort(keys[numbers], kind="stable")]
    left, left_out = settings.max_bytes, kept.copy()
    while waiting.size:  # take documents up to the first that does not fit, then drop all that do not fit
        sums = np.cumsum(documents.bytes[waiting])
        count = int(np.searchsorted(sums, left, side="right"))
        left_out[waiting[:count]] = False
        left -= int(sums[count - 1]) if count else 0
        waiting = waiting[count:]
        waiting = waiting[documents.bytes[waiting] <= left]
    _drop(documents, "not sampled", np.flatnonzero(left_out), {}, kept, tally)


def _split(documents: Documents, settings: PrepareSettings, kept: np.ndarray) -> tuple[np.ndarray, str]:
    """Place the kept documents by the hash of their group's name and by the size of each group, so no group is divided.
    If all documents are in one group, they are placed one by one."""
    numbers = np.flatnonzero(kept)
    if settings.validation_share and numbers.size == 1:
        name = one_line(documents.source(int(numbers[0])))
        raise UserError(
            f"{name}: the only document left, but training and validation need one each; "
            "give --input more files or --validation-share 0"
        )
    own = kept & (documents.group < 0)
    grouped = kept & ~own
    codes = documents.group[grouped]
    split_by = "document" if not codes.size else "package"
    if settings.validation_share and codes.size and not own.any() and (codes == codes[0]).all():
        split_by, own, codes = "file", kept, codes[:0]
        grouped = np.zeros_like(kept)
    sizes = np.bincount(codes, documents.bytes[grouped], len(documents.groups)).astype(np.int64)
    present = np.bincount(codes, minlength=len(documents.groups)) > 0
    names = (name for name, taken in zip(documents.groups, present.tolist(), strict=True) if taken)
    keys = np.concatenate([_hash_keys(settings.seed, names), _hash_keys(settings.seed, documents.sources(own))])
    weights = np.concatenate([sizes[present], documents.bytes[own]])
    chosen = choose_validation(keys, weights, settings.validation_share)
    of_group = np.zeros(len(documents.groups), bool)
    of_group[present] = chosen[: np.count_nonzero(present)]
    result = np.full(len(documents), DROPPED, np.int8)
    result[kept] = TRAIN
    result[own] = np.where(chosen[np.count_nonzero(present) :], VALIDATION, TRAIN)
    result[grouped] = np.where(of_group[codes], VALIDATION, TRAIN)
    return result, split_by


def choose_validation(keys: np.ndarray, sizes: np.ndarray, share: float) -> np.ndarray:
    """Which groups (packages, or documents) go to validation: about `share` of all bytes, in the order of the keys.

    Small groups are preferred, so that validation gets several of many: at first those of at most a third of the
    target, then the target, then three times the target, then any. Neither side is left empty.

    Args:
        keys: uint64 `[groups]`; groups of one key stay together. There are two unless `share` is 0.
        sizes: bytes of each, int64 `[groups]`.
        share: wanted share of bytes, 0 <= share < 1; 0 chooses nothing.

    Returns:
        bool `[groups]`.
    """
    ordered, places = np.unique(keys, return_inverse=True)
    totals = np.bincount(places, sizes, ordered.size).astype(np.int64)
    target = share * int(totals.sum())
    chosen = np.zeros(ordered.size, bool)
    if not target:
        return chosen[places]
    for limit in (target / 3, target, 3 * target, float("inf")):
        chosen[:] = False
        total = count = 0
        for number in np.flatnonzero(totals <= limit).tolist():
            size = int(totals[number])
            if total >= target or count == ordered.size - 1:
                break
            if not count or total + size <= 1.5 * target:
                chosen[number] = True
                total, count = total + size, count + 1
        if total >= target / 2:
            return chosen[places]
    if not chosen.any():
        chosen[totals.argmin()] = True
    return chosen[places]
