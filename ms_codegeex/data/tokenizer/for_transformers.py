"""CodeGeeX's tokenizer for transformers: tokenizer.json, and a module with its class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from ms_codegeex.base.files import atomic_file

CODEGEEX_MODULE = "tokenization_codegeex.py"
CODEGEEX_JSON = "tokenizer.json"
CODEGEEX_AUTO_MAP = {"AutoTokenizer": [None, f"{Path(CODEGEEX_MODULE).stem}.CodeGeeXTokenizer"]}


def write_codegeex_files(
    directory: Path,
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    eos: str,
    names: Mapping[str, int],
    spaces: Mapping[str, int],
    max_len: int,
) -> None:
    """Write both files. transformers then gives the ids of `encode_prompt` and the text of `decode`.

    A run of `spaces`, at most `max_len` long in text, has the id of one of the `names`. So the text is rewritten to
    names before it is split, and names are rewritten to spaces after decoding.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name_of = {number: name for name, number in names.items()}
    runs = {run: name_of[number] for run, number in spaces.items()}
    model = Tokenizer(models.BPE({**vocab, **names}, list(merges)))
    longest_first = sorted((run for run in runs if len(run) <= max_len), key=len, reverse=True)
    model.normalizer = normalizers.Sequence([normalizers.Replace(run, runs[run]) for run in longest_first])
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    model.decoder = decoders.Sequence(
        [decoders.ByteLevel(), *(decoders.Replace(name, run) for run, name in runs.items())]
    )
    model.add_tokens([AddedToken(name, normalized=True, special=False) for name in names])
    model.add_special_tokens([AddedToken(eos, normalized=False, special=True)])
    with atomic_file(directory / CODEGEEX_JSON) as path:
        path.write_text(model.to_str(), encoding="utf-8")
    write_codegeex_module(directory)


def write_codegeex_module(directory: Path) -> None:
    """Write the module with the class for transformers, which needs `tokenizer.json` next to it."""
    with atomic_file(directory / CODEGEEX_MODULE) as path:
        path.write_bytes(
            resources.files("ms_codegeex.data.tokenizer").joinpath("exported", CODEGEEX_MODULE).read_bytes()
        )
