"""The loss of a network on a batch, as many rows at once as its graph has."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn

from ms_codegeex.data.datasets.batches import Batch


def mean_loss(evaluation_step: nn.Cell, batch: Batch, rows: int) -> float:
    """Loss in nats per token. `evaluation_step` is compiled for `rows` rows, and runs without dropout."""
    total, tokens = 0.0, 0.0
    evaluation_step.set_train(False)
    for start in range(0, len(batch.samples), rows):
        arrays = tensors_of(_padded(batch.rows(start, start + rows), rows))
        loss, count, _ = evaluation_step(*arrays).asnumpy().tolist()
        total, tokens = total + loss, tokens + count
    return total / max(tokens, 1.0)


def tensors_of(batch: Batch) -> list[Tensor]:
    """The batch's arrays for the engine."""
    return [Tensor(array) for array in batch.arrays()]


def _padded(batch: Batch, size: int) -> Batch:
    """The batch filled up to `size` rows with masked copies of its last row, because a graph has one shape."""
    missing = size - len(batch.samples)
    if not missing:
        return batch
    arrays = [np.concatenate([a, np.repeat(a[-1:], missing, 0)]) for a in batch.arrays()]
    arrays[2][-missing:] = 0.0
    return Batch(*arrays)
