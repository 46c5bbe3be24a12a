"""CodeGeeX2 (ChatGLM2's architecture) in plain PyTorch, written from its formulas with the published parameter names;
calls none of the package's code.

`CodeGeeX2(...).load_state_dict(tensors)` takes the tensors of a model directory, strictly. Works in any dtype
(`.double()`), batch first. `rotary_precision` rounds positions, frequencies and angles as a model in that dtype does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Sizes:
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    groups: int
    inner: int
    turned: int  # channels of a head that are turned
    epsilon: float = 1e-5
    rotary_precision: torch.dtype = torch.float32
    base: float = 10000.0

    @property
    def head(self):
        return self.hidden // self.heads

    @classmethod
    def of(cls, config, precision=torch.float32):
        """Those of our configuration."""
        sizes = config.vocab_size, config.hidden_size, config.num_layers, config.num_heads, config.num_kv_groups
        return cls(*sizes, config.intermediate_size, config.rotary_dim, config.norm_eps, precision, config.rotary_base)


def turn(x, positions, turned, precision=torch.float32, base=10000.0):
    """Pairs (2i, 2i+1), i < turned/2, as complex numbers times e^(i·position·base^(-2i/turned)).

    x [batch, heads, n, d], positions int [batch, n]. The angle is computed in FP32 numbers, or in `precision`, which
    then rounds cosine and sine as well.
    """
    exponents = torch.arange(0, turned, 2, dtype=torch.float32) / turned
    frequencies = (1.0 / base**exponents).to(precision)
    angles = (positions.to(precision)[:, None, :, None] * frequencies).double()
    real, imaginary = angles.cos().float().to(precision), angles.sin().float().to(precision)
    phase = torch.complex(real.double(), imaginary.double())
    pairs = torch.view_as_complex(x[..., :turned].double().unflatten(-1, (-1, 2)).contiguous())
    return torch.cat([torch.view_as_real(pairs * phase).flatten(-2).to(x.dtype), x[..., turned:]], -1)


class RMSNorm(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(sizes.hidden)), sizes.epsilon

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.epsilon) * self.weight


class SelfAttention(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.sizes, groups = sizes, sizes.groups * sizes.head
        self.query_key_value = nn.Linear(sizes.hidden, sizes.hidden + 2 * groups)
        self.dense = nn.Linear(sizes.hidden, sizes.hidden, bias=False)

    def forward(self, x, positions, visible):
        s = self.sizes
        q, k, v = self.query_key_value(x).split([s.hidden, s.groups * s.head, s.groups * s.head], -1)
        q, k, v = (part.unflatten(-1, (-1, s.head)).transpose(1, 2) for part in (q, k, v))
        q, k = (turn(part, positions, s.turned, s.rotary_precision, s.base) for part in (q, k))
        results = []
        for head in range(s.heads):  # one by one, so that a long sequence has one matrix of scores at a time
            group = head // (s.heads // s.groups)
            scores = q[:, head] @ k[:, group].transpose(-1, -2) / math.sqrt(s.head)
            results.append(torch.softmax(scores.masked_fill(~visible, -math.inf), -1) @ v[:, group])
        return self.dense(torch.cat(results, -1))


class Mlp(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(sizes.hidden, 2 * sizes.inner, bias=False)
        self.dense_4h_to_h = nn.Linear(sizes.inner, sizes.hidden, bias=False)

    def forward(self, x):
        gate, up = self.dense_h_to_4h(x).chunk(2, -1)
        return self.dense_4h_to_h(gate / (1 + torch.exp(-gate)) * up)


class Layer(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(sizes), RMSNorm(sizes)
        self.self_attention, self.mlp = SelfAttention(sizes), Mlp(sizes)

    def forward(self, x, positions, visible):
        x = x + self.self_attention(self.input_layernorm(x), positions, visible)
        return x + self.mlp(self.post_attention_layernorm(x))


def _holding(**children):
    module = nn.Module()
    for name, child in children.items():
        module.add_module(name, child)
    return module


class CodeGeeX2(nn.Module):
    """`CodeGeeX2(Sizes(...))(ids)` are the logits [batch, n, vocabulary] of ids int64 [batch, n]."""

    def __init__(self, sizes):
        super().__init__()
        self.transformer = _holding(
            embedding=_holding(word_embeddings=nn.Embedding(sizes.vocabulary, sizes.hidden)),
            encoder=_holding(
                layers=nn.ModuleList(Layer(sizes) for _ in range(sizes.layers)), final_layernorm=RMSNorm(sizes)
            ),
            output_layer=nn.Linear(sizes.hidden, sizes.vocabulary, bias=False),
        )

    def forward(self, ids):
        n = ids.shape[1]
        visible, positions = torch.ones(n, n, dtype=torch.bool).tril(), torch.arange(n).expand(ids.shape)
        x = self.transformer.embedding.word_embeddings(ids)
        for layer in self.transformer.encoder.layers:
            x = layer(x, positions, visible)
        return self.transformer.output_layer(self.transformer.encoder.final_layernorm(x))
