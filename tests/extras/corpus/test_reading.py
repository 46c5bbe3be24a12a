import functools
import gzip
import json
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ms_codegeex.extras.corpus.filters import Rules
from ms_codegeex.extras.corpus.reading import Document, _read_file, find_units, read_unit
from ms_codegeex.extras.corpus.settings import ReadingSettings
from ms_codegeex.extras.corpus.sources import user_roots
from ms_codegeex.extras.corpus.tally import BY_NAME, moved
from ms_codegeex.extras.shared import records
from ms_codegeex.extras.shared.records import ReturnKeeper

GOOD = "def function(argument):\n    return argument\n"


def shifted(item, lines):
    """The item with its line counted from the beginning of the file."""
    source = moved(item.source, lines) if lines else item.source
    own = isinstance(item, Document) and item.group == item.source
    return item._replace(source=source, **({"group": source} if own else {}))


def read(root, **reading):
    """All documents, and what is left out for another reason than its name, while searching and while reading."""
    reading = ReadingSettings(**reading)
    units, rejected, _ = find_units(user_roots([root]), reading)
    items, lines = [], 0
    for unit in units:
        found = ReturnKeeper(read_unit(unit, reading))
        lines = lines if unit.part and unit.part.span and unit.part.span[0] else 0
        items += [shifted(item, lines) for item in found]
        lines += found.value
    documents = [item for item in items if isinstance(item, Document)]
    left = [item for item in (*rejected, *items) if not isinstance(item, Document)]
    unread = [it for it in left if it.kind == "unread" and it.reason not in BY_NAME]
    return documents, unread + [it for it in left if it.kind in ("dropped", "problems")]


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, bytes) else json.dumps(record).encode() for record in records]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def one(tmp_path, record, **reading):
    """What becomes of one line: a document, or a reason with its detail and whether it is a problem."""
    documents, rejected = read(write_lines(tmp_path / "x/a.jsonl", [record]), **reading)
    if documents:
        assert not rejected and documents[0].source == "x/a.jsonl:1"
        return documents[0]
    [item] = rejected
    assert item.source == "x/a.jsonl:1"
    return item.reason, item.detail, item.kind == "problems"


class TestFiles:
    def test_documents(self, tmp_path):
        for name in ("b/one.py", "a.c", "b/two.py", "README.md"):
            (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "x" / name).write_text(f"# {name}\n{GOOD}")
        documents, rejected = read(tmp_path / "x")
        assert rejected == []
        assert [(item.source, item.language, item.group, item.data.decode()) for item in documents] == [
            ("x/a.c", "C", "x", f"# a.c\n{GOOD}"),
            ("x/b/one.py", "Python", "x/b", f"# b/one.py\n{GOOD}"),
            ("x/b/two.py", "Python", "x/b", f"# b/two.py\n{GOOD}"),
        ]
        assert [item.source for item in read(tmp_path / "x", languages=("c",))[0]] == ["x/a.c"]
        assert [item.language for item in read(tmp_path / "x", all_text=True)[0]] == ["", "C", "Python", "Python"]

    def test_bad_files(self, tmp_path):
        files = {
            "binary.py": (b"\0" + GOOD.encode(), "binary"),
            "encoding.py": (b"# caf\xe9\xe9\xe9\n", "not UTF-8"),
            "large.py": (GOOD.encode() * 20, "too large"),
            "long.py": (b"x" * 200, "long lines"),
            "white.py": (b"\n\n", "empty"),
        }
        for name, (data, _) in files.items():
            (tmp_path / name).write_bytes(data)
        documents, rejected = read(tmp_path, rules=Rules(max_file_bytes=500))
        assert documents == [] and not any(item.kind == "problems" for item in rejected)
        found = [(item.source.split("/")[-1], item.reason, item.bytes) for item in rejected]
        assert found == [(name, reason, len(data)) for name, (data, reason) in files.items()]
        assert rejected[1].excerpt == "# caf\ufffd\ufffd\ufffd\n" and rejected[3].excerpt == "x" * 200

    def test_a_file_that_disappears(self, tmp_path):
        for name in "abc":
            (tmp_path / f"{name}.py").write_text(GOOD)
        [unit], _, _ = find_units(user_roots([tmp_path]), ReadingSettings())
        (tmp_path / "b.py").unlink()
        (tmp_path / "c.py").write_text(GOOD * 100)
        first, second, third = read_unit(unit, ReadingSettings(max_line_bytes=100))
        assert isinstance(first, Document) and third.reason == "too large" and third.bytes == 100 * len(GOOD)
        assert (second.reason, second.detail, second.kind) == ("unreadable", "No such file or directory", "problems")

    @pytest.mark.parametrize("grown", [b"", b"more = 1\n" * 300_000])
    def test_a_file_that_grows_while_it_is_read(self, tmp_path, monkeypatch, grown):
        (tmp_path / "a.py").write_text(GOOD * 10)
        [unit], _, _ = find_units(user_roots([tmp_path]), ReadingSettings())
        whole, status = GOOD.encode() * 10 + grown, os.fstat

        def before(descriptor):
            found = status(descriptor)
            with open(tmp_path / "a.py", "ab") as stream:
                stream.write(grown)
            return found

        monkeypatch.setattr(os, "fstat", before)
        assert _read_file(unit.files[0], 1 << 20).data == whole


