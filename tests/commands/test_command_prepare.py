import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tokenizer_files import chatglm_model, write_chatglm

from ms_codegeex.cli import main

SHARE = ("--validation-share", "0.3")  # one package of three; the default cannot be met


@pytest.fixture
def sources(tmp_path):
    for package in ("one", "two", "three"):
        folder = tmp_path / "src" / package
        folder.mkdir(parents=True)
        (folder / "module.py").write_text(f"def {package}(argument):\n        return '{package} <|endoftext|>'\n")
        (folder / "code.cpp").write_text(f"class {package} {{\n  int value;\n}};\n")
    return tmp_path / "src"


@pytest.fixture
def dataset(sources, tmp_path, capsys):
    assert main(["prepare", "--input", str(sources), *SHARE, "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    capsys.readouterr()
    return tmp_path / "out"


def test_prepare_for_people(sources, tmp_path, capsys):
    assert main(["prepare", "--input", str(sources), *SHARE, "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    output, progress = capsys.readouterr()
    assert "train: 4 documents" in output and "validation: 2 documents" in output and "  Python:" in output
    assert "MB/s" in progress and "tokenising: " in progress


def test_stripped_licences_are_printed(sources, tmp_path, capsys):
    (sources / "one" / "module.py").write_text("# Copyright 2020 Some Person\nfirst = 1\n")
    assert main(["prepare", "--input", str(sources), *SHARE, "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "licence headers left out: of 1 documents, 29 bytes" in capsys.readouterr().out


def test_prepare_json_is_one_object(sources, tmp_path, capsys):
    command = [
        "prepare",
        "--input",
        str(sources),
        "--output",
        str(tmp_path / "out"),
        "--json",
        "--workers",
        "1",
        "--languages",
        "cpp",
        "--no-tags",
        "--seed",
        "3",
        "--validation-share",
        "0.2",
        "--max-bytes",
        "100000",
    ]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"]["train"]["languages"].keys() == {"C++"} and result["cached"] is False
    assert (result["settings"]["tags"], result["settings"]["seed"]) == ("none", 3)
    assert main(command) == 0
    output, progress = capsys.readouterr()
    assert json.loads(output)["cached"] is True and "already prepared" in progress


def recorded(arguments, tmp_path, capsys):
    """The settings that a command line means, as dataset.json records them."""
    words = ["prepare", *SHARE, "--output", str(tmp_path / "out"), "--replace", "--workers", "1", "--json", *arguments]
    assert main(words) == 0
    return json.loads(capsys.readouterr().out)["settings"]


def test_defaults_with_input(sources, tmp_path, capsys):
    found = recorded(["--input", str(sources)], tmp_path, capsys)
    assert (found["max_bytes"], found["near_duplicates"], found["tags"], found["on_error"]) == (
        None,
        0,
        "codegeex",
        "skip",
    )
    assert len(found["languages"]) == 23 and found["rules"]["max_file_bytes"] == 1_000_000


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "files"),
        (["--filters", "codegeex"], "none"),
        (["--filters", "codegen"], "none"),
        (["--filters", "none"], "none"),
        (["--filters", "codegen", "--strip-licences", "all"], "all"),
        (["--strip-licences", "none"], "none"),
    ],
)
def test_licences_are_stripped_unless_the_filters_are_published(words, expected):
    from ms_codegeex.cli import parse
    from ms_codegeex.commands.prepare import _recipe, _settings

    arguments = parse(["prepare", "--output", "out", *words])
    assert _settings(arguments, _recipe(arguments)).reading.strip_licences == expected


def test_defaults_without_input(monkeypatch):
    from ms_codegeex.cli import parse
    from ms_codegeex.commands.prepare import _recipe, _settings
    from ms_codegeex.data.corpus.settings import PrepareSettings

    arguments = parse(["prepare", "--output", "out"])
    assert _settings(arguments, _recipe(arguments)) == PrepareSettings()  # what `train` prepares


def test_every_option_arrives(sources, tmp_path, capsys):
    records = tmp_path / "a.jsonl"
    lines = [{"body": (sources / name / "module.py").read_text(), "l": "py", "c": "MIT"} for name in ("one", "two")]
    records.write_text("".join(json.dumps({**line, "r": line["body"]}) + "\n" for line in lines))
    given = {
        "text_field": "body",
        "language_field": "l",
        "licence_field": "c",
        "group_field": "r",
        "licences": ["mit", "isc"],
        "redact": ["secrets", "email"],
        "on_error": "stop",
        "tags": "codegeex2",
        "near_duplicates": "0.5",
        "max_bytes": "5000",
        "seed": "7",
        "filters": "codegen",
        "min_bytes": "2",
    }
    words = ["--input", str(records), "--all-text"]
    for name, value in given.items():
        words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    found = recorded(words, tmp_path, capsys)
    assert {name: found[name] for name in ("text_field", "language_field", "licence_field", "group_field")} == {
        "text_field": "body",
        "language_field": "l",
        "licence_field": "c",
        "group_field": "r",
    }
    assert found["licences"] == ["isc", "mit"] and found["redact"] == ["email", "secrets"] and found["all_text"] is True
    assert (found["on_error"], found["tags"], found["near_duplicates"], found["seed"]) == ("stop", "codegeex2", 0.5, 7)
    assert (found["max_bytes"], found["rules"]["min_bytes"], found["rules"]["max_line"]) == (5000, 2, 1000)
    assert len(found["languages"]) == 96


def test_how_duplicates_are_compared_needs_their_threshold(sources, tmp_path, capsys):
    words = ["--input", str(sources), "--output", str(tmp_path / "out"), "--near-duplicates-by", "tokens"]
    assert main(["prepare", *words]) == 2
    assert "--near-duplicates-by tokens: has no effect; add --near-duplicates" in capsys.readouterr().err
    words = ["--input", str(sources), "--near-duplicates", "1", "--near-duplicates-by"]
    assert recorded([*words, "tokens"], tmp_path, capsys)["near_duplicates_by"] == "tokens"
    assert "near_duplicates_by" not in recorded([*words, "words"], tmp_path, capsys)


def test_stop_is_one_line(sources, tmp_path, capsys):
    """With several workers: `test_stop_names_the_first_problem`."""
    (sources / "broken.jsonl").write_text('{"text": "name = 1", "lang": "python"}\n{"text": \n')
    command = ["prepare", "--input", str(sources), *SHARE, "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--on-error", "stop"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ms-codegeex prepare: src/broken.jsonl:2: invalid JSON (") and "--on-error skip" in last
    assert main(command) == 0
    assert re.search("dropped, invalid JSON: 1, for example src/broken.jsonl:2", capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input", "absent"], "absent: no such file or directory"),
        (["--languages", "pyton"], "did you mean Python"),
        (["--workers", "0"], "workers 0"),
        (["--workers", "1", "--tokenizer", "other"], "neither one of the names codegeex"),
        (
            ["--workers", "1", "--tokenizer", "codegeex2"],
            "its tokenizer.model does not come with this program; give a directory",
        ),
    ],
)
def test_prepare_mistakes(sources, tmp_path, capsys, arguments, message):
    command = ["prepare", "--output", str(tmp_path / "out"), "--input", str(sources), *arguments]
    assert main(command) == 2
    output, error = capsys.readouterr()
    assert output == "" and message in error and error.startswith("ms-codegeex prepare: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_workers_from_the_command_line(dataset, sources, tmp_path):
    command = [
        sys.executable,
        "-m",
        "ms_codegeex.cli",
        "prepare",
        "--input",
        str(sources),
        *SHARE,
        "--json",
        "--output",
        str(tmp_path / "two"),
        "--workers",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["output"] == str(tmp_path / "two")
    for path in dataset.iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_inspect(dataset, capsys):
    assert main(["inspect", str(dataset)]) == 0
    assert "verified: " in capsys.readouterr().out
    assert main(["inspect", str(dataset), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kind"] == "dataset" and result["verified"] is True and result["splits"]["train"]["documents"] == 4


def test_inspect_document(dataset, sources, capsys):
    found = []
    for split, count in (("train", 4), ("validation", 2)):
        for number in range(count):
            assert main(["inspect", str(dataset), "--document", str(number), "--split", split]) == 0
            found.append(capsys.readouterr().out)
    tags = {".py": "# language: Python\n", ".cpp": "// language: C++\n"}
    assert sorted(found) == sorted(tags[path.suffix] + path.read_text() for path in sources.rglob("*.*"))
    assert main(["inspect", str(dataset), "--document", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["document"]["text"] == found[0]
    assert main(["inspect", str(dataset), "--document", "4"]) == 2
    assert "--document 4: train has documents 0..3" in capsys.readouterr().err


def decoded(directory, capsys):
    """All documents of a dataset, as `inspect` prints them."""
    found = []
    for split, count in (("train", 4), ("validation", 2)):
        for number in range(count):
            assert main(["inspect", str(directory), "--document", str(number), "--split", split]) == 0
            found.append(capsys.readouterr().out)
    return sorted(found)


@pytest.mark.parametrize(
    "name, ids",
    [
        ("codegen-nl", 50257),
        pytest.param("codegen-multi", 50295, marks=pytest.mark.slow),
        pytest.param("codegen-mono", 50295, marks=pytest.mark.slow),
    ],
)
def test_tokenizers_by_name(sources, dataset, tmp_path, capsys, name, ids):
    out = tmp_path / "named"
    assert (
        main(["prepare", "--input", str(sources), *SHARE, "--output", str(out), "--tokenizer", name, "--workers", "1"])
        == 0
    )
    capsys.readouterr()
    description = json.loads((out / "dataset.json").read_text())
    assert (description["vocab_size"], description["eos_id"], description["settings"]["tokenizer"]) == (
        ids,
        50256,
        name,
    )
    assert description["tokenizer"].keys() == {"name", "fingerprint"} and not (out / "tokenizer").exists()
    indented = 50280 in np.fromfile(out / "train.bin", np.uint16)  # eight spaces
    assert indented == (name != "codegen-nl")
    assert decoded(out, capsys) == decoded(dataset, capsys)


@pytest.mark.slow
def test_a_tokenizer_from_a_directory_travels_along(sources, dataset, tmp_path, capsys):
    model, out = write_chatglm(tmp_path / "codegeex2"), tmp_path / "chatglm"
    command = [
        "prepare",
        "--input",
        str(sources),
        *SHARE,
        "--output",
        str(out),
        "--tokenizer",
        str(model),
        "--workers",
        "2",
    ]
    assert main(command) == 0
    description = json.loads((out / "dataset.json").read_text())
    assert description["tokenizer"]["name"] == "codegeex2" and description["eos_id"] == 2
    tokens = np.fromfile(out / "train.bin", np.uint16)
    assert tokens.max() < description["vocab_size"] - 5  # no prefix, no command token
    assert main(command) == 0 and main([*command, "--replace"]) == 0
    model_bytes = (model / "tokenizer.model").read_bytes()
    shutil.rmtree(model)
    capsys.readouterr()
    assert decoded(out, capsys) == decoded(dataset, capsys)
    assert (out / "tokenizer/tokenizer.model").read_bytes() == model_bytes
    write_chatglm(out / "tokenizer", chatglm_model(vocab_size=400))
    assert main(["inspect", str(out), "--document", "0"]) == 2
    assert "no longer the one" in capsys.readouterr().err
    shutil.rmtree(out / "tokenizer")
    assert main(["inspect", str(out), "--document", "0"]) == 2
    assert "tokenizer: missing, but" in capsys.readouterr().err


def test_a_directory_called_tokenizer_is_not_deleted(sources, tmp_path, capsys):
    model = write_chatglm(tmp_path / "out/tokenizer")
    command = ["prepare", "--input", str(sources), *SHARE, "--output", str(tmp_path / "out"), "--tokenizer", str(model)]
    assert main([*command, "--replace", "--workers", "1"]) == 2
    assert "holds tokenizer, which is not part of a dataset" in capsys.readouterr().err
    assert (model / "tokenizer.model").is_file()


def test_packages_too_large_for_the_validation_share(sources, tmp_path, capsys):
    """Each is a third of the text. The remedies that the message names work, and begin with the finished shards."""
    command = ["prepare", "--input", str(sources), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "--validation-share 0.05" in last and "33% of the text" in last and not (tmp_path / "out").exists()
    remedies = re.findall(r"--validation-share (0[.\d]*) (?:to|for)", last)
    assert len(remedies) == 2 and list((tmp_path / ".out.work").glob("*.npz"))
    for share, documents in zip(remedies, (2, 0), strict=True):
        assert main([*command, "--replace", "--validation-share", share, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["splits"].get("validation", {}).get("documents", 0) == documents


def test_the_list_of_what_was_dropped_replaces_nothing_else(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "link.jsonl").symlink_to("mine.txt")
    command = ["prepare", "--input", "src", "--output", "out", *SHARE, "--workers", "1", "--dropped"]
    own = "src/one/module.py"
    for name in ("mine.txt", "link.jsonl", "src", own, "out/x", ".out.work/x", "mine.txt/x", "s3://bucket/x"):
        assert main([*command, name, "--replace"]) == 2
        assert "--dropped" in capsys.readouterr().err.splitlines()[-1]
    assert (tmp_path / "mine.txt").read_text() == "mine" and not (tmp_path / "out").exists()
    assert main([*command, "list.jsonl"]) == 0
    first = (tmp_path / "list.jsonl").read_bytes()
    for more in ([], ["--seed", "3"]):  # it would be the list of another run
        assert main([*command, "list.jsonl", *more]) == 2
        assert capsys.readouterr().err.splitlines()[-1].count("--replace") == 1
    assert main([*command, "list.jsonl", "--replace"]) == 0 and (tmp_path / "list.jsonl").read_bytes() == first
