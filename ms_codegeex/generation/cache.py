"""Keys and values of earlier positions, so that a new token costs one row instead of the whole sequence.

Attached to a finished network from outside: `attach` puts a `KeyValueCache` into every attention and a `CachedMask` in
place of the model's mask. The models know nothing of it but the attribute `cache` of `AttentionCore`. Documents are not
told apart: generation continues one.
"""

from __future__ import annotations

from collections.abc import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from ms_codegeex.models.layers import MASKED_SCORE, AttentionCore


class CachedMask(nn.Cell):
    """Visibility and positions of n tokens behind `start` cached ones."""

    def __init__(self, positions: int):
        super().__init__()
        self.start = Parameter(Tensor(np.zeros(1, np.int32)), name="start", requires_grad=False)
        self.columns = Tensor(np.arange(positions, dtype=np.int32)[None])
        self.rows, self.later, self.to_float, self.penalty = ops.Add(), ops.Greater(), ops.Cast(), ops.Mul()

    def construct(self, ids):
        """int32 [batch, n] -> additive mask FP32 [1, 1, n, positions], positions int32 [batch, n]"""
        batch, n = ids.shape
        rows = self.rows(self.start, ops.arange(n, dtype=ms.int32))
        later = self.to_float(self.later(self.columns, ops.reshape(rows, (-1, 1))), ms.float32)
        mask = ops.reshape(self.penalty(later, MASKED_SCORE), (1, 1, n, -1))
        return mask, ops.broadcast_to(ops.reshape(rows, (1, n)), (batch, n))


class KeyValueCache(nn.Cell):
    """The keys and values of one attention for `shape` = [batch, groups, positions, d], written from `start` on.

    What lies at positions not yet written, or written for another text, is hidden by the mask until it is overwritten.
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

    def construct(self, k, v):
        """k and v [batch, groups, n, d] of the positions from `start` on -> all [batch, groups, positions, d]"""
        n, size = k.shape[2], k.shape[3]
        rows = ops.reshape(self.rows(self.first, self.start + ops.arange(n, dtype=ms.int32)), (-1,))
        keys = self.write_keys(self.keys, rows, ops.reshape(k, (-1, size)))
        values = self.write_values(self.values, rows, ops.reshape(v, (-1, size)))
        return ops.reshape(keys, self.shape), ops.reshape(values, self.shape)


def attach(model: nn.Cell, positions: int, batch: int = 1) -> Parameter:
    """Give a family's network (`Logits(...).model`) a cache for `positions` positions of `batch` sequences.

    For a network whose weights are loaded and that has not run yet. Returns `start`, int32 [1]: how many positions are
    cached. Whoever calls the network with n tokens sets it before; start + n must not exceed `positions`.
    """
    model.mask = CachedMask(positions)
    start = model.mask.start
    for name, core in [(name, cell) for name, cell in model.cells_and_names() if isinstance(cell, AttentionCore)]:
        keys = core.dtype if core.turn_key is None else core.turn_key.out_dtype
        core.cache = KeyValueCache((batch, core.heads.groups, positions, core.heads.size), keys, core.dtype, start)
        # names of parameters are those of the attributes so far, the same in every block
        core.cache.keys.name, core.cache.values.name = f"cache.{name}.keys", f"cache.{name}.values"
    start.name = "cache.start"
    return start


def _padded_rows(tokens: int, positions: int) -> int:
    """How many rows a pass over `tokens` has: few different numbers, because each is a graph to compile."""
    return 1 if tokens == 1 else min(max(16, 1 << (tokens - 1).bit_length()), positions)


class LogProbabilities(nn.Cell):
    """The log-probability of a given token at each position, with the weights and the cache of a family's `Logits`."""

    def __init__(self, logits: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model, self.dtype, self.has_bias = logits.model, logits.dtype, logits.has_bias
        self.matmul = ops.MatMul(transpose_b=True)

    def construct(self, ids, targets):
        """ids and targets int32 [1, n] -> FP32 [n]"""
        model = self.model
        hidden = model(ids, ops.zeros((1,), ms.int32))
        table = model.embedding.word.weight if model.head is None else model.head.weight
        logits = ops.cast(self.matmul(hidden, ops.cast(table, self.dtype)), ms.float32)
        if self.has_bias:
            logits = logits + model.head.bias
        chosen = ops.gather_elements(logits, 1, ops.reshape(targets, (-1, 1)))
        # the maximum first, so that no exponential is larger than 1
        largest = ops.max(logits, axis=1, keepdims=True)[0]
        sums = ops.reduce_sum(ops.exp(logits - largest), 1)
        return ops.reshape(chosen - largest, (-1,)) - ops.log(sums)


class CachedLogits:
    """Logits behind a sequence of tokens. What it has in common with the sequence before is not computed again.

    `network` is a family's `Logits` with its weights; it belongs to this object from now on.
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
        start = min(start, self.positions - rows)  # the padding, too, has to lie within the cache
        inputs = self._begin(ids[start:], rows, start)
        logits = self.network(inputs, Tensor([len(ids) - start - 1], ms.int32)).asnumpy()[0]
        self.cached = list(ids)
        return logits

    def log_probabilities(self, ids: Sequence[int], piece: int = 256) -> np.ndarray:
        """FP32 [len(ids) - 1]: the logarithm of the probability of each id but the first, given those before it.

        `piece` positions at a time, each behind the cached ones, so that no more than [piece, vocab_size] scores are
        in memory at once.
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
        """The inputs of a pass over `ids` behind the first `start` cached positions."""
        self.cached = self.cached[:start]  # if the pass is interrupted, the rest is unknown
        self.start.set_data(Tensor([start], ms.int32))
        return self._padded(ids, rows)

    def _padded(self, ids: Sequence[int], rows: int) -> Tensor:
        padded = np.full((1, rows), self.padding_id, np.int32)
        padded[0, : len(ids)] = ids
        return Tensor(padded)

    def _common(self, ids: Sequence[int]) -> int:
        """How many first tokens are in the cache; at least one is left to compute."""
        most = min(len(self.cached), len(ids) - 1)
        return next((i for i in range(most) if self.cached[i] != ids[i]), most)