class TestUnits:
    def write(self, root, size=400_000):
        for number in range(40):
            (root / f"p{number % 3}").mkdir(parents=True, exist_ok=True)
            (root / f"p{number % 3}/m{number}.py").write_bytes(b"#" * size)
        write_lines(root / "a.jsonl", [{"text": GOOD + "#" * n, "language": "py"} for n in range(100)])
        (root / "b.jsonl.gz").write_bytes(gzip.compress((root / "a.jsonl").read_bytes()))
        pq.write_table(pa.table({"text": [GOOD] * 50}), root / "c.parquet", row_group_size=10)
        return root

    def test_order_and_names(self, tmp_path):
        root = self.write(tmp_path / "x")
        units, rejected, found = find_units(user_roots([root]), ReadingSettings())
        assert {event.kind for event in rejected} == {"archives"}
        assert found == {"files": 43, "bytes": sum(p.stat().st_size for p in root.rglob("*.*"))}
        archives = ["x/a.jsonl", "x/b.jsonl.gz", "x/c.parquet [0, 5)"]
        assert [unit.name for unit in units] == ["files-000000", "files-000001", *archives]
        assert [unit.part is None for unit in units] == [True, True, False, False, False]
        sizes = [unit.bytes for unit in units[:2]]
        assert sum(sizes) == 16_000_000 and max(sizes) <= 8_000_000

    def test_a_change_is_seen(self, tmp_path):
        root = self.write(tmp_path / "x")
        before = find_units(user_roots([root]), ReadingSettings())[0]
        for name in ("p0/m0.py", "a.jsonl", "b.jsonl.gz"):
            os.utime(root / name, ns=(1, 1))
        after = find_units(user_roots([root]), ReadingSettings())[0]
        assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, False, False, True]

    def test_parts_give_what_the_whole_gives(self, tmp_path, monkeypatch):
        root = self.write(tmp_path / "x", size=4000)  # files are not cut
        whole, reading = read(root, languages=("python",)), ReadingSettings(languages=("python",), max_line_bytes=150)
        small = functools.partial(records.record_parts, part_bytes=100)
        monkeypatch.setattr("ms_codegeex.extras.corpus.reading.record_parts", small)
        assert read(root, languages=("python",)) == whole
        units = find_units(user_roots([root]), reading)[0]
        assert len(units) > 50 and len({unit.name for unit in units}) == len(units)
        in_order = {unit.name: list(read_unit(unit, reading)) for unit in units}
        random.Random(1).shuffle(units)
        assert all(list(read_unit(unit, reading)) == in_order[unit.name] for unit in units)

    def test_names_that_look_alike(self, tmp_path):
        try:
            for name in (b"/\xff.jsonl", b"/\xfe.jsonl"):
                with open(os.fsencode(tmp_path) + name, "wb") as stream:
                    stream.write(json.dumps({"text": GOOD, "lang": "py"}).encode())
        except OSError:
            pytest.skip("this file system takes UTF-8 names only")
        units = find_units(user_roots([tmp_path]), ReadingSettings())[0]
        assert len({unit.name for unit in units}) == 2
        json.dumps([unit.name for unit in units]).encode()


