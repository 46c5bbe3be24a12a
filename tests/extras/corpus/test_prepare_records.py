"""Archives, trees and everything broken in them, from the input to the report."""

import functools
import hashlib
import json

import pyarrow.parquet as pq
import pytest
import zstandard
from prepare_inputs import source, write_gzip, write_lines, write_mixed, write_tree

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.datasets.layout import SPLITS, read_documents
from ms_codegeex.data.summary_lines import corpus_lines
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus import reading
from ms_codegeex.extras.corpus.filters import preset
from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings
from ms_codegeex.extras.corpus.sources import user_roots
from ms_codegeex.extras.shared import records

EVERYTHING = {"max_bytes": None, "near_duplicates": 0, "validation_share": 0.2}


def prepare(inputs, output, how=None, workers=1, replace=False, **settings):
    settings = PrepareSettings(how or ReadingSettings(), **{**EVERYTHING, **settings})
    return prepare_dataset(inputs, output, settings, RunOptions(workers, progress=False, replace=replace))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed") / "input"
    return root, write_mixed(root)


@pytest.fixture(scope="module")
def dataset(mixed, tmp_path_factory):
    output = tmp_path_factory.mktemp("dataset") / "out"
    return output, prepare([mixed[0]], output)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def rows(output):
    return [row for split in SPLITS for row in read_documents(output / split).to_pylist()]


def test_nothing_is_lost(mixed, dataset):
    report = json.loads((dataset[0] / "report.json").read_text())
    both = report["dropped"] | report["problems"]
    left_out = {reason: entry["documents"] for reason, entry in both.items()}
    assert left_out == {"exact duplicate": 1, "invalid JSON": 1, "missing field": 1}
    assert report["input"]["documents"] == mixed[1] == report["kept"]["documents"] + sum(left_out.values())
    assert report["input"]["files"] == 33  # 30 sources, 3 archives
    for name in ("documents", "bytes", "tokens"):
        assert report["kept"][name] == sum(split[name] for split in report["splits"].values())
        assert report["kept"][name] == sum(entry[name] for entry in report["languages"].values())
    assert sum(report["lengths"]["documents"]) == report["kept"]["documents"] == len(rows(dataset[0]))
    assert (report["format"], report["version"]) == ("ms-codegeex report", 1)


def test_examples_say_where_and_what(dataset):
    report = json.loads((dataset[0] / "report.json").read_text())
    broken = report["problems"]["invalid JSON"]["examples"]
    assert [example["source"] for example in broken] == ["input/dump.jsonl:3"] and "column" in broken[0]["detail"]
    repeated = report["dropped"]["exact duplicate"]["examples"]
    assert repeated == [{"source": "input/dump.jsonl:7", "detail": "identical to input/dump.jsonl:1", "excerpt": ""}]
    page = (dataset[0] / "report.html").read_text()
    assert "input/dump.jsonl:3" in page and "invalid JSON" in page


def test_the_table_of_documents(mixed, dataset):
    """Rows are in the index's order; their hashes are those of the decoded texts."""
    tokenizer, seen = load_tokenizer("codegeex"), set()
    for split in SPLITS:
        table, data = pq.read_table(dataset[0] / f"{split}.documents.parquet"), IndexedDataset(dataset[0] / split)
        kinds = {"source": "string", "language": "string", "sha256": "fixed_size_binary[32]"}
        kinds |= {"bytes": "int64", "tokens": "int64"}
        assert [(field.name, str(field.type)) for field in table.schema] == [*kinds.items()]
        assert table["tokens"].to_pylist() == data.sizes.tolist()
        for number, row in enumerate(table.to_pylist()):
            text = tokenizer.decode(data.document(number)[:-1].tolist()).split("\n", 1)[1].encode()
            assert row["sha256"] == hashlib.sha256(text).digest() and row["bytes"] == len(text)
            assert row["language"] == "Python"
            seen.add(row["source"])
    assert {"input/dump.jsonl:1", "input/dump.jsonl.gz:8", "input/dump.parquet:0", "input/dump.parquet:9"} <= seen
    assert {"input/tree/package0/module0.py"} <= seen and len(seen) == mixed[1] - 3


@pytest.mark.parametrize("workers, files", [(1, 4), (2, None), pytest.param(3, None, marks=pytest.mark.slow)])
def test_the_same_bytes_with_any_number_of_workers_and_size_of_units(
    mixed, dataset, tmp_path, monkeypatch, workers, files
):
    monkeypatch.setattr(reading, "_UNIT_FILES", files or reading._UNIT_FILES)
    prepare([mixed[0]], tmp_path / "out", workers=workers)
    assert content(tmp_path / "out") == content(dataset[0]) and [*tmp_path.iterdir()] == [tmp_path / "out"]


