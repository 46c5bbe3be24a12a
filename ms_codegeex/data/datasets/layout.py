"""The names of the files in a dataset directory."""

from __future__ import annotations

from pathlib import Path

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
