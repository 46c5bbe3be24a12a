"""Qwen2 (Qwen2.5-Coder): RMSNorm blocks, few heads of keys and values, a gated feed-forward part.

x = word[ids]
x = x + Attention(RMS(x));  x = x + down(silu(gate(y)) * up(y)) with y = RMS(x)      for each block
logits = RMS_final(x) headᵀ, or wordᵀ where the head is tied

Consecutive query heads share a head of keys and values; query, key and value have biases. Rotary positions rotate all
channels of queries and keys (modeling_qwen2.py of transformers, which pairs the channels of a head's two halves; ours
are renumbered so that neighbours are pairs, see `weights.py`).
"""

from __future__ import annotations

from functools import partial

from ms_codegeex.models.causal import Block, CausalLoss
from ms_codegeex.models.logits import CausalLogits
from ms_codegeex.models.rotary_decoder import RotaryDecoder

Qwen2 = partial(RotaryDecoder, Block)
Loss = partial(CausalLoss, Qwen2)  # the training network
Logits = partial(CausalLogits, Qwen2)  # the generating network
