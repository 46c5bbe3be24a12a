"""A tiny model of each family in PyTorch, and engines with its weights."""

from __future__ import annotations

import numpy as np
import pytest

from ms_codegeex.formats.tensors import from_array
from ms_codegeex.generation.matrices import TensorWeights
from ms_codegeex.generation.rows import SlotSizes
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.scheduler import Request
from ms_codegeex.generation.slots import SlotEngine
from ms_codegeex.generation.targets import open_network
from ms_codegeex.models.registry import family

pytest.importorskip("torch")

from twins.peers import peer

VOCABULARY, POSITIONS, EOS = 120, 100, 2
SIZES = {"vocab_size": VOCABULARY, "num_layers": 2, "max_position_embeddings": POSITIONS, "eos_token_id": EOS}


LAYOUTS = {
    "codegeex": {"num_layers": 1, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64},
    "codegen": {"hidden_size": 128, "num_heads": 16, "intermediate_size": 512, "rotary_dim": 4},
    "codegeex2": {
        **{"num_layers": 1, "hidden_size": 128, "num_heads": 32, "num_kv_groups": 2, "intermediate_size": 48},
        **{"rotary_dim": 2, "rope_ratio": 500.0},  # CodeGeeX4's
    },
    "qwen2": {
        **{"num_layers": 1, "hidden_size": 112, "num_heads": 14, "num_kv_groups": 2, "intermediate_size": 48},
        "tied_head": True,
    },
}


class Twin:
    """A family's tiny model in PyTorch, of these `sizes` where they differ, and engines with its weights."""

    def __init__(self, name, **sizes):
        sizes = SIZES | LAYOUTS[name] | sizes
        self.family, self.config = family(name), family(name).config.build_config("tiny", sizes)
        self.peer = peer(name, self.config)
        self.module = self.peer.module
        self.tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in self.peer.ours.items()}

    def logits(self, ids):
        """FP32 [n, V]"""
        return self.peer.logits([list(ids)])[0]

    def scores(self, ids):
        """Log-probabilities float64 [n, V]"""
        raw = self.logits(ids).astype(np.float64)
        return raw - np.log(np.exp(raw).sum(-1, keepdims=True))

    def engine(self, tensors=None, bits=32, group=64, adapters=(), **options):
        lazy = {n: from_array(a) for n, a in (tensors or self.tensors).items()}
        weights = TensorWeights(lazy, bits, group, self.config.product_names())
        own = {name: options.pop(name) for name in ("allowed", "guesses", "chunk") if name in options}
        sizes = SlotSizes(POSITIONS, **{"threads": 2} | options)
        network = open_network(self.family, self.config, weights, sizes, adapters=adapters)
        assert network.compiled is (options.get("threads", 2) > 0)
        return SlotEngine(network, **{"chunk": 16} | own)


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(3, VOCABULARY, length).tolist()


def greedy(ids, count=12, **more):
    """A request for so many likeliest tokens."""
    return Request(ids, SamplingSettings(count, temperature=0.0), POSITIONS, **more)


def submit(scheduler, *requests):
    for request in requests:
        scheduler.submit(request)


def finish(scheduler, *requests):
    """Steps until all of them have ended."""
    while not all(request.finish for request in requests):
        scheduler.step()


def drain(scheduler, *requests):
    """Their answers, all asked for at once."""
    submit(scheduler, *requests)
    finish(scheduler, *requests)
    return [[chosen.token for chosen in request] for request in requests]
