"""A dataset directory: its files by name, checks before one is written, and the origin of each document of a split, in
the order of the `.idx`: `{split}.documents.parquet`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.base.digests import sha256
from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import atomic_file
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
_GROUP_ROWS = 1 << 16  # paths have 4 KiB at most, so their offsets fit int32
COLUMNS = ("source", "language", "sha256", "bytes", "tokens")
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
    if entry.name != TOKENIZER_DIRECTORY or not entry.is_dir():
        return entry.name in (*DATA_FILES, *MASKS, *TABLES, *REPORTS, DATASET_JSON)
    in_dataset = (entry.parent / DATASET_JSON).is_file()
    return in_dataset and all(file.name in TOKENIZER_FILES for file in entry.iterdir())


def file_records(directory: Path) -> dict[str, dict[str, Any]]:
    paths = [directory / name for name in (*DATA_FILES, *MASKS, *TABLES) if (directory / name).is_file()]
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in paths}


def documents_path(prefix: Path) -> Path:
    return prefix.with_name(prefix.name + ".documents.parquet")


def _schema() -> Any:
    import pyarrow

    kinds = (pyarrow.string(), pyarrow.string(), pyarrow.binary(32), pyarrow.int64(), pyarrow.int64())
    return pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))


class DocumentsWriter(contextlib.ExitStack):
    """Writes the table of the split at `prefix`; it appears only if the `with` block ends without an error."""

    def __init__(self, prefix: Path) -> None:
        super().__init__()
        self._path = documents_path(prefix)
        self._waiting: list[Any] = []
        self._rows = 0

    def __enter__(self) -> DocumentsWriter:
        import pyarrow.parquet

        self._schema = _schema()
        temporary = self.enter_context(atomic_file(self._path))
        stream = self.enter_context(open(temporary, "wb"))
        writer = pyarrow.parquet.ParquetWriter(stream, self._schema, compression="zstd")
        self._writer = self.enter_context(writer)
        self.push(lambda kind, *_: self._flush() if kind is None else None)
        return self

    def add(self, columns: Mapping[str, Any]) -> None:
        """Append a row for each document. In `columns`, `source` and `language` are sequences of str, `sha256` is a
        sequence of 32-byte hashes or uint8 `[documents, 32]`, and `bytes` and `tokens` are int64 `[documents]`."""
        import pyarrow

        count = len(columns["source"])
        for start in range(0, count, _GROUP_ROWS):
            rows = slice(start, start + _GROUP_ROWS)
            arrays = [_array(columns[field.name][rows], field.type) for field in self._schema]
            self._waiting.append(pyarrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows += count
        if self._rows >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        if self._waiting:
            table = pyarrow.concat_tables(self._waiting)
            for start in range(0, self._rows, _GROUP_ROWS):
                self._writer.write_table(table.slice(start, _GROUP_ROWS).combine_chunks())
        self._waiting, self._rows = [], 0


def _array(values: Any, kind: Any) -> Any:
    """A column from its bytes: `pyarrow.array` and `pyarrow.table` would import pandas, which is slow."""
    import numpy as np
    import pyarrow

    parts: list[Any]
    if kind == pyarrow.string():
        texts = [text.encode() for text in values]
        parts = [np.cumsum([0, *map(len, texts)], dtype=np.int32), b"".join(texts)]
    elif kind == pyarrow.binary(32):
        parts = [values.tobytes() if isinstance(values, np.ndarray) else b"".join(values)]
    else:
        parts = [np.array(values, np.int64)]
    buffers = [None, *(pyarrow.py_buffer(part) for part in parts)]
    return pyarrow.Array.from_buffers(kind, len(values), buffers)


def read_documents(prefix: Path, columns: Sequence[str] = COLUMNS) -> Any | None:
    """The pyarrow.Table; None if a dataset of an older version has none. `UserError` for damage or a missing column."""
    import pyarrow.parquet

    path = documents_path(prefix)
    if not path.is_file():
        return None
    with _reported_damage(path):
        table = pyarrow.parquet.read_table(path, columns=list(columns))
        return table.cast(pyarrow.schema([_schema().field(name) for name in columns]))


def read_document_row(prefix: Path, number: int) -> dict[str, Any] | None:
    """The row of document `number`; None if the dataset has no table. A damaged table is a `UserError`."""
    import pyarrow.parquet

    path = documents_path(prefix)
    if not path.is_file():
        return None
    with _reported_damage(path), pyarrow.parquet.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number < first + rows:
                table = file.read_row_group(group, columns=list(COLUMNS)).slice(number - first, 1)
                return table.cast(_schema()).to_pylist()[0]
            first += rows
        raise IndexError(f"row {number} of {first}")


@contextlib.contextmanager
def _reported_damage(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, IndexError) as error:
        problem = " ".join(str(error).split())[:200]
        what = f"not the table of this dataset's documents ({problem})"
        raise UserError(f"{path}: {what}; prepare it again with --replace") from None
