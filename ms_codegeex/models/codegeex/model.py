"""CodeGeeX (KDD 2023): pre-LayerNorm decoder blocks, then a query layer that asks for the next token.

x  = word[ids] + position[p]
x  = x + Attention(LN(x));  x = x + FFN(LN(x))                      for each block
y  = LN_final(x)
y  = y + Attention(query = top_query[p], key and value = LN(y));  y = y + FFN(LN(y))
logits = y wordᵀ
"""

from __future__ import annotations

from dataclasses import dataclass, field

import mindspore as ms
from mindspore import nn, ops

from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.fused import Kernels
from ms_codegeex.models.layers import AttentionCore, CausalMask, Dropout, Embedding, FastGelu, LayerNorm, Linear
from ms_codegeex.models.losses import ChunkedCrossEntropy, CrossEntropy, Sums


@dataclass(frozen=True)
class Build:
    """How a model is built, beside its sizes.

    `loss_chunk` > 0 chooses the chunked loss (FP32 only) with `micro_batch` sequences a call. `head_table` gives the
    head a word table of its own, for pipelines: the last stage cannot reach the embedding's. The step keeps it equal.
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

    def norm(self, config: CodeGeeXConfig) -> LayerNorm:
        """LN over the hidden size"""
        return self.kernels.layer_norm(config.hidden_size, config.layer_norm_eps, self.dtype)

    def drop(self, width: int, site: int) -> Dropout:
        """dropout number `site` of `width` elements a token"""
        return self.kernels.drop(self.dropout, self.seq_length * width, site, self.seed)

    def attention(self, config: CodeGeeXConfig, site: int) -> AttentionCore:
        """multi-head attention without its projections"""
        heads, softmax_dtype = config.num_heads, ms.float32 if config.softmax_fp32 else self.dtype
        size, dropout = config.hidden_size // heads, self.drop(heads * self.seq_length, site)
        return self.kernels.attention_core(heads, size, self.seq_length, self.dtype, softmax_dtype, dropout)


class Attention(nn.Cell):
    """Multi-head attention with separate query, key, value and output projections, all with bias."""

    def __init__(self, config: CodeGeeXConfig, build: Build, site: int):
        super().__init__()
        h = config.hidden_size
        self.query = Linear(h, h, config.init_std, build.dtype)
        self.key = Linear(h, h, config.init_std, build.dtype)
        self.value = Linear(h, h, config.init_std, build.dtype)
        self.output = Linear(h, h, config.init_std, build.dtype)
        self.core = build.attention(config, site)

    def construct(self, query, memory, mask, samples):
        """query and memory [batch*seq, H] -> [batch*seq, H]"""
        return self.output(self.core(self.query(query), self.key(memory), self.value(memory), mask, samples))


class FeedForward(nn.Cell):
    """down(fast_gelu(up(x)))"""

    def __init__(self, config: CodeGeeXConfig, build: Build):
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, config.init_std, build.dtype)
        self.activation = FastGelu()
        self.down = Linear(config.intermediate_size, config.hidden_size, config.init_std, build.dtype)

    def construct(self, x):
        """[rows, H] -> [rows, H]"""
        return self.down(self.activation(self.up(x)))


class Block(nn.Cell):
    """A pre-LayerNorm block; the residual is taken from the un-normalised stream.

    The top query layer is the same block with another query: `query` is then used as it is, not normalised.
    """

    def __init__(self, config: CodeGeeXConfig, build: Build, index: int):
        super().__init__()
        self.attention_norm = build.norm(config)
        self.attention = Attention(config, build, 3 * index + 1)
        self.attention_dropout = build.drop(config.hidden_size, 3 * index + 2)
        self.feed_forward_norm = build.norm(config)
        self.feed_forward = FeedForward(config, build)
        self.feed_forward_dropout = build.drop(config.hidden_size, 3 * index + 3)
        self.add_attention, self.add_feed_forward = ops.Add(), ops.Add()

    def construct(self, x, mask, samples, query=None):
        """x [batch*seq, H] -> [batch*seq, H]"""
        memory = self.attention_norm(x)
        attended = self.attention(memory if query is None else query, memory, mask, samples)
        x = self.add_attention(x, self.attention_dropout(attended, samples))
        fed = self.feed_forward(self.feed_forward_norm(x))
        return self.add_feed_forward(x, self.feed_forward_dropout(fed, samples))


class InputEmbedding(nn.Cell):
    """word[ids] + position[p], dropout, cast to the compute dtype."""

    def __init__(self, config: CodeGeeXConfig, build: Build):
        super().__init__()
        self.dtype, self.hidden_size = build.dtype, config.hidden_size
        self.word = Embedding(config.vocab_size, config.hidden_size, config.init_std)
        self.position = Embedding(config.max_position_embeddings, config.hidden_size, config.init_std)
        self.dropout = build.drop(config.hidden_size, 0)
        self.add, self.cast = ops.Add(), ops.Cast()

    def construct(self, ids, positions, samples):
        """int32 [batch, seq] twice -> [batch*seq, H]"""
        x = self.dropout(self.add(self.word(ids), self.position(positions)), samples)
        return ops.reshape(self.cast(x, self.dtype), (-1, self.hidden_size))


class CodeGeeX(nn.Cell):
    """The hidden states whose product with the word table are the logits."""

    def __init__(self, config: CodeGeeXConfig, build: Build):
        super().__init__()
        self.dtype, self.hidden_size = build.dtype, config.hidden_size
        self.mask = CausalMask(build.seq_length, config.eos_token_id, build.reset_at_eos)
        self.embedding = InputEmbedding(config, build)
        self.blocks = nn.CellList([Block(config, build, i) for i in range(config.num_layers)])
        self.final_norm = build.norm(config)
        self.top_query_embedding = Embedding(config.max_position_embeddings, config.hidden_size, config.init_std)
        self.top_query_layer = Block(config, build, config.num_layers)
        self.cast_query = ops.Cast()

    def construct(self, ids, samples):
        """ids int32 [batch, seq], sample numbers int32 [batch] -> [batch*seq, H]"""
        mask, positions = self.mask(ids)
        x = self.embedding(ids, positions, samples)
        for block in self.blocks:
            x = block(x, mask, samples)
        query = self.cast_query(self.top_query_embedding(positions), self.dtype)
        return self.top_query_layer(self.final_norm(x), mask, samples, ops.reshape(query, (-1, self.hidden_size)))


class Loss(nn.Cell):
    """Σ mask·nll of the next tokens and Σ mask; whoever trains divides the one by the other over the global batch.

    The two are one tensor because a pipelined network may have a single output.
    """

    def __init__(self, config: CodeGeeXConfig, build: Build):
        super().__init__(auto_prefix=False)
        self.model = CodeGeeX(config, build)
        rows = build.micro_batch * build.seq_length
        self.loss = (
            ChunkedCrossEntropy(rows, build.loss_chunk)
            if build.loss_chunk
            else CrossEntropy(config.vocab_size, build.dtype)
        )
        self.head = None
        if build.head_table:
            self.head = Embedding(config.vocab_size, config.hidden_size, config.init_std)
            self.head.update_parameters_name("head.")
        self.sums = Sums()

    def construct(self, inputs, labels, loss_mask, samples):
        """inputs and labels int32 [batch, seq], loss_mask FP32 [batch, seq], samples int32 [batch] -> FP32 [3]"""
        hidden = self.model(inputs, samples)
        table = self.model.embedding.word.weight if self.head is None else self.head.weight
        labels, mask = ops.reshape(labels, (-1,)), ops.reshape(loss_mask, (-1,))
        return self.sums(self.loss(hidden, table, labels, mask), mask)


class Logits(nn.Cell):
    """Logits at one position of each sequence, for generation."""

    def __init__(self, config: CodeGeeXConfig, build: Build):
        super().__init__(auto_prefix=False)
        self.model = CodeGeeX(config, build)
        self.seq_length = build.seq_length
        self.dtype = build.dtype
        self.matmul, self.gather = ops.MatMul(transpose_b=True), ops.Gather()

    def construct(self, ids, position):
        """ids int32 [batch, seq], position int32 [batch] -> FP32 logits [batch, V]"""
        batch = ids.shape[0]
        rows = position + ops.arange(batch, dtype=ms.int32) * self.seq_length
        hidden = self.gather(self.model(ids, ops.zeros((batch,), ms.int32)), rows, 0)
        table = ops.cast(self.model.embedding.word.weight, self.dtype)
        return ops.cast(self.matmul(hidden, table), ms.float32)
