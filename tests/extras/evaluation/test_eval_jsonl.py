"""Files of rows, and what makes two samples one program."""

import gzip
import json
import os
import threading
from dataclasses import replace

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.jsonl import RowFile, numbered_rows, read_rows, readable_again
from ms_codegeex.extras.evaluation.rows import fingerprint
from ms_codegeex.extras.evaluation.task import Sample

ROWS = [{"task_id": "a/1", "text": "x\n\u2028\ud800é"}, {"task_id": "a/2", "text": ""}]


def test_rows_come_back_as_they_were(tmp_path):
    path = tmp_path / "rows.jsonl"
    RowFile(path).append(ROWS)
    assert RowFile(path).rows == ROWS == read_rows(path)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_rows(tmp_path / "rows.jsonl.gz") == ROWS


def test_a_file_cut_anywhere_keeps_its_whole_lines(tmp_path):
    path = tmp_path / "rows.jsonl"
    RowFile(path).append(ROWS)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        rows = RowFile(path)
        assert rows.rows == ROWS[: (size >= first) + (size == len(whole))]
        rows.append([{"task_id": "b"}])
        assert RowFile(path).rows == [*rows.rows[:-1], {"task_id": "b"}]


def test_threads_do_not_tear_each_others_lines(tmp_path):
    rows = RowFile(tmp_path / "rows.jsonl")
    threads = [
        threading.Thread(target=lambda i=i: [rows.append([{"i": i, "j": j}]) for j in range(20)]) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((row["i"], row["j"]) for row in read_rows(rows.path)) == [(i, j) for i in range(4) for j in range(20)]


@pytest.mark.parametrize(
    "content, words",
    [(b'{"a": 1}\n{oops}\n', ":2: invalid JSON"), (b"[1]\n", ":1: found list"), (b"\xff\n", ":1: not UTF-8")],
)
def test_damage_within_is_named(tmp_path, content, words):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_rows(path)
    with pytest.raises(UserError, match=words):
        RowFile(path)


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_rows(tmp_path / "none.jsonl")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode())[:-9])
    with pytest.raises(UserError, match=r"cut\.gz:3: truncated archive"):
        read_rows(tmp_path / "cut.gz")


def test_a_file_with_more_records_than_the_limit_is_refused(tmp_path):
    row = json.dumps({"text": "x" * 1000}).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"\n\n".join([row] * 1000)))
    assert [number for number, _ in numbered_rows(tmp_path / "a.jsonl.gz", 1 << 20)] == list(range(1, 2000, 2))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join([row] * 2000)))
    with pytest.raises(UserError, match="more than 1 MiB uncompressed"):
        list(numbered_rows(tmp_path / "b.jsonl.gz", 1 << 20))


def test_replace_writes_only_what_differs(tmp_path):
    rows = RowFile(tmp_path / "rows.jsonl")
    rows.append(ROWS)
    before = rows.path.stat().st_ino
    rows.replace(ROWS)
    assert rows.path.stat().st_ino == before
    rows.replace(ROWS[::-1])
    assert read_rows(rows.path) == ROWS[::-1]


def test_a_link_is_refused_before_anything_is_added(tmp_path):
    (tmp_path / "own").write_text("")
    (tmp_path / "samples.jsonl").symlink_to("own")
    with pytest.raises(UserError, match=r"samples\.jsonl: is a link; put the file that it leads to in its place"):
        RowFile(tmp_path / "samples.jsonl")


def test_a_pipe_is_read_as_often_as_a_file_and_keeps_its_name(tmp_path):
    """As bash's `<(command)`."""
    pipe = tmp_path / "pipe"
    for text in ('{"a": 1}\n', "{\n"):
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_text, args=(text,))
        writer.start()
        if text == "{\n":
            with pytest.raises(UserError, match=f"^{pipe}:1: "), readable_again(pipe) as path:
                read_rows(path)
        else:
            with readable_again(pipe) as path:
                assert read_rows(path) == read_rows(path) == [{"a": 1}]
        writer.join()
        pipe.unlink()


def test_how_a_text_came_about_makes_it_no_other_program():
    notes = [Sample("cpp/1", i, "p", "2", "eos", {"case": 0, "raw": f"2{i}", "turns": [i]}) for i in range(3)]
    assert len({fingerprint(sample) for sample in notes}) == 1
    changes = [{}, {"generation": "3"}, {"prompt": "q"}, {"task_id": "a"}, {"extra": {"case": 1}}]
    changes.append({"finish": "too long"})
    assert len({fingerprint(replace(notes[0], **change)) for change in changes}) == 6
