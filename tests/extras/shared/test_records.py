import gzip
import io
import json
import struct
import tracemalloc

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ms_codegeex.extras.shared import records
from ms_codegeex.extras.shared.records import (
    ArchivePart,
    BadInput,
    ReturnKeeper,
    archive_kind,
    line_parts,
    read_lines,
    read_records,
    read_rows,
    record_parts,
    row_parts,
)

WHOLE = ArchivePart(None, 0, 0)
MUCH = 1 << 30


def lines_of(path, limit=MUCH, part=WHOLE):
    return list(read_lines(path, part, limit))


def lines_of_parts(path, parts, limit=MUCH):
    """The lines of all parts, each counted on from the parts before."""
    found, before = [], 0
    for part in parts:
        lines = ReturnKeeper(read_lines(path, part, limit))
        found += [(before + number, line) for number, line in lines]
        before += lines.value
    return found


def expected(data):
    return [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]


def zst(data):
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


def test_kinds():
    kinds = {"jsonl": "a.jsonl a.JSONL.GZ a.jsonl.zst a.json.gz a.json a.ndjson.zst", "parquet": "a.parquet"}
    kinds |= {"arrow": "a.arrow a.feather", None: "a.gz jsonl a.jsonl.bz2 a.zst"}
    assert all(archive_kind(name) == kind for kind, names in kinds.items() for name in names.split())


