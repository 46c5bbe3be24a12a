"""CodeGeeX's forward pass in NumPy float64, written from the paper's formulas; calls none of the package's code."""

from __future__ import annotations

import math

import numpy as np


def layer_norm(x, weight, bias, epsilon):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * weight + bias


def fast_gelu(x):
    """The release's own form, with two exponentials."""
    return x / (1 + np.exp(-1.702 * np.abs(x))) * np.exp(0.851 * (x - np.abs(x)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def positions_and_visibility(ids, eos, reset):
    """For one sequence: positions and visible[r, c], by the rule as the paper states it, eos by eos."""
    n = len(ids)
    positions, visible = np.arange(n), np.tril(np.ones((n, n), bool))
    if reset:
        for i in np.flatnonzero(np.asarray(ids) == eos):
            visible[i + 1 :, : i + 1] = False
            positions[i + 1 :] = np.arange(n - i - 1)
    return positions, visible


def block(x, query, parameters, prefix, visible, heads, epsilon):
    def p(name):
        return parameters[f"{prefix}.{name}"]

    def linear(name, value):
        return value @ p(f"{name}.weight").T + p(f"{name}.bias")

    _n, hidden = x.shape
    d = hidden // heads
    memory = layer_norm(x, p("attention_norm.weight"), p("attention_norm.bias"), epsilon)
    q = linear("attention.query", memory if query is None else query)
    k, v = linear("attention.key", memory), linear("attention.value", memory)
    merged = np.empty_like(x)
    for h in range(heads):
        columns = slice(h * d, (h + 1) * d)
        scores = q[:, columns] @ k[:, columns].T / math.sqrt(d) + np.where(visible, 0.0, -10000.0)
        merged[:, columns] = softmax(scores) @ v[:, columns]
    x = x + linear("attention.output", merged)
    inner = layer_norm(x, p("feed_forward_norm.weight"), p("feed_forward_norm.bias"), epsilon)
    return x + linear("feed_forward.down", fast_gelu(linear("feed_forward.up", inner)))


def logits(ids, parameters, *, layers, heads, epsilon=1e-5, eos=50256, reset=True):
    """ids [batch, seq], parameters by our names in float64 -> logits [batch, seq, vocabulary]."""
    result = []
    for row in ids:
        positions, visible = positions_and_visibility(row, eos, reset)
        x = parameters["embedding.word.weight"][row] + parameters["embedding.position.weight"][positions]
        for i in range(layers):
            x = block(x, None, parameters, f"blocks.{i}", visible, heads, epsilon)
        x = layer_norm(x, parameters["final_norm.weight"], parameters["final_norm.bias"], epsilon)
        query = parameters["top_query_embedding.weight"][positions]
        x = block(x, query, parameters, "top_query_layer", visible, heads, epsilon)
        result.append(x @ parameters["embedding.word.weight"].T)
    return np.stack(result)
