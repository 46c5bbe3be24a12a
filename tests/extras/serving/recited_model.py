"""A real model, of CodeGen's family, that knows one text by heart: after a token of it comes the next one. Its layers
add nothing; the head finds the next token's row from the last one's embedding."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
from small_models import save_run

from ms_codegeex.data.tokenizer import Tokenizer, load_tokenizer
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


CALL, SAY = " call", " say"  # one token each, with which a prompt ends
TEMPLATE = """{% for each in messages %}{{ each['role'] }}: {{ each['content'] }}
{% for call in each['tool_calls'] or [] %}<tool_call>
{{ call['function'] | tojson }}
</tool_call>
{% endfor %}{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}
assistant:{% if tools and messages[-1]['role'] != 'tool' %} call{% else %} say{% endif %}"""


def save_recited(directory: Path, prompt: str, answer: str) -> Path:
    """A run directory of the model that answers `prompt` with `answer` and eos. No token may occur twice from the
    prompt's last one on."""
    tokenizer = load_tokenizer("codegen-multi")
    begin, whole = tokenizer.encode(prompt), [*tokenizer.encode(prompt + answer), EOS]
    assert whole[: len(begin)] == begin
    return _save(directory, whole[len(begin) - 1 :])


def save_calling(directory: Path, name: str, arguments: dict[str, object], answer: str = "done") -> Path:
    """A run directory of the model that calls a tool if there are some, and says `answer` once it has a result."""
    tokenizer = load_tokenizer("codegen-multi")
    said = [tokenizer.encode(text) for text in (CALL, SAY, answer)]
    assert [len(ids) for ids in said[:2]] == [1, 1]
    used = {number for ids in said for number in ids}
    call = _once(tokenizer, ["<tool_call>", *_parts({"name": name, "arguments": arguments})], used)
    _save(directory, [*said[0], *call, EOS], [*said[1], *said[2], EOS], max_position_embeddings=1 << 16)
    (directory / "serving.json").write_text(json.dumps({"chat": {"template": TEMPLATE}}))
    return directory


def _parts(value: object) -> list[str]:
    """JSON in parts, between which white space changes nothing. `_` is in <tool_call> already."""
    if isinstance(value, dict):
        inner = [[*_parts(name), ":", *_parts(each)] for name, each in value.items()]
        return ["{", *[part for one in inner for part in (*one, ",")][:-1], "}"]
    return [json.dumps(value).replace("_", "\\u005f")]


def _once(tokenizer: Tokenizer, parts: list[str], used: set[int]) -> list[int]:
    """Ids of a text of which none is used or occurs twice: there are many ways to space it and to cut it."""
    known = {tokenizer.decode([number]): number for number in range(EOS) if number not in used}
    draw = random.Random(0)
    for _ in range(100_000):
        text, found = "".join(part + draw.choice(["", "", " "]) for part in parts).rstrip(), dict[str, int]()
        while text:
            cuts = [text[:end] for end in range(1, 12) if text[:end] in known and text[:end] not in found]
            if not cuts:
                break
            cut = cuts[-1] if draw.random() < 0.7 else draw.choice(cuts)
            found[cut], text = known[cut], text.removeprefix(cut)
        else:
            return [*found.values()]
    raise AssertionError(parts)


def _save(directory: Path, *chains: list[int], **sizes: int) -> Path:
    tokenizer = load_tokenizer("codegen-multi")
    chained = [token for chain in chains for token in chain[:-1]]
    assert len(set(chained)) == len(chained), [tokenizer.decode([token]) for token in chained]
    sizes = {**SIZES, **sizes}
    shapes = family("codegen").config.build_config(None, sizes).parameter_shapes()
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    generator = np.random.default_rng(0)
    embedding = generator.choice(np.float32((-1, 1)), (SIZES["vocab_size"], WIDTH))
    arrays["embedding.word.weight"] = embedding
    arrays["final_norm.weight"][:] = 1
    for chain in chains:
        for token, following in pairwise(chain):
            arrays["head.weight"][following] += embedding[token]
    save_run(directory, "codegen", arrays, **sizes)
    tokenizer.save(directory / "tokenizer")
    return directory
