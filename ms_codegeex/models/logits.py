"""What a family's network is for generation without a cache: logits instead of a loss."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
from mindspore import Tensor, nn, ops

from ms_codegeex.models.causal import Build, has_bias
from ms_codegeex.models.decoder_config import DecoderConfig


class CausalLogits(nn.Cell):
    """Logits at one position of each sequence, for generation."""

    def __init__(self, network: Callable[[DecoderConfig, Build], nn.Cell], config: DecoderConfig, build: Build):
        super().__init__(auto_prefix=False)
        self.model, self.dtype = network(config, build), build.dtype
        self.has_bias = has_bias(self.model)
        self.matmul, self.gather = ops.MatMul(transpose_b=True), ops.Gather()

    def construct(self, ids: Tensor, position: Tensor) -> Tensor:
        """ids int32 [batch, seq], position int32 [batch] -> FP32 logits [batch, V]"""
        (batch, seq_length), model = ids.shape, self.model
        rows = position + ops.arange(batch, dtype=ms.int32) * seq_length
        hidden = self.gather(model(ids, ops.zeros((batch,), ms.int32)), rows, 0)
        table = model.embedding.word.weight if model.head is None else model.head.weight
        logits = ops.cast(self.matmul(hidden, ops.cast(table, self.dtype)), ms.float32)
        return logits + model.head.bias if self.has_bias else logits
