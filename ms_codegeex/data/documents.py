"""`{split}.documents.parquet`: where each document of a dataset comes from, in the order of the `.idx`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def write_documents(prefix: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write the table: `source` and `language` str, `sha256` 32 bytes, `bytes` and `tokens` int, one row a document."""
    import pyarrow
    import pyarrow.parquet

    with atomic_file(documents_path(prefix)) as temporary:
        table = pyarrow.table({name: columns[name] for name in COLUMNS}, schema=_schema())
        pyarrow.parquet.write_table(table, temporary, compression="zstd")


def read_documents(prefix: Path) -> Any | None:
    """The table (a pyarrow.Table with `COLUMNS`), or None where the dataset has none, being of an older version.

    Raises:
        UserError: the file is damaged, or a column is missing.
    """
    import pyarrow
    import pyarrow.parquet

    path = documents_path(prefix)
    if not path.is_file():
        return None
    try:
        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
        return table.cast(_schema())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not the table of a dataset's documents ({problem}); prepare the dataset again with --replace"
        ) from None
