"""The documents of all shards as one table: about 20 bytes per document in memory, the rest stays in files."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ms_codegeex.data.corpus.shards import Shard


@dataclass(frozen=True)
class Documents:
    """All documents of all shards, in the order of the input.

    Attributes:
        shards: where they are.
        starts: int64 `[shards + 1]`, the number of the first document of each shard.
        languages: names; `language` int32 `[documents]` holds indices into it.
        groups: names; `group` int32 `[documents]` holds indices into it, or -1 if a document is its own group.
        bytes: int64 `[documents]`.
        tokens: int32 `[documents]`.
    """

    shards: Sequence[Shard]
    starts: np.ndarray
    languages: list[str]
    language: np.ndarray
    groups: list[str]
    group: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray

    def __len__(self) -> int:
        return self.bytes.size

    def place(self, number: int) -> tuple[Shard, int]:
        """The shard of document `number`, and its row there."""
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.shards[place], number - int(self.starts[place])

    def source(self, number: int) -> str:
        """The source of document `number`."""
        shard, row = self.place(number)
        return shard.sources()[row]

    def sources(self, chosen: np.ndarray | None = None) -> Iterator[str]:
        """The sources of all documents, in order; or only of those with `chosen`, bool `[documents]`."""
        for shard, start, end in self.parts():
            if chosen is None:
                yield from shard.sources()
            elif chosen[start:end].any():
                yield from itertools.compress(shard.sources(), chosen[start:end].tolist())

    def count_and_sum(self, name: str, chosen: np.ndarray) -> tuple[int, np.ndarray]:
        """Of the documents with `chosen`, bool `[documents]`: how many have a non-zero value in a column, and the
        column's sum."""
        count, total = 0, np.zeros((), np.int64)
        for shard, start, end in self.parts():
            values = shard.columns[name][chosen[start:end]]
            count += int(np.count_nonzero(values.reshape(len(values), -1).any(axis=1))) if values.size else 0
            total = total + values.sum(axis=0)
        return count, total

    def parts(self) -> Iterator[tuple[Shard, int, int]]:
        """Each shard with the numbers of its first document and of the one after its last."""
        yield from zip(self.shards, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)


def join(shards: Iterable[Shard]) -> Documents:
    """The documents of `shards`, with common codes for languages and groups."""
    codes: dict[str, dict[str, int]] = {"language": {}, "group": {}}
    dtypes = {"language": np.int32, "group": np.int32, "bytes": np.int64, "tokens": np.int32}
    joined = {name: [np.empty(0, dtype)] for name, dtype in dtypes.items()}  # there may be no shard
    kept = []
    for shard in shards:
        for name, names in (("language", shard.languages), ("group", shard.groups)):
            known = codes[name]
            # Code -1 picks the last entry: a document that is its own group stays -1.
            table = np.array([*(known.setdefault(item, len(known)) for item in names), -1], np.int32)
            joined[name].append(table[shard.columns[name]])
        joined["bytes"].append(shard.columns["bytes"])
        joined["tokens"].append(shard.columns["tokens"].astype(np.int32))
        kept.append(shard.without_names())
    sizes = [rows.size for rows in joined["bytes"][1:]]
    columns = {name: np.concatenate(joined.pop(name)) for name in list(joined)}
    starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
    return Documents(kept, starts, languages=list(codes["language"]), groups=list(codes["group"]), **columns)