class TestFields:
    @pytest.mark.parametrize(
        "record, group",
        [
            ({"text": GOOD, "language": "python", "repo_name": "a/b"}, "a/b"),
            ({"content": GOOD, "lang": "Python", "max_stars_repo_name": "c"}, "c"),
            ({"code": GOOD, "programming_language": "py", "repository": "d"}, "d"),
            ({"code": GOOD, "path": "lib/x.py"}, None),
            ({"content": GOOD, "text": None, "max_stars_repo_path": "x.py"}, None),
            ({"code": GOOD, "text": "no", "file_name": "x.py", "repo_name": ""}, None),
            ({"text": "#!/usr/bin/python3\n" + GOOD}, None),
            # each layout's name of the repository; null and objects without a name are absent
            ({"content": GOOD, "lang": "py", "repository_name": "a/b"}, "a/b"),
            ({"whole_func_string": GOOD, "lang": "py", "func_name": "f", "repo": "a/b"}, "a/b"),
            ({"content": GOOD, "lang": "py", "repo_name": None, "repo": {"id": 3, "name": "a/b"}}, "a/b"),
            ({"text": GOOD, "lang": "py", "meta": {"repo_name": "a/b"}}, "a/b"),
            ({"content": GOOD, "lang": "py", "sample_repo_name": "a/b", "repository": {}}, "a/b"),
        ],
    )
    def test_the_usual_names(self, tmp_path, record, group):
        found = one(tmp_path, record)
        path = record.get("path") or record.get("max_stars_repo_path") or record.get("file_name", "")
        assert found == Document("x/a.jsonl:1", found.data, "Python", group or "x/a.jsonl:1", path=path)
        assert found.data.decode().endswith(GOOD)

    def test_given_names(self, tmp_path):
        record = {"body": GOOD, "kind": "go", "text": "no", "language": "C", "owner": "me", "repo_name": "you"}
        found = one(tmp_path, record, text_field="body", language_field="kind", group_field="owner")
        assert (found.data.decode(), found.language, found.group) == (GOOD, "Go", "me")
        assert one(tmp_path, {"code": GOOD, "p": "x.rs", "path": "x.py"}, path_field="p").language == "Rust"
        reason, detail, _ = one(tmp_path, {"text": GOOD}, text_field="body")
        assert (reason, detail) == ("missing field", "no field body; there is text")

    def test_languages(self, tmp_path):
        perl = {"text": GOOD, "lang": "Perl"}
        assert one(tmp_path, perl) == ("other language", "Perl", False)
        assert one(tmp_path, perl, languages=("perl",)).language == "Perl"
        assert one(tmp_path, perl, all_text=True).language == ""
        java = {"text": GOOD, "lang": "Java", "path": "x.py"}  # the field is believed, not the path
        assert one(tmp_path, java, languages=("python",)) == ("other language", "Java", False)
        assert one(tmp_path, java, languages=("python",), all_text=True) == ("other language", "Java", False)
        for record, detail in (
            ({"text": GOOD, "lang": "Klingon"}, "'Klingon'"),
            ({"text": GOOD, "lang": ["py"], "path": "x"}, "['py']"),
            ({"text": GOOD}, "no field names it"),
            ({"text": GOOD, "path": "x.unknown"}, "no field names it"),
            ({"text": GOOD, "path": 7}, "no field names it"),
        ):
            assert one(tmp_path, record) == ("unknown language", detail, False)
            assert one(tmp_path, record, all_text=True).language == ""

    def test_languages_of_others_are_those_of_the_path(self, tmp_path):
        for language, path, ours in (
            ("TSX", "/src/App.tsx", "TypeScript"),
            ("Fortran Free Form", "a.f90", "Fortran"),
            (None, "a.py", "Python"),
            ("", "a.py", "Python"),
            ("C", "x.py", "C"),
        ):
            assert one(tmp_path, {"text": GOOD, "language": language, "path": path}).language == ours
        assert one(tmp_path, {"text": GOOD, "language": "TSX"}) == ("unknown language", "'TSX'", False)
        assert one(tmp_path, {"text": GOOD, "language": "JSON", "path": "a.json"})[1] == "JSON"

    def test_fields_that_change_what_is_trained(self, tmp_path):
        record = {"content": GOOD, "path": "a.py", "binary": True}
        assert one(tmp_path, record) == ("field binary", "the file is binary", False)
        assert one(tmp_path, {**record, "binary": False}).language == "Python"

    @pytest.mark.parametrize(
        "record, said",
        [
            ({"prompt": "a", "completion": "b"}, "--task completion"),
            ({"messages": [{"role": "user", "content": "a"}]}, "--task chat"),
            ({"blob_id": "1", "path": "/a.py"}, "Software Heritage"),
            ({"input_ids": [1, 2], "attention_mask": [1, 1]}, "another tokenizer's tokens"),
            ({"body": "a"}, "there is body"),
        ],
    )
    def test_records_of_other_layouts_are_named(self, tmp_path, record, said):
        reason, detail, problem = one(tmp_path, record)
        assert reason == "missing field" and said in detail and problem

    def test_licences(self, tmp_path):
        record = {"text": GOOD, "lang": "py"}
        allowed = {"licences": ("MIT", "apache-2.0")}
        for licence in ("mit", "MIT ", "Apache-2.0", ["MIT"], ["mit", "Apache-2.0"], {"key": "mit"}, "GPL-2.0 OR MIT"):
            assert isinstance(one(tmp_path, {**record, "license": licence}, **allowed), Document)
        for licence in ("gpl-3.0", ["mit", "gpl-3.0"]):
            assert one(tmp_path, {**record, "license": licence}, **allowed) == ("licence", "gpl-3.0", False)
        for licence, detail in (([], "none is named"), (None, "none is named"), ("", "none is named"), (3, "3")):
            assert one(tmp_path, {**record, "license": licence}, **allowed) == ("unknown licence", detail, False)
        assert one(tmp_path, record, **allowed) == ("unknown licence", "none is named", False)
        kept = one(tmp_path, record, **allowed, unknown_licences="keep")
        assert kept.licence == "unknown"
        assert one(tmp_path, {**record, "license": "permissive"}, licences=("Permissive",)).licence == "permissive"
        other = {**record, "terms": "mit", "license": "gpl"}
        assert isinstance(one(tmp_path, other, licence_field="terms", **allowed), Document)
        assert isinstance(one(tmp_path, {**record, "license": "gpl"}), Document)

    def test_licences_of_files(self, tmp_path):
        head = "# SPDX-License-Identifier: "
        files = {
            "npm/package.json": '{"license": "MIT"}',
            "npm/deep/a.py": GOOD,
            "npm/deep/b.py": f"#!/usr/bin/python\n# words\n{head}GPL-3.0-only\n{GOOD}",
            "npm/vendor/package.json": '{"license": "UNLICENSED"}',
            "npm/vendor/LICENSE": "Permission is hereby granted, free of charge ...",
            "npm/vendor/a.py": GOOD,
            "deb/debian/copyright": "Files: *\nLicense: Expat\n\nFiles: lib/*\nCopyright: X\nLicense: GPL-2+\n This\n",
            "deb/a.py": GOOD,
            "deb/lib/deep/a.py": GOOD,
            "site/one-1.0.dist-info/METADATA": "Name: one\nClassifier: License :: OSI Approved :: MIT License\n",
            "site/one-1.0.dist-info/RECORD": "one/a.py,,\n",
            "site/one/a.py": GOOD,
            "site/two/a.py": GOOD,
            "text/a.py": f"{GOOD}\ntext = '{head}MIT'\n",
        }
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        documents, rejected = read(tmp_path, licences=("mit",))
        names = {item.source.partition("/")[2]: item.licence for item in documents}
        assert names == dict.fromkeys(["npm/deep/a.py", "deb/a.py", "site/one/a.py"], "MIT")
        refused = {item.source.partition("/")[2]: (item.reason, item.detail) for item in rejected}
        none = ("unknown licence", "none is named")
        assert refused == {
            "npm/deep/b.py": ("licence", "GPL-3.0-only"),
            "npm/vendor/a.py": ("licence", "LicenseRef-other"),
            "deb/lib/deep/a.py": ("licence", "GPL-2+"),
            "site/two/a.py": none,
            "text/a.py": none,
        }


