"""The common part of all families' language models: construction, embedding, head and loss. A family's network maps ids
int32 [batch, seq] and sample numbers int32 [batch] to hidden states [batch*seq, H]. It has the cells `hash_samples`,
`mask`, `embedding`, `blocks` and `head`, which is None where the output layer multiplies with the word table,
`embedding.word`; and `rotary` if positions rotate queries and keys. A block has `attention` with its `core`,
`feed_forward` with its `activation`, and two dropouts and additions. Every other cell comes after the blocks. A
family's `Loss` and `Logits` are `CausalLoss` and `CausalLogits` (`logits.py`) of its network."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, initializer

from ms_codegeex.models import compiled
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.documents import TRIANGLE_SIDE, DocumentAttention, DocumentEnds
from ms_codegeex.models.fused import FusedAttention, FusedDropout, FusedLayerNorm, FusedRMSNorm
from ms_codegeex.models.layers import (
    AttentionCore,
    CausalMask,
    Dropout,
    DropoutBits,
    Embedding,
    FastGelu,
    Heads,
    LayerNorm,
    Linear,
    RMSNorm,
    RotaryTable,
    SwiGlu,
    hold_frozen,
    keys_in_block,
)
from ms_codegeex.models.losses import ChunkedCrossEntropy, CrossEntropy, Sums


@dataclass(frozen=True)
class Build:
    """How a model is built, apart from its sizes; makes its layers. `loss_chunk` > 0 chooses the chunked loss (FP32
    only) with `micro_batch` sequences a call. `head_table` gives the head of a tied model a separate word table, for
    pipelines: the last stage cannot reach the embedding's. The training step keeps the two equal. `kernels`: names of
    the cells that are the fused ones, as in `parallel.fusion`. `documents`: how many of a row fused attention takes by
    their ends; 0: it takes a mask. `library`: the path of the operators that are compiled for this CPU; "" for none
    (FP32 only)."""

    seq_length: int
    dtype: ms.Type = ms.float32
    dropout: float = 0.0
    attention_dropout: float = 0.0
    seed: int = 0
    reset_at_eos: bool = True
    micro_batch: int = 1
    loss_chunk: int = 0
    z_loss: float = 0.0
    head_table: bool = False
    kernels: Collection[str] = ()
    documents: int = 0
    library: str = ""

    @cached_property
    def triangle(self) -> Tensor:
        return Tensor(np.triu(np.ones((TRIANGLE_SIDE, TRIANGLE_SIDE), np.uint8), 1))

    def linear(self, config: DecoderConfig, name: str) -> Linear:
        """Return the linear layer of that name in the family's table."""
        layer = config.table.layer(name)
        rows, columns = layer.shape(config)
        std = getattr(config, layer.std)
        if self.library:
            return compiled.CompiledLinear(self.library, columns, rows, std, layer.bias)
        return Linear(columns, rows, std, self.dtype, layer.bias)

    def embedding(self, config: DecoderConfig, name: str) -> Embedding:
        layer = config.table.layer(name)
        return Embedding(*layer.shape(config), getattr(config, layer.std))

    def norm(self, config: DecoderConfig) -> LayerNorm | RMSNorm:
        """Return the family's norm over the last axis."""
        sizes = config.hidden_size, config.norm_epsilon, self.dtype
        if self.library:
            return (compiled.CompiledRMSNorm if config.rms_norm else compiled.CompiledLayerNorm)(self.library, *sizes)
        if "norm" not in self.kernels:
            return (RMSNorm if config.rms_norm else LayerNorm)(*sizes)
        return FusedRMSNorm(*sizes) if config.rms_norm else FusedLayerNorm(*sizes, "aclnn_norm" in self.kernels)

    def drop(self, width: int, site: int) -> Dropout | FusedDropout:
        return self._drop(self.dropout, (self.seq_length, width), site)

    def _drop(self, rate: float, shape: tuple[int, ...], site: int) -> Dropout | FusedDropout:
        return (FusedDropout if "dropout" in self.kernels else Dropout)(rate, shape, site, self.seed)

    def attention(self, config: DecoderConfig, site: int) -> AttentionCore:
        """Return attention without its projections; its dropout has the number `site`."""
        softmax, product = ms.float32 if config.softmax_fp32 else self.dtype, self.scores(config)
        heads = Heads(config.num_heads, config.head_dim, config.num_kv_groups)
        square, fused = (heads.count, self.seq_length, self.seq_length), "attention" in self.kernels
        dropout = self._drop(self.attention_dropout, square, site)
        if fused:
            dropout = DropoutBits(self.attention_dropout, square, site, self.seed)
        arguments = heads, self.dtype, softmax, dropout, config.rotary_dim > 0, product
        if self.library and not dropout.active:
            return compiled.CompiledAttention(self.library, *arguments)
        if self.documents:
            return DocumentAttention(self.seq_length, self.triangle, *arguments)
        return (FusedAttention if fused else AttentionCore)(*arguments)

    def scores(self, config: DecoderConfig) -> ms.Type:
        return ms.float32 if config.scores_fp32 else self.dtype

    def mask(self, config: DecoderConfig) -> CausalMask | compiled.CompiledMask | DocumentEnds:
        """Return the cell that makes the mask for `attention`."""
        if self.library and not self.attention_dropout:
            return compiled.CompiledMask(self.library, config.eos_token_id, self.reset_at_eos)
        settings = self.seq_length, config.eos_token_id, self.reset_at_eos
        return DocumentEnds(*settings, self.micro_batch, self.documents) if self.documents else CausalMask(*settings)

    def rotary_table(self, config: DecoderConfig, kind: Callable[..., RotaryTable] = RotaryTable) -> RotaryTable:
        sizes = config.max_position_embeddings, config.head_dim, config.rotary_dim
        return kind(*sizes, config.rotary_dtype, config.rotary_base)

    def loss(self, config: DecoderConfig, bias: bool) -> nn.Cell:
        """Return the cross entropy, with a bias of the logits if `bias`."""
        if self.loss_chunk:
            settings = self.micro_batch * self.seq_length, self.loss_chunk, bias, self.z_loss
            if self.library:
                return compiled.CompiledCrossEntropy(self.library, *settings)
            return ChunkedCrossEntropy(*settings)
        return CrossEntropy(config.vocab_size, self.dtype, bias, self.z_loss)

    def activation(self, config: DecoderConfig) -> nn.Cell | ops.Primitive:
        """Return the activation between the products of a feed-forward part."""
        composed = {"fast_gelu": FastGelu, "gelu": ops.GeLU, "swiglu": SwiGlu}[config.activation]()
        if self.library and type(composed) in compiled.ACTIVATIONS:
            return compiled.CompiledActivation(self.library, composed)
        return composed


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


