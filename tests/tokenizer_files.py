"""Directories with a tokenizer, as released models have them, made small enough for tests."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import unicodedata
from collections.abc import Callable, Iterator
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
        **{"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "normalization_rule_name": "identity"},
        **{"remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "hard_vocab_limit": False},
        **{"minloglevel": 2, "num_threads": 1, "model_writer": model, "sentence_iterator": iter(LINES * 3)},
    }
    sentencepiece.SentencePieceTrainer.train(**{**settings, **options})
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
    names = ["<|endoftext|>", "<|extratoken_12|>", "[gMASK]", "[MASK]", "sop", "<sop>", "eop", "</s>", "<unk>"]
    names += ["<0x0A>"]
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


def drawn_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of all kinds, drawn from `many_texts`, lines of code and Chinese, numbers, marks, and any characters."""
    draw, known = random.Random(seed), [*many_texts(), *LINES]
    marks = [f"<|{name}|>" for name in [*QWEN2_NAMES, "user", "observation", "code_prefix"]]
    # of an old version of Unicode: the libraries' tables are of different years
    characters = [c for c in map(chr, range(1, 0x3100)) if unicodedata.ucd_3_2_0.category(c) != "Cn"]
    others = ["<tool_call>", "</tool_call>", "[gMASK]", "<sop>", "it'S", "I'LL", "x;\r\n", "\u212b", "\uf900", "\u037e"]

    def part() -> str:
        return draw.choice([
            lambda: draw.choice(known),
            lambda: str(draw.randrange(10 ** draw.randrange(1, 12))),
            lambda: draw.choice([*marks, *others]),
            lambda: draw.choice(" \t\n\r") * draw.randrange(1, 30),
            lambda: "".join(draw.choices(characters, k=8)),
            lambda: "".join(draw.choices("abcdeXYZ_.;:(){}[]'\"!?e\u0301\u0323", k=12)),
        ])()  # fmt: skip

    return ["".join(part() for _ in range(draw.randrange(1, 8))) for _ in range(count)]


def changed(name: str, edit: Callable[[Any], object]) -> Callable[[Path], object]:
    """A function that edits the JSON file `name` of a directory in place."""

    def change(directory: Path) -> None:
        content = json.loads((directory / name).read_text("utf-8"))
        edit(content)
        (directory / name).write_text(json.dumps(content), "utf-8")

    return change


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


QWEN2_NAMES = ["endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"]
QWEN2_NAMES += ["quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"]
QWEN2_NAMES += ["fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"]


def write_qwen2(directory: Path, instruct: bool = False, size: int = 700) -> Path:
    """A directory like that of a released Qwen2.5-Coder, with `size` ordinary tokens (151,643 there): tokenizer.json,
    and a configuration that names its class, its end token and its 22 added tokens, of which eight are not special."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    directory.mkdir(parents=True, exist_ok=True)
    of_bytes = {"add_prefix_space": False, "use_regex": False}
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    pattern += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(**of_bytes)]
    )
    bpe.post_processor = processors.ByteLevel(trim_offsets=False, **of_bytes)
    bpe.decoder = decoders.ByteLevel(**of_bytes)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=min(size, 700), initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([*LINES, *many_texts()] * 2, trainer)
    content = json.loads(bpe.to_str())
    vocab = content["model"]["vocab"]
    vocab |= {f"\u0120filler{number}": number for number in range(len(vocab), size)}  # without merges: in no text
    names = [f"<|{name}|>" for name in QWEN2_NAMES]
    names[14:14] = ["<tool_call>", "</tool_call>"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entries = [{"content": name, **flags, "special": number < 14} for number, name in enumerate(names)]
    content["added_tokens"] = [{"id": number, **entry} for number, entry in enumerate(entries, len(vocab))]
    (directory / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    config = {
        **{"add_bos_token": False, "add_prefix_space": False},
        "added_tokens_decoder": {str(number): entry for number, entry in enumerate(entries, len(vocab))},
        "additional_special_tokens": names[1:14],
        **{"bos_token": None, "clean_up_tokenization_spaces": False, "errors": "replace"},
        "eos_token": "<|im_end|>" if instruct else "<|endoftext|>",
        **{"model_max_length": 32768, "pad_token": "<|endoftext|>", "split_special_tokens": False},
        **{"tokenizer_class": "Qwen2Tokenizer", "unk_token": None},
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return directory


CODEGEEX4_NAMES = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
CODEGEEX4_NAMES += [f"<|{role}|>" for role in ("system", "user", "assistant", "observation")]
CODEGEEX4_NAMES += [f"<|code_{part}|>" for part in ("prefix", "middle", "suffix")]
CODEGEEX4_TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_codegeex4(directory: Path) -> Path:
    """A directory like that of a released CodeGeeX4, with a file of 706 ranks, some of which several merges make."""
    from ms_codegeex.data.tokenizer import load_tokenizer

    tokens = load_tokenizer(write_qwen2(directory)).pieces[:700]
    tokens += [text.encode() for text in ("zxz", "xz", "zx", "zxzx", "xxz", "zxx")]
    (directory / "tokenizer.json").unlink()
    lines = [base64.b64encode(token) + b" %d\n" % number for number, token in enumerate(tokens)]
    (directory / "tokenizer.model").write_bytes(b"".join(lines))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    entries = {706 + n: {"content": name, **flags, "special": True} for n, name in enumerate(CODEGEEX4_NAMES)}
    config = {
        **{"added_tokens_decoder": entries, "additional_special_tokens": CODEGEEX4_NAMES},
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLM4Tokenizer", None]},
        **{"chat_template": CODEGEEX4_TEMPLATE, "clean_up_tokenization_spaces": False, "do_lower_case": False},
        **{"eos_token": "<|endoftext|>", "model_max_length": 128000, "pad_token": "<|endoftext|>"},
        **{"padding_side": "left", "remove_space": False, "tokenizer_class": "ChatGLM4Tokenizer"},
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (directory / "tokenization_chatglm.py").write_text("class ChatGLM4Tokenizer:\n    names = ['<|observation|>']\n")
    return directory
