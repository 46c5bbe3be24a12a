"""CodeGeeX's tokenizer for transformers: tokenizer.json, and a module with its class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.data.tokenizer.files import EOS, JSON, Added
from ms_codegeex.data.tokenizer.tables import Tables

CODEGEEX_MODULE = "tokenization_codegeex.py"
CODEGEEX_AUTO_MAP = {"AutoTokenizer": [None, f"{Path(CODEGEEX_MODULE).stem}.CodeGeeXTokenizer"]}


def write_codegeex_files(
    directory: Path, tables: Tables, names: Mapping[str, int], spaces: Mapping[str, int], max_len: int, added: Added
) -> None:
    """Write both files. transformers then gives the ids of `encode_prompt` and the text of `decode`. A run of `spaces`,
    at most `max_len` long in text, has the id of one of the `names`. So the text is rewritten to names before it is
    split, and names are rewritten to spaces after decoding."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    runs = _runs(spaces, names)
    model = Tokenizer(models.BPE({**tables.vocab, **names}, tables.pairs()))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    model.decoder = decoders.Sequence(
        [decoders.ByteLevel(), *(decoders.Replace(name, run) for run, name in runs.items())]
    )
    model.add_tokens([AddedToken(name, normalized=True, special=False) for name in names])
    model.add_special_tokens([AddedToken(EOS, normalized=False, special=True)])
    further = sorted({**added.plain, **added.special}.items(), key=lambda item: item[1])
    for entry in (added.entry(token) for token, _ in further):  # in the order of ids, which the library gives out
        model.add_tokens([AddedToken(**entry)])
    content = {**parse_json(model.to_str(), data=True), "normalizer": spaces_normalizer(spaces, names, max_len)}
    with atomic_file(directory / JSON) as path:
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    write_codegeex_module(directory)


def _runs(spaces: Mapping[str, int], names: Mapping[str, int]) -> dict[str, str]:
    name_of = {number: name for name, number in names.items()}
    return {run: name_of[number] for run, number in spaces.items()}


def spaces_normalizer(spaces: Mapping[str, int], names: Mapping[str, int], max_len: int) -> dict[str, Any]:
    """The step of tokenizer.json that writes names in the place of spaces, the longest run first."""
    runs = _runs(spaces, names)
    longest_first = sorted((run for run in runs if len(run) <= max_len), key=len, reverse=True)
    steps = [{"type": "Replace", "pattern": {"String": run}, "content": runs[run]} for run in longest_first]
    return {"type": "Sequence", "normalizers": steps}


def write_codegeex_module(directory: Path) -> None:
    """Write the module with the class for transformers, which needs `tokenizer.json` next to it."""
    with atomic_file(directory / CODEGEEX_MODULE) as path:
        path.write_bytes(
            resources.files("ms_codegeex.data.tokenizer").joinpath("exported", CODEGEEX_MODULE).read_bytes()
        )