class Attention(nn.Cell):
    """Attention with its projections of query, key, value and output; `rotary_dim` channels of a head are rotated.
    `narrow`: what the adapters of query, key and value share, if they do (`models/lora.py`)."""

    def __init__(self, config: DecoderConfig, build: Build, site: int):
        super().__init__()
        self.query = build.linear(config, "attention.query")
        self.key = build.linear(config, "attention.key")
        self.value = build.linear(config, "attention.value")
        self.output = build.linear(config, "attention.output")
        self.core = build.attention(config, site)
        self.narrow = None

    def construct(
        self,
        query: Tensor,
        memory: Tensor,
        mask: Tensor,
        sample_keys: Tensor,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
    ) -> Tensor:
        """query and memory, of which keys and values are made, [batch*seq, H] -> [batch*seq, H]"""
        low = sample_keys if self.narrow is None else self.narrow(memory, sample_keys)
        q, k, v = self.query(query, low), self.key(memory, low), self.value(memory, low)
        return self.output(self.core(q, k, v, mask, sample_keys, cos, sin), sample_keys)


class FeedForward(nn.Cell):
    """down(activation(up(x))), or down(silu(gate(x)) * up(x)) for swiglu. `narrow`: what the adapters of gate and up
    share, if they do."""

    def __init__(self, config: DecoderConfig, build: Build):
        super().__init__()
        gated = config.activation == "swiglu"
        self.gate = build.linear(config, "feed_forward.gate") if gated else None
        self.up = build.linear(config, "feed_forward.up")
        self.activation = build.activation(config)
        self.down = build.linear(config, "feed_forward.down")
        self.computed_in_dtype = ("activation",) if isinstance(self.activation, ops.Primitive) else ()
        self.shifts = isinstance(self.activation, compiled.CompiledActivation)
        self.narrow = None

    def construct(self, x: Tensor, sample_keys: Tensor) -> Tensor:
        """[rows, H] -> [rows, H]"""
        low = sample_keys if self.narrow is None else self.narrow(x, sample_keys)
        if self.shifts:
            up, down = self.up.product(x, low), self.down
            if down.active is not None:
                return down.active(up, self.up.shift(), self.activation.kind, down.weight, down.bias)
            return down(self.activation(up, self.up.shift()), sample_keys)
        up = self.up(x, low)
        active = self.activation(up) if self.gate is None else self.activation(self.gate(x, low), up)
        return self.down(active, sample_keys)


