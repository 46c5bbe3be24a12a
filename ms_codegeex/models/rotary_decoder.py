"""The network of the families whose positions rotate queries and keys."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import Tensor, nn

from ms_codegeex.models.causal import Build, Head, InputEmbedding
from ms_codegeex.models.decoder_config import DecoderConfig
from ms_codegeex.models.layers import SampleKeys


class RotaryDecoder(nn.Cell):
    """Blocks that rotate queries and keys. The logits are the product of its hidden states with the head."""

    def __init__(self, block: Callable[[DecoderConfig, Build, int], nn.Cell], config: DecoderConfig, build: Build):
        super().__init__()
        self.hash_samples = SampleKeys()
        self.mask = build.mask(config)
        self.rotary = build.rotary_table(config)
        self.embedding = InputEmbedding(config, build)
        self.blocks = nn.CellList([block(config, build, i) for i in range(config.num_layers)])
        self.final_norm = build.norm(config)
        self.head = Head(config) if build.head_table or not config.tied_head else None

    def construct(self, ids: Tensor, samples: Tensor) -> Tensor:
        """ids int32 [batch, seq], sample numbers int32 [batch] -> [batch*seq, H]"""
        sample_keys = self.hash_samples(samples)
        mask, positions = self.mask(ids)
        cos, sin = self.rotary(positions)
        x = self.embedding(ids, sample_keys)
        for block in self.blocks:
            x = block(x, mask, sample_keys, cos, sin)
        return self.final_norm(x)
