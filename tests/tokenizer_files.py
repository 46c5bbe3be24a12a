"""Directories with a tokenizer, as released models have them, made small enough for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path

LINES = [
    "def minimum(first, second):",
    "    if first < second:",
    "        return first  # the smaller one",
    "    return second",
    "for (int i = 0; i < 10; i++) { total += values[i]; }",
    "Using a Transformer network is simple",
    "你好 世界",
]


def chatglm_model(**options: object) -> bytes:
    """A SentencePiece model of a few hundred pieces, trained as ChatGLM2's was: identity, byte fallback, all spaces
    kept. `options` change that."""
    import sentencepiece

    model = io.BytesIO()
    settings = {
        "model_type": "bpe",
        "vocab_size": 420,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "hard_vocab_limit": False,
        "minloglevel": 2,
        "num_threads": 1,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 3), model_writer=model, **{**settings, **options}
    )
    return model.getvalue()


def write_chatglm(directory: Path, model: bytes | None = None) -> Path:
    """A directory like that of a released CodeGeeX2: tokenizer.model and a configuration that names its class."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.model").write_bytes(model or chatglm_model())
    config = {"name_or_path": "codegeex2-6b", "remove_space": False, "tokenizer_class": "ChatGLMTokenizer"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return directory
