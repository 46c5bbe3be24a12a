"""Copies the data files of a model's or tokenizer's directory: its tokenizer, settings for generation, licences.

Code is not copied, because it would come out under our name: Python files, and settings that name code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.quarantine import PROVENANCE, SIGNATURE, entries, is_copied, is_weights, largest
from ms_codegeex.base.reading import json_of, read_inside
from ms_codegeex.data.tokenizer.for_transformers import CODEGEEX_AUTO_MAP, write_codegeex_module

MODEL_CONFIG, CONFIG, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
_CODE, _LARGEST_CODE = ".py", 16 << 20  # bytes of a Python file that the user trusts
_WRITTEN_ANEW = (PROVENANCE, SIGNATURE, "model.safetensors.index.json", "pytorch_model.bin.index.json")
_CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
_AUTO_MAPS = {  # by tokenizer_class: our own class, and the release's, whose file the user adds
    "CodeGeeXTokenizer": CODEGEEX_AUTO_MAP,
    "ChatGLMTokenizer": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}


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
    """Copy the data files of the directory `source`. For CodeGeeX our own class for transformers is written, whatever
    the source has under its name. `UserError` if one of them is a link out of `source`, is not a regular file or is
    very large."""
    for name in _names(source):
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

    return tuple(name for name in _names(source) if not kept(name))


def _names(directory: Path) -> Iterator[str]:
    """Everything but hidden files, folders and the model's configuration."""
    return (name for name in entries(directory) if not (name.startswith(".") or name == MODEL_CONFIG))


def _copy(source: Path, name: str, target: Path) -> None:
    (target / name).write_bytes(read_inside(source, name, _LARGEST_CODE if name.endswith(_CODE) else _limit(name)))


def _is_code(name: str) -> bool:
    return name.endswith(_CODE) and name.isprintable()


def _limit(name: str) -> int:
    return largest(name) or 0


def _write_config(source: Path, name: str, target: Path) -> None:
    """Write a file of settings without names of code, or for a tokenizer class that we know with the right ones."""
    content = read_inside(source, name, _limit(name))
    settings = json_of(content, source / name)
    if not isinstance(settings, dict):
        raise UserError(f"{source / name}: holds a {type(settings).__name__}, expected a JSON object; restore the file")
    kept, tokenizer_class = without_code(settings), settings.get("tokenizer_class")
    known = _AUTO_MAPS.get(tokenizer_class) if name == CONFIG and isinstance(tokenizer_class, str) else None
    if known is not None and "auto_map" in settings:
        kept = {key: known if key == "auto_map" else kept[key] for key in settings if key == "auto_map" or key in kept}
    if known is CODEGEEX_AUTO_MAP:
        write_codegeex_module(target)
    if kept == settings:
        (target / name).write_bytes(content)
    else:
        write_json(target / name, kept)
