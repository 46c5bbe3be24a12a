"""All that read users' texts count the same, for the same reasons."""

import gzip
import json
import os
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_codegeex.base.reading import read_json
from ms_codegeex.data.summary_lines import print_tally
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus.filters import preset
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, prepare_finetune
from ms_codegeex.extras.corpus.prepare import RunOptions, cached_corpus, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings
from ms_codegeex.extras.corpus.sources import user_roots
from ms_codegeex.extras.corpus.tally import Tally
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings, _Texts, find_units
from ms_codegeex.extras.evaluation.perplexity.corpus import corpus_documents

READING = ReadingSettings(rules=preset("none"), strip_licences="none", all_text=True)
PAIRS = [{"prompt": f"def f{n}(x):\n", "completion": f"x{n}"} for n in range(40)]
RECORDS = [{"text": f"{it['prompt']}    return {it['completion']}\n", "path": "p/a.py", **it} for it in PAIRS]
LINES = [json.dumps(record).encode() for record in RECORDS]


def table(path):
    pq.write_table(pa.Table.from_pylist(RECORDS[:3]), path)


def stream(path):
    content = pa.Table.from_pylist(RECORDS[:4])
    with pa.ipc.new_stream(path, content.schema) as writer:
        writer.write_table(content)


def wide(path):
    """The header of the second frame asks for a window of 4 GiB."""
    pack = zstandard.ZstdCompressor().compressobj()
    second = bytearray(pack.compress(LINES[3]) + pack.flush())
    second[5] = (32 - 10) << 3
    first = zstandard.ZstdCompressor().compress(b"\n".join(LINES[:3]) + b"\n")
    path.write_bytes(first + second)


INPUTS = {
    "lines.jsonl": (b"\n".join([*LINES[:3], b"{broken", b"[1]", b""]), 3, {"invalid JSON": 1, "no object": 1}),
    "commas.jsonl": (b",\n".join(LINES[:3]), 1, {"invalid JSON": 2}),
    "array.json": (b"[" + b",\n".join(LINES[:5]) + b",]", 5, {"invalid JSON": 1}),
    "cut.json": (b"[" + b",\n".join(LINES[:5])[:-9], 4, {"truncated archive": 1}),
    "cut.jsonl.gz": (gzip.compress(b"\n".join(LINES), 0)[:-30], 39, {"truncated archive": 1}),
    "wide.ndjson.zst": (wide, 3, {"window too large": 1}),
    "latin.jsonl": (b"\n".join([*LINES[:2], b'{"text": "\xe9", "prompt": "a"}']), 2, {"not UTF-8": 1}),
    "null.jsonl": (b"\n".join([*LINES[:2], b'{"text": null, "prompt": null}']), 2, {"missing field": 1}),
    "table.parquet": (table, 3, {}),
    "stream.arrow": (stream, 4, {}),
}


class Scorer:
    tokenizer, seq_length = load_tokenizer("codegeex"), 100


