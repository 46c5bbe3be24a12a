"""What the tests of all families do with a PyTorch model: weights that matter, documents one by one, a loss."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def randomise(module, seed=0):
    """Every parameter away from its initial value, of a size that keeps the logits near 1. Returns FP32 arrays by
    name."""
    generator, tensors = np.random.default_rng(seed), {}
    for name, parameter in module.named_parameters():
        value = generator.normal(size=tuple(parameter.shape))
        if parameter.ndim == 2:
            value /= np.sqrt(parameter.shape[1])
        else:
            value = 0.3 * value + (
                1.0 if "norm.weight" in name or "ln_1.weight" in name or "ln_f.weight" in name else 0
            )
        tensors[name] = value.astype(np.float32)
        parameter.data = torch.tensor(tensors[name]).to(parameter.dtype)
    return tensors


def transformers_codegen(transformers, config, **options):
    """transformers' CodeGen of our configuration, for evaluation."""
    fields = {
        "vocab_size": config.vocab_size,
        "n_positions": config.max_position_embeddings,
        "n_ctx": config.max_position_embeddings,
        "n_embd": config.hidden_size,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "rotary_dim": config.rotary_dim,
        "bos_token_id": config.eos_token_id,
        "eos_token_id": config.eos_token_id,
    }
    return transformers.CodeGenForCausalLM(transformers.CodeGenConfig(**fields, **options)).eval()


def transformers_qwen2(transformers, config, **options):
    """transformers' Qwen2 of our configuration, for evaluation."""
    fields = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_groups,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rotary_base,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_head,
        "eos_token_id": config.eos_token_id,
        "attn_implementation": "eager",
    }
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**fields, **options)).eval()


def transformers_glm(transformers, config):
    """transformers' GLM of our CodeGeeX2 or CodeGeeX4, for evaluation. Its `rope_theta` is `rope_ratio` times 10,000;
    half of each head is turned."""
    fields = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_groups,
        "head_dim": config.hidden_size // config.num_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": 10000.0 * config.rope_ratio,
        "rms_norm_eps": config.norm_eps,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": 0,
        "attn_implementation": "eager",
    }
    return transformers.GlmForCausalLM(transformers.GlmConfig(**fields)).eval()


def logits_of_documents(forward, ids, eos):
    """[batch, n, V]: each document, up to and with its eos, alone through `forward` (ids -> logits).

    The other way to say that documents in a sequence neither see each other nor count on from each other's positions.
    """
    rows = []
    for row in np.asarray(ids):
        ends = [i + 1 for i in np.flatnonzero(row == eos)] if eos is not None else []
        parts = [part for part in np.split(row, ends) if len(part)]
        rows.append(torch.cat([forward(torch.tensor(part[None]).long())[0] for part in parts]))
    return torch.stack(rows)


def loss_sum(logits, labels, mask):
    """Σ mask·nll"""
    nll = F.cross_entropy(logits.flatten(0, 1), torch.tensor(labels).long().flatten(), reduction="none")
    return (nll * torch.tensor(mask).flatten()).sum()