class TestBadLines:
    @pytest.mark.parametrize(
        "line, reason, detail",
        [
            (b'{"text": "a', "invalid JSON", "Unterminated string starting at at column 10"),
            (b'{"text": "a"} x', "invalid JSON", "Extra data at column 15"),
            (b'{"n": ' + b"1" * 5000 + b"}", "invalid JSON", "a number of more than 100 digits"),
            (b"[" * 100_000, "invalid JSON", "nested deeper than 100 levels"),
            (b"[1]", "no object", "found a value of type list"),
            (b"{}", "missing field", "no field whole_func_string or original_string or code or"),
            (b'{"text": null}', "missing field", "text is null"),
            (b'{"text": ["a"]}', "not text", "the text is of type list"),
            (b'{"text": "caf\xe9"}', "not UTF-8", "byte 0xe9 at column 14"),
            (b'{"text": "ab\\ud83d"}', "not UTF-8", "half of a surrogate pair at character 3"),
            (b'{"text": "\\udc00 \\ud83d\\ude00"}', "not UTF-8", "half of a surrogate pair at character 1"),
            ('{"text": "a"}'.encode("utf-16"), "not UTF-8", "byte 0xff at column 1"),
        ],
    )
    def test_problems(self, tmp_path, line, reason, detail):
        good = {"text": GOOD, "lang": "py"}
        documents, [item] = read(write_lines(tmp_path / "x/a.jsonl", [good, b"", line, good]))
        assert [found.source for found in documents] == ["x/a.jsonl:1", "x/a.jsonl:4"]
        assert (item.source, item.reason, item.kind) == ("x/a.jsonl:3", reason, "problems")
        assert detail in item.detail and "\n" not in item.detail and len(item.excerpt) <= 200
        json.dumps([item.detail, item.excerpt], ensure_ascii=False).encode()

    def test_sizes(self, tmp_path):
        record = {"text": GOOD * 5, "lang": "py"}
        assert one(tmp_path, record, rules=Rules(max_file_bytes=100))[0] == "too large"
        assert one(tmp_path, record, rules=Rules(min_bytes=1000))[0] == "too small"
        assert one(tmp_path, record, max_line_bytes=50) == ("too large", "longer than 50 bytes", False)
        wide = ("long lines", "a line of 101 bytes", False)
        assert one(tmp_path, {"text": "x" * 101, "lang": "py"}) == wide

    def test_surrogate_pairs_and_escapes(self, tmp_path):
        line = b'{"text": "\\ud83d\\ude00 caf\\u00e9 abcdef", "lang": "py"}'
        assert one(tmp_path, line).data == "😀 café abcdef".encode()
        assert one(tmp_path, b"\xef\xbb\xbf" + line).data == "😀 café abcdef".encode()
        assert one(tmp_path, line + b"\r").data == "😀 café abcdef".encode()

    def test_empty_archives(self, tmp_path):
        for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
            (tmp_path / name).touch()
        rejected = read(tmp_path)[1]
        assert [(item.reason, item.kind) for item in rejected] == [("empty", "dropped")] * 4
        (tmp_path / "a.jsonl").write_bytes(b"\n \n")
        assert read(tmp_path / "a.jsonl") == ([], [])


