"""What users are told: about settings that cannot be, about input of which nothing is left, about places."""

import json

import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.corpus.filters import Rules, preset
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, prepare_finetune, recognised_task
from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings

TUNING = {"task": "chat", "seq_length": 8}
SETTINGS = [
    (PrepareSettings, {"tags": "all"}, "tags 'all': expected one of codegeex"),
    (PrepareSettings, {"on_error": "ask"}, "on_error 'ask': expected one of skip, stop"),
    (PrepareSettings, {"validation_share": 1.0}, "validation_share 1.0"),
    (PrepareSettings, {"validation_share": float("nan")}, "validation_share"),
    (PrepareSettings, {"max_bytes": 0}, "max_bytes 0"),
    (PrepareSettings, {"near_duplicates": 1.5}, "near_duplicates 1.5"),
    (PrepareSettings, {"near_duplicates_by": "lines"}, "near_duplicates_by 'lines'"),
    (PrepareSettings, {"reading": ReadingSettings(rules=Rules(5, 4))}, "min_bytes 5"),
    (PrepareSettings, {"tokenizer": "~no-such-user/x"}, "cannot be followed"),
    (PrepareSettings, {"tokenizer": "n" * 300}, "cannot be followed"),
    (PrepareSettings, {"reading": ReadingSettings(text_field="\udcff")}, "expected valid UTF-8"),
    (ReadingSettings, {"redact": ("phone",)}, "redact 'phone': expected some of email, real-email, secrets"),
    (ReadingSettings, {"languages": ("klingon",)}, "unknown language 'klingon'"),
    (ReadingSettings, {"max_line_bytes": 0}, "max_line_bytes 0: expected 1 or more"),
    (ReadingSettings, {"strip_licences": "some"}, "strip_licences 'some': expected one of files, all, none"),
    (preset, {"name": "strict"}, "'strict': expected one of default, codegeex, codegen, none"),
    (FinetuneSettings, {**TUNING, "task": "poetry"}, "'poetry': expected one of completion, chat, translation"),
    (FinetuneSettings, {**TUNING, "overlong": "keep"}, "overlong 'keep'"),
    (FinetuneSettings, {**TUNING, "seq_length": 1}, "seq_length 1"),
    (FinetuneSettings, {**TUNING, "validation_share": 1.0}, "validation_share 1.0"),
    (FinetuneSettings, {**TUNING, "on_error": "cry"}, "on_error 'cry'"),
    (FinetuneSettings, {**TUNING, "template": "mine"}, "template 'mine'"),
]


@pytest.mark.parametrize("make, options, sentence", SETTINGS)
def test_settings_that_cannot_be(make, options, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        make(**options)
    assert "\n" not in str(error.value)


CODE = {name: f"def {name}(argument):\n    return argument\n" for name in ("one", "two")}
SOURCES = {f"{name}/{name}.py": text for name, text in CODE.items()}
PROSE = "".join(json.dumps({"text": f"{number} words about nothing in particular\n"}) + "\n" for number in range(5))
INPUTS = [
    ({}, {}, "in: no such file or directory"),
    ({"notes.txt": "x"}, {}, r"left: 1 times unknown language \(\.txt\), first in/notes\.txt; .*--all-text"),
    (SOURCES, {"languages": ("Rust",)}, "nothing is left: 2 times other language"),
    ({"a.py": b"\xff\xfd\xfc", "b.py": ""}, {}, "nothing is left: 1 times .*all reasons: empty 1, not UTF-8 1"),
    (SOURCES, {"max_bytes": 3}, r"nothing is left \(max_bytes 3\): 2 times not sampled.* raise --max-bytes"),
    ({"one.py": CODE["one"]}, {}, "the only document left.*--validation-share 0"),
    (SOURCES, {"tokenizer": "nonsense"}, "neither one of the names codegeex"),
    ({"a.jsonl": PROSE}, {}, "nothing is left: 5 times unknown language .* --all-text"),
    ({"a.jsonl": "", "b.txt": ""}, {}, "1 times unknown language.*all reasons: empty 1, unknown language 1"),
    (SOURCES, {"licences": ("mit",)}, "--licences: no text has a known licence"),
    (SOURCES, {"licences": ("mit",), "unknown_licences": "keep"}, "--licences: no text has a known licence"),
]


def prepare(given, output, *, validation_share=0.3, max_bytes=None, tokenizer="codegeex", **reading):
    more = {"validation_share": validation_share, "max_bytes": max_bytes, "tokenizer": tokenizer}
    settings = PrepareSettings(ReadingSettings(**reading), **more)
    return prepare_dataset([given], output, settings, RunOptions(workers=1, progress=False))


@pytest.mark.parametrize("files, options, sentence", INPUTS)
def test_input_of_which_nothing_is_left(tmp_path, files, options, sentence):
    """Nothing else is left behind either."""
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence) as error:
        prepare(tmp_path / "in", tmp_path / "out", **options)
    assert "\n" not in str(error.value) and {path.name for path in tmp_path.iterdir()} <= {"in"}