TEXTS = [{"text": 'x]}},[{\\"\\\\', "é": "\u2028\n"}, {"list": [1, [{"a": []}]]}, {}, {"text": "\\" * 9 + '"' * 5}] * 9
LAYOUTS = {
    "array": json.dumps(TEXTS),
    "indented": json.dumps(TEXTS, indent=2, ensure_ascii=False),
    "array of lines": "[\n" + ",\n".join(map(json.dumps, TEXTS)) + "\n]\n",
    "two arrays": json.dumps(TEXTS[:9]) + "\n" + json.dumps(TEXTS[9:]),
    "arrays in lines": "\n".join(json.dumps([row]) for row in TEXTS),
    "indented objects": "\n".join(json.dumps(row, indent=1) for row in TEXTS[:2]) + json.dumps(TEXTS[2:]),
    "with a mark": "\ufeff [" + json.dumps(TEXTS)[1:],
    "lines": "\n".join(map(json.dumps, TEXTS)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["x.json", "x.jsonl.gz", "x.json.zst"])
def test_layouts_of_json(tmp_path, monkeypatch, layout, name):
    """The records are those that Python's own parser gives, wherever the blocks end; arrays are never divided."""
    path = tmp_path / name
    path.write_bytes(
        {"json": bytes, "gz": gzip.compress, "zst": zst}[name.rpartition(".")[2]](LAYOUTS[layout].encode())
    )
    [whole] = record_parts(path, path.stat().st_size)
    assert [record for _, record, _ in read_records(path, whole, MUCH)] == TEXTS
    assert len(record_parts(path, path.stat().st_size, 100)) == 1 or (layout, name) == ("lines", "x.json")
    if name == "x.json":
        for size in (1, 2, 7) if layout != "lines" else ():
            blocks = records._pieces(io.BytesIO(path.read_bytes()), size)
            assert [json.loads(item) for item in records._elements(blocks, MUCH)] == TEXTS


FLAWED = {
    '[{"a":1},{"b":2},]': ([1, 2], "invalid JSON", "a comma without a record, after record 2, in line 1"),
    '[{"a":1},,\n{"b":2}]': ([1, 2], "invalid JSON", "a comma without a record, after record 1, in line 1"),
    '[{"a":1},\n{"b":2},\n{"c"': ([1, 2], "truncated archive", "the array is not closed: the file ends in line 3"),
    '[{"a":1},\n{"b":2}\n': ([1, 2], "truncated archive", "the array is not closed: the file ends in line 3"),
    '{\n"a": 1}\n{\n"b': ([1], "truncated archive", "the object is not closed: the file ends in line 4"),
    '[{"a":1},[{}],{"b":2}]': ([1, 3], "no object", "found a value of type list"),
    '{"a":1},\n{"b":2}': ([2], "invalid JSON", "trailing characters at line 1 column 8 (the line ends in a comma)"),
    '[{"a":1},' + "[" * 200: ([1], "invalid JSON", "record 2 is nested deeper than 100 levels: not read further"),
    '[{"a":1},{"c":"' + "x" * 99 + '"}, {"b":2}]': ([1, 3], "too large", "longer than 90 bytes"),
}


@pytest.mark.parametrize("text", FLAWED)
def test_flawed_arrays(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    found, (numbers, reason, detail) = list(read_records(path, WHOLE, 90)), FLAWED[text]
    assert [number for number, record, _ in found if isinstance(record, dict)] == numbers
    [broken] = [record for _, record, _ in found if isinstance(record, BadInput)]
    assert broken.reason == reason and broken.detail.endswith(detail[-30:])


def test_an_array_is_not_held(tmp_path):
    path, row = tmp_path / "x.json.zst", json.dumps({"text": "x" * 1000})
    path.write_bytes(zst(("[" + ",".join([row] * 1000) + ',{"text": "' + "y" * 120_000_000 + '"}]').encode()))
    found, peak = measured(path, 100_000)
    assert len(found) == 1001 and found[-1][1].reason == "too large" and peak < 80_000_000


@pytest.mark.parametrize("log", [28, 31])
def test_zstd_windows(tmp_path, log):
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=log)
    pack = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    path, data = tmp_path / "x.jsonl.zst", bytearray(pack.compress(DATA) + pack.flush())
    path.write_bytes(data)
    assert lines_of(path) == expected(DATA)
    data[5] = (32 - 10) << 3  # the window's size in the frame's header: 4 GiB
    path.write_bytes(data)
    [(_, broken)] = lines_of(path)
    assert broken.reason == "window too large" and "2 GiB" in broken.detail


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_what_a_batch_unpacks_to_is_limited(tmp_path, monkeypatch, new, compression):
    content, path = pa.table({"text": ["x" * 5000] * 4}), tmp_path / "x.arrow"
    for table in (content, pa.table({"text": content["text"].dictionary_encode()})):
        with new(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table)
        monkeypatch.undo()
        assert len(list(read_records(path, WHOLE, MUCH))) == 4
        monkeypatch.setattr(records, "MAX_BATCH", 5000)
        ((_, broken, _),) = read_records(path, WHOLE, MUCH)
        assert broken.reason == "damaged archive" and "unpacks to" in broken.detail


@pytest.mark.parametrize("form", ["stream", "file", "feather"])
def test_arrow(tmp_path, form):
    path, rows = tmp_path / "x.arrow", [{"text": f"é{n}", "messages": [{"role": "user", "n": n}]} for n in range(10)]
    content = pa.Table.from_pylist(rows)
    if form == "feather":
        feather.write_feather(content, path)
    else:
        with (pa.ipc.new_stream if form == "stream" else pa.ipc.new_file)(path, content.schema) as writer:
            writer.write_table(content, max_chunksize=3)
    [part] = record_parts(path, path.stat().st_size)
    assert [(number, row) for number, row, _ in read_records(path, part, MUCH)] == list(enumerate(rows))
    assert rows_of(path, ("text",))[9] == (9, ("é9".encode(),)) and len(rows_of(path, ())) == 10
    path.write_bytes(path.read_bytes()[:-60])
    assert rows_of(path, ("text",))[-1][1].reason == "damaged archive"


@given(st.lists(st.sampled_from([b"\n", b"a", b"bc" * 9, b" ", b"\r"])).map(b"".join), st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it writes files
def test_parts_have_every_line_once(tmp_path, data, part_bytes):
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    parts = line_parts(path, len(data), part_bytes)
    assert lines_of_parts(path, parts) == expected(data)
    assert sum(part.bytes for part in parts) == len(data)
    assert all(part.bytes <= part_bytes for part in parts)


def test_a_line_over_many_parts_is_read_by_the_one_it_starts_in(tmp_path, monkeypatch):
    """The others see at their own end that nothing starts in them; reading on would cost parts times the line."""
    path, read = tmp_path / "x.jsonl", []
    path.write_bytes(b"a\n" + b"b" * 5000 + b"\nc\n")
    parts = line_parts(path, path.stat().st_size, 100)

    class Counting(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(records, "open_input", Counting)
    assert [(number, len(line)) for number, line in lines_of_parts(path, parts)] == [(1, 1), (2, 5000), (3, 1)]
    assert path.stat().st_size < sum(read) < 4 * path.stat().st_size


def block_gzip(data):
    """One block as `bgzip` writes them: a gzip member with its length in an extra field."""
    packed = gzip.compress(data, mtime=0)
    extra = struct.pack("<2sHH", b"BC", 2, len(packed) + 8 - 1)
    return packed[:3] + b"\4" + packed[4:10] + struct.pack("<H", len(extra)) + extra + packed[10:]


BLOCK_GZIP_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # of the specification
ROWS = {"x.jsonl.zst": (zst, b"\x50\x2a\x4d\x18\x03\0\0\0abc"), "x.json.gz": (block_gzip, BLOCK_GZIP_END)}


@pytest.mark.parametrize("name", ROWS)
@given(
    st.lists(st.sampled_from([b"\n", b"a", b"bc" * 40, b"def\n\n", b""]), max_size=20).map(
        lambda pieces: [piece * (1 + number % 3) for number, piece in enumerate(pieces)]
    ),
    st.integers(1, 300),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_of_a_row_of_packed_pieces_have_every_line_once(tmp_path, name, pieces, part_bytes):
    path, (pack, end) = tmp_path / name, ROWS[name]
    path.write_bytes(b"".join(map(pack, pieces)) + end)
    size = path.stat().st_size
    parts = line_parts(path, size, part_bytes)
    assert lines_of_parts(path, parts) == lines_of(path) == expected(b"".join(pieces))
    assert sum(part.bytes for part in parts) == size
    if part_bytes == 1 and len(pieces) > 1:
        assert len(parts) == len(pieces) + 1
    assert all(part.bytes < part_bytes + 200 for part in parts)


@pytest.mark.parametrize("name", ROWS)
def test_a_line_of_many_packed_pieces_is_read_by_the_part_it_starts_in(tmp_path, name):
    path, (pack, _) = tmp_path / name, ROWS[name]
    path.write_bytes(b"".join(pack(data) for data in (b"a\nb", b"b" * 50, b"b" * 50, b"b\n", b"c\n", b"d")))
    parts = line_parts(path, path.stat().st_size, 1)
    assert len(parts) == 6
    per_part = [[line for _, line in lines_of(path, part=part)] for part in parts]
    assert per_part == [[b"a", b"b" * 102], [], [], [b"c"], [b"d"], []]
    too_large = [[type(line) for _, line in lines_of(path, 60, part)] for part in parts]
    assert too_large == [[bytes, BadInput], [], [], [bytes], [bytes], []]


def test_damage_in_one_piece_costs_that_part_only(tmp_path):
    data = [b"%d\n" % number for number in range(9)]
    path, pieces = tmp_path / "x.jsonl.zst", [bytearray(zst(item * 20)) for item in data]
    pieces[4][-1] ^= 1  # its checksum
    path.write_bytes(b"".join(pieces))
    parts = line_parts(path, path.stat().st_size, 1)
    found = [line for _, line in lines_of_parts(path, parts)]
    assert [line.reason for line in found if isinstance(line, BadInput)] == ["damaged archive"] * 2  # and where 3 ends
    assert {line for line in found if isinstance(line, bytes)} == {item.strip() for item in data[:4] + data[5:]}


UNDIVIDED = {
    "one.jsonl.zst": zst(DATA := b"ab\n" * 5000),
    "members.jsonl.gz": gzip.compress(DATA) * 3,
    "lines.jsonl.gz": b"\n" * 100,
    "truncated.jsonl.zst": (zst(DATA) * 3)[:-2],
    "followed.jsonl.zst": zst(DATA) * 3 + b"something else",
    "header.jsonl.zst": zst(DATA) * 3 + b"\x28\xb5\x2f\xfd",
    "padded.jsonl.gz": block_gzip(DATA) * 3 + b"\0" * 100,
    "gzip.jsonl": gzip.compress(DATA),
    "zstd.json": zst(DATA),
    "cut.jsonl.gz": (block_gzip(DATA) * 3)[:-1],
}


@pytest.mark.parametrize("name", UNDIVIDED)
def test_other_packed_files_are_one_part(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(UNDIVIDED[name])
    size = path.stat().st_size
    assert line_parts(path, size, 10) == [ArchivePart(None, 0, size)]


def test_a_packed_file_is_one_part_if_it_is_small_or_gone(tmp_path):
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(zst(b"a\n") * 9)
    assert line_parts(path, path.stat().st_size) == [ArchivePart(None, 0, path.stat().st_size)]
    assert line_parts(tmp_path / "gone.jsonl.zst", 100, 10) == [ArchivePart(None, 0, 100)]


def test_a_file_that_became_shorter(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"ab\n" * 3)
    parts = line_parts(path, 1000, 4)
    assert lines_of_parts(path, parts) == expected(b"ab\n" * 3)


DATA = b"".join(b'{"number": %d}\n' % number for number in range(60_000)) + b"\n\nlast"
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
PACKED = {
    "one.jsonl.gz": gzip.compress(DATA),
    "several.json.gz": gzip.compress(DATA[:50_001]) + gzip.compress(b"") + gzip.compress(DATA[50_001:]),
    "padded.jsonl.gz": gzip.compress(DATA) + b"\0" * 9000,
    "one.jsonl.zst": zst(DATA),
    "several.jsonl.zst": SKIPPABLE + zst(DATA[:50_001]) + zst(b"") + SKIPPABLE + zst(DATA[50_001:]) + SKIPPABLE,
}


@pytest.mark.parametrize("name", PACKED)
def test_packed(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    assert lines_of(tmp_path / name) == expected(DATA)


@pytest.mark.parametrize("name", ["one.jsonl.gz", "one.jsonl.zst"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 1.0])
def test_truncated(tmp_path, name, kept):
    """Everything before the cut is there; half a line is not taken for a whole one."""
    path, size = tmp_path / name, len(PACKED[name])
    path.write_bytes(PACKED[name][: max(3, min(int(kept * size), size - 1))])
    *sound, (number, broken) = lines_of(path)
    assert broken.reason == "truncated archive" and sound == expected(DATA)[: len(sound)]
    assert number == len(sound) + 1 + (2 if kept == 1 else 0)
    if kept >= 0.3:  # a block of zstd is 128 KiB of text, and half a block is none
        assert sum(len(line) + 1 for _, line in sound) > 0.75 * kept * len(DATA) - (1 << 17)


@pytest.mark.parametrize("name", ["one.jsonl.gz", "one.jsonl.zst"])
def test_damaged(tmp_path, name):
    path, data = tmp_path / name, bytearray(PACKED[name])
    data[-30] ^= 0xFF  # found out by the checksum at the end, or before
    path.write_bytes(data)
    *sound, (_, broken) = lines_of(path)
    assert broken.reason == "damaged archive" and broken.detail and "\n" not in broken.detail
    assert sound == expected(DATA)[: len(sound)] and len(sound) > 30_000
    path.write_bytes(b"no archive at all")
    [(number, broken)] = lines_of(path)
    assert (number, broken.reason) == (1, "damaged archive")


def test_unreadable(tmp_path):
    assert lines_of(tmp_path / "absent.jsonl") == [(1, BadInput("unreadable", "No such file or directory"))]
    assert lines_of(tmp_path) == [(1, BadInput("unreadable", "Is a directory"))]
    gone = BadInput("unreadable", "No such file or directory")
    assert row_parts(tmp_path / "x.parquet") == gone and rows_of(tmp_path / "x.parquet", ()) == [(0, gone)]


PACKS = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zst}


@pytest.mark.parametrize("ending", PACKS)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_long_lines(tmp_path, ending, end):
    path, pack = tmp_path / f"x.{ending}", PACKS[ending]
    path.write_bytes(pack(b"a" * 100 + b"\n" + b"b" * 101 + b"\n" + b"c" * 5_000_000 + b"\nd\n" + b"e" * 101 + end))
    found = lines_of(path, limit=100)
    assert [number for number, _ in found] == [1, 2, 3, 4, 5] and found[0][1] == b"a" * 100 and found[3][1] == b"d"
    sizes = [(item.reason, item.bytes, item.head[:1]) for _, item in found if isinstance(item, BadInput)]
    assert sizes == [("too large", 101, b"b"), ("too large", 5_000_000, b"c"), ("too large", 101, b"e")]
    assert all(len(item.head) <= 1000 for _, item in found if isinstance(item, BadInput))


def measured(path, limit):
    tracemalloc.start()
    found = lines_of(path, limit)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found, peak


@pytest.mark.parametrize("ending", PACKS)
def test_a_long_line_is_not_held(tmp_path, ending):
    path, pack = tmp_path / f"x.{ending}", PACKS[ending]
    path.write_bytes(pack(b"x" * 120_000_000 + b"\ny"))
    found, peak = measured(path, 1_000_000)
    assert [(number, getattr(line, "bytes", line)) for number, line in found] == [(1, 120_000_000), (2, b"y")]
    assert peak < 40_000_000


@pytest.mark.slow  # writes a file of 1 GB, though a sparse one, and reads it
def test_a_line_of_a_gigabyte(tmp_path):
    path = tmp_path / "x.jsonl"
    with open(path, "wb") as stream:
        stream.truncate(1 << 30)
        stream.seek(1 << 30)
        stream.write(b"\nlast\n")
    parts = line_parts(path, path.stat().st_size)
    found = lines_of_parts(path, parts, 64 << 20)
    assert [(number, getattr(line, "bytes", line)) for number, line in found] == [(1, 1 << 30), (2, b"last")]
    assert measured(path, 1 << 20)[1] < 8 << 20


def table(rows):
    return pa.table(
        {
            "text": [f"text {row}" for row in range(rows)],
            "words": pa.array(["é" if row % 2 else None for row in range(rows)]).dictionary_encode(),
            "raw": pa.array([b"\xff%d" % row for row in range(rows)], pa.large_binary()),
            "list": [["a", "b"][: row % 3] for row in range(rows)],
            "large": pa.array([f"l{row}" for row in range(rows)], pa.large_string()),
        }
    )


def rows_of(path, names, part=WHOLE, **options):
    return list(read_rows(path, part, lambda present: [name for name in present if name in names], **options))


def test_rows(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(table(1000), path, row_group_size=70)
    parts = row_parts(path, 2000)
    assert len(parts) > 3 and parts[0].first == 0 and sum(part.bytes for part in parts) <= path.stat().st_size
    found = [row for part in parts for row in rows_of(path, ("text", "words", "raw", "list", "large"), part)]
    words = [None, "é".encode()] * 500
    assert found == [
        (row, (b"text %d" % row, words[row], b"\xff%d" % row, ["a", "b"][: row % 3], b"l%d" % row))
        for row in range(1000)
    ]
    expected_rows = [(row, (b"text %d" % row, b"l%d" % row)) for row in range(1000)]
    assert rows_of(path, ("large", "text"), batch_rows=7) == expected_rows
    assert rows_of(path, ()) == [(row, ()) for row in range(1000)]
    assert row_parts(path, MUCH) == [ArchivePart((0, 15), 0, sum(part.bytes for part in parts))]
    pq.write_table(table(0), path)
    assert [row for part in row_parts(path) for row in rows_of(path, ("text",), part)] == []


def test_only_the_chosen_columns_are_read(tmp_path):
    """The other column's pages are overwritten; reading them reports it."""
    path = tmp_path / "x.parquet"
    pq.write_table(table(500), path, compression="none", use_dictionary=False, write_page_checksum=True)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + 100 : chunk.data_page_offset + 200] = b"\xff" * 100
    path.write_bytes(data)
    assert rows_of(path, ("large",)) == [(row, (b"l%d" % row,)) for row in range(500)]
    [(number, broken)] = rows_of(path, ("text",))
    assert (number, broken.reason) == (0, "damaged archive") and "\n" not in broken.detail


def test_rows_before_and_behind_the_damage(tmp_path):
    path = tmp_path / "x.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table(300), path, row_group_size=100, **plain)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    place = data.index(b"text 150", chunk.data_page_offset)
    data[place] ^= 1  # only the checksum tells
    path.write_bytes(data)
    found = rows_of(path, ("text",), batch_rows=256)
    number, broken = found.pop(100)
    assert found == [(row, (b"text %d" % row,)) for row in (*range(100), *range(200, 300))]
    assert (number, broken.reason) == (100, "damaged archive") and broken.detail.startswith("100 rows from here on")


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all", None])
def test_no_parquet(tmp_path, data):
    path = tmp_path / "x.parquet"
    pq.write_table(table(10), path)
    path.write_bytes(path.read_bytes()[:-20] if data is None else data)
    assert row_parts(path).reason == "damaged archive"
    [(number, broken)] = rows_of(path, ("text",))
    assert (number, broken.reason) == (0, "damaged archive")


def test_a_name_that_is_no_text(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"textual": ["a"]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"textual", b"\xffextual"))
    assert row_parts(path).reason == "damaged archive" and "utf-8" in row_parts(path).detail
    [(number, broken)] = rows_of(path, ("text",))
    assert (number, broken.reason) == (0, "damaged archive")


def test_a_date_that_python_does_not_have(tmp_path):
    path = tmp_path / "x.parquet"
    dates = pa.array([5, 2**31 - 1], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"text": ["a", "b"], "date": dates}), path)
    [*_, (number, broken)] = rows_of(path, ("text", "date"))
    assert number < 2 and broken.reason == "damaged archive" and "rows from here on are lost" in broken.detail


@pytest.mark.parametrize("packed", [False, True])
def test_many_equal_texts_are_not_held_at_once(tmp_path, packed):
    path, size, text = tmp_path / "x.parquet", 200_000, b"a" * 200_000
    column = pa.array([text, None, *[text] * 254, b"b"])
    column = column.dictionary_encode() if packed else column
    pq.write_table(pa.table({"text": column}), path, compression="zstd", write_statistics=False)
    assert path.stat().st_size < 2000
    held = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        for number, (value,) in read_rows(path, WHOLE, lambda present: present):
            assert value == (b"b" if number == 256 else None if number == 1 else text)
            assert pa.total_allocated_bytes() - held < 20 * size
        assert number == 256 and tracemalloc.get_traced_memory()[1] < 20 * size
    finally:
        tracemalloc.stop()
