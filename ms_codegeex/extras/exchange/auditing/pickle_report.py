"""Whether our reader takes a file of weights, and what it refuses of a pickle, without running anything: for `inspect`.

Only data.pkl is looked at, as when the weights are read. What other programs may find in the file is for a scanner."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError, escaped
from ms_codegeex.base.reading import opened
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.formats.strategy import check_strategy
from ms_codegeex.formats.tensors import open_npy
from ms_codegeex.formats.torch_zip import read_torch, refused_names

_ZIP = b"PK\x03\x04"  # PyTorch takes no other beginning for an archive
# Files that hold no pickle: how each kind begins, and what reads it
_OTHERS: Mapping[str, tuple[bytes, Callable[[Path], object]]] = {
    "safetensors file": (rb".{8}\s*\{", SafetensorsFile),
    "MindSpore checkpoint": (rb"\n", read_mindspore),
    "numpy array": (rb"\x93NUMPY", open_npy),
    "strategy file of MindSpore": (rb"[\x08\x12]", check_strategy),
}
_BEGINNING = 64  # bytes
ARRAYS = "archive of numpy arrays"
SCANNER = "pip install picklescan && picklescan --path"


def describe(path: Path) -> dict[str, Any]:
    """Kind, whether our reader takes it (`readable`), why not, and the names it refuses. `UserError` if there is no
    such regular file."""
    with opened(path) as stream:
        beginning = stream.read(_BEGINNING)
    found: dict[str, Any] = {"path": str(path), "kind": "PyTorch file", "readable": True, "reason": "", "refused": []}
    if beginning.startswith(_ZIP):
        try:
            read_torch(path)
        except UserError as error:
            found |= {"readable": False, "reason": str(error), "refused": refused_names(path)}
            if arrays := _arrays_in(path):
                reason = f"{arrays} arrays of numpy in a zip file, which are not read; give a folder of .npy files"
                found |= {"kind": ARRAYS, "reason": f"{path}: {reason}", "refused": []}
        return found
    for kind, (begins, read) in _OTHERS.items():
        if re.match(begins, beginning, re.DOTALL):
            try:
                read(path)
                return found | {"kind": kind}
            except UserError as error:
                found |= {"kind": kind, "readable": False, "reason": str(error)}
    if found["reason"]:
        return found
    reason = f"{path}: neither a zip archive of PyTorch nor a {' or '.join(_OTHERS)}"
    return found | {"kind": "unknown file", "readable": False, "reason": f"{reason}; save it with PyTorch 1.6 or newer"}


def _arrays_in(path: Path) -> int:
    with suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        return len(names) if all(name.endswith(".npy") for name in names) else 0
    return 0


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The description for people."""
    if found["kind"] in _OTHERS:
        said = "our reader takes it; it holds no pickle" if found["readable"] else f"DAMAGED: {found['reason']}"
        yield escaped(f"{found['kind']}: {said}")
        return
    said = "our reader takes it and runs nothing" if found["readable"] else found["reason"]
    yield escaped(f"{found['kind']}: {said}")
    yield from (escaped(f"  {name}: refused, because a program that loads it may run it") for name in found["refused"])
    yield escaped(f"what other programs would run of it: {SCANNER} {found['path']}")


SHOWN = ("file of weights", describe, lines, False)  # for `inspect`
