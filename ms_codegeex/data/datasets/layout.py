"""A dataset directory: its files by name, and checks before one is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import sha256
from ms_codegeex.data.tokenizer import TOKENIZER_FILES
from ms_codegeex.data.tokenizer.recorded import TOKENIZER_DIRECTORY

FORMAT = "ms-codegeex dataset"
VERSION = 1
SPLITS = ("train", "validation")
DATA_FILES = tuple(f"{split}.{ending}" for split in SPLITS for ending in ("bin", "idx"))
MASKS = tuple(f"{split}.mask" for split in SPLITS)
TABLES = tuple(f"{split}.documents.parquet" for split in SPLITS)
DATASET_JSON = "dataset.json"
REPORT_JSON, REPORT_HTML = REPORTS = ("report.json", "report.html")
REPORT_FORMAT, REPORT_VERSION = "ms-codegeex report", 1


def mask_path(prefix: Path) -> Path:
    """The file that says which tokens of the split `prefix` the loss counts: uint8, one byte per token."""
    return prefix.with_name(prefix.name + ".mask")


def is_occupied(output: Path) -> bool:
    """Whether `output` has content. `UserError` if that is not a dataset's, because replacing would delete it."""
    try:
        if not output.exists():
            return False
        if not output.is_dir():
            raise UserError(f"{output}: is a file; give --output a directory")
        entries = sorted(output.iterdir())
        foreign = [entry.name for entry in entries if not _is_ours(entry)]
    except OSError as error:  # a name too long, no permission
        raise UserError(f"{output}: cannot be read ({error.strerror}); give --output another directory") from None
    if foreign:
        raise _foreign(output, foreign[0])
    return bool(entries)


def _foreign(output: Path, name: str) -> UserError:
    return UserError(f"{output}: holds {name}, which is not part of a dataset; give --output another directory")


def check_output(output: Path, replace: bool) -> None:
    """`UserError` unless a dataset may be written to `output`: nothing is there, or a dataset that may be replaced."""
    if not is_occupied(output):
        return
    if not (output / DATASET_JSON).is_file():
        raise _foreign(output, min(entry.name for entry in output.iterdir()))
    if not replace:
        raise UserError(f"{output}: holds a dataset; add --replace, or give --output another directory")


def _is_ours(entry: Path) -> bool:
    """Whether this package wrote an entry of a dataset directory."""
    if entry.name != TOKENIZER_DIRECTORY or not entry.is_dir():
        return entry.name in (*DATA_FILES, *MASKS, *TABLES, *REPORTS, DATASET_JSON)
    in_dataset = (entry.parent / DATASET_JSON).is_file()
    return in_dataset and all(file.name in TOKENIZER_FILES for file in entry.iterdir())


def file_records(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each file of both splits, for dataset.json."""
    paths = [directory / name for name in (*DATA_FILES, *MASKS, *TABLES) if (directory / name).is_file()]
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}
