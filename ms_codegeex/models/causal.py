"""What every family's language model is wrapped in: how it is built, its loss, its logits.

A family's network maps ids int32 [batch, seq] and sample numbers int32 [batch] to hidden states [batch*seq, H]. Its
`head` holds the output table, or is None where that is the table of the words, `embedding.word`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
from mindspore import Parameter, nn, ops
from mindspore.common.initializer import Normal, initializer

from ms_codegeex.models.fused import Kernels
from ms_codegeex.models.layers import AttentionCore, Dropout, Embedding, Heads, LayerNorm, RMSNorm
from ms_codegeex.models.losses import ChunkedCrossEntropy, CrossEntropy, Sums


@dataclass(frozen=True)
class Build:
    """How a model is built, beside its sizes.

    `loss_chunk` > 0 chooses the chunked loss (FP32 only) with `micro_batch` sequences a call. `head_table` gives the
    head of a tied model a word table of its own, for pipelines: the last stage cannot reach the embedding's. The step
    keeps it equal.
    """

    seq_length: int
    dtype: ms.Type = ms.float32
    dropout: float = 0.0
    seed: int = 0
    reset_at_eos: bool = True
    micro_batch: int = 1
    loss_chunk: int = 0
    head_table: bool = False
    kernels: Kernels = field(default_factory=Kernels)

    def norm(self, width: int, epsilon: float) -> LayerNorm:
        """LayerNorm over the last axis"""
        return self.kernels.layer_norm(width, epsilon, self.dtype)

    def rms_norm(self, width: int, epsilon: float) -> RMSNorm:
        """RMSNorm over the last axis"""
        return self.kernels.rms_norm(width, epsilon, self.dtype)

    def drop(self, width: int, site: int) -> Dropout:
        """dropout number `site` of `width` elements a token"""
        return self.kernels.drop(self.dropout, (self.seq_length, width), site, self.seed)

    def attention(
        self, heads: Heads, site: int, rotary: bool = False, softmax_fp32: bool = True, scores_fp32: bool = False
    ) -> AttentionCore:
        """attention without its projections; its dropout is number `site`"""
        softmax, product = (ms.float32 if wide else self.dtype for wide in (softmax_fp32, scores_fp32))
        scores = (heads.count, self.seq_length, self.seq_length)
        dropout = self.kernels.drop(self.dropout, scores, site, self.seed)
        return self.kernels.attention_core(heads, self.dtype, softmax, dropout, rotary, product)


class WordEmbedding(nn.Cell):
    """word[ids], dropout, cast to the compute dtype: the input where positions are not added to it."""

    def __init__(self, vocab_size: int, hidden_size: int, init_std: float, build: Build):
        super().__init__()
        self.dtype, self.hidden_size = build.dtype, hidden_size
        self.word = Embedding(vocab_size, hidden_size, init_std)
        self.dropout, self.cast = build.drop(hidden_size, 0), ops.Cast()

    def construct(self, ids, sample_keys):
        """int32 [batch, seq] and [batch] -> [batch*seq, H]"""
        x = self.cast(self.dropout(self.word(ids), sample_keys), self.dtype)
        return ops.reshape(x, (-1, self.hidden_size))


class Head(nn.Cell):
    """The output table FP32 [vocab_size, hidden_size], and a bias [vocab_size] if `bias`."""

    def __init__(self, vocab_size: int, hidden_size: int, init_std: float, bias: bool = False):
        super().__init__()
        self.weight = Parameter(initializer(Normal(init_std), [vocab_size, hidden_size], ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", [vocab_size], ms.float32), name="bias") if bias else None


class CausalLoss(nn.Cell):
    """Σ mask·nll of the next tokens and Σ mask; whoever trains divides the one by the other over the global batch.

    The two are one tensor because a pipelined network may have a single output.
    """

    def __init__(self, model: nn.Cell, config: Any, build: Build):
        super().__init__(auto_prefix=False)
        self.model = model
        rows, bias = build.micro_batch * build.seq_length, model.head is not None and model.head.bias is not None
        self.loss = (
            ChunkedCrossEntropy(rows, build.loss_chunk, bias)
            if build.loss_chunk
            else CrossEntropy(config.vocab_size, build.dtype, bias)
        )
        self.has_bias = bias
        self.sums = Sums()

    def construct(self, inputs, labels, loss_mask, samples):
        """inputs and labels int32 [batch, seq], loss_mask FP32 [batch, seq], samples int32 [batch] -> FP32 [3]"""
        hidden, model = self.model(inputs, samples), self.model
        table = model.embedding.word.weight if model.head is None else model.head.weight
        labels, mask = ops.reshape(labels, (-1,)), ops.reshape(loss_mask, (-1,))
        if self.has_bias:
            return self.sums(self.loss(hidden, table, labels, mask, model.head.bias), mask)
        return self.sums(self.loss(hidden, table, labels, mask), mask)


class CausalLogits(nn.Cell):
    """Logits at one position of each sequence, for generation."""

    def __init__(self, model: nn.Cell, build: Build):
        super().__init__(auto_prefix=False)
        self.model, self.dtype = model, build.dtype
        self.has_bias = model.head is not None and model.head.bias is not None
        self.matmul, self.gather = ops.MatMul(transpose_b=True), ops.Gather()

    def construct(self, ids, position):
        """ids int32 [batch, seq], position int32 [batch] -> FP32 logits [batch, V]"""
        (batch, seq_length), model = ids.shape, self.model
        rows = position + ops.arange(batch, dtype=ms.int32) * seq_length
        hidden = self.gather(model(ids, ops.zeros((batch,), ms.int32)), rows, 0)
        table = model.embedding.word.weight if model.head is None else model.head.weight
        logits = ops.cast(self.matmul(hidden, ops.cast(table, self.dtype)), ms.float32)
        return logits + model.head.bias if self.has_bias else logits
