"""What the language models of all families share: construction, embedding, head, loss and logits.

A family's network maps ids int32 [batch, seq] and sample numbers int32 [batch] to hidden states [batch*seq, H]. It has
the cells `hash_samples`, `mask`, `embedding`, `blocks` and `head`, which is None where the output layer multiplies with
the word table, `embedding.word`; and `rotary` if positions rotate queries and keys. A block has `attention` with its
`core`, `feed_forward` with its `activation`, and two dropouts and additions. Every other cell comes after the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.fused import Kernels
from ms_codegeex.models.layers import AttentionCore, Dropout, Embedding, Heads, LayerNorm, Linear, RMSNorm
from ms_codegeex.models.losses import ChunkedCrossEntropy, CrossEntropy, Sums


@dataclass(frozen=True)
class Build:
    """How a model is built, apart from its sizes; makes its layers.

    `loss_chunk` > 0 chooses the chunked loss (FP32 only) with `micro_batch` sequences a call. `head_table` gives the
    head of a tied model a separate word table, for pipelines: the last stage cannot reach the embedding's. The training
    step keeps the two equal.
    """

    seq_length: int
    dtype: ms.Type = ms.float32
    dropout: float = 0.0
    seed: int = 0
    reset_at_eos: bool = True
    micro_batch: int = 1
    loss_chunk: int = 0
    z_loss: float = 0.0
    head_table: bool = False
    kernels: Kernels = field(default_factory=Kernels)

    def linear(self, config: DecoderConfig, name: str) -> Linear:
        """The linear layer of that name in the family's table."""
        layer = config.table.layer(name)
        rows, columns = layer.shape(config)
        return Linear(columns, rows, getattr(config, layer.std), self.dtype, layer.bias)

    def embedding(self, config: DecoderConfig, name: str) -> Embedding:
        """The table of that name in the family's table."""
        layer = config.table.layer(name)
        return Embedding(*layer.shape(config), getattr(config, layer.std))

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


class InputEmbedding(nn.Cell):
    """word[ids], plus position[p] if `learned_positions`; dropout, cast to the compute dtype."""

    computed_in_dtype = ("cast",)

    def __init__(self, config: DecoderConfig, build: Build, learned_positions: bool = False):
        super().__init__()
        self.dtype, self.hidden_size = build.dtype, config.hidden_size
        self.word = build.embedding(config, "embedding.word")
        self.position = build.embedding(config, "embedding.position") if learned_positions else None
        self.add = ops.Add() if learned_positions else None
        self.dropout, self.cast = build.drop(config.hidden_size, 0), ops.Cast()
        self.dropout.computed_in_dtype = ()  # it comes before the cast

    def construct(self, ids: Tensor, sample_keys: Tensor, positions: Tensor | None = None) -> Tensor:
        """ids int32 [batch, seq], sample_keys [batch], positions [batch, seq] -> [batch*seq, H]"""
        x = self.word(ids)
        if self.position is not None:
            x = self.add(x, self.position(positions))
        return ops.reshape(self.cast(self.dropout(x, sample_keys), self.dtype), (-1, self.hidden_size))


class QueryEmbedding(Embedding):
    """Rows of a table as activations: in the compute dtype, [batch*seq, H]."""

    computed_in_dtype = ("cast",)

    def __init__(self, rows: int, hidden_size: int, init_std: float, dtype: ms.Type):
        super().__init__(rows, hidden_size, init_std)
        self.dtype, self.hidden_size, self.cast = dtype, hidden_size, ops.Cast()

    def construct(self, indices: Tensor) -> Tensor:
        """int32 [batch, seq] -> [batch*seq, H]"""
        return ops.reshape(self.cast(self.gather(self.weight, indices, 0), self.dtype), (-1, self.hidden_size))


class Head(nn.Cell):
    """The output table FP32 [vocab_size, hidden_size], and its bias [vocab_size] if the family's table has one."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        layer = config.table.layer("head")
        shape, std = layer.shape(config), getattr(config, layer.std)
        self.weight = Parameter(initializer(Normal(std), shape, ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", shape[:1], ms.float32), name="bias") if layer.bias else None


class CausalLoss(nn.Cell):
    """Σ mask·(nll + z-loss) of the next tokens and Σ mask. The training step divides the sums over the global batch.

    They are one tensor because a pipelined network may have only one output.
    """

    def __init__(self, model: nn.Cell, config: DecoderConfig, build: Build):
        super().__init__(auto_prefix=False)
        self.model = model
        rows, bias = build.micro_batch * build.seq_length, model.head is not None and model.head.bias is not None
        self.loss = (
            ChunkedCrossEntropy(rows, build.loss_chunk, bias, build.z_loss)
            if build.loss_chunk
            else CrossEntropy(config.vocab_size, build.dtype, bias, build.z_loss)
        )
        self.has_bias = bias
        self.sums = Sums()

    def construct(self, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor) -> Tensor:
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

    def construct(self, ids: Tensor, position: Tensor) -> Tensor:
        """ids int32 [batch, seq], position int32 [batch] -> FP32 logits [batch, V]"""
        (batch, seq_length), model = ids.shape, self.model
        rows = position + ops.arange(batch, dtype=ms.int32) * seq_length
        hidden = self.gather(model(ids, ops.zeros((batch,), ms.int32)), rows, 0)
        table = model.embedding.word.weight if model.head is None else model.head.weight
        logits = ops.cast(self.matmul(hidden, ops.cast(table, self.dtype)), ms.float32)
        return logits + model.head.bias if self.has_bias else logits
