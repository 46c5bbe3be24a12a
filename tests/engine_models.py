"""Small models for other engines, with the widths of heads that the released ones have, and their tokenizers."""

from __future__ import annotations

from pathlib import Path

import gguf_models
import numpy as np
from tokenizer_files import LINES

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.checkpoint import fingerprint
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.sources import Source, open_source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.models.registry import family

SIZES = {  # family, heads, channels of a head, and other sizes; 350M has 64 channels, 2B 80, 6B and 16B 256
    "codegen-64": ("codegen", 4, 64, {"rotary_dim": 32}),
    "codegen-80": ("codegen", 4, 80, {"rotary_dim": 32}),
    "codegen-256": ("codegen", 4, 256, {"rotary_dim": 64}),
    "codegeex2": ("codegeex2", 4, 128, {"rotary_dim": 64, "num_kv_groups": 2}),
    "codegeex": ("codegeex", 4, 16, {"intermediate_size": 256}),  # with the release's tokenizer
    "qwen2": ("qwen2", 4, 64, {"num_kv_groups": 2}),
}
POSITIONS = 1024
PROMPTS = [
    *LINES,
    *(f"{line}\n    " for line in LINES),
    "x",
    "    return first",
    "\t\tif x:\n\t\t\ty  =  1",
    "# 你好 世界\n",
    "people = [sop, eop]\n",
    "😀 é \0",
]


def small_model(name: str, place: Path) -> Source:
    """A model of random FP32 weights, with logits of about one, and its tokenizer in `place`."""
    kind, heads, width, others = SIZES[name]
    tokenizer = load_tokenizer(kind if kind == "codegeex" else gguf_models.write_tokenizer(kind, place))
    # no rows without a token, which random weights would choose in other engines
    fields = {"vocab_size": tokenizer.vocab_size, "hidden_size": heads * width, "num_layers": 2}
    fields |= {"num_heads": heads, "intermediate_size": 512, "eos_token_id": tokenizer.eos_id}
    config = family(kind).config.build_config(None, fields | others | {"max_position_embeddings": POSITIONS})
    draw = np.random.default_rng(7).standard_normal
    arrays = {
        key: draw(shape) * (1.2 / shape[-1] ** 0.5 if len(shape) > 1 else 0.3) + (key.endswith("norm.weight"))
        for key, shape in config.parameter_shapes().items()
    }
    if "head.weight" in arrays:
        arrays["head.weight"] *= 3
    arrays["embedding.word.weight"] *= fields["hidden_size"] ** 0.5
    tensors = {key: from_array(array.astype(np.float32)) for key, array in arrays.items()}
    known = {key: getattr(config, key) for key in config.__dataclass_fields__}
    return Source(place, "megatron", family(kind), known, tensors, tokenizer.save)


def exported(name: str, place: Path, to: str, dtype: str | None = None) -> Path:
    """A directory of this model in this form."""
    output = place / f"{name}-{to}-{dtype}"
    if not output.exists():
        convert(small_model(name, place / f"tokenizer-{output.name}"), to, output, dtype=dtype, progress=False)
    return output


def adapted(name: str, place: Path) -> tuple[Path, Path]:
    """The directory of a model, and random adapters for its attention as PEFT has them; their run is beside."""
    base = exported(name, place, "hf")
    source = open_source(base)
    draw = np.random.default_rng(5).standard_normal
    shapes = source.config.adapter_shapes(("attention",), 4)
    arrays = {key: (0.1 * draw(shape)).astype(np.float32) for key, shape in shapes.items()}
    slices = {key: Slice(array.shape, (0, 0), array) for key, array in arrays.items()}
    model = {"family": source.family.name, "preset": None, **source.fields, "weights": str(base)}
    settings = {"model": model, "lora": {"rank": 4, "alpha": 8.0, "targets": ["attention"]}}
    run = place / f"{name}-run"
    write_checkpoint(run / "checkpoints", 4, slices, {"config": settings, "base": fingerprint(source.tensors)})
    write_peft(open_source(run), place / f"{name}-peft")
    return base, place / f"{name}-peft"
