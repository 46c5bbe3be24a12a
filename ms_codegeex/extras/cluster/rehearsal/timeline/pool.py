"""What MindSpore's memory pool takes for the tensors of a step: its best-fit allocator, replayed.

As in MindSpore's `AbstractDynamicMemPool`, sizes are multiples of 512 bytes. A tensor gets the smallest idle piece of
its stream that is large enough, and leaves the rest of it idle; a piece that becomes idle joins its neighbours. Without
such a piece, the pool takes a block of the device: `increase_size`, doubled until it suffices. Parameters have blocks
of their own, of 1 GiB. Where the driver has virtual memory (910B), the pool can give idle pages of one block to another
before it fails; that is not replayed.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ms_codegeex.base.hardware import GIB, POOL_BLOCK

ALIGNMENT = 512
APART = 2**44  # between the addresses of blocks: pieces of different blocks are not neighbours


class Tensor(Protocol):
    """Bytes that exist from `start` to `end`, written on `stream`. Those of one `bucket` are one piece at first."""

    bytes: int
    start: float
    end: float
    stream: str
    bucket: int | None


@dataclass(frozen=True)
class PoolUse:
    """Bytes of the pool's blocks, and of what tensors have touched of them, up to each block's highest address."""

    blocks: int
    touched: int


@dataclass
class _Allocator:
    """The blocks of one stream. `unit`: the bytes of the smallest block."""

    unit: int = POOL_BLOCK
    free: list[tuple[int, int]] = field(default_factory=list)  # size, address
    idle_sizes: dict[int, int] = field(default_factory=dict)  # by address
    idle_starts: dict[int, int] = field(default_factory=dict)  # by the address after the piece
    blocks: list[int] = field(default_factory=list)
    highest: list[int] = field(default_factory=list)

    def take(self, size: int) -> int:
        """The address of a piece."""
        place = bisect_left(self.free, (size, 0))
        if place == len(self.free):
            self._grow(size)
            place = bisect_left(self.free, (size, 0))
        found, address = self.free[place]
        self._remove(found, address)
        if found > size:
            self._insert(found - size, address + size)
        block, offset = divmod(address, APART)
        self.highest[block] = max(self.highest[block], offset + size)
        return address

    def give(self, address: int, size: int) -> None:
        """Make a piece idle, together with its idle neighbours."""
        if (before := self.idle_starts.get(address)) is not None:
            size += self.idle_sizes[before]
            self._remove(self.idle_sizes[before], before)
            address = before
        if (after := self.idle_sizes.get(address + size)) is not None:
            self._remove(after, address + size)
            size += after
        self._insert(size, address)

    def _grow(self, size: int) -> None:
        block = self.unit
        while block < size:
            block *= 2
        self._insert(block, len(self.blocks) * APART)
        self.blocks.append(block)
        self.highest.append(0)

    def _insert(self, size: int, address: int) -> None:
        insort(self.free, (size, address))
        self.idle_sizes[address], self.idle_starts[address + size] = size, address

    def _remove(self, size: int, address: int) -> None:
        del (
            self.free[bisect_left(self.free, (size, address))],
            self.idle_sizes[address],
            self.idle_starts[address + size],
        )


def aligned(size: int) -> int:
    """Bytes that a tensor takes."""
    return max(1, -(-size // ALIGNMENT)) * ALIGNMENT


def replay(tensors: Sequence[Tensor], parameters: Iterable[int]) -> PoolUse:
    """The pool after a step in which these tensors come and go. Tensors that end free their pieces first."""
    streams: dict[str, _Allocator] = defaultdict(_Allocator)
    resident = _Allocator(GIB)
    for size in parameters:
        resident.take(aligned(size))
    pieces: dict[int, list[int]] = defaultdict(list)  # members of a bucket, or one tensor
    tensors = [tensor for tensor in tensors if tensor.end > tensor.start]
    for number, tensor in enumerate(tensors):
        pieces[-1 - number if tensor.bucket is None else tensor.bucket].append(number)
    events = [(tensors[members[0]].start, 1, members) for members in pieces.values()]
    events += [(tensor.end, 0, [number]) for number, tensor in enumerate(tensors)]
    addresses: dict[int, int] = {}
    for _, starts, members in sorted(events):
        allocator = streams[tensors[members[0]].stream]
        sizes = [aligned(tensors[number].bytes) for number in members]
        if not starts:
            allocator.give(addresses[members[0]], sizes[0])
            continue
        address = allocator.take(sum(sizes))
        for number, size in zip(members, sizes, strict=True):
            addresses[number] = address
            address += size
    every = [resident, *streams.values()]
    return PoolUse(sum(sum(x.blocks) for x in every), sum(sum(x.highest) for x in every))
