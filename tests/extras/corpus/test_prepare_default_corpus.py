"""The whole default corpus: every document is its source without licence headers, and both tokenizers agree on it."""

import contextlib
import hashlib
import tokenize

import pyarrow.parquet as pq
import pytest

from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus.licences import strip_licence
from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings
from ms_codegeex.extras.corpus.sources import default_roots

pytestmark = pytest.mark.slow  # minutes: our own tokenizer encodes 64 MB


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    output = tmp_path_factory.mktemp("default") / "out"
    prepare_dataset(None, output, PrepareSettings(), RunOptions(workers=2, progress=False))
    return output


def documents(dataset):
    """Source, row of the table and ids of every document."""
    for split in ("train", "validation"):
        data = IndexedDataset(dataset / split)
        rows = pq.read_table(dataset / f"{split}.documents.parquet").to_pylist()
        for number, row in enumerate(rows):
            yield row, data.document(number).tolist()


def in_utf8(path):
    """A file's text: UTF-8 if that is what it is, otherwise as Python decodes it; the rest is in cp1252."""
    data = path.read_bytes()
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode("utf-8-sig").encode()
    encoding = "utf-8"
    with contextlib.suppress(SyntaxError):  # no encoding is declared: test/tokenizedata/badsyntax_pep3120.py of CPython
        encoding, _ = tokenize.detect_encoding(iter(data.splitlines(keepends=True)).__next__)
    return data.decode("cp1252" if encoding == "utf-8" else encoding).encode()


def test_every_document_is_its_source(dataset):
    tokenizer, roots = load_tokenizer("codegeex"), {root.label: root.path for root in default_roots()}
    count = 0
    for row, ids in documents(dataset):
        label, path = row["source"].split("/", 1)
        data = strip_licence(in_utf8(roots[label] / path), row["language"])
        assert tokenizer.decode(ids[:-1]).split("\n", 1)[1].encode() == data, row["source"]
        assert (row["sha256"], row["bytes"], row["tokens"]) == (hashlib.sha256(data).digest(), len(data), len(ids))
        count += 1
    assert count > 2000


def test_our_tokenizer_gives_the_same_ids(dataset):
    tokenizer = load_tokenizer("codegeex")
    for row, ids in documents(dataset):
        assert [*tokenizer.encode(tokenizer.decode(ids[:-1])), 50256] == ids, row["source"]
