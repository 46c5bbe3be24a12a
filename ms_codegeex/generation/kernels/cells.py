"""The compiled operators as cells that replace a model's own.

The operators read caches and weights in this process's memory; MindSpore never holds a copy. A cell's only parameter is
the number of its registration (`library.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_codegeex.generation.kernels.library import (
    Adapted,
    AttentionSizes,
    BlockParts,
    Library,
    Registration,
    cache_shapes,
)
from ms_codegeex.generation.loading import MAX_ROWS, Adapter, of_matrix
from ms_codegeex.generation.matrices import Packed, Weights, aligned, pack
from ms_codegeex.generation.rows import RowMask, Same, SharedRows, SlotSizes, WordOfRows, named_cells
from ms_codegeex.generation.shares import Meeting
from ms_codegeex.models.causal import QueryEmbedding
from ms_codegeex.models.layers import AttentionCore, Embedding, FastGelu, LayerNorm, Linear, RMSNorm, SwiGlu

Shape = Callable[..., Any]
ACTIVATIONS = {
    FastGelu: "fast_gelu",
    ops.GeLU: "gelu",
    SwiGlu: "silu",
}  # `ACTIVATIONS` of library.py; SwiGLU's is that of its gate


class KernelCell(nn.Cell):
    """An operator of the library with its registrations. `shape`: of the result from those of the inputs."""

    def __init__(self, library: Library, operator: str, *registrations: Registration, shape: Shape = lambda x, *_: x):
        super().__init__()
        self.kept, numbers = registrations, [each.number for each in registrations]
        name = f"registration.{numbers[0]}"
        self.numbers = Parameter(Tensor(numbers, ms.int64), name=name, requires_grad=False)
        path = f"{library.path}:{operator}"
        self.op = ops.Custom(path, out_shape=shape, out_dtype=lambda *_: ms.float32, func_type="aot")

    def construct(self, x: Tensor) -> Tensor:
        """A product ([m, k] -> [m, n]), a norm, rows of a matrix by their int32 numbers, or something of all devices"""
        return self.op(x, self.numbers)


class KernelBlocks(KernelCell):
    """Consecutive decoder blocks. One operator for all of them: MindSpore spends some 40 microseconds on each, most of
    it on its parameter."""

    def construct(
        self,
        x: Tensor,
        mask: Tensor,
        sample_keys: Tensor,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """x FP32 [m, H], mask: slots and positions int32 [2, s, c], query as x -> [m, H]; the operator has the tables
        of the rotary turn"""
        if query is None:
            return self.op(x, mask, self.numbers)
        return self.op(x, mask, query, self.numbers)


class KernelChoice(nn.Cell):
    """The next token of each row of logits."""

    def __init__(self, library: Library):
        super().__init__()
        path = f"{library.path}:choose"
        shape = lambda logits, settings, edits, places: [logits[0], places[0], 2]  # noqa: E731
        self.op = ops.Custom(path, out_shape=shape, out_dtype=lambda *_: ms.float64, func_type="aot")

    def construct(self, logits: Tensor, settings: Tensor, edits: Tensor, places: Tensor) -> Tensor:
        """FP32 [n, V], and float64 [n, columns], float64 [n, a, 3] and int32 [1 + k] as `choice.pack` makes them ->
        float64 [n, 1 + k, 2]: ids and their log-probabilities, the chosen one and the k likeliest"""
        return self.op(logits, settings, edits, places)


class Turned(nn.Cell):
    """Replaces a model's rotary table, which the attention operators contain."""

    def construct(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """A value that nobody reads."""
        return positions, positions


class KernelCells:
    """Puts operators into a family's network `model`, whose parameters need no data; `head` is its output product.

    Consecutive blocks become one operator. With a `meeting`, residuals and the head combine all devices' results. The
    products of layers include the additions of their rows' `adapters`.
    """

    def __init__(
        self,
        library: Library,
        model: nn.Cell,
        weights: Weights,
        sizes: SlotSizes,
        meeting: Meeting | None = None,
        adapters: Sequence[Adapter] = (),
    ):
        self.library, self.weights, self.sizes, self.adapters = library, weights, sizes, adapters
        self._chosen = np.zeros(1 + MAX_ROWS if adapters else 1, np.int32)
        self._share, self._exchange = None, None
        if meeting is not None:
            share = self._share = meeting.share
            self._exchange = library.exchange(meeting.memory, share.rank, share.ranks)
        self._caches: list[tuple[np.ndarray, np.ndarray]] = []
        self.kept = np.float32 if sizes.cache_bits == 32 else np.float16
        word = model.embedding.word
        for parent, name, cell in named_cells(model, Embedding):
            packed = pack(weights.matrix(cell.weight.name))
            flat, k = isinstance(cell, QueryEmbedding), packed.k  # in the shape that the replaced cell gives
            shape = (lambda x, *_, k=k: [math.prod(x), k]) if flat else (lambda x, *_, k=k: [*x, k])
            lookup = KernelCell(library, "lookup", library.matrix(packed), shape=shape)
            if cell is word:
                if self._share is not None:
                    total = KernelCell(library, "sum_ranks", self._exchange)
                    lookup = SharedRows(lookup, self._share.part("vocab_size"), total)
                table, lookup = packed, WordOfRows(lookup)
            setattr(parent, name, lookup)
        self.head = self._head(model, table)
        rotary = model.rotary if hasattr(model, "rotary") else None
        blocks = KernelBlocks(library, "blocks", *(self._block(block, rotary) for block in model.blocks))
        model.blocks = nn.CellList([blocks])
        for name, cell in model.name_cells().items():
            if hasattr(cell, "add_feed_forward"):
                setattr(model, name, KernelBlocks(library, "blocks", self._block(cell, rotary)))
        for parent, name, cell in named_cells(model, LayerNorm, RMSNorm):
            setattr(parent, name, KernelCell(library, "norm", self._norm(cell)))
        if rotary is not None:
            model.rotary = Turned()
        model.mask, model.hash_samples = RowMask(sizes.capacity), Same()

    def use_adapters(self, numbers: np.ndarray) -> None:
        """Set the adapters of the next pass's rows, int32 [m]."""
        if self.adapters:
            self._chosen[0] = np.count_nonzero(numbers)
            self._chosen[1 : 1 + len(numbers)] = numbers

    def copy(self, source: int, target: int, length: int) -> None:
        """The keys and values of a slot's first `length` positions to another slot."""
        blocks = -(-length // 16)
        for keys, values in self._caches:
            keys[target, :, :blocks] = keys[source, :, :blocks]
            values[target, :, :length] = values[source, :, :length]

    def cache_bytes(self, length: int) -> int:
        """The size of what `read` returns for so many positions."""
        blocks = -(-length // 16)
        return blocks * sum(keys[0, :, 0].nbytes + values[0, :, :16].nbytes for keys, values in self._caches)

    def read(self, slot: int, length: int) -> list[np.ndarray]:
        """Copies of the keys and values of a slot's first `length` positions, those of each layer in turn."""
        blocks, copies = -(-length // 16), list[np.ndarray]()
        for keys, values in self._caches:
            copies += [keys[slot, :, :blocks].copy(), values[slot, :, : 16 * blocks].copy()]
        return copies

    def write(self, slot: int, copies: Sequence[np.ndarray], length: int) -> None:
        """The first `length` positions of what `read` returned, to a slot."""
        blocks = -(-length // 16)
        for (keys, values), old_keys, old_values in zip(self._caches, copies[::2], copies[1::2], strict=True):
            keys[slot, :, :blocks] = old_keys[:, :blocks]
            values[slot, :, :length] = old_values[:, :length]

    def _head(self, model: nn.Cell, packed: Packed) -> nn.Cell:
        bias, output, bits = None, model.head, 32
        if output is not None:
            packed, bits = self._packed(output.weight.name)
            bias = None if output.bias is None else self.weights.vector(output.bias.name)
            model.head = None
        head = self._product(self.library.matrix(packed, bias, activation_bits=bits), packed.n)
        if self._share is None:
            return head
        whole = self._share.config.vocab_size
        gather = KernelCell(self.library, "gather_ranks", self._exchange, shape=lambda x, *_: [x[0], whole])
        return nn.SequentialCell(head, gather)

    def _product(self, matrix: Registration, n: int) -> KernelCell:
        return KernelCell(self.library, "linear", matrix, shape=lambda x, *_: [x[0], n])

    def _packed(self, name: str) -> tuple[Packed, int]:
        """A matrix to multiply with, and the bits of its activations."""
        matrix = self.weights.matrix(name)
        bits = self.sizes.activation_bits if matrix.bits <= 8 else 32
        return pack(matrix, self.library.blocks(matrix.bits, bits)), bits

    def _matrix(self, cell: Linear, activation: str = "none") -> Registration:
        packed, bits = self._packed(cell.weight.name)
        bias = self.weights.vector(cell.bias.name) if cell.has_bias else None
        factors = of_matrix(self.adapters, cell.weight.name)
        adapted = None if factors is None else Adapted(factors, self._chosen)
        return self.library.matrix(packed, bias, activation, bits, adapted)

    def _norm(self, cell: LayerNorm | RMSNorm) -> Registration:
        bias = self.weights.vector(cell.bias.name) if isinstance(cell, LayerNorm) else None
        return self.library.norm(self.weights.vector(cell.weight.name), bias, cell.epsilon)

    def _block(self, block: nn.Cell, table: nn.Cell | None) -> Registration:
        attention, fed, norms = block.attention, block.feed_forward, named_cells(block, LayerNorm, RMSNorm)
        first, *second = (self._norm(cell) for _, _, cell in norms)
        gated = isinstance(fed.activation, SwiGlu)
        activation = ACTIVATIONS[type(fed.activation)]
        return self.library.block(
            BlockParts(
                attention_norm=first,
                feed_forward_norm=second[0] if second else None,
                attention=self._attention(attention.core, table),
                exchange=self._exchange,
                query=self._matrix(attention.query),
                key=self._matrix(attention.key),
                value=self._matrix(attention.value),
                output=self._matrix(attention.output),
                gate=self._matrix(fed.gate, activation) if gated else None,
                up=self._matrix(fed.up, "none" if gated else activation),
                down=self._matrix(fed.down),
            )
        )

    def _attention(self, core: AttentionCore, table: nn.Cell | None) -> Registration:
        capacity, own = self.sizes.capacity, core.heads if self._share is None else self._share.heads
        cos, sin = np.zeros((2, capacity, 0), np.float32)
        if core.turn_query is not None:
            cos, sin = (part.asnumpy()[:capacity] for part in (table.cos, table.sin))
            turned = 2 * (int(np.flatnonzero(sin.any(0)).max(initial=-1)) // 2 + 1)  # the others have cos 1 and sin 0
            cos, sin = (np.ascontiguousarray(part[:, begin:turned:2]) for begin, part in enumerate((cos, sin)))
        heads = AttentionSizes(own.count, own.groups, own.size, 2 * cos.shape[1], self.sizes.slots, capacity)
        keys, values = (aligned(shape, self.kept, sparse=True) for shape in cache_shapes(heads))
        self._caches.append((keys, values))
        return self.library.attention(heads, cos, sin, keys, values)
