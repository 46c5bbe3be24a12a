"""A real model, of CodeGen's family, that knows one text by heart: after a token of it comes the next one. Its layers
add nothing; the head finds the next token's row from the last one's embedding."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from small_models import save_run

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.models.registry import family

WIDTH, POSITIONS, EOS = 64, 256, 50256
SIZES = {
    "vocab_size": 51200,
    "hidden_size": WIDTH,
    "num_layers": 1,
    "num_heads": 16,
    "intermediate_size": 16,
    "rotary_dim": 2,
    "max_position_embeddings": POSITIONS,
    "eos_token_id": EOS,
}


def save_recited(directory: Path, prompt: str, answer: str) -> Path:
    """A run directory of the model that answers `prompt` with `answer` and eos. No token may occur twice from the
    prompt's last one on."""
    tokenizer = load_tokenizer("codegen-multi")
    begin, whole = tokenizer.encode(prompt), [*tokenizer.encode(prompt + answer), EOS]
    assert whole[: len(begin)] == begin
    chain = whole[len(begin) - 1 :]
    assert len(set(chain)) == len(chain), [tokenizer.decode([token]) for token in chain]
    shapes = family("codegen").config.build_config(None, SIZES).parameter_shapes()
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    generator = np.random.default_rng(0)
    embedding = generator.choice(np.float32((-1, 1)), (SIZES["vocab_size"], WIDTH))
    arrays["embedding.word.weight"] = embedding
    arrays["final_norm.weight"][:] = 1
    for token, following in pairwise(chain):
        arrays["head.weight"][following] = embedding[token]
    save_run(directory, "codegen", arrays, **SIZES)
    tokenizer.save(directory / "tokenizer")
    return directory
