"""Where a conversion may write: never over its source, and only over what a conversion has written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.formats.mindspore_checkpoint import read_origin
from ms_codegeex.formats.torch_zip import is_written_by_us

RECORD = ".ms-codegeex.json"  # in a directory that a conversion wrote: the files that it wrote
_EDGE = 1 << 20  # bytes at either end of a file, where safetensors, zip archives and checkpoints hold their checksums
_NAMED = 3  # files in a message


def _fingerprint(file: Path) -> dict[str, Any]:
    """Size and a hash of both ends: fast even for 26 GB, and saving the file again changes one of them."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        digest = hashlib.sha256(stream.read(_EDGE))
        stream.seek(max(0, size - _EDGE))
        digest.update(stream.read())
    return {"size": size, "sha256": digest.hexdigest()}


def _entries(directory: Path) -> Iterator[Path]:
    """Everything in a directory but its directories."""
    return (path for path in sorted(directory.rglob("*")) if path.is_symlink() or not path.is_dir())


def write_record(directory: Path) -> None:
    """Record every file of a directory that a conversion has just written."""
    files = {path.relative_to(directory).as_posix(): _fingerprint(path) for path in _entries(directory)}
    write_json(directory / RECORD, {"format": 1, "files": files})


def _recorded(directory: Path) -> Mapping[str, Any]:
    if (directory / RECORD).is_symlink() or not (directory / RECORD).is_file():
        return {}
    try:
        record = read_json(directory / RECORD)
    except UserError:
        return {}
    files = record.get("files") if isinstance(record, dict) else None
    return files if isinstance(files, dict) else {}


def _foreign(target: Path) -> list[str]:
    """The files at `target` that no conversion wrote, or that changed since."""
    if target.is_dir():
        recorded, foreign = _recorded(target), []
        for path in _entries(target):
            name = path.relative_to(target).as_posix()
            if name == RECORD and recorded:
                continue
            if path.is_symlink() or name not in recorded or not path.is_file():
                foreign.append(name)
            elif recorded[name] != _fingerprint(path):
                foreign.append(f"{name} (changed since)")
        return foreign
    try:
        ours = target.is_file() and (is_written_by_us(target) or read_origin(target) is not None)
    except UserError:
        ours = False
    return [] if ours else [target.name]


def resolved(target: Path) -> Path:
    """The target of a symbolic link, which itself stays; `UserError` if the link leads to itself."""
    try:
        return target.resolve()
    except RuntimeError:  # how `resolve` reports a loop
        raise UserError(f"{target}: is a symbolic link that leads to itself; choose another --output") from None


def _check_apart(target: Path, source: Path) -> None:
    """`UserError` if writing `target` would change the source, directly or through links."""
    here, there = resolved(target), source.resolve()
    if here == there or here in there.parents:
        raise UserError(f"{target}: is or contains the model that is being converted; choose another --output")
    if there.is_dir() and there in here.parents:
        raise UserError(f"{target}: is inside the model that is being converted; choose another --output")
    for file in source.rglob("*") if source.is_dir() else (source,):
        linked = Path(os.path.realpath(file))  # of a link to itself, too
        if here == linked or here in linked.parents:
            raise UserError(f"{target}: {file} leads there, which is being converted; choose another --output")


def check_target(target: Path, source: Path, replace: bool, directory: bool) -> None:
    """Refuse to replace what is at `target`, unless `replace` is set and a conversion wrote all of it.

    `directory`: whether a directory will be written there. Raises `UserError` naming the files that are in the way.
    """
    if target.name in ("", ".."):
        raise UserError(f"{target}: is not a name that can be written; choose another --output")
    _check_apart(target, source)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    foreign = _foreign(target)
    if target.is_dir() != directory:
        kind = "a directory" if directory else "a file"
        raise UserError(f"{target}: exists and is not a converted model that is {kind}; choose another --output")
    if not replace:
        remedy = " or add --replace" if not foreign else ""
        raise UserError(f"{target}: exists already; choose another --output{remedy}")
    if foreign:
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        holds = f"holds what no conversion wrote ({', '.join(foreign[:_NAMED])}{more}), so --replace leaves it alone"
        raise UserError(f"{target}: {holds}; move that elsewhere or choose another --output")
