import struct
import tracemalloc

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets import indexed
from ms_codegeex.data.datasets.indexed import IndexedDataset, IndexedWriter, open_tokens

DOCUMENTS = [[1, 2, 3], [50256], [7, 65535, 0, 9]]


def write(prefix, documents=DOCUMENTS, dtype=np.uint16):
    with IndexedWriter(prefix, dtype) as writer:
        for document in documents:
            writer.add(document)


def read_by_hand(prefix):
    """Megatron's layout read field by field, without the module under test."""
    data = (prefix.parent / (prefix.name + ".idx")).read_bytes()
    assert data[:9] == b"MMIDIDX\x00\x00"
    version, code, count, starts = struct.unpack_from("<QBQQ", data, 9)
    assert version == 1 and code in (4, 8)
    place = 9 + 8 + 1 + 8 + 8
    sizes = struct.unpack_from(f"<{count}i", data, place)
    pointers = struct.unpack_from(f"<{count}q", data, place + 4 * count)
    documents = struct.unpack_from(f"<{starts}q", data, place + 12 * count)
    assert len(data) == place + 12 * count + 8 * starts and documents == tuple(range(count + 1))
    blob = (prefix.parent / (prefix.name + ".bin")).read_bytes()
    kind = {4: "i", 8: "H"}[code]
    return [
        list(struct.unpack_from(f"<{size}{kind}", blob, pointer)) for size, pointer in zip(sizes, pointers, strict=True)
    ]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_written_as_megatron_reads_it(tmp_path, dtype):
    write(tmp_path / "a.b", dtype=dtype)  # a dot in the prefix must not be taken for an ending
    assert read_by_hand(tmp_path / "a.b") == DOCUMENTS
    dataset = IndexedDataset(tmp_path / "a.b")
    assert [dataset.document(i).tolist() for i in range(len(dataset))] == DOCUMENTS
    assert dataset.sizes.tolist() == [3, 1, 4] and dataset.tokens.tolist() == [id for row in DOCUMENTS for id in row]
    assert dataset.document(0).dtype == dtype and not dataset.document(0).flags.writeable
    assert np.shares_memory(dataset.document(2), dataset.tokens)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_an_index_written_in_pieces(tmp_path, monkeypatch, count):
    monkeypatch.setattr(indexed, "_PIECE", 3)
    documents = [[number] * (number + 1) for number in range(count)]
    write(tmp_path / "pieces", documents)
    assert read_by_hand(tmp_path / "pieces") == documents


def test_a_writer_holds_nothing_of_its_documents(tmp_path):
    ids, sizes = np.ones(1 << 16, np.uint16), np.ones(1 << 16, np.int64)
    with IndexedWriter(tmp_path / "many") as writer:
        writer.add_run(ids, sizes)
        tracemalloc.start()
        for _ in range(32):
            writer.add_run(ids, sizes)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 100_000  # two million sizes
    assert peak < 10_000_000  # while the index was completed


def test_documents_of_several_sequences(tmp_path):
    """Megatron allows a document to have more than one sequence."""
    header = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 3, 3)
    (tmp_path / "t.idx").write_bytes(header + struct.pack("<3i3q3q", 2, 1, 3, 0, 4, 6, 0, 2, 3))
    (tmp_path / "t.bin").write_bytes(struct.pack("<6H", *range(6)))
    dataset = IndexedDataset(tmp_path / "t")
    assert [dataset.document(i).tolist() for i in range(len(dataset))] == [[0, 1, 2], [3, 4, 5]]


def test_empty_dataset(tmp_path):
    write(tmp_path / "t", [])
    dataset = IndexedDataset(tmp_path / "t")
    assert len(dataset) == 0 and dataset.tokens.size == 0
    with pytest.raises(IndexError):
        dataset.document(0)


@pytest.mark.parametrize("number", [-1, 3])
def test_document_out_of_range(tmp_path, number):
    write(tmp_path / "t")
    with pytest.raises(IndexError, match=r"documents 0\.\.2"):
        IndexedDataset(tmp_path / "t").document(number)


@pytest.mark.parametrize("document", [[], [65536], [-1], [[1, 2]]])
def test_documents_that_do_not_fit(tmp_path, document):
    with pytest.raises(ValueError, match="non-empty row of ids"):
        write(tmp_path / "t", [document])
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_an_interrupted_write(tmp_path):
    with pytest.raises(KeyboardInterrupt), IndexedWriter(tmp_path / "t") as writer:
        writer.add([1])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_check_ids(tmp_path):
    write(tmp_path / "t")
    dataset = IndexedDataset(tmp_path / "t")
    dataset.check_ids(65536)
    with pytest.raises(UserError, match=r"t\.bin: id 65535 in document 2 is outside 0\.\.50399"):
        dataset.check_ids(50400)
    write(tmp_path / "n", dtype=np.int32)
    data = bytearray((tmp_path / "n.bin").read_bytes())
    data[4:8] = struct.pack("<i", -5)
    (tmp_path / "n.bin").write_bytes(data)
    with pytest.raises(UserError, match="id -5 in document 0"):
        IndexedDataset(tmp_path / "n").check_ids(100000)


