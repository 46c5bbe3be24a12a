import hashlib

import pyarrow.parquet
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets.layout import COLUMNS, DocumentsWriter, documents_path, read_document_row, read_documents

HASHES = [hashlib.sha256(bytes([n])).digest() for n in range(25)]
ROWS = [
    {"source": f"é{n}.py", "language": "Python", "sha256": HASHES[n], "bytes": n, "tokens": n + 1} for n in range(25)
]


@pytest.fixture
def prefix(tmp_path):
    with DocumentsWriter(tmp_path / "train") as writer:
        writer.add({name: [row[name] for row in ROWS] for name in COLUMNS})
    return tmp_path / "train"


def test_written_and_read(prefix):
    assert documents_path(prefix).name == "train.documents.parquet"
    assert read_documents(prefix).to_pylist() == ROWS
    assert read_documents(prefix, ["tokens"]).to_pydict() == {"tokens": [row["tokens"] for row in ROWS]}


@pytest.mark.parametrize("size", [4, 25])
def test_one_row_of_several_groups(prefix, size):
    table = pyarrow.parquet.read_table(documents_path(prefix))
    pyarrow.parquet.write_table(table, documents_path(prefix), row_group_size=size)
    assert [read_document_row(prefix, number) for number in range(25)] == ROWS
    with pytest.raises(UserError, match="not the table of this dataset's documents"):
        read_document_row(prefix, 25)


def test_a_dataset_without_a_table(tmp_path):
    assert read_documents(tmp_path / "train") is None and read_document_row(tmp_path / "train", 0) is None


def test_a_damaged_table(prefix):
    documents_path(prefix).write_bytes(b"PAR1 is not all there is to it PAR1")
    for read in (read_documents, lambda place: read_document_row(place, 0)):
        with pytest.raises(UserError, match=r"train\.documents\.parquet: not the table"):
            read(prefix)
