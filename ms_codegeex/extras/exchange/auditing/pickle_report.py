"""Whether our reader takes a file of weights, and what it refuses of a pickle, without running anything: for `inspect`.

Only data.pkl is looked at, as when the weights are read. What other programs may find in the file is for a scanner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError, escaped
from ms_codegeex.base.reading import opened
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.torch_zip import read_torch, refused_names

_ZIP = b"PK\x03\x04"  # PyTorch takes no other beginning for an archive
_OTHERS: Mapping[str, Callable[[Path], object]] = {
    "safetensors file": SafetensorsFile,
    "MindSpore checkpoint": read_mindspore,
}
SCANNER = "pip install picklescan && picklescan --path"


def describe(path: Path) -> dict[str, Any]:
    """Kind, whether our reader takes it (`readable`), why not, and the names it refuses. `UserError` if there is no
    such regular file."""
    with opened(path) as stream:
        is_archive = stream.read(len(_ZIP)) == _ZIP
    found: dict[str, Any] = {"path": str(path), "kind": "PyTorch file", "readable": True, "reason": "", "refused": []}
    if is_archive:
        try:
            read_torch(path)
        except UserError as error:
            found |= {"readable": False, "reason": str(error), "refused": refused_names(path)}
        return found
    for kind, read in _OTHERS.items():
        try:
            read(path)
            return found | {"kind": kind}
        except UserError:
            continue
    reason = f"{path}: neither a zip archive of PyTorch nor a {' or '.join(_OTHERS)}"
    return found | {"kind": "unknown file", "readable": False, "reason": f"{reason}; save it with PyTorch 1.6 or newer"}


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The description for people."""
    if found["kind"] in _OTHERS:
        yield f"{found['kind']}: our reader takes it; it holds no pickle"
        return
    yield escaped(
        f"{found['kind']}: {'our reader takes it and runs nothing' if found['readable'] else found['reason']}"
    )
    yield from (escaped(f"  {name}: refused, because a program that loads it may run it") for name in found["refused"])
    yield escaped(f"what other programs would run of it: {SCANNER} {found['path']}")


SHOWN = ("file of weights", describe, lines, False)  # for `inspect`
