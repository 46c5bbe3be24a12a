"""CodeGeeX in PyTorch as a device with BF16 computes it, written from the paper's formulas: BF16 tensors and products,
FP32 weights, norms, softmax and loss. Takes the weights of `codegeex_torch.CodeGeeX`."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

BF16 = torch.bfloat16


def _number(value):
    return torch.tensor(value, dtype=BF16)


def _linear(layer, x):
    return x @ layer.weight.to(BF16).T + layer.bias.to(BF16)


def _norm(layer, x):
    return F.layer_norm(x.float(), x.shape[-1:], layer.weight, layer.bias, layer.eps).to(BF16)


def _attention(cell, query, memory, bias):
    batch, n, hidden = memory.shape
    size = hidden // cell.heads

    def split(layer, x):
        return _linear(layer, x).view(batch, n, cell.heads, size).transpose(1, 2)

    scale = _number(1 / math.sqrt(math.sqrt(size)))
    q, k, v = split(cell.query, query) * scale, split(cell.key, memory) * scale, split(cell.value, memory)
    weights = torch.softmax((q @ k.transpose(-1, -2)).float() + bias, -1).to(BF16)
    return _linear(cell.output, (weights @ v).transpose(1, 2).reshape(batch, n, hidden))


def _block(cell, x, bias, query=None):
    memory = _norm(cell.attention_norm, x)
    x = x + _attention(cell.attention, memory if query is None else query, memory, bias)
    y = _linear(cell.feed_forward.up, _norm(cell.feed_forward_norm, x))
    return x + _linear(cell.feed_forward.down, y * torch.sigmoid(_number(1.702) * y))


def loss_sum(model, inputs, labels, mask):
    """Σ mask·nll"""
    visible, positions = model.visibility(inputs)
    bias = torch.where(visible, 0.0, -10000.0)[:, None]
    x = (model.embedding.word(inputs) + model.embedding.position(positions)).to(BF16)
    for block in model.blocks:
        x = _block(block, x, bias)
    x = _block(model.top_query_layer, _norm(model.final_norm, x), bias, model.top_query_embedding(positions).to(BF16))
    logits = (x @ model.embedding.word.weight.to(BF16).T).float()
    return (F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none") * mask.flatten()).sum()
