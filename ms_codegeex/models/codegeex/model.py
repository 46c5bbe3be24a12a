"""CodeGeeX (KDD 2023): pre-LayerNorm decoder blocks, then a query layer that asks for the next token.

x  = word[ids] + position[p]
x  = x + Attention(LN(x));  x = x + FFN(LN(x))                      for each block
y  = LN_final(x)
y  = y + Attention(query = top_query[p], key and value = LN(y));  y = y + FFN(LN(y))
logits = y wordᵀ
"""

from __future__ import annotations

from functools import partial

from mindspore import Tensor, nn, ops

from ms_codegeex.models.causal import (
    Attention,
    Build,
    CausalLogits,
    CausalLoss,
    FeedForward,
    Head,
    InputEmbedding,
    QueryEmbedding,
)
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.layers import CausalMask, SampleKeys


class Block(nn.Cell):
    """A pre-LayerNorm block; the residual is taken from the un-normalised stream.

    The top query layer is the same block with another query: `query` is then used without normalisation.
    """

    computed_in_dtype = ("add_attention", "add_feed_forward")

    def __init__(self, config: CodeGeeXConfig, build: Build, index: int):
        super().__init__()
        self.attention_norm = build.norm(config.hidden_size, config.layer_norm_eps)
        self.attention = Attention(config, build, 3 * index + 1)
        self.attention_dropout = build.drop(config.hidden_size, 3 * index + 2)
        self.feed_forward_norm = build.norm(config.hidden_size, config.layer_norm_eps)
        self.feed_forward = FeedForward(config, build)
        self.feed_forward_dropout = build.drop(config.hidden_size, 3 * index + 3)
        self.add_attention, self.add_feed_forward = ops.Add(), ops.Add()

    def construct(self, x: Tensor, mask: Tensor, sample_keys: Tensor, query: Tensor | None = None) -> Tensor:
        """x [batch*seq, H] -> [batch*seq, H]"""
        memory = self.attention_norm(x)
        attended = self.attention(memory if query is None else query, memory, mask, sample_keys)
        x = self.add_attention(x, self.attention_dropout(attended, sample_keys))
        fed = self.feed_forward(self.feed_forward_norm(x), sample_keys)
        return self.add_feed_forward(x, self.feed_forward_dropout(fed, sample_keys))


class CodeGeeX(nn.Cell):
    """The hidden states whose product with the word table are the logits."""

    def __init__(self, config: CodeGeeXConfig, build: Build):
        super().__init__()
        self.hash_samples = SampleKeys()
        self.mask = CausalMask(build.seq_length, config.eos_token_id, build.reset_at_eos)
        self.embedding = InputEmbedding(config, build, learned_positions=True)
        self.blocks = nn.CellList([Block(config, build, i) for i in range(config.num_layers)])
        self.final_norm = build.norm(config.hidden_size, config.layer_norm_eps)
        queries = config.max_position_embeddings, config.hidden_size, config.init_std
        self.top_query_embedding = QueryEmbedding(*queries, build.dtype)
        self.top_query_layer = Block(config, build, config.num_layers)
        self.head = Head(config) if build.head_table else None

    def construct(self, ids: Tensor, samples: Tensor) -> Tensor:
        """ids int32 [batch, seq], sample numbers int32 [batch] -> [batch*seq, H]"""
        sample_keys = self.hash_samples(samples)
        mask, positions = self.mask(ids)
        x = self.embedding(ids, sample_keys, positions)
        for block in self.blocks:
            x = block(x, mask, sample_keys)
        return self.top_query_layer(self.final_norm(x), mask, sample_keys, self.top_query_embedding(positions))


Loss = partial(CausalLoss, CodeGeeX)  # the training network
Logits = partial(CausalLogits, CodeGeeX)  # the generating network
