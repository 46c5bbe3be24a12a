"""CodeGen (ICLR 2023): decoder blocks whose attention and feed-forward part read the same normalised input.

x = word[ids]
y = LN(x);  x = x + Attention(y) + FFN(y)                           for each block
logits = LN_final(x) headᵀ + bias

Rotary positions rotate the first `rotary_dim` channels of each head of queries and keys (modeling_codegen.py of the
release).
"""

from __future__ import annotations

from functools import partial

from mindspore import Tensor, nn, ops

from ms_codegeex.models.causal import Attention, Build, CausalLoss, FeedForward
from ms_codegeex.models.codegen.config import CodeGenConfig
from ms_codegeex.models.layers import keys_in_block
from ms_codegeex.models.logits import CausalLogits
from ms_codegeex.models.rotary_decoder import RotaryDecoder


class ParallelBlock(nn.Cell):
    """Attention and feed-forward part side by side after one LayerNorm."""

    computed_in_dtype = ("add_attention", "add_feed_forward")

    def __init__(self, config: CodeGenConfig, build: Build, index: int):
        super().__init__()
        self.norm = build.norm(config)
        self.attention = Attention(config, build, 3 * index + 1)
        self.attention_dropout = build.drop(config.hidden_size, 3 * index + 2)
        self.feed_forward = FeedForward(config, build)
        self.feed_forward_dropout = build.drop(config.hidden_size, 3 * index + 3)
        self.add_attention, self.add_feed_forward = ops.Add(), ops.Add()

    def construct(self, x: Tensor, mask: Tensor, sample_keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch*seq, H] -> [batch*seq, H]"""
        y = self.norm(x)
        sample_keys = keys_in_block(sample_keys, y)
        attended = self.attention_dropout(self.attention(y, y, mask, sample_keys, cos, sin), sample_keys)
        fed = self.feed_forward_dropout(self.feed_forward(y, sample_keys), sample_keys)
        return self.add_feed_forward(self.add_attention(x, attended), fed)


CodeGen = partial(RotaryDecoder, ParallelBlock)
Loss = partial(CausalLoss, CodeGen)  # the training network
Logits = partial(CausalLogits, CodeGen)  # the generating network
