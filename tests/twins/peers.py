"""What the tests of all families do with a PyTorch model: weights that matter, documents one by one, a loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import assign, check_gradients, every_logit, packed_batch
from torch.nn import functional as F
from twins import codegeex2_torch, codegeex_torch, names

from ms_codegeex.models.causal import Build


def randomise(module, seed=0):
    """Every parameter away from its initial value, of a size that keeps the logits near 1. Returns FP32 arrays by
    name."""
    generator, tensors = np.random.default_rng(seed), {}
    for name, parameter in module.named_parameters():
        value = generator.normal(size=tuple(parameter.shape))
        if parameter.ndim == 2:
            value /= np.sqrt(parameter.shape[1])
        else:
            norm = name.endswith(("norm.weight", "ln_1.weight", "ln_f.weight"))
            value = 0.3 * value + (1.0 if norm else 0)
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


def _fields(config):
    """What the configurations of Llama's descendants have in common."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_groups,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        "eos_token_id": config.eos_token_id,
        "attn_implementation": "eager",
    }


def transformers_qwen2(transformers, config, **options):
    """transformers' Qwen2 of our configuration, for evaluation."""
    fields = _fields(config) | {"rope_theta": config.rotary_base, "tie_word_embeddings": config.tied_head}
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**fields, **options)).eval()


def transformers_glm(transformers, config, **options):
    """transformers' GLM of our CodeGeeX2 or CodeGeeX4, for evaluation. Its `rope_theta` is `rope_ratio` times 10,000;
    half of each head is turned."""
    fields = _fields(config) | {"rope_theta": 10000.0 * config.rope_ratio, "pad_token_id": 0}
    fields["head_dim"] = config.hidden_size // config.num_heads
    return transformers.GlmForCausalLM(transformers.GlmConfig(**fields, **options)).eval()


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


class Peer:
    """A model with random weights, `theirs`; `ours` are the same under our names, which `renamed` gives to gradients,
    too. `forward`: ids int64 [batch, n] -> logits [batch, n, V]."""

    def __init__(self, config, module, renamed, forward):
        self.config, self.module, self.renamed, self.forward = config, module, renamed, forward
        self.theirs = randomise(module)
        self.ours = renamed(self.theirs)

    def logits(self, ids, eos=None):
        """FP32 [batch, n, V] of documents."""
        with torch.no_grad():
            return logits_of_documents(self.forward, ids, eos).numpy()

    def network(self, kind, seq_length, **build):
        """Our `Logits` network, of the `kind` of the family, with the weights."""
        network = kind(self.config, Build(seq_length=seq_length, **build)).set_train(False)
        assign(network, self.ours)
        return network

    def error(self, kind, seq_length, reset=False, **build):
        """The largest difference between our logits and the model's, of which some are above 1."""
        eos, network = self.config.eos_token_id, self.network(kind, seq_length, reset_at_eos=reset, **build)
        ids = packed_batch(self.config.vocab_size, eos, 2, seq_length)[0]
        expected = self.logits(ids, eos if reset else None)
        assert np.abs(expected).max() > 1
        return np.abs(every_logit(network, ids) - expected).max()

    def check_gradients(self, kind, **build):
        """Our `Loss` network has the loss and the gradients of the model."""
        eos = self.config.eos_token_id
        batch = packed_batch(self.config.vocab_size, eos, 2, 12)
        loss = loss_sum(logits_of_documents(self.forward, batch[0], eos), *batch[1:3])
        loss.backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in self.module.named_parameters()}
        network = kind(self.config, Build(seq_length=12, micro_batch=2, **build)).set_train(True)
        assign(network, self.ours)
        check_gradients(network, batch, loss.item(), self.renamed(gradients))


OF_TRANSFORMERS = {
    "codegen": (transformers_codegen, lambda tensors, c: names.codegen(tensors, c.num_layers, c.num_heads)),
    "glm": (transformers_glm, lambda tensors, c: names.glm(tensors, c.num_layers)),
    "qwen2": (transformers_qwen2, lambda tensors, c: names.qwen2(tensors, c.num_layers, c.num_heads)),
}


def peer(name, config, dtype=torch.float32, **options):
    """The original of a family, or CodeGeeX4's, "glm", of our configuration."""
    if name == "codegeex":
        module = codegeex_torch.CodeGeeX.of(config, **options).to(dtype)
        return Peer(config, module, dict, module.logits)
    if name == "codegeex2":
        module = codegeex2_torch.CodeGeeX2(codegeex2_torch.Sizes.of(config, **options)).to(dtype)
        sizes = config.num_layers, config.num_heads, config.num_kv_groups
        return Peer(config, module, lambda tensors: names.codegeex2(tensors, *sizes), module)
    build, renamed = OF_TRANSFORMERS[name]
    module = build(pytest.importorskip("transformers"), config, **options).to(dtype)
    return Peer(config, module, lambda tensors: renamed(tensors, config), lambda ids: module(ids).logits)