def test_repositories_stay_together(tmp_path):
    write_lines(tmp_path / "a.jsonl", 40)
    result = prepare([tmp_path / "a.jsonl"], tmp_path / "out", validation_share=0.3)
    assert result["split_by"] == "package"
    packages = [set(result["splits"][split]["packages"]) for split in SPLITS]
    assert not packages[0] & packages[1] and packages[0] | packages[1] == {f"repo{n}" for n in range(7)}
    for split, own in zip(SPLITS, packages, strict=True):
        sources = read_documents(tmp_path / "out" / split).to_pydict()["source"]
        assert {f"repo{int(source.split(':')[1]) % 7}" for source in sources} == own


@pytest.mark.parametrize("beside, share, validation", [(False, 0.05, 3), (False, 0.0, 0), (True, 0.05, 1)])
def test_a_datasets_own_split_is_the_validation_split(tmp_path, beside, share, validation):
    """Unless no validation is wanted, or they are records in a tree of sources."""
    for name, numbers in (("train", range(20)), ("valid", range(20, 23)), ("test", range(23, 25))):
        lines = (json.dumps({"content": source(number), "language": "python"}) + "\n" for number in numbers)
        (tmp_path / f"in/data/{name}-00000.jsonl").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"in/data/{name}-00000.jsonl").write_text("".join(lines))
    if beside:
        (tmp_path / "in/tool.py").write_text(source(99))
    made = prepare([tmp_path / "in"], tmp_path / "out", validation_share=share)
    assert made["splits"]["validation"]["documents"] == validation
    own = {row["source"] for row in rows(tmp_path / "out")[made["splits"]["train"]["documents"] :]}
    assert validation != 3 or own == {f"in/data/valid-00000.jsonl:{number}" for number in (1, 2, 3)}
    assert made["splits"]["train"]["documents"] == 20 + beside - (validation == 1)


def test_records_are_sampled_by_document(tmp_path):
    write_gzip(tmp_path / "a.jsonl.gz", 30)
    result = prepare([tmp_path / "a.jsonl.gz"], tmp_path / "out", max_bytes=5000)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert 4000 < report["kept"]["bytes"] <= 5000 and result["sampled"]["bytes"] == report["kept"]["bytes"]
    missing = report["dropped"]["not sampled"]
    assert missing["documents"] + report["kept"]["documents"] == 30 and len(missing["examples"]) == 3
    other = prepare([tmp_path / "a.jsonl.gz"], tmp_path / "other", max_bytes=5000, seed=1)
    assert other["splits"] != result["splits"]
    assert {row["source"] for row in rows(tmp_path / "other")} != {row["source"] for row in rows(tmp_path / "out")}


def test_files_are_sampled_before_they_are_read(tmp_path):
    write_tree(tmp_path / "tree")
    (tmp_path / "tree/package0/empty.py").write_text("")
    prepare([tmp_path / "tree"], tmp_path / "out", max_bytes=6000)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["input"]["documents"] == 31 and report["kept"]["bytes"] <= 6000
    assert report["dropped"].keys() == {"not sampled", "empty"}
    assert report["kept"]["documents"] + report["dropped"]["not sampled"]["documents"] == 30