class TestParquet:
    def test_rows(self, tmp_path):
        table = {
            "content": [GOOD, None, "a\0b", GOOD + "#"],
            "lang": ["Python", "Python", "Python", "Go"],
            "max_stars_repo_name": ["a/b", "a/b", None, None],
            "max_stars_repo_licenses": [["MIT"], ["MIT"], ["MIT"], ["GPL"]],
        }
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table(table), path, row_group_size=2)
        documents, rejected = read(path)
        (first, of_group), (last, alone) = ((item.source, item.group) for item in documents)
        assert [item.language for item in documents] == ["Python", "Go"] and of_group == "a/b"
        assert first.endswith("/x.parquet:0") and last.endswith("/x.parquet:3") and alone == last
        assert documents[1].data.decode() == GOOD + "#"
        assert [(item.source.split("/")[-1], item.reason, item.kind) for item in rejected] == [
            ("x.parquet:1", "missing field", "problems"),
            ("x.parquet:2", "binary", "dropped"),
        ]
        assert [item.reason for item in read(path, licences=("mit",))[1]] == ["missing field", "binary", "licence"]

    @pytest.mark.parametrize(
        "column, reason",
        [
            (pa.array([b"caf\xe9\xe9\xe9 caf\xe9"], pa.binary()), "not UTF-8"),
            (pa.array([b"caf\xe9\xe9\xe9 caf\xe9"], pa.binary()).view(pa.string()), "not UTF-8"),
            (pa.array([7]), "not text"),
            (pa.array([["a"]]), "not text"),
            (pa.array([None], pa.string()), "missing field"),
        ],
    )
    def test_bad_values(self, tmp_path, column, reason):
        pq.write_table(pa.table({"text": column, "lang": ["py"]}), tmp_path / "x.parquet")
        [item] = read(tmp_path)[1]
        assert item.reason == reason and item.source.endswith("/x.parquet:0")

    def test_a_missing_column(self, tmp_path):
        path = tmp_path / "x.parquet"
        pq.write_table(pa.table({"text": [GOOD] * 9, "lang": ["py"] * 9}), path)
        documents, [item] = read(path, text_field="body")
        assert (documents, item.reason, item.kind, item.count) == ([], "missing field", "problems", 9)
        assert item.detail.startswith("no field body; there is lang, text")
        assert item.source.endswith("/x.parquet") and item.bytes > 0

    def test_long_rows(self, tmp_path):
        pq.write_table(pa.table({"text": [GOOD, GOOD * 10], "lang": ["py"] * 2}), tmp_path / "x.parquet")
        documents, [item] = read(tmp_path, max_line_bytes=100)
        assert (len(documents), item.reason, item.bytes) == (1, "too large", 10 * len(GOOD))


