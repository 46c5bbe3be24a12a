"""All that read users' texts count the same, for the same reasons."""

import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.corpus.filters import preset
from ms_codegeex.data.corpus.prepare import RunOptions, cached_corpus, prepare_dataset
from ms_codegeex.data.corpus.settings import PrepareSettings, ReadingSettings
from ms_codegeex.data.corpus.sources import user_roots
from ms_codegeex.data.corpus.tally import Tally, print_tally
from ms_codegeex.data.finetuning.prepare import FinetuneSettings, prepare_finetune
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer_training import TokenizerSettings, _Texts, find_units
from ms_codegeex.evaluation.perplexity.corpus import corpus_documents

READING = ReadingSettings(rules=preset("none"), strip_licences="none", all_text=True)
RECORDS = [
    {
        "text": f"def f{n}(x):\n    return x + {n}\n",
        "path": f"p{n}/a.py",
        "prompt": f"def f{n}(x):\n",
        "completion": f"x{n}",
    }
    for n in range(40)
]
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
        assert [each["first"] for each in tally["dropped"].values()] == [
            each["first"] for each in tallies[0]["dropped"].values()
        ]
    assert all(tally == tallies[0] for tally in tallies[:4])
    capsys.readouterr()
    print_tally(tallies[0])
    said = capsys.readouterr().err
    rows = {words[0]: words[1:] for words in (re.split(" {2,}", line) for line in said.splitlines())}
    assert rows["found"] == ["1", str(kept + sum(reasons.values()))] and rows["kept"] == ["0", str(kept)]
    for reason, count in reasons.items():
        assert rows[f"dropped, {reason}"][:2] == ["0", str(count)]
        assert rows[f"dropped, {reason}"][2].startswith(f"for example in/{name}")


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


@pytest.mark.parametrize("name", ["a.txt", "loose.jsonl"])
def test_the_remedy_for_texts_without_a_language_works(tmp_path, name):
    path, options = tmp_path / name, RunOptions(workers=1, progress=False)
    text = "def f(x):\n    return x\n"
    path.write_text(json.dumps({"text": text}) if name.endswith("jsonl") else text)
    with pytest.raises(UserError, match=r"nothing is left: 1 times unknown language.* --all-text"):
        prepare_dataset([path], tmp_path / "out", PrepareSettings(validation_share=0), options)
    settings = PrepareSettings(ReadingSettings(all_text=True), validation_share=0)
    assert prepare_dataset([path], tmp_path / "out", settings, options)["tally"]["kept"] == 1
