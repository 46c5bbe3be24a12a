"""Adapters wherever they are: in a run, a checkpoint, or a directory in PEFT's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.adapters import Adapters, check_base
from ms_codegeex.formats.checkpoint_folder import resolve
from ms_codegeex.formats.peft import CONFIG, read_peft
from ms_codegeex.formats.sources import Source, checkpoint_adapters


def adapters_path(path: Path) -> Path:
    """Where a run's newest adapters are; the path itself if it is a directory in PEFT's layout. `UserError` if there
    is nothing."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such directory; give a run with adapters, or a directory in PEFT's layout")
    return path if (path / CONFIG).is_file() else resolve(path).path


def open_adapters(path: Path, base: Source, check_fingerprint: bool = True) -> Adapters:
    """The adapters at `path` for the model `base`; numbers are read later.

    `check_fingerprint`: require that they were trained on `base`; otherwise any model of the same sizes will do.
    `UserError` if there are none, or if they do not fit.
    """
    path = adapters_path(path)
    if base.adapters is not None:
        raise UserError(f"{base.path}: holds adapters itself; give the model that they are for, or merge them first")
    adapters = read_peft(path, base) if (path / CONFIG).is_file() else checkpoint_adapters(resolve(path))
    adapters = adapters if check_fingerprint else replace(adapters, fingerprint=None)
    check_base(adapters, base.tensors, str(path), base.path)
    return adapters
