"""Key/value cache: a new token costs one row instead of the whole sequence.

It is attached to a finished network from outside: `attach` puts a `KeyValueCache` into every attention and replaces the
model's mask by a `CachedMask`. The models know only the attribute `cache` of `AttentionCore`. Document boundaries are
ignored: generation continues one document.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_codegeex.models.layers import MASKED_SCORE, AttentionCore


class CachedMask(nn.Cell):
    """Attention mask and positions of n tokens after `start` cached ones."""

    def __init__(self, positions: int):
        super().__init__()
        self.start = Parameter(Tensor(np.zeros(1, np.int32)), name="start", requires_grad=False)
        self.columns = Tensor(np.arange(positions, dtype=np.int32)[None])
        self.rows, self.later, self.to_float, self.penalty = ops.Add(), ops.Greater(), ops.Cast(), ops.Mul()

    def construct(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """int32 [batch, n] -> additive mask FP32 [1, 1, n, positions], positions int32 [batch, n]."""
        batch, n = ids.shape
        rows = self.rows(self.start, ops.arange(n, dtype=ms.int32))
        later = self.to_float(self.later(self.columns, ops.reshape(rows, (-1, 1))), ms.float32)
        mask = ops.reshape(self.penalty(later, MASKED_SCORE), (1, 1, n, -1))
        return mask, ops.broadcast_to(ops.reshape(rows, (1, n)), (batch, n))


class KeyValueCache(nn.Cell):
    """The keys and values of one attention, of `shape` [batch, groups, positions, d], written from `start` on.

    Positions not yet written, or written for another text, are hidden by the mask until they are overwritten.
    """

    def __init__(self, shape: tuple[int, int, int, int], keys: ms.Type, values: ms.Type, start: Parameter):
        super().__init__()
        self.shape, self.start = shape, start
        batch, groups, positions, size = shape
        empty = np.zeros((batch * groups * positions, size), np.float32)
        self.keys = Parameter(Tensor(empty, keys), name="keys", requires_grad=False)
        self.values = Parameter(Tensor(empty, values), name="values", requires_grad=False)
        # where the rows of each sequence and group begin
        self.first = Tensor(np.arange(0, batch * groups * positions, positions, dtype=np.int32)[:, None])
        self.write_keys, self.write_values, self.rows = ops.ScatterUpdate(), ops.ScatterUpdate(), ops.Add()

    def construct(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k and v [batch, groups, n, d] of the positions from `start` on -> all [batch, groups, positions, d]."""
        n, size = k.shape[2], k.shape[3]
        rows = ops.reshape(self.rows(self.first, self.start + ops.arange(n, dtype=ms.int32)), (-1,))
        keys = self.write_keys(self.keys, rows, ops.reshape(k, (-1, size)))
        values = self.write_values(self.values, rows, ops.reshape(v, (-1, size)))
        return ops.reshape(keys, self.shape), ops.reshape(values, self.shape)


def attach(model: nn.Cell, positions: int, batch: int = 1) -> Parameter:
    """Give a family's network (`Logits(...).model`) a cache for `positions` positions of `batch` sequences.

    The network must have its weights and must not have run yet. Returns `start`, int32 [1], the number of cached
    positions: set it before each call of the network with n tokens, with start + n at most `positions`.
    """
    model.mask = CachedMask(positions)
    start = model.mask.start
    for name, core in [(name, cell) for name, cell in model.cells_and_names() if isinstance(cell, AttentionCore)]:
        keys = core.dtype if core.turn_key is None else core.turn_key.out_dtype
        core.cache = KeyValueCache((batch, core.heads.groups, positions, core.heads.size), keys, core.dtype, start)
        # so far the parameters are named like the attributes, the same in every block
        core.cache.keys.name, core.cache.values.name = f"cache.{name}.keys", f"cache.{name}.values"
    start.name = "cache.start"
    return start