@pytest.mark.parametrize("workers", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_stop_names_the_first_problem(tmp_path, monkeypatch, workers):
    """Two files are broken; the first in the order of the input is reported, whichever worker is faster."""
    for name, lines in (("a", 400), ("b", 12)):
        write_lines(tmp_path / f"{name}.jsonl", lines, first=1000 * len(name))
    said = r"a\.jsonl:3: invalid JSON \(.* column .*\); fix it, or .*--on-error skip"
    with pytest.raises(UserError, match=said) as error:
        prepare([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out", workers=workers, on_error="stop")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_stop_does_not_mind_filters(tmp_path):
    write_tree(tmp_path / "tree")
    (tmp_path / "tree/package0/wide.py").write_text("name = " + "a" * 4000)
    assert prepare([tmp_path / "tree"], tmp_path / "out", on_error="stop")["dropped"]["long lines"]["documents"] == 1


def test_redaction_is_counted_where_it_is_kept(tmp_path):
    (tmp_path / "src").mkdir()
    text = source(1) + "# ask someone@example.com or other@example.com\n"
    for name, content in (("a.py", text), ("b.py", source(2)), ("copy.py", text)):
        (tmp_path / "src" / name).write_text(content)
    how = ReadingSettings(redact=("email",))
    prepare([tmp_path / "src"], tmp_path / "out", how, validation_share=0)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["redacted"] == {"email": 2} and report["dropped"]["exact duplicate"]["documents"] == 1
    ids = IndexedDataset(tmp_path / "out/train").tokens.tolist()
    assert "someone@example.com" not in load_tokenizer("codegeex").decode(ids)


def test_all_text_and_presets(tmp_path):
    lines = [json.dumps({"text": f"{number} words about nothing in particular\n"}) for number in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    how = ReadingSettings(all_text=True, rules=preset("none"))
    result = prepare([tmp_path / "a.jsonl"], tmp_path / "out", how)
    languages = result["splits"]["train"]["languages"]
    assert languages.keys() == {"unknown"} and rows(tmp_path / "out")[0]["language"] == ""
    first = IndexedDataset(tmp_path / "out/train").document(0).tolist()
    assert load_tokenizer("codegeex").decode(first[:-1]) == "0 words about nothing in particular\n"  # without a tag


@pytest.mark.parametrize("archive", ["x.jsonl", "x.jsonl.zst"])
def test_a_file_in_parts_gives_what_the_whole_gives(tmp_path, monkeypatch, archive):
    """Parts know only their own lines; sources, examples and messages count from the beginning of the file."""
    lines = [json.dumps({"text": f"def f{n}():\n    return {n}\n", "lang": "python"}) + "\n" for n in range(60)]
    lines[40:40] = ["\n", "{broken\n", "\n"]
    path, data = tmp_path / "in" / archive, "".join(lines).encode()
    path.parent.mkdir()
    if archive.endswith(".zst"):  # frames that end within lines
        pack = zstandard.ZstdCompressor().compress
        data = b"".join(pack(data[start : start + 111]) for start in range(0, len(data), 111))
    path.write_bytes(data)
    prepare([path.parent], tmp_path / "whole")
    monkeypatch.setattr(reading, "record_parts", functools.partial(records.record_parts, part_bytes=150))
    assert len(reading.find_units(user_roots([path.parent]), ReadingSettings())[0]) > 15
    prepare([path.parent], tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    numbers = {int(row["source"].rpartition(":")[2]) for row in rows(tmp_path / "cut")}
    assert numbers == {*range(1, 41), *range(44, 64)}
    with pytest.raises(UserError, match=rf"in/{archive}:42: invalid JSON"):
        prepare([path.parent], tmp_path / "stop", on_error="stop")


def test_groups_that_are_numbers_or_no_unicode(tmp_path):
    names = [7, 7, 8, True, None, "\ud800", "a"]
    lines = [{"text": source(n), "lang": "python", "repo_name": name} for n, name in enumerate(names)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    described = prepare([tmp_path / "x.jsonl"], tmp_path / "out")
    assert sorted(p for split in described["splits"].values() for p in split["packages"]) == ["7", "8", "?", "a"]


def test_licences_that_are_no_unicode(tmp_path):
    lines = [{"text": source(n), "lang": "python", "license": name} for n, name in enumerate(["mit", "mit", "\udc00"])]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare([tmp_path / "x.jsonl"], tmp_path / "out", ReadingSettings(licences=("mit",)))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["dropped"]["unknown licence"]["examples"][0]["detail"] == "?"
    assert report["licences"] == {"MIT": {"documents": 2, "bytes": report["kept"]["bytes"]}}


def test_an_output_inside_the_input_is_not_read(tmp_path):
    write_tree(tmp_path / "in")
    prepare([tmp_path / "in"], tmp_path / "in" / "out")
    first = content(tmp_path / "in" / "out")
    prepare([tmp_path / "in"], tmp_path / "in" / "out", replace=True)
    assert content(tmp_path / "in" / "out") == first


@pytest.mark.parametrize("place", ["out", ".out.work", ".out.work/deep"])
def test_an_input_inside_the_output_is_not_deleted(tmp_path, place):
    write_tree(tmp_path / "other")
    prepare([tmp_path / "other"], tmp_path / "out")
    write_tree(tmp_path / ".out.work" / "deep")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"lies in .*, which is written; give --output or --input another"):
        prepare([tmp_path / place], tmp_path / "out", replace=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_with_line_breaks_are_reported_in_one_line(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\n\x1b[31m.jsonl").write_text("{")
    write_tree(tmp_path / "in" / "tree")
    with pytest.raises(UserError) as reported:
        prepare([tmp_path / "in"], tmp_path / "out", on_error="stop")
    assert r"in/a\n\x1b[31m.jsonl:1: invalid JSON" in str(reported.value)
    lines = corpus_lines(prepare([tmp_path / "in"], tmp_path / "out"))
    assert all(line.isprintable() for line in lines)
