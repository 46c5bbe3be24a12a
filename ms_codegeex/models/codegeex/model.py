"""CodeGeeX (KDD 2023): pre-LayerNorm decoder blocks, then a query layer that asks for the next token.

x  = word[ids] + position[p]
x  = x + Attention(LN(x));  x = x + FFN(LN(x))                      for each block
y  = LN_final(x)
y  = y + Attention(query = top_query[p], key and value = LN(y));  y = y + FFN(LN(y))
logits = y wordᵀ
"""

from __future__ import annotations

from functools import partial

from mindspore import Tensor, nn

from ms_codegeex.models.causal import Block, Build, CausalLoss, Head, InputEmbedding, QueryEmbedding
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.layers import SampleKeys
from ms_codegeex.models.logits import CausalLogits


class CodeGeeX(nn.Cell):
    """The hidden states whose product with the word table are the logits."""

    def __init__(self, config: CodeGeeXConfig, build: Build):
        super().__init__()
        self.hash_samples = SampleKeys()
        self.mask = build.mask(config)
        self.embedding = InputEmbedding(config, build, learned_positions=True)
        self.blocks = nn.CellList([Block(config, build, i) for i in range(config.num_layers)])
        self.final_norm = build.norm(config)
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
        query = self.top_query_embedding(positions)
        return self.top_query_layer(self.final_norm(x), mask, sample_keys, None, None, query)


Loss = partial(CausalLoss, CodeGeeX)  # the training network
Logits = partial(CausalLogits, CodeGeeX)  # the generating network
