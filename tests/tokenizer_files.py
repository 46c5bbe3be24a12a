"""Directories with a tokenizer, as released models have them, made small enough for tests."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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


def many_texts() -> list[str]:
    """500 texts in which tokenizers differ: rows of golden.jsonl, tags of languages, names of special tokens, runs of
    spaces, tabs and line breaks, Chinese, characters outside the vocabularies, and white space around all of these."""
    from ms_codegeex.data.languages import languages

    rows = (Path(__file__).parent / "data" / "tokenizer" / "golden.jsonl").read_text("utf-8").splitlines()
    names = [
        "<|endoftext|>",
        "<|extratoken_12|>",
        "[gMASK]",
        "[MASK]",
        "sop",
        "<sop>",
        "eop",
        "</s>",
        "<unk>",
        "<0x0A>",
    ]
    lengths = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 15, 16, 17, 31, 32, 33, 40)
    runs = [character * length for character in " \t\n" for length in lengths]
    runs += ["\r\n", "\u00a0", "\u3000", " \t", "\n    ", "\u2581"]
    odd = ["\u00e9", "e\u0301", "\U0001f600", "\0", "\u0120", "\ufb01", "\uff21", "\ufeff", "\u200d", "\x7f", "12345"]
    texts = [json.loads(row)["text"] for row in rows]
    texts += [f"{language.tag}\nint x = 1;\n" for language in languages() if language.tag]
    for part, around in (
        (names, ("{}", "a{}b", " {} x", "{}  \n  {}")),
        (runs, ("{}", "{}x", "x{}", "if x:{}return y", "\u4f60\u597d{}\u4e16\u754c")),
        (odd, ("{}", " {}  {}", "x{}y\t{}")),
    ):
        texts += [text.replace("{}", each) for each in part for text in around]
    return [*dict.fromkeys(texts)][:500]


@contextlib.contextmanager
def in_transformers(root: Path, **tokenizers: Any) -> Iterator[dict[str, Any]]:
    """What `AutoTokenizer` makes of tokenizers that are saved below `root`, to which it copies their classes."""
    transformers = pytest.importorskip("transformers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(root / "modules"))
        patch.syspath_prepend(root / "modules")
        for name, tokenizer in tokenizers.items():
            (root / name).mkdir()
            tokenizer.save(root / name)
        load = transformers.AutoTokenizer.from_pretrained
        yield {name: load(root / name, trust_remote_code=True) for name in tokenizers}
