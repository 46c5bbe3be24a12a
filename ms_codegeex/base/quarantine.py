"""The gate for an untrusted directory: which of its files are read, and what each may be.

Every reader of a model, a tokenizer or an adapter calls `admit` first. `admit` goes by name: a file that is not listed
is neither read nor copied. A listed file must be a regular file within its size limit, and must lie inside the
directory, or in the blobs of the same model in Hugging Face's cache. Nothing is opened here, since opening a pipe may
block and opening a device may have an effect.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.reading import check_regular, json_of, open_inside, place_inside, read_inside

MAX_ENTRIES = 10_000  # a model of 10 TB has 2,000 shards
_MIB = 1 << 20
PROVENANCE, SIGNATURE = "provenance.json", "model.sig"  # written next to a model by `formats.provenance`
_WEIGHTS = re.compile(r"[\w.+-]+\.(safetensors|bin|pt|pth|ckpt|gguf)")
_SIZES = {  # MiB, by name, of files that are read or copied; the largest known tokenizer.json has 35
    **dict.fromkeys(("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"), 4),
    **dict.fromkeys(("serving.json", "quantised.json", "adapter_config.json", "added_tokens.json"), 4),
    **dict.fromkeys(("chat_template.jinja", "chat_template.json"), 4),
    **dict.fromkeys(("vocab.json", "vocab.txt", "merges.txt"), 32),
    **dict.fromkeys(("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"), 32),
    **dict.fromkeys(("model.safetensors.index.json", "pytorch_model.bin.index.json"), 32),
    **dict.fromkeys((PROVENANCE, SIGNATURE, "loss.png"), 16),
    "tokenizer.json": 64,
}
_NOT_COPIED = {"config.json", "quantised.json", "adapter_config.json", PROVENANCE, SIGNATURE}  # rewritten instead
_COPIED_ONLY = {"README.md", "generation_config.json", "loss.png"}  # no command reads them
_TEXTS = re.compile(
    r"(README|LICEN[CS]E|MODEL_LICEN[CS]E|NOTICE|COPYING|COPYRIGHT|CITATION|AUTHORS|USE_POLICY|MODEL_CARD)"
    r"([-_][-\w]*)?(\.(zh|en|zh-CN|zh_CN))?(\.(md|txt|rst|cff))?",
    re.IGNORECASE,
)
_TEXT_MIB = 16


def is_weights(name: str) -> bool:
    return _WEIGHTS.fullmatch(name) is not None


def is_copied(name: str) -> bool:
    return _TEXTS.fullmatch(name) is not None or (
        name in _SIZES and name not in _NOT_COPIED and not name.endswith(".index.json")
    )


def is_read(name: str) -> bool:
    return is_weights(name) or (name in _SIZES and name not in _COPIED_ONLY)


def is_description(name: str) -> bool:
    """Whether the file only describes the model and does not change what it computes, so that users may edit it:
    `serving.json`, chat templates, the model card and other texts."""
    file = name.rpartition("/")[2]
    return name == "serving.json" or name.endswith(".jinja") or _TEXTS.fullmatch(file) is not None


def largest(name: str) -> int | None:
    """Return the size limit in bytes of a file of this name; None for weights, whose size must match their tensors."""
    if is_weights(name):
        return None
    return _SIZES.get(name, _TEXT_MIB) * _MIB


def admit(directory: Path, also: Callable[[str], bool] = lambda name: False) -> None:
    """Check every file of a directory that may be read or copied. `also(name)` accepts further names, such as those of
    code that the user trusts.

    Raises:
        UserError: a file is a link out of the directory, has a hard link elsewhere, is not a regular file or is too
            large; or the directory has too many entries.
    """
    directory = Path(directory)
    for name in entries(directory):
        if name in _SIZES or is_weights(name) or _TEXTS.fullmatch(name) or also(name):
            check_file(directory, name, largest(name))


def entries(directory: Path, folders: bool = False) -> list[str]:
    """Return the sorted names in a directory: files and all links, or with `folders` only the folders and links to
    them. Raises `UserError` if it cannot be read or has more than `MAX_ENTRIES` entries."""
    names = []
    try:
        with os.scandir(directory) as found:
            for number, entry in enumerate(found):
                if number == MAX_ENTRIES:
                    more = f"has more than {MAX_ENTRIES:,} entries, unlike any model"
                    raise UserError(f"{directory}: {more}; give the directory of a single model")
                if os.path.isdir(entry.path) if folders else not entry.is_dir(follow_symlinks=False):
                    names.append(entry.name)
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be read as a directory ({error.strerror}); restore it or name another"
        ) from None
    return sorted(names)


def check_file(directory: Path, name: str, maximum: int | None = None) -> None:
    """Check one file of a directory, possibly in a subfolder, as `admit` does. A missing file is not an error."""
    path = Path(directory) / name
    target = place_inside(directory, name)[1]
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(f"{path}: is a link to nothing; restore the file") from None
        return
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); restore it") from None
    check_regular(status, path)
    if maximum is not None and status.st_size > maximum:
        has = f"has {status.st_size:,} bytes, a file of this kind at most {maximum:,}"
        raise UserError(f"{path}: {has}; restore it from the model")
    if status.st_nlink > 1 and (elsewhere := status.st_nlink - _names_of(status, target.parent)) > 0:
        also = f"has {elsewhere} more name{'s' * (elsewhere > 1)} outside its directory (a hard link)"
        raise UserError(f"{path}: {also}; replace it with a copy of itself if it belongs there")


def _names_of(status: os.stat_result, directory: Path) -> int:
    with os.scandir(directory) as found:
        return sum(1 for entry in found if entry.inode() == status.st_ino and not entry.is_symlink())


def read_json_inside(directory: Path, name: str, parse: Callable[[bytes], Any] = parse_json) -> Any:
    """Return the value of a JSON file in an untrusted directory. Errors: as `read_inside`, or malformed content."""
    return json_of(read_inside(directory, name, largest(name) or 0), Path(directory) / name, parse)


def has_file(directory: Path, name: str) -> bool:
    """Whether a directory has a readable regular file of this name. `UserError` for one that `admit` refuses."""
    if not os.path.lexists(Path(directory) / name):
        return False
    open_inside(directory, name).close()
    return True
