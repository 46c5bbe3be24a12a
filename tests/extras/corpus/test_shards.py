import hashlib
import json
import re
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus import shards as module
from ms_codegeex.extras.corpus.events import Event
from ms_codegeex.extras.corpus.reading import Document, Unit, find_units
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.corpus.shards import (
    ShardJob,
    is_sound,
    lines_before,
    make_shard,
    read_meta,
    read_shard,
    shard_name,
)
from ms_codegeex.extras.corpus.sources import SourceFile, user_roots
from ms_codegeex.extras.corpus.workspace import open_workspace, remove, sweep, work_path
from ms_codegeex.extras.shared.records import ArchivePart


def unit_of(name="unit", modified=2, span=None):
    archive = SourceFile(f"l/{name}.jsonl", Path(f"{name}.jsonl"), "l", "", 1, modified)
    return Unit(name, (archive,), ArchivePart(span, 0, 1))


UNIT = unit_of()
JOB = ShardJob(ReadingSettings(redact=("email", "secrets")), "codegeex", "codegeex", signatures="words")
ITEMS = [
    Document("a.py", "naïve = '😀'\r\n".encode(), "Python", "package"),
    Event("b:1", "problems", "invalid JSON", "at column 3", 12, excerpt="{"),
    Document("ünï.c", b"int main;\n", "C", "ünï.c", (("secrets", 2),)),
    Event("ünï.c", "changed", "replaced, secrets", where="line 1", count=2),
    Document("empty words", b"()\n", "", "package"),
    Event("b:2", "dropped", "long lines", bytes=500),
    Event("b:3", "problems", "invalid JSON", bytes=13),
]