class Block(nn.Cell):
    """A pre-norm block: attention and feed-forward part read the normalised stream, and add to the stream itself. If
    `query` is given, which is not normalised, it provides the queries of the attention."""

    computed_in_dtype = ("add_attention", "add_feed_forward")

    def __init__(self, config: DecoderConfig, build: Build, index: int):
        super().__init__()
        self.attention_norm = build.norm(config)
        self.attention = Attention(config, build, 3 * index + 1)
        self.attention_dropout = build.drop(config.hidden_size, 3 * index + 2)
        self.feed_forward_norm = build.norm(config)
        self.feed_forward = FeedForward(config, build)
        self.feed_forward_dropout = build.drop(config.hidden_size, 3 * index + 3)
        self.add_attention, self.add_feed_forward = ops.Add(), ops.Add()

    def construct(
        self,
        x: Tensor,
        mask: Tensor,
        sample_keys: Tensor,
        cos: Tensor | None = None,
        sin: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """x [batch*seq, H] -> [batch*seq, H]"""
        memory = self.attention_norm(x)
        sample_keys = keys_in_block(sample_keys, memory)
        attended = self.attention(memory if query is None else query, memory, mask, sample_keys, cos, sin)
        x = self.add_attention(x, self.attention_dropout(attended, sample_keys))
        fed = self.feed_forward(self.feed_forward_norm(x), sample_keys)
        return self.add_feed_forward(x, self.feed_forward_dropout(fed, sample_keys))


class Head(nn.Cell):
    """The output table FP32 [vocab_size, hidden_size], and its bias [vocab_size] if the family's table has one."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        layer = config.table.layer("head")
        shape, std = layer.shape(config), getattr(config, layer.std)
        self.weight = Parameter(initializer(Normal(std), shape, ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", shape[:1], ms.float32), name="bias") if layer.bias else None

    def hold(self, held: ms.Type) -> None:
        hold_frozen(self, held)


def has_bias(model: nn.Cell) -> bool:
    return model.head is not None and model.head.bias is not None


class CausalLoss(nn.Cell):
    """Σ mask·(nll + z-loss) of the next tokens and Σ mask. The training step divides the sums over the global batch.
    They are one tensor because a pipelined network may have only one output."""

    def __init__(self, network: Callable[[DecoderConfig, Build], nn.Cell], config: DecoderConfig, build: Build):
        super().__init__(auto_prefix=False)
        self.model = network(config, build)
        self.has_bias = has_bias(self.model)
        self.loss = build.loss(config, self.has_bias)
        self.sums = Sums()

    def construct(self, inputs: Tensor, labels: Tensor, loss_mask: Tensor, samples: Tensor) -> Tensor:
        """inputs and labels int32 [batch, seq], loss_mask FP32 [batch, seq], samples int32 [batch] -> FP32 [3]"""
        hidden, model = self.model(inputs, samples), self.model
        table = model.embedding.word.weight if model.head is None else model.head.weight
        labels, mask = ops.reshape(labels, (-1,)), ops.reshape(loss_mask, (-1,))
        bias = model.head.bias if self.has_bias else None
        return self.sums(self.loss(hidden, table, labels, mask, bias), mask)
