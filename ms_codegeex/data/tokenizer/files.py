"""The files of a tokenizer's directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json


def check_files(directory: Path, names: Sequence[str]) -> None:
    """`UserError` unless `directory` holds all these files."""
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory}: {', '.join(missing)} missing; expected a directory with {', '.join(names)}")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; anything else is a `UserError`."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a JSON object; restore the file")
    return content