HASH = hashlib.sha256(ITEMS[0].data).digest()


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A shard of `ITEMS`."""
    monkeypatch.setattr(module, "read_unit", lambda unit, reading: iter(ITEMS))
    make_shard(JOB, (UNIT, tmp_path / "shard"))
    return tmp_path / "shard"


def test_a_shard_holds_what_was_read(made):
    (shard, tally), tokenizer = read_shard(made), load_tokenizer("codegeex")
    documents = [item for item in ITEMS if isinstance(item, Document)]
    columns = shard.read("source", "source_end", "language", "group", "bytes", "tokens")
    columns |= shard.read("sha256", "text_sha256", "redacted", "signature", "signed")
    assert columns["bytes"].tolist() == shard.column("bytes").tolist()
    assert columns["source"].tobytes().decode() == "a.pyünï.cempty words"
    assert shard.sources()[1] == "ünï.c"
    assert [shard.names()["languages"][code] for code in columns["language"]] == ["Python", "C", ""]
    assert columns["group"].tolist() == [0, -1, 0] and shard.names()["groups"] == ["package"]
    assert columns["bytes"].tolist() == [len(item.data) for item in documents]
    assert [row.tobytes() for row in columns["sha256"]] == [hashlib.sha256(item.data).digest() for item in documents]
    assert columns["redacted"].tolist() == [[0, 0], [0, 2], [0, 0]]
    assert columns["signed"].tolist() == [True, True, False] and columns["signature"].shape == (3, 128)
    ids = np.split(np.fromfile(shard.ids_path, "<u2"), np.cumsum(columns["tokens"]))
    tags = ["# language: Python\n", "// language: C\n", ""]
    for row, (tag, item) in enumerate(zip(tags, documents, strict=True)):
        assert ids[row].tolist() == [*tokenizer.encode(tag + item.data.decode()), 50256]
    assert {name: it["documents"] for name, it in tally.changed.items()} == {"replaced, secrets": 2}
    assert tally.first == ("b:1", "invalid JSON (at column 3)")
    assert tally.problems["invalid JSON"]["bytes"] == 25 and tally.dropped.keys() == {"long lines"}
    assert vars(tally) == read_meta(made)["tally"]


def test_texts_that_differ_in_line_ends_alone_are_copies(tmp_path, monkeypatch):
    texts = [b"a\nb\n", b"a\r\nb\r\n", b"a\rb", b"a\nb\n\n", b"a\n\nb\n", b"a b\n"]
    documents = [Document(f"{number}.py", text, "Python", "p") for number, text in enumerate(texts)]
    monkeypatch.setattr(module, "read_unit", lambda unit, reading: iter(documents))
    make_shard(JOB, (UNIT, tmp_path / "shard"))
    hashes = [row.tobytes() for row in read_shard(tmp_path / "shard")[0].column("text_sha256")]
    assert len(set(hashes[:4])) == 1 and len(set(hashes)) == 3


def test_lines_are_counted_on_from_the_parts_before(tmp_path, monkeypatch):
    def part(start, lines):
        yield Document("l/x.jsonl:1", b"a = 1\n", "Python", "l/x.jsonl:1")
        yield Event(f"l/x.jsonl:{lines}", "problems", "invalid JSON", bytes=1)
        return lines

    spans = [None, (0, 3), (7, 5), (8, 2), None, (0, 4), (9, 9)]
    units = [unit_of(str(n), span=span) for n, span in enumerate(spans)]
    monkeypatch.setattr(module, "read_unit", lambda unit, reading: part(*(unit.part.span or (0, 1))))
    paths = [tmp_path / unit.name for unit in units]
    for task in zip(units, paths, strict=True):
        make_shard(JOB, task)
    before = list(lines_before(units, paths))
    assert before == [0, 0, 3, 8, 0, 0, 4]
    shard, tally = read_shard(paths[3], before[3])
    assert shard.sources() == ["l/x.jsonl:9"]
    assert tally.first[0] == tally.problems["invalid JSON"]["examples"][0]["source"] == "l/x.jsonl:10"


def test_a_sound_shard_is_left_alone(made, monkeypatch):
    monkeypatch.setattr(module, "read_unit", None)
    before = [made.with_suffix(ending).stat().st_mtime_ns for ending in (".bin", ".npz")]
    make_shard(JOB, (UNIT, made))
    assert [made.with_suffix(ending).stat().st_mtime_ns for ending in (".bin", ".npz")] == before


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("ending", [".bin", ".npz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: flip(path, max(path.read_bytes().find(HASH), 20)),
    ],
)
def test_a_damaged_shard_is_made_again(made, ending, damage):
    whole = [made.with_suffix(ending).read_bytes() for ending in (".bin", ".npz")]
    assert is_sound(made)
    damage(made.with_suffix(ending))
    assert not is_sound(made)
    make_shard(JOB, (UNIT, made))
    assert [made.with_suffix(ending).read_bytes() for ending in (".bin", ".npz")] == whole and is_sound(made)
    assert len([*made.parent.iterdir()]) == 2


@pytest.mark.parametrize("place", [6, 8])  # encrypted, and an unknown method of compression
def test_a_shard_with_damaged_flags_is_not_sound(made, place):
    path = made.with_suffix(".npz")
    data = bytearray(path.read_bytes())
    for found in re.finditer(rb"PK\x01\x02|PK\x03\x04", data):
        data[found.start() + place + 2 * (found[0] == b"PK\x01\x02")] |= 97
    path.write_bytes(data)
    assert not is_sound(made)


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40), max_size=30))
def test_ids_of_documents_of_any_size_are_written(tmp_path_factory, sizes):
    path = tmp_path_factory.mktemp("tokens") / "ids"
    documents = [np.arange(size, dtype=np.uint32) + 1000 * number for number, size in enumerate(sizes)]
    with open(path, "wb") as stream:
        tokens = module.TokenFile(stream, np.dtype("<i4"), 7)
        for block in (documents[:1], documents[1:]):
            if block:
                assert tokens.add(block) == [ids.size + 1 for ids in block]
    assert tokens.checksum == zlib.crc32(path.read_bytes())
    assert np.fromfile(path, "<i4").tolist() == [number for ids in documents for number in [*ids.tolist(), 7]]


def test_memory_does_not_grow_with_the_input(tmp_path):
    record = json.dumps({"text": "value = function(argument, 17)\n" * 600, "language": "Python"}).encode() + b"\n"
    job, peaks = ShardJob(ReadingSettings(), "none", "codegeex", signatures=None), []
    for records in (1, 150, 600):  # 3 and 12 MB; what the first run loads stays
        path = tmp_path / f"x{len(peaks)}.jsonl"
        path.write_bytes(record * records)
        (unit,), _, _ = find_units(user_roots([path]), job.reading)
        tracemalloc.start()
        make_shard(job, (unit, tmp_path / f"shard{len(peaks)}"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 3_000_000


def test_names_tell_requests_and_states_apart():
    units = [UNIT, unit_of(modified=3), unit_of("other")]
    names = {shard_name(key, unit) for key in ("a", "b") for unit in units}
    assert len(names) == 6 and all(name.isalnum() for name in names)
    assert shard_name("a", unit_of()) in names


class TestWorkspace:
    def test_one_at_a_time(self, tmp_path):
        """Threads stand for processes: the lock belongs to the open directory. A directory that was removed meanwhile
        is not worked in."""
        order, waiting = [], threading.Event()

        def second():
            with open_workspace(tmp_path / "out", waiting.set) as work:
                order.append("second")
                assert work.is_dir()
                (work / "file").write_text("")

        with open_workspace(tmp_path / "out", lambda: order.append("never")) as work:
            thread = threading.Thread(target=second)
            thread.start()
            assert waiting.wait(20)
            order.append("first")
            remove(work)
        thread.join(20)
        assert order == ["first", "second"] and (work / "file").exists()

    def test_what_is_finished_stays(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert work_path(Path("out")) == tmp_path / ".out.work"
        with pytest.raises(ValueError), open_workspace(Path("out"), list) as work:
            (work / "finished").write_text("")
            (work / "half.tmp").write_text("")
            sweep(work, {"finished"})
            raise ValueError
        assert [path.name for path in (tmp_path / ".out.work").iterdir()] == ["finished"]

    def test_an_empty_one_goes(self, tmp_path):
        with pytest.raises(ValueError), open_workspace(tmp_path / "out", list):
            raise ValueError
        assert not list(tmp_path.iterdir())
