"""What a dataset directory holds, by name."""

from __future__ import annotations

FORMAT = "ms-codegeex dataset"
VERSION = 1
SPLITS = ("train", "validation")
DATA_FILES = tuple(f"{split}.{ending}" for split in SPLITS for ending in ("bin", "idx"))
TABLES = tuple(f"{split}.documents.parquet" for split in SPLITS)
DATASET_JSON = "dataset.json"
REPORT_JSON, REPORT_HTML = REPORTS = ("report.json", "report.html")
REPORT_FORMAT, REPORT_VERSION = "ms-codegeex report", 1
