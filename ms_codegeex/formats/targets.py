"""Where a converted model may be written: what is in the way, and what an earlier conversion wrote."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import remove_leftovers
from ms_codegeex.formats.mindspore_checkpoint import read_origin
from ms_codegeex.formats.provenance import ends, files_below, read_statement
from ms_codegeex.formats.torch_zip import is_written_by_us

_NAMED = 3  # files in a message


def _foreign(target: Path) -> list[str]:
    """The files at `target` that no conversion wrote, or that changed since."""
    recorded, foreign = dict[str, Any](), list[str]()
    if target.is_dir():
        with contextlib.suppress(UserError):
            if (statement := read_statement(target)) is not None:
                recorded, foreign = statement.ends, [f"{name} (set since)" for name in statement.edits]
        for path in files_below(target, statement=not recorded):
            name = path.relative_to(target).as_posix()
            if path.is_symlink() or name not in recorded or not path.is_file():
                foreign.append(name)
            elif recorded[name] != ends(path):
                foreign.append(f"{name} (changed since)")
        return foreign
    with contextlib.suppress(UserError):
        if target.is_file() and (is_written_by_us(target) or read_origin(target) is not None):
            return []
    return [target.name]


def free_target(output: Path, source: Path, replace: bool, file: str = "", suffixes: Sequence[str] = ()) -> Path:
    """What to write: the directory `output`, or a `file` of this name in it, unless `output` itself names one with one
    of these `suffixes`. Links are followed, leftovers removed; `UserError` if it cannot be written."""
    try:
        named = not file or (output.suffix in suffixes and not output.is_dir())
        target = output if named else output / file
        target = resolved(target) if target.is_symlink() else target
        remove_leftovers(target)
        check_target(target, source, replace, not file)
    except OSError as error:
        raise UserError(f"{output}: cannot be used ({error.strerror}); choose another --output") from None
    return target


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
        linked = Path(os.path.realpath(file))  # has an answer for a link to itself, too
        if here == linked or here in linked.parents:
            raise UserError(f"{target}: {file} leads there, which is being converted; choose another --output")


def check_target(target: Path, source: Path, replace: bool, directory: bool) -> None:
    """Refuse to replace what is at `target`, unless `replace` is set and a conversion wrote all of it. `directory`:
    whether a directory will be written there. A `UserError` names the files that are in the way."""
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
