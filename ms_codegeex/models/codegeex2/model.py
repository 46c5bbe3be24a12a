"""CodeGeeX2 (ChatGLM2 architecture): RMSNorm blocks, few heads of keys and values, a gated feed-forward part.

x = word[ids]
x = x + Attention(RMS(x));  x = x + down(silu(gate(y)) * up(y)) with y = RMS(x)      for each block
logits = RMS_final(x) headᵀ

Consecutive query heads share a head of keys and values. Rotary positions rotate the first `rotary_dim` channels of each
head of queries and keys (modeling_chatglm.py of the release).
"""

from __future__ import annotations

from functools import partial

from ms_codegeex.models.causal import Block, CausalLoss
from ms_codegeex.models.logits import CausalLogits
from ms_codegeex.models.rotary_decoder import RotaryDecoder

CodeGeeX2 = partial(RotaryDecoder, Block)
Loss = partial(CausalLoss, CodeGeeX2)  # the training network
Logits = partial(CausalLogits, CodeGeeX2)  # the generating network