def patch(place, value):
    def damage(data):
        return data[:place] + value + data[place + len(value) :]

    return damage


SIZES, POINTERS, STARTS = 34, 34 + 12, 34 + 36


# what is damaged, what is said of it, and what `open_tokens` says, which reads the header and the last document alone
DAMAGE = [
    (lambda data: b"", "0 bytes, the header alone has 34", "0 bytes"),
    (lambda data: data[:33], "33 bytes", "33 bytes"),
    (patch(0, b"X"), "starts with", "starts with"),
    (patch(9, struct.pack("<Q", 2)), "version 2", "version 2"),
    (patch(17, b"\x05"), "dtype code 5", "dtype code 5"),
    (patch(17, b"\x04"), "starts at byte 6 instead of 12", "describes 24 bytes but its .bin has 16"),
    (lambda data: data[:-1], "bytes instead of", "bytes instead of"),
    (lambda data: data + b"\0", "bytes instead of", "bytes instead of"),
    (patch(18, struct.pack("<Q", 2**60)), "bytes instead of", "bytes instead of"),
    (patch(SIZES, struct.pack("<i", -3)), "sequence 0 has size -3", None),
    (patch(SIZES + 4, struct.pack("<i", 2)), "sequence 2 starts at byte 8 instead of 10", None),
    (patch(SIZES + 8, struct.pack("<i", 5)), "describes 18 bytes but its .bin has 16", "describes 18 bytes but"),
    (patch(POINTERS + 8, struct.pack("<q", 0)), "sequence 1 starts at byte 0", None),
    (patch(STARTS + 8, struct.pack("<q", 9)), "document starts", None),
    (patch(STARTS + 24, struct.pack("<q", 2)), "document starts", None),
]


@pytest.mark.parametrize("damage, said, said_of_tokens", DAMAGE)
def test_damaged_index(tmp_path, damage, said, said_of_tokens):
    write(tmp_path / "t")
    path = tmp_path / "t.idx"
    path.write_bytes(damage(path.read_bytes()))
    for read, message in ((IndexedDataset, said), (open_tokens, said_of_tokens)):
        if message is None:
            assert read(tmp_path / "t").size == 8
            continue
        with pytest.raises(UserError, match=message) as error:
            read(tmp_path / "t")
        assert str(error.value).startswith(str(path)) and "--replace" in str(error.value)
        assert "\n" not in str(error.value)


def test_tokens_without_the_index(tmp_path):
    write(tmp_path / "t")
    write(tmp_path / "n", dtype=np.int32)
    IndexedWriter(tmp_path / "empty").__enter__().__exit__(None, None, None)
    for name in ("t", "n", "empty"):
        tokens, expected = open_tokens(tmp_path / name), IndexedDataset(tmp_path / name).tokens
        assert tokens.dtype == expected.dtype and tokens.tolist() == expected.tolist()


def test_tokens_without_the_index_take_no_memory_for_documents(tmp_path):
    write(tmp_path / "t", [[1]] * 20_000)
    tracemalloc.start()
    assert open_tokens(tmp_path / "t").size == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_cut_bin_and_missing_files(tmp_path):
    write(tmp_path / "t")
    data = (tmp_path / "t.bin").read_bytes()
    (tmp_path / "t.bin").write_bytes(data[:-2])
    with pytest.raises(UserError, match=r"t\.idx: describes 16 bytes but its \.bin has 14"):
        IndexedDataset(tmp_path / "t")
    (tmp_path / "t.bin").unlink()
    with pytest.raises(UserError, match=r"t\.bin: no such file"):
        IndexedDataset(tmp_path / "t")
    with pytest.raises(UserError, match=r"u\.idx: no such file"):
        IndexedDataset(tmp_path / "u")


def test_runs_are_documents_one_behind_the_other(tmp_path):
    ids = np.arange(10, dtype=np.uint16)
    with IndexedWriter(tmp_path / "one") as one:
        one.add([7])
        one.add_run(ids, np.array([3, 1, 6]))
    with IndexedWriter(tmp_path / "other") as other:
        for document in ([7], [0, 1, 2], [3], range(4, 10)):
            other.add(list(document))
    for ending in (".bin", ".idx"):
        assert (tmp_path / f"one{ending}").read_bytes() == (tmp_path / f"other{ending}").read_bytes()
    with IndexedWriter(tmp_path / "bad") as bad:
        bad.add([1])
        for wrong in (ids[:9], ids.astype(np.int32)):
            with pytest.raises(ValueError, match="ids of dtype"):
                bad.add_run(wrong, np.array([3, 1, 6]))
