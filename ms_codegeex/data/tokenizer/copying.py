"""Copies the data files of a model's or tokenizer's directory: its tokenizer, settings for generation, licences.

Code is not copied, because it would come out under our name: Python files, and settings that name code. For CodeGeeX
and CodeGeeX2, whose tokenizers transformers lack, a module with the class is written, and for CodeGeeX tokenizer.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file, write_json
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.quarantine import PROVENANCE, SIGNATURE, entries, is_copied, is_weights, largest
from ms_codegeex.base.reading import json_of, read_inside
from ms_codegeex.data.tokenizer.files import ANY_CLASS, EOS, JSON, MODEL, AddedTokens, Ids, is_ranked, read_object
from ms_codegeex.data.tokenizer.tables import Tables

AUTO_MAPS = {  # our own classes, by tokenizer_class: one that only tokenizer.json describes is the second
    "CodeGeeXTokenizer": {"AutoTokenizer": [None, "tokenization_codegeex.CodeGeeXTokenizer"]},
    "ChatGLMTokenizer": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}
MODEL_CONFIG, CONFIG, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
_CODE, _MAX_CODE = ".py", 16 << 20  # bytes of a Python file that the user trusts
_WRITTEN_ANEW = (PROVENANCE, SIGNATURE, "model.safetensors.index.json", "pytorch_model.bin.index.json")
_CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a `config.json` or `tokenizer_config.json` without those that make transformers load code: from
    files next to it, or from the hub (`auto_map`, kernels as an implementation of attention)."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            names = (key for key in value if key not in _CODE_KEYS and "_implementation" not in key)
            return {name: kept(value[name]) for name in names}
        return [kept(item) for item in value] if isinstance(value, list) else value

    return kept(dict(settings))


def copy_data(source: Path, target: Path) -> None:
    """Copy the data files of the directory `source`. For CodeGeeX and CodeGeeX2 our own class for transformers is
    written, whatever the source has under its name, and named in tokenizer_config.json. `UserError` for a link out of
    `source`, an irregular file or a very large one."""
    names = dict.fromkeys(_names(source))
    if MODEL in names:  # it is enough alone, but not for transformers
        names[CONFIG] = None
    for name in names:
        if name in (CONFIG, GENERATION):
            _write_config(source, name, target)
        elif is_copied(name):
            _copy(source, name, target)


def copy_all(source: Path, target: Path) -> None:
    """Copy the data files and the Python files of the directory `source`, each as it is, because the user trusts it."""
    for name in _names(source):
        if is_copied(name) or _is_code(name):
            _copy(source, name, target)


def left_out(source: Path, code: bool) -> tuple[str, ...]:
    """The files, besides weights, that `copy_data` does not copy; with `code`, those that `copy_all` does not."""

    def kept(name: str) -> bool:
        return is_copied(name) or is_weights(name) or name in _WRITTEN_ANEW or (code and _is_code(name))

    folders = (f"{name}/" for name in entries(source, folders=True) if not name.startswith("."))
    return (*(name for name in _names(source) if not kept(name)), *folders)


def _names(directory: Path) -> Iterator[str]:
    return (name for name in entries(directory) if not (name.startswith(".") or name == MODEL_CONFIG))


def _copy(source: Path, name: str, target: Path) -> None:
    limit = _MAX_CODE if name.endswith(_CODE) else largest(name) or 0
    (target / name).write_bytes(read_inside(source, name, limit))


def _is_code(name: str) -> bool:
    return name.endswith(_CODE) and name.isprintable()


def _write_config(source: Path, name: str, target: Path) -> None:
    content = read_inside(source, name, largest(name) or 0) if name in entries(source) else b"{}"
    settings = json_of(content, source / name)
    if not isinstance(settings, dict):
        raise UserError(f"{source / name}: holds a {type(settings).__name__}, expected a JSON object; restore the file")
    kept = without_code(settings)
    if name == CONFIG:
        owner = kept.get("tokenizer_class")
        if owner in ANY_CLASS and (source / MODEL).is_file() and not is_ranked(source / MODEL):
            kept["tokenizer_class"] = owner = "ChatGLMTokenizer"
        if isinstance(owner, str) and owner in AUTO_MAPS:
            kept = {key: kept.get(key) for key in settings if key in kept or key == "auto_map"} | kept
            kept["auto_map"] = AUTO_MAPS[owner]
            write_module(target, owner)
    if kept == settings:
        (target / name).write_bytes(content)
    else:
        write_json(target / name, kept)


def unread_elsewhere(directory: Path, remedy: str = "") -> str | None:
    """Why transformers, and programs that use it, such as vLLM, do not read the tokenizer of this directory as it is
    read here, with a `remedy` if we have the class; None if they do. They know neither of our classes, and take others
    without a word."""
    config = read_object(directory / CONFIG, missing=True)
    owner, named = config.get("tokenizer_class"), config.get("auto_map")
    model = (directory / MODEL).is_file()
    if owner not in AUTO_MAPS and not model:
        return None
    if owner == "CodeGeeXTokenizer" and (directory / JSON).is_file():
        return None
    classes = named.get("AutoTokenizer") if isinstance(named, dict) else named
    modules = [f"{name.partition('.')[0]}.py" for name in classes or () if isinstance(name, str) and "--" not in name]
    reason = next((f"{name} is missing" for name in modules if not (directory / name).is_file()), None)
    if not modules:
        reason = f"{CONFIG} names no class for it (auto_map)"
    if owner == "ChatGLM4Tokenizer":
        remedy = "copy its class and auto_map from the release"
    return f"{reason}; {remedy}" if reason and remedy else reason


def write_codegeex_files(
    directory: Path, tables: Tables, names: Ids, spaces: Ids, max_len: int, added: AddedTokens
) -> None:
    """Write both files. transformers then gives the ids of `encode_prompt` and the text of `decode`. A run of `spaces`,
    at most `max_len` long in text, has the id of one of the `names`. So the text is rewritten to names before it is
    split, and names are rewritten to spaces after decoding."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    model = Tokenizer(models.BPE({**tables.vocab, **names}, tables.pairs()))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    model.add_tokens([AddedToken(name, normalized=True, special=False) for name in names])
    model.add_special_tokens([AddedToken(EOS, normalized=False, special=True)])
    further = sorted({**added.plain, **added.special}.items(), key=lambda item: item[1])
    for entry in (added.entry(token) for token, _ in further):  # in the order of ids, which the library gives out
        model.add_tokens([AddedToken(**entry)])
    content = {**parse_json(model.to_str(), data=True), **spaces_steps(spaces, names, max_len)}
    with atomic_file(directory / JSON) as path:
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    write_module(directory, "CodeGeeXTokenizer")