class TestRedaction:
    TEXT = f"# mail a@b.de\n{GOOD}"

    def test_documents(self, tmp_path):
        record = {"text": self.TEXT, "lang": "py"}
        found = one(tmp_path, record, redact=("secrets", "email"))
        assert found.data.decode() == f"# mail <EMAIL>\n{GOOD}" and found.redacted == (("email", 1),)
        assert one(tmp_path, record, redact=("secrets",)).data.decode() == self.TEXT
        assert one(tmp_path, record).redacted == ()

    def test_excerpts_tell_nothing(self, tmp_path):
        write_lines(tmp_path / "a.jsonl", [{"text": self.TEXT, "lang": "?"}, b'{"text": "a@b.de'])
        (tmp_path / "b.py").write_text("a@b.de " * 90)
        for reading, seen in (({}, True), ({"redact": ("email",)}, False)):
            rejected = read(tmp_path, **reading)[1]
            assert len(rejected) == 3 and all(("a@b.de" in item.excerpt) == seen for item in rejected)

    @pytest.mark.parametrize(
        "line",
        [
            b'{"text": "x\\nAKIAQ3EGUR7K5PXYZ2WN", "lang": "python"',  # the n of the escape stands before the key
            b'["\\nAKIAQ3EGUR7K5PXYZ2WN"]',
            b'{"text": "x", "lang": "\\nAKIAQ3EGUR7K5PXYZ2WN"}',
            b'{"text": "x", "lang": "python", "license": ["\\nAKIAQ3EGUR7K5PXYZ2WN"]}',
            b'{"text": "\\nAKIAQ3EGUR7K5PXYZ2WN", "x": "\xff"}',
        ],
    )
    def test_escaped_secrets_are_not_shown(self, tmp_path, line):
        write_lines(tmp_path / "a.jsonl", [line])
        [item] = read(tmp_path, redact=("secrets",), licences=("mit",) if b"license" in line else ())[1]
        assert "AKIA" not in item.excerpt + item.detail
        write_lines(tmp_path / "a.jsonl", [line + b" " * 90])
        [item] = read(tmp_path, redact=("secrets",), max_line_bytes=90)[1]
        assert item.reason == ("no object" if line.startswith(b"[") else "too large") and "AKIA" not in item.excerpt


class TestReading:
    def test_canonical(self):
        reading = ReadingSettings(
            ("py", "C++", "python"), licences=(" MIT", "mit", "Apache-2.0"), redact=("secrets", "email")
        )
        assert reading.languages == ("C++", "Python") and len(ReadingSettings().languages) == 23
        assert reading.licences == ("apache-2.0", "mit") and reading.redact == ("email", "secrets")
