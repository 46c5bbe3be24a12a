"""The documents of all shards as one table in memory: NumPy columns, about a hundred bytes per document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ms_codegeex.data.corpus.shards import Shard


@dataclass(frozen=True)
class Documents:
    """All documents of all shards, in the order of the input.

    Attributes:
        shards: where they are.
        starts: int64 `[shards + 1]`, the number of the first document of each shard.
        languages: names; `language` int64 `[documents]` holds indices into it.
        groups: names; `group` int64 `[documents]` holds indices into it, -1 where a document is its own group.
        bytes, tokens: int64 `[documents]`; `sha256` uint8 `[documents, 32]`.
    """

    shards: Sequence[Shard]
    starts: np.ndarray
    languages: list[str]
    language: np.ndarray
    groups: list[str]
    group: np.ndarray
    bytes: np.ndarray
    tokens: np.ndarray
    sha256: np.ndarray

    def __len__(self) -> int:
        return self.bytes.size

    def source(self, number: int) -> str:
        """Where document `number` comes from."""
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        columns, row = self.shards[place].columns, number - int(self.starts[place])
        ends = columns["source_end"]
        return columns["source"][ends[row - 1] if row else 0 : ends[row]].tobytes().decode()

    def sources(self) -> Iterator[str]:
        """Where each document comes from, in order."""
        for shard in self.shards:
            data, start = shard.columns["source"].tobytes(), 0
            for end in shard.columns["source_end"].tolist():
                yield data[start:end].decode()
                start = end

    def column(self, name: str) -> np.ndarray:
        """A column of all shards, concatenated."""
        return np.concatenate([shard.columns[name] for shard in self.shards])


def join(shards: Sequence[Shard]) -> Documents:
    """The documents of one or more `shards`, with common codes for languages and groups."""
    codes: dict[str, dict[str, int]] = {"language": {}, "group": {}}
    joined: dict[str, list[np.ndarray]] = {"language": [], "group": []}
    for shard in shards:
        for name, names in (("language", shard.languages), ("group", shard.groups)):
            known = codes[name]
            # Code -1 picks the last entry: a document that is its own group stays -1.
            table = np.array([*(known.setdefault(item, len(known)) for item in names), -1], np.int64)
            joined[name].append(table[shard.columns[name]])
    sizes = [shard.columns["bytes"].size for shard in shards]
    plain = {name: np.concatenate([shard.columns[name] for shard in shards]) for name in ("bytes", "tokens", "sha256")}
    return Documents(
        shards=shards,
        starts=np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))),
        languages=list(codes["language"]),
        language=np.concatenate(joined["language"]),
        groups=list(codes["group"]),
        group=np.concatenate(joined["group"]),
        **plain,
    )
