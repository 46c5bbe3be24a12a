"""The loss of a run's model on data that it was not trained on."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn

from ms_codegeex.config import RunConfig
from ms_codegeex.data.datasets.batches import Batch, Sequences, shuffle_context
from ms_codegeex.training.build import Built


class Evaluator:
    """Evaluates the current weights, without dropout, on this rank's share of a sample, by default of `validation`."""

    def __init__(self, config: RunConfig, built: Built, validation: Sequences, rank: int):
        self.config, self.built, self.validation = config, built, validation
        self.share = (rank % config.mesh.stage_size, config.mesh.stage_size)

    def loss(self, data: Sequences | None = None, shuffled: bool = False) -> float:
        """Nats per token on evenly spaced sequences of `data`; `shuffled`: with permuted contexts."""
        batch = (data or self.validation).evaluation_batch(*self.share, self.config.training.evaluate_samples)
        if shuffled:
            batch = shuffle_context(batch, self.config.model.sizes.eos_token_id, self.config.seed)
        return mean_loss(self.built.evaluation_step, batch, self.built.evaluation_rows)


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
