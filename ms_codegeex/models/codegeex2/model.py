"""CodeGeeX2 (ChatGLM2 architecture): RMSNorm blocks, few heads of keys and values, a gated feed-forward part.

x = word[ids]
x = x + Attention(RMS(x));  x = x + down(silu(gate(y)) * up(y)) with y = RMS(x)      for each block
logits = RMS_final(x) headᵀ

Consecutive query heads share a head of keys and values. Rotary positions rotate the first `rotary_dim` channels of each
head of queries and keys (modeling_chatglm.py of the release).
"""

from __future__ import annotations

from functools import partial

from mindspore import Tensor, nn, ops

from ms_codegeex.models.causal import Attention, Build, CausalLogits, CausalLoss, FeedForward, Head, InputEmbedding
from ms_codegeex.models.codegeex2.config import CodeGeeX2Config
from ms_codegeex.models.layers import CausalMask, RotaryTable, SampleKeys


class Block(nn.Cell):
    """A pre-RMSNorm block; the residual is taken from the un-normalised stream."""

    computed_in_dtype = ("add_attention", "add_feed_forward")

    def __init__(self, config: CodeGeeX2Config, build: Build, index: int):
        super().__init__()
        self.attention_norm = build.rms_norm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config, build, 3 * index + 1)
        self.attention_dropout = build.drop(config.hidden_size, 3 * index + 2)
        self.feed_forward_norm = build.rms_norm(config.hidden_size, config.norm_eps)
        self.feed_forward = FeedForward(config, build)
        self.feed_forward_dropout = build.drop(config.hidden_size, 3 * index + 3)
        self.add_attention, self.add_feed_forward = ops.Add(), ops.Add()

    def construct(self, x: Tensor, mask: Tensor, sample_keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [batch*seq, H] -> [batch*seq, H]"""
        y = self.attention_norm(x)
        attended = self.attention(y, y, mask, sample_keys, cos, sin)
        x = self.add_attention(x, self.attention_dropout(attended, sample_keys))
        fed = self.feed_forward(self.feed_forward_norm(x), sample_keys)
        return self.add_feed_forward(x, self.feed_forward_dropout(fed, sample_keys))


class CodeGeeX2(nn.Cell):
    """The hidden states whose product with the head are the logits."""

    def __init__(self, config: CodeGeeX2Config, build: Build):
        super().__init__()
        self.hash_samples = SampleKeys()
        self.mask = CausalMask(build.seq_length, config.eos_token_id, build.reset_at_eos)
        positions, head, turned = config.max_position_embeddings, config.head_dim, config.rotary_dim
        self.rotary = RotaryTable(positions, head, turned, config.rotary_dtype)
        self.embedding = InputEmbedding(config, build)
        self.blocks = nn.CellList([Block(config, build, i) for i in range(config.num_layers)])
        self.final_norm = build.rms_norm(config.hidden_size, config.norm_eps)
        self.head = Head(config)

    def construct(self, ids: Tensor, samples: Tensor) -> Tensor:
        """ids int32 [batch, seq], sample numbers int32 [batch] -> [batch*seq, H]"""
        sample_keys = self.hash_samples(samples)
        mask, positions = self.mask(ids)
        cos, sin = self.rotary(positions)
        x = self.embedding(ids, sample_keys)
        for block in self.blocks:
            x = block(x, mask, sample_keys, cos, sin)
        return self.final_norm(x)


Loss = partial(CausalLoss, CodeGeeX2)  # the training network
Logits = partial(CausalLogits, CodeGeeX2)  # the generating network
