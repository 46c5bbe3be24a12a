"""CodeGeeX in plain PyTorch, written from the paper's formulas with the package's parameter names; calls none of its
code.

Serves as an oracle for gradients and as the peer of `benchmarks/train_step.py`. Tensors under the published names are
loaded by way of `names.codegeex`.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(hidden, hidden) for _ in range(4))

    def forward(self, query, memory, bias):
        batch, n, hidden = memory.shape

        def split(x):
            return x.view(batch, n, self.heads, hidden // self.heads).transpose(1, 2)

        q, k, v = split(self.query(query)), split(self.key(memory)), split(self.value(memory))
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias, -1)
        return self.output((weights @ v).transpose(1, 2).reshape(batch, n, hidden))


class FeedForward(nn.Module):
    def __init__(self, hidden, inner):
        super().__init__()
        self.up, self.down = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x):
        x = self.up(x)
        return self.down(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    def __init__(self, hidden, heads, inner, epsilon):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(hidden, epsilon), nn.LayerNorm(hidden, epsilon)
        self.attention, self.feed_forward = Attention(hidden, heads), FeedForward(hidden, inner)

    def forward(self, x, bias, query=None):
        memory = self.attention_norm(x)
        x = x + self.attention(memory if query is None else query, memory, bias)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Embedding(nn.Module):
    def __init__(self, vocabulary, positions, hidden):
        super().__init__()
        self.word, self.position = nn.Embedding(vocabulary, hidden), nn.Embedding(positions, hidden)


class CodeGeeX(nn.Module):
    """`CodeGeeX(vocabulary=…, …)(inputs, labels, mask)` is Σ mask·nll / Σ mask; `logits(inputs)` what it is made of."""

    def __init__(self, vocabulary, hidden, layers, heads, inner, positions, epsilon=1e-5, eos=50256, reset=True):
        super().__init__()
        self.eos, self.reset = eos, reset
        self.embedding = Embedding(vocabulary, positions, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, inner, epsilon) for _ in range(layers))
        self.final_norm = nn.LayerNorm(hidden, epsilon)
        self.top_query_embedding = nn.Embedding(positions, hidden)
        self.top_query_layer = Block(hidden, heads, inner, epsilon)

    @classmethod
    def of(cls, config, reset=True):
        """The model of our configuration."""
        sizes = config.hidden_size, config.num_layers, config.num_heads, config.intermediate_size
        places = config.max_position_embeddings, config.layer_norm_eps, config.eos_token_id
        return cls(config.vocab_size, *sizes, *places, reset)

    def visibility(self, ids):
        n = ids.shape[1]
        visible = torch.ones(n, n, dtype=torch.bool, device=ids.device).tril().expand(ids.shape[0], n, n)
        if self.reset:
            ended = (ids == self.eos).long()
            segment = ended.cumsum(1) - ended
            visible = visible & (segment[:, :, None] == segment[:, None, :])
        return visible, visible.sum(-1) - 1

    def logits(self, inputs):
        visible, positions = self.visibility(inputs)
        bias = torch.where(visible, 0.0, -10000.0)[:, None]
        x = self.embedding.word(inputs) + self.embedding.position(positions)
        for block in self.blocks:
            x = block(x, bias)
        x = self.top_query_layer(self.final_norm(x), bias, self.top_query_embedding(positions))
        return x @ self.embedding.word.weight.T

    def forward(self, inputs, labels, mask):
        nll = F.cross_entropy(self.logits(inputs).flatten(0, 1), labels.flatten(), reduction="none")
        return (nll * mask.flatten()).sum() / mask.sum()