@pytest.mark.parametrize("name", INPUTS)
def test_ten_inputs_in_all_verbs(tmp_path, name, capsys):
    content, kept, reasons = INPUTS[name]
    path = tmp_path / "in" / name
    path.parent.mkdir()
    content(path) if callable(content) else path.write_bytes(content)
    settings = PrepareSettings(READING, validation_share=0)
    prepared = prepare_dataset([path], tmp_path / "out", settings, RunOptions(workers=1, progress=False))
    cached = cached_corpus([path], tmp_path, settings, 1, progress=False)
    trained, measured = Tally(), Tally()
    assert list(_Texts(user_roots([path]), TokenizerSettings(reading=READING), find_units, trained))
    assert len(list(corpus_documents(Scorer, [path], measured))) == kept
    tuned = prepare_finetune([path], tmp_path / "tuned", FinetuneSettings("completion", 64, validation_share=0))
    tallies = [prepared["tally"], read_json(cached / "dataset.json")["tally"]]
    tallies += [trained.summed(trained.kept), measured.summed(measured.kept), tuned["tally"]]
    for tally in tallies:
        assert (tally["read"], tally["kept"]) == (kept + sum(reasons.values()), kept)
        assert {reason: entry["count"] for reason, entry in tally["dropped"].items()} == reasons
        first = [[it["first"] for it in each["dropped"].values()] for each in (tally, tallies[0])]
        assert first[0] == first[1]
    assert all(tally == tallies[0] for tally in tallies[:4])
    capsys.readouterr()
    print_tally(tallies[0])
    said = capsys.readouterr().err
    rows = {words[0]: words[1:] for words in (re.split(" {2,}", line.strip()) for line in said.splitlines())}
    assert rows["found"] == ["1", str(kept + sum(reasons.values()))] and rows["kept"] == ["0", str(kept)]
    for reason, count in reasons.items():
        assert rows[f"dropped, {reason}"] == ["0", str(count)]
        assert f"\ndropped, {reason}: {count}, for example in/{name}" in said