def spaces_steps(spaces: Ids, names: Ids, max_len: int) -> dict[str, dict[str, Any]]:
    """The steps of tokenizer.json that write names in place of spaces, the longest run first, and back."""
    name_of = {number: name for name, number in names.items()}
    runs = {run: name_of[number] for run, number in spaces.items()}
    longest_first = sorted((run for run in runs if len(run) <= max_len), key=len, reverse=True)
    pairs = [(run, runs[run]) for run in longest_first], [(name, run) for run, name in runs.items()]
    there, back = ([{"type": "Replace", "pattern": {"String": a}, "content": b} for a, b in each] for each in pairs)
    of_bytes = {"type": "ByteLevel", **dict.fromkeys(("add_prefix_space", "trim_offsets", "use_regex"), True)}
    decoder = {"type": "Sequence", "decoders": [of_bytes, *back]}
    return {"normalizer": {"type": "Sequence", "normalizers": there}, "decoder": decoder}


def write_module(directory: Path, tokenizer_class: str) -> None:
    """Write our module with this class for transformers, which needs the tokenizer's files next to it."""
    (named,) = filter(None, AUTO_MAPS[tokenizer_class]["AutoTokenizer"])
    name = f"{named.partition('.')[0]}.py"
    module = resources.files("ms_codegeex.data.tokenizer").joinpath("exported", name)
    with atomic_file(directory / name) as path:
        path.write_bytes(module.read_bytes())
