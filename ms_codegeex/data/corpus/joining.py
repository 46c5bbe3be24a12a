"""The documents of all shards, numbered in the order of the input. Their columns stay in the shards' files."""

from __future__ import annotations

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
    """

    shards: Sequence[Shard]
    starts: np.ndarray

    def __len__(self) -> int:
        return int(self.starts[-1])

    def source(self, number: int) -> str:
        """The source of document `number`."""
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.shards[place].sources()[number - int(self.starts[place])]

    def parts(self) -> Iterator[tuple[Shard, int, int]]:
        """Each shard with the numbers of its first document and of the one after its last."""
        yield from zip(self.shards, self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)


def join(shards: Iterable[Shard]) -> Documents:
    """The documents of `shards`."""
    kept = list(shards)
    return Documents(kept, np.cumsum([0, *(shard.documents for shard in kept)], dtype=np.int64))
