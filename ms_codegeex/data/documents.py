"""`{split}.documents.parquet`: where each document of a dataset comes from, in the order of the `.idx`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ms_codegeex.errors import UserError
from ms_codegeex.files import atomic_file

COLUMNS = ("source", "language", "sha256", "bytes", "tokens")


def documents_path(prefix: Path) -> Path:
    """The table of the split whose `.bin` and `.idx` start with `prefix`."""
    return prefix.with_name(prefix.name + ".documents.parquet")


def _schema() -> Any:
    import pyarrow

    kinds = (pyarrow.string(), pyarrow.string(), pyarrow.binary(32), pyarrow.int64(), pyarrow.int64())
    return pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))


def write_documents(prefix: Path, batches: Iterable[Mapping[str, Any]]) -> None:
    """Write the table from batches of columns: `source` and `language` str, `sha256` 32 bytes, `bytes` and `tokens`
    int, as sequences or Arrow arrays; one row a document."""
    import pyarrow
    import pyarrow.parquet

    schema = _schema()
    with (
        atomic_file(documents_path(prefix)) as temporary,
        open(temporary, "wb") as stream,
        pyarrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer,
    ):
        for columns in batches:
            # Not `pyarrow.table`, which imports pandas: a third of a second.
            arrays = [pyarrow.array(columns[field.name], field.type) for field in schema]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def read_documents(prefix: Path, columns: Sequence[str] = COLUMNS) -> Any | None:
    """The table (a pyarrow.Table), or None where the dataset has none, being of an older version.

    Raises:
        UserError: the file is damaged, or a column is missing.
    """
    import pyarrow.parquet

    path = documents_path(prefix)
    if not path.is_file():
        return None
    with _damage_told(path):
        table = pyarrow.parquet.read_table(path, columns=list(columns))
        return table.cast(pyarrow.schema([_schema().field(name) for name in columns]))


def read_document_row(prefix: Path, number: int) -> dict[str, Any] | None:
    """The row of document `number`; None where the dataset has no table. A damaged one is a `UserError`."""
    import pyarrow.parquet

    path = documents_path(prefix)
    if not path.is_file():
        return None
    with _damage_told(path), pyarrow.parquet.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number < first + rows:
                table = file.read_row_group(group, columns=list(COLUMNS)).slice(number - first, 1)
                return table.cast(_schema()).to_pylist()[0]
            first += rows
        raise IndexError(f"row {number} of {first}")


@contextlib.contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, IndexError) as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}: not the table of this dataset's documents ({problem}); prepare the dataset again with --replace"
        ) from None