def _padded_rows(tokens: int, positions: int) -> int:
    """How many rows a pass over `tokens` has: one of a few numbers, because each needs a graph of its own."""
    return 1 if tokens == 1 else min(max(16, 1 << (tokens - 1).bit_length()), positions)


class LogProbabilities(nn.Cell):
    """The log-probability of a given token at each position, from the weights and the cache of a family's `Logits`."""

    def __init__(self, logits: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model, self.dtype, self.has_bias = logits.model, logits.dtype, logits.has_bias
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, ids: Tensor, targets: Tensor) -> Tensor:
        """ids and targets int32 [1, n] -> FP32 [n]."""
        model = self.model
        hidden = model(ids, ops.zeros((1,), ms.int32))
        table = model.embedding.word.weight if model.head is None else model.head.weight
        logits = ops.cast(self.matmul(hidden, ops.cast(table, self.dtype)), ms.float32)
        if self.has_bias:
            logits = logits + model.head.bias
        chosen = ops.gather_elements(logits, 1, ops.reshape(targets, (-1, 1)))
        # subtract the maximum first, so that no exponential exceeds 1
        largest = ops.max(logits, axis=1, keepdims=True)[0]
        sums = ops.reduce_sum(ops.exp(logits - largest), 1)
        return ops.reshape(chosen - largest, (-1,)) - ops.log(sums)


class CachedLogits:
    """Logits after a sequence of tokens, without computing again what it shares with the previous sequence.

    `network`: a family's `Logits` with its weights; this object owns it from now on.
    """

    def __init__(self, network: nn.Cell, positions: int, padding_id: int):
        self.network, self.positions, self.padding_id = network, positions, padding_id
        self.start = attach(network.model, positions)
        self.scores = LogProbabilities(network)
        self.cached: list[int] = []

    def __call__(self, ids: Sequence[int]) -> np.ndarray:
        """FP32 [vocab_size]: scores of the token that follows `ids`, 1 to `positions` of them."""
        start = self._common(ids)
        rows = _padded_rows(len(ids) - start, self.positions)
        start = min(start, self.positions - rows)  # the padding must fit into the cache, too
        inputs = self._begin(ids[start:], rows, start)
        logits = self.network(inputs, Tensor([len(ids) - start - 1], ms.int32)).asnumpy()[0]
        self.cached = list(ids)
        return logits

    def log_probabilities(self, ids: Sequence[int], piece: int = 256) -> np.ndarray:
        """FP32 [len(ids) - 1]: the logarithm of the probability of each id but the first, given those before it.

        Works on `piece` positions at a time, after the cached ones, so that at most [piece, vocab_size] scores are in
        memory at once.
        """
        result = []
        for first in range(0, len(ids) - 1, piece):
            count = min(piece, len(ids) - 1 - first)
            rows = _padded_rows(count, self.positions)
            start = min(first, self.positions - rows)
            inputs = self._begin(ids[start : first + count], rows, start)
            targets = self._padded(ids[start + 1 : first + count + 1], rows)
            scores = self.scores(inputs, targets).asnumpy()
            result.append(scores[first - start : first - start + count])
            self.cached = list(ids[: first + count])
        return np.concatenate(result) if result else np.zeros(0, np.float32)

    def _begin(self, ids: Sequence[int], rows: int, start: int) -> Tensor:
        """The inputs of a pass over `ids` after the first `start` cached positions."""
        self.cached = self.cached[:start]  # if the pass is interrupted, the rest is undefined
        self.start.set_data(Tensor([start], ms.int32))
        return self._padded(ids, rows)

    def _padded(self, ids: Sequence[int], rows: int) -> Tensor:
        padded = np.full((1, rows), self.padding_id, np.int32)
        padded[0, : len(ids)] = ids
        return Tensor(padded)

    def _common(self, ids: Sequence[int]) -> int:
        """How many of the first tokens are in the cache; at least one token is left to compute."""
        most = min(len(self.cached), len(ids) - 1)
        return next((i for i in range(most) if self.cached[i] != ids[i]), most)
