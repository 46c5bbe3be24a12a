"""Runs a model with the compiled operators alone, without MindSpore in the process.

A family's table defines a pass: it adds up rows of the first stage's embedding tables, runs the blocks, then the layers
of the last stage in order. The operators read caches and weights in this process's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ms_codegeex.generation.device_shares import DeviceExchange
from ms_codegeex.generation.kernels.library import (
    AdapterSums,
    AttentionSizes,
    BlockParts,
    Library,
    Registration,
    cache_shapes,
)
from ms_codegeex.generation.loading import MAX_PASS_ROWS, Adapter, of_matrix
from ms_codegeex.generation.matrices import Weights, aligned
from ms_codegeex.generation.rows import Rows, SlotSizes
from ms_codegeex.models.decoder_config import DecoderConfig, Heads, rotary_turns
from ms_codegeex.models.parameters import BLOCK, TABLE, VOCABULARY, norms_of

ACTIVATIONS = {"fast_gelu": "fast_gelu", "gelu": "gelu", "swiglu": "silu"}  # SwiGLU applies SiLU to its gate
PRODUCTS = {
    *("attention.query", "attention.key", "attention.value", "attention.output"),
    *("feed_forward.gate", "feed_forward.up", "feed_forward.down"),
}
NORM, QUERY, BLOCKS = "norm", "lookup", "blocks"  # operators of the last stage


def without_operators(config: DecoderConfig) -> list[str]:
    norms = norms_of(config.table.block)
    return [layer.name for layer in config.table.block if layer not in norms[:2] and layer.name not in PRODUCTS]


class KernelNetwork:
    """Implements `Network` of `rows.py` for a complete model or one device's share of it. With a `meeting`, residuals
    and the head combine all devices' results. Rows may use different `adapters`."""

    compiled, slower = True, ""

    def __init__(
        self,
        library: Library,
        config: DecoderConfig,
        weights: Weights,
        sizes: SlotSizes,
        meeting: DeviceExchange | None = None,
        adapters: Sequence[Adapter] = (),
    ):
        self.library, self.config, self.weights, self.sizes, self.adapters = library, config, weights, sizes, adapters
        self.vocab_size = config.vocab_size
        self._chosen = np.zeros(1 + MAX_PASS_ROWS if adapters else 1, np.int32)
        self._share = self._exchange = None
        self._tokens = slice(0, config.vocab_size)
        self._heads = Heads(config.num_heads, config.head_dim, config.num_kv_groups)
        if meeting is not None:
            share = self._share = meeting.share
            self._exchange, self._heads = library.exchange(meeting.memory, share.rank, share.ranks), share.heads
            self._tokens = share.part("vocab_size")
        self._turns = rotary_turns(sizes.capacity, config.rotary_dim, config.rotary_dtype, config.rotary_base)
        self._caches: list[tuple[np.ndarray, np.ndarray]] = []
        self._saved: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._hidden = np.zeros((0, config.hidden_size), np.float32)
        self._layers = {layer.name: layer for layer in config.table.layers(config.num_layers)}
        packed = {layer.name: weights.packed(f"{layer.name}.weight") for layer in config.table.first}
        self._tables = [(layer.role, library.matrix(packed[layer.name])) for layer in config.table.first]
        self._blocks = [self._block(BLOCK.replace("{i}", str(number))) for number in range(config.num_layers)]
        self._last = list(self._last_stage())
        output = next(layer for layer in config.table.last if layer.role is VOCABULARY)
        tied = packed.get(output.copy_of)
        self._head = self._matrix(output.name) if tied is None else library.matrix(tied)

    def _last_stage(self) -> Iterator[tuple[str, list[Registration]]]:
        for layer in self.config.table.last:
            prefix, inside, name = layer.name.partition(".")
            if layer.role is VOCABULARY:
                continue
            if layer.role is TABLE:
                yield QUERY, [self.library.matrix(self.weights.packed(f"{layer.name}.weight"))]
            elif not inside:
                yield NORM, [self._norm(layer.name)]
            elif name == self.config.table.block[0].name:
                yield BLOCKS, [self._block(prefix)]

    def _matrix(self, name: str, activation: str = "none") -> Registration:
        own = self.weights.bits or 32
        bits = self.sizes.activation_bits if own <= 8 else 32
        packed = self.weights.packed(f"{name}.weight", self.library.blocks(own, bits))
        bias = self.weights.vector(f"{name}.bias") if self._layers[name].bias else None
        factors = of_matrix(self.adapters, f"{name}.weight")
        adapted = None if factors is None else AdapterSums(factors, self._chosen)
        return self.library.matrix(packed, bias, activation, bits, adapted)

    def _norm(self, name: str) -> Registration:
        bias = self.weights.vector(f"{name}.bias") if self._layers[name].bias else None
        return self.library.norm(self.weights.vector(f"{name}.weight"), bias, self.config.norm_epsilon)

    def _block(self, prefix: str) -> Registration:
        inside = self.config.table.block
        first, *second = (self._norm(f"{prefix}.{layer.name}") for layer in norms_of(inside))
        gated = any(layer.name == "feed_forward.gate" for layer in inside)
        activation = ACTIVATIONS[self.config.activation]

        def matrix(name: str, activation: str = "none") -> Registration:
            return self._matrix(f"{prefix}.{name}", activation)

        return self.library.block(
            BlockParts(
                attention_norm=first,
                feed_forward_norm=second[0] if second else None,
                attention=self._attention(),
                exchange=self._exchange,
                query=matrix("attention.query"),
                key=matrix("attention.key"),
                value=matrix("attention.value"),
                output=matrix("attention.output"),
                gate=matrix("feed_forward.gate", activation) if gated else None,
                up=matrix("feed_forward.up", "none" if gated else activation),
                down=matrix("feed_forward.down"),
            )
        )

    def _attention(self) -> Registration:
        (cos, sin), own, sizes = self._turns, self._heads, self.sizes
        heads = AttentionSizes(own.count, own.groups, own.size, 2 * cos.shape[1], sizes.slots, sizes.capacity)
        kept = np.float32 if sizes.cache_bits == 32 else np.float16
        keys, values = (aligned(shape, kept, sparse=True) for shape in cache_shapes(heads))
        self._caches.append((keys, values))
        return self.library.attention(heads, cos, sin, keys, values)

    def _run(self, operator: str, registrations: Sequence[Registration], *arrays: np.ndarray) -> np.ndarray:
        numbers = np.array([each.number for each in registrations], np.int64)
        self.library.run(operator, *arrays[:-1], numbers, arrays[-1])
        return arrays[-1]

    def _embedded(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the sum of the embedding tables' rows, FP32 [m, H]."""
        rows: list[np.ndarray] = []
        for role, table in self._tables:
            found = np.empty((len(ids), self.config.hidden_size), np.float32)
            if role is not VOCABULARY:
                rows.append(self._run("lookup", [table], positions, found))
            elif self._exchange is None:
                rows.append(self._run("lookup", [table], ids, found))
            else:  # this device holds only its part of the vocabulary
                here = (ids >= self._tokens.start) & (ids < self._tokens.stop)
                self._run("lookup", [table], np.where(here, ids - self._tokens.start, 0).astype(np.int32), found)
                found *= here[:, None]
                rows.append(self._run("sum_ranks", [self._exchange], found, np.empty_like(found)))
        return rows[0] if len(rows) == 1 else rows[0] + rows[1]

    def score(self, rows: Rows) -> np.ndarray:
        """As in `Network`. Keeps the last hidden states of all rows for `hidden`."""
        ids, slots, positions = rows.rows.reshape(3, -1)
        places = np.stack([slots, positions])
        if self.adapters:
            self._chosen[0] = np.count_nonzero(rows.adapters)
            self._chosen[1 : 1 + len(rows.adapters)] = rows.adapters
        x, asked = self._embedded(ids, positions), list[np.ndarray]()
        for operator, parts in [(BLOCKS, self._blocks), *self._last]:
            if operator == QUERY:
                asked = [self._run(operator, parts, positions, np.empty_like(x))]
            elif operator == NORM:
                x = self._run(operator, parts, x, np.empty_like(x))
            else:
                x, asked = self._run(operator, parts, x, places, *asked, np.empty_like(x)), []
        self._hidden, wanted = x, x[rows.wanted]
        if not len(wanted):
            return np.empty((0, self.vocab_size), np.float32)
        own = np.empty((len(wanted), self._tokens.stop - self._tokens.start), np.float32)
        self._run("linear", [self._head], wanted, own)
        if self._exchange is None:
            return own
        whole = np.empty((len(wanted), self.vocab_size), np.float32)
        return self._run("gather_ranks", [self._exchange], own, whole)

    def choose(self, rows: Rows) -> np.ndarray:
        """As in `Network`. Only the first device chooses; the result on others is undefined."""
        logits = self.score(rows)
        out = np.empty((len(logits), len(rows.places), 2), np.float64)
        if len(logits) and (self._share is None or not self._share.rank):
            self.library.run("choose", logits, rows.settings, rows.edits, rows.places, out)
        return out

    def hidden(self, begin: int, end: int) -> np.ndarray:
        return self._hidden[begin:end]

    def copy(self, source: int, target: int, length: int) -> None:
        blocks = -(-length // 16)
        for keys, values in self._caches:
            keys[target, :, :blocks] = keys[source, :, :blocks]
            values[target, :, :length] = values[source, :, :length]

    def cache_bytes(self, length: int) -> int:
        blocks = -(-length // 16)
        return blocks * sum(keys[0, :, 0].nbytes + values[0, :, :16].nbytes for keys, values in self._caches)

    def save(self, number: int, slot: int, length: int) -> None:
        blocks = -(-length // 16)
        self._saved[number] = [
            (keys[slot, :, :blocks].copy(), values[slot, :, : 16 * blocks].copy()) for keys, values in self._caches
        ]

    def restore(self, number: int, slot: int, length: int) -> None:
        blocks = -(-length // 16)
        for (keys, values), (old_keys, old_values) in zip(self._caches, self._saved[number], strict=True):
            keys[slot, :, :blocks] = old_keys[:, :blocks]
            values[slot, :, :length] = old_values[:, :length]

    def forget(self, number: int) -> None:
        del self._saved[number]