def test_what_is_not_read_is_named(tmp_path, capsys):
    """Files by their endings, fields in no list, and names of special tokens."""
    (tmp_path / "in").mkdir()
    for name in ("a.md", "b.md", "c.MD", "Makefile.am", "package.json"):
        (tmp_path / "in" / name).write_text('{"name": "x"}')
    text = RECORDS[0]["text"] + "# <|endoftext|>\n"
    rows = [{"text": text + str(n), "path": "a.py", "stars": n, "own": None} for n in range(3)]
    (tmp_path / "in/x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = PrepareSettings(validation_share=0)
    tally = prepare_dataset([tmp_path / "in"], tmp_path / "out", settings, RunOptions(1, progress=False))["tally"]
    assert tally["unread"]["other language"]["suffixes"] == {".md": 3, ".am": 1, ".json": 1}
    said = capsys.readouterr().err
    assert "field stars is in no list and not used: 3, for example in/x.jsonl:1" in said
    assert "not read, other language      5        0  .md 3, .am 1, .json 1" in said
    assert "a text has the name of a special token, which is read as plain text: 3" in said and "<|endoftext|>" in said


FOLDERS = ("", "a", "a/b", ".git", ".cache/x", "a/node_modules/y", "b/__pycache__", "c/d")
KINDS = {  # endings of files, and how many documents or records are in one
    ".py": b"def f(x):\n    return x + %d\n",
    ".rb": b"def f(x)\n  x + %d\nend\n",
    ".glaze": b"bowl %d\n",
    ".tar": b"\0%d",
    ".jsonl": b'{"text": "a = %d\\n", "language": "python"}\n{"text": "b", "language": "cobol"}\n{"te\n[1]\n',
    "": b"text %d\n",
}
FORMS = st.sampled_from(["file", "file", "empty", "link", "pipe"])
TREES = st.lists(st.tuples(st.sampled_from(FOLDERS), st.sampled_from([*KINDS]), FORMS), min_size=1, max_size=25)


@settings(max_examples=5)
@given(tree=TREES, all_text=st.booleans(), nested=st.booleans(), near=st.sampled_from([0, 0.85]), link=st.booleans())
def test_every_file_and_record_is_in_one_count(tmp_path_factory, tree, all_text, nested, near, link):
    root = tmp_path_factory.mktemp("tree") / "in"
    (root / "k").mkdir(parents=True)
    (root / "k/kept.py").write_text("kept = 1\n")
    files, records = 1, 0
    for number, (folder, ending, kind) in enumerate(tree):
        path = root / folder / f"f{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            path.symlink_to("f0.py")
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.write_bytes(KINDS[ending] % (number // 2) if kind == "file" else b"")
        files += 1
        hidden = any(name.startswith((".", "_", "node")) for name in folder.split("/"))
        records += 4 * (kind == "file" and ending == ".jsonl" and not hidden)
    if link:
        (root / "k/link").symlink_to(root)
        files += 1
    reading = ReadingSettings(languages=("python",), all_text=all_text)
    how = PrepareSettings(reading, validation_share=0, near_duplicates=near)
    inputs, listed = [root, root / "k"] if nested else [root], root / "k/list.jsonl"
    options = RunOptions(1, progress=False, dropped=listed)
    result = prepare_dataset(inputs, root / "a_out", how, options)
    tally, report = result["tally"], read_json(root / "a_out/report.json")
    assert report["files"] == tally["files"] and report["records"] == tally["records"]
    assert tally["files"]["found"] == files == sum(tally["files"].values()) - files
    assert tally["records"]["read"] == records == sum(tally["records"].values()) - records
    assert sum(split["documents"] for split in result["splits"].values()) == tally["kept"]
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    left = [line for line in lines if line["change"] != "changed"]
    assert sum(line["count"] for line in left) == files + records - tally["kept"] - tally["files"]["holding_records"]
    for part, name in (("dropped", "dropped"), ("dropped", "problems"), ("unread", "unread")):
        for reason, entry in report[name].items():
            found = [line for line in left if (line["change"], line["rule"]) == (name, reason)]
            assert sum(line["count"] for line in found) == entry["documents"] and tally[part][reason]["count"]
    replaced = prepare_dataset(inputs, root / "a_out", how, replace(options, replace=True))
    assert replaced["tally"] == tally  # what is written is not input
    assert [json.loads(line) for line in listed.read_text().splitlines()] == lines


def test_lines_on_what_was_dropped_or_changed(tmp_path):
    """Rule, what matched and where, but no secret."""
    files = {
        "a/one.py": b"# Copyright 2020 Some Person\n\nname = 1\nkey = 'AKIACDEFGHIJKLMNOPQR'\n# ask jo@google.com\n",
        "a/two.py": b"name = 1\nkey = 'AKIACDEFGHIJKLMNOPQR'\n# ask jo@google.com\n",
        "b/\x1b[31m\n.py": b"a = 1\n" + b"x" * 900,
        "b/bad.py": b"a = 1\nb = '\xff\xfe\x00'\n",
        "b/wide.py": "name = 'é'\n".encode("utf-16"),
        "b/mark.py": b"\xef\xbb\xbfmark = 1\n",
        "b/c.go": b"package c\n",
    }
    for name, data in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    reading = ReadingSettings(languages=("python",), redact=("email", "secrets"))
    options = RunOptions(1, progress=False, dropped=tmp_path / "new/list.jsonl")
    prepare_dataset([tmp_path / "in"], tmp_path / "out", PrepareSettings(reading, validation_share=0), options)
    text = (tmp_path / "new/list.jsonl").read_text("ascii")
    assert "AKIA" not in text and "google" not in text and "\x1b" not in text
    lines = map(json.loads, text.splitlines())
    found = {(it["path"], it["rule"]): (it["change"], it["matched"], it["where"]) for it in lines}
    assert found == {
        ("in/b/c.go", "other language"): ("unread", ".go", ""),
        ("in/a/one.py", "licence header left out"): ("changed", "", "line 1"),
        ("in/a/one.py", "replaced, AWS access key"): ("changed", "", "line 4"),
        ("in/a/one.py", "replaced, email"): ("changed", "", "line 5"),
        ("in/a/two.py", "exact duplicate"): ("dropped", "in/a/one.py", ""),
        ("in/b/\x1b[31m\n.py", "long lines"): ("dropped", "a line of 900 bytes", "line 2"),
        ("in/b/bad.py", "binary"): ("dropped", "a zero byte", "byte 13"),
        ("in/b/wide.py", "converted from utf-16"): ("changed", "", ""),
        ("in/b/mark.py", "byte order mark left out"): ("changed", "", ""),
    }
