"""Small models of the families that become GGUF, with tokenizers of a few hundred tokens, and the format by hand."""

from __future__ import annotations

import json
import struct
from functools import cache
from pathlib import Path

import numpy as np
from tokenizer_files import LINES, write_chatglm, write_codegeex4, write_qwen2

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.gpt2 import CodeGenTokenizer
from ms_codegeex.data.tokenizer.tables import Tables
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.sources import Source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.models.registry import family

COMMON = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "intermediate_size": 96, "max_position_embeddings": 128}
SIZES = {
    "codegeex2": COMMON | {"vocab_size": 448, "num_kv_groups": 2, "rotary_dim": 8, "norm_eps": 1e-5},
    "codegen": COMMON | {"vocab_size": 384, "rotary_dim": 8, "layer_norm_eps": 1e-6},
    "qwen2": COMMON | {"vocab_size": 384, "num_kv_groups": 2, "tied_head": True},
}
SIZES["codegeex4"] = SIZES["codegeex2"] | {"vocab_size": 736, "rope_ratio": 500.0, "norm_eps": 1.5625e-7}
MODELS, OF_FAMILY = tuple(SIZES), {"codegeex4": "codegeex2"}  # a model's family, where its name is another
TEXT = "def people(first, second):\n    if first <= second:\n\t\treturn  [first]  # \u4f60\u597d \U0001f600 \u00e9\n"


@cache
def _own_tables() -> Tables:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(LINES, vocab_size=320, min_frequency=1, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    return Tables.of(model["vocab"], [" ".join(pair) for pair in model["merges"]])


def write_tokenizer(name: str, directory: Path) -> Path:
    """The directory of a small tokenizer of this family."""
    if name == "codegeex2":
        return write_chatglm(directory)
    if name == "codegeex4":
        return write_codegeex4(directory)
    if name == "qwen2":
        return write_qwen2(directory, size=300)
    directory.mkdir(parents=True)
    CodeGenTokenizer(True, _own_tables()).save(directory)
    return directory


def parameters(name: str, seed: int = 7) -> dict[str, np.ndarray]:
    """Random FP32 arrays under our names, small enough for the logits to stay sensible."""
    draw = np.random.default_rng(seed).standard_normal
    shapes = sizes(name).parameter_shapes()
    return {key: (draw(shape) * (0.2 if len(shape) > 1 else 1)).astype(np.float32) for key, shape in shapes.items()}


def family_of(name: str):
    """The family of a model."""
    return family(OF_FAMILY.get(name, name))


def sizes(name: str):
    """The model's configuration."""
    ends = {"codegeex2": 2, "codegeex4": 706, "codegen": _own_tables().eos_id, "qwen2": 300}
    return family_of(name).config.build_config(None, SIZES[name] | {"eos_token_id": ends[name]})


def source(name: str, directory: Path, arrays: dict[str, np.ndarray] | None = None, dtype: str = "float32") -> Source:
    """A model with these parameters, cast to `dtype`, and a tokenizer that is written to `directory`."""
    arrays, config = arrays or parameters(name), sizes(name)
    fields = {key: getattr(config, key) for key in config.__dataclass_fields__}
    tensors = {key: cast(key, from_array(array), dtype) for key, array in arrays.items()}
    saver = load_tokenizer(write_tokenizer(name, directory)).save
    return Source(directory, "megatron", family_of(name), fields, tensors, saver)


def text(value: str | bytes) -> bytes:
    """A string as the format writes it."""
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    """A key with a value of this type."""
    return text(name) + struct.pack("<I", kind) + value


def info(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """A tensor's entry in the header."""
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return text(name) + axes + struct.pack("<IQ", kind, offset)


def gguf(keys: list[bytes] = (), infos: list[bytes] = (), data: bytes = b"", **counts: int) -> bytes:
    """A whole file; `version`, `tensors` and `keys_said` replace what is true."""
    version, tensors = counts.get("version", 3), counts.get("tensors", len(infos))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, counts.get("keys_said", len(keys)))
    head += b"".join(keys) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data if infos else head