PLACES = [
    ("loop", "out", "cannot be followed"),
    ("~no-such-user/x", "out", "cannot be followed"),
    ("in", ".", "is not the name of a directory"),
    ("in", "n" * 300, "cannot be read .File name too long"),
    ("in", "../loop/out", "could not be made .Too many levels of symbolic links"),
    ("in", "../in/one.py/out", "could not be made .Not a directory"),
]


@pytest.mark.parametrize("given, output, sentence", PLACES)
def test_places_that_cannot_be(tmp_path, monkeypatch, given, output, sentence):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one.py").write_text(CODE["one"])
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "here").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=sentence):
        prepare(given if given[0] == "~" else f"../{given}", output)
    assert sorted(tmp_path.rglob("*")) == before


BAD = '{"prompt": 1, "completion": "c"}\n' + '{"prompt": "p", "completion": "c", "label": 0}\n' * 2
EXAMPLES = [
    (None, "no example is left: all is empty"),
    (BAD, r"2 times field label \(it marks a bad answer.*\), first in/a\.jsonl:2.*wrong type 1"),
]


@pytest.mark.parametrize("content, sentence", EXAMPLES)
def test_records_of_which_no_example_is_left(tmp_path, content, sentence):
    (tmp_path / "in").mkdir()
    if content is not None:
        (tmp_path / "in/a.jsonl").write_text(content)
    with pytest.raises(UserError, match=sentence):
        prepare_finetune([tmp_path / "in"], tmp_path / "out", FinetuneSettings("completion", 8))
    assert not (tmp_path / "out").exists()


TASKS = [
    ({"text": "x"}, "prepare --all-text --tokenizer MODEL"),
    ({"prompt": "p", "chosen": "a", "rejected": "b"}, "keep the better answer alone, as `completion`"),
    ({"old_contents": "a"}, "the last has the fields old_contents"),
]


@pytest.mark.parametrize("record, sentence", TASKS)
def test_records_of_no_task(tmp_path, record, sentence):
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=sentence):
        recognised_task([tmp_path / "a.jsonl"])


OTHER_FILES = [
    (b'["p", "c"]\n', r"2 times no object \(found a value of type str\), first .*; write one object per line"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "1 times damaged archive .*git lfs pull"),
    (b"<!DOCTYPE html>\n<title>404</title>\n", "1 times damaged archive .*it is a web page, not the file"),
]


@pytest.mark.parametrize("content, sentence", OTHER_FILES)
def test_files_that_hold_no_record_are_told_and_counted(tmp_path, content, sentence):
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    files[0].write_bytes(content)
    files[1].write_text('{"prompt": "p", "completion": "c"}\n')
    with pytest.raises(UserError, match=sentence):
        recognised_task(files[:1])
    tally = prepare_finetune(files, tmp_path / "out", FinetuneSettings("completion", 8, validation_share=0.0))["tally"]
    assert tally["records"]["read"] == tally["records"]["kept"] + tally["records"]["dropped"]
    assert tally["files"]["found"] == tally["files"]["holding_records"] + tally["files"]["dropped"] == 2
