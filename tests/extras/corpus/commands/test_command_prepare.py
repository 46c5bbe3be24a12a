import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizer_files import chatglm_model, write_chatglm

from ms_codegeex.cli import main
from ms_codegeex.data.datasets.layout import SPLITS

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
def run(sources, tmp_path, capsys):
    """Run the command with these words, several in a text, on the sources; what it printed."""

    def run(*words, status=0, out="out", share=SHARE):
        places = ["--input", str(sources), "--output", str(tmp_path / out), "--workers", "1"]
        words = " ".join(map(str, words)).split()
        assert main(["prepare", *(places[2:] if "--input" in words else places), *share, *words]) == status
        return capsys.readouterr()

    return run


@pytest.fixture
def dataset(run, tmp_path):
    run()
    return tmp_path / "out"


def test_prepare_for_people(run):
    output, progress = run()
    assert "train: 4 documents" in output and "validation: 2 documents" in output and "  Python:" in output
    assert "MB/s" in progress and "tokenising: " in progress


def test_stripped_licences_are_printed(run, sources):
    (sources / "one" / "module.py").write_text("# Copyright 2020 Some Person\nfirst = 1\n")
    assert "licence headers left out: 29 bytes of 1 documents" in run().out


def test_prepare_json_is_one_object(run):
    words = "--json --languages cpp --no-tags --seed 3 --validation-share 0.2 --max-bytes 100000"
    result = json.loads(run(words).out)
    assert result["splits"]["train"]["languages"].keys() == {"C++"} and result["cached"] is False
    assert (result["settings"]["tags"], result["settings"]["seed"]) == ("none", 3)
    output, progress = run(words)
    assert json.loads(output)["cached"] is True and "already prepared" in progress


@pytest.fixture
def recorded(run):
    """The settings that a command line means, as dataset.json records them."""
    return lambda *words: json.loads(run("--replace", "--json", *words).out)["settings"]


def test_defaults_with_input(recorded):
    found = recorded()
    defaults = {"max_bytes": None, "near_duplicates": 0, "tags": "codegeex", "on_error": "skip"}
    assert {name: found[name] for name in defaults} == defaults
    assert len(found["languages"]) == 23 and found["rules"]["max_file_bytes"] == 1_000_000


@pytest.mark.parametrize(
    "words, expected",
    [
        ("", "files"),
        ("--filters codegeex", "none"),
        ("--filters codegen", "none"),
        ("--filters none", "none"),
        ("--filters codegen --strip-licences all", "all"),
        ("--strip-licences none", "none"),
    ],
)
def test_licences_are_stripped_unless_the_filters_are_published(words, expected):
    from ms_codegeex.cli import parse
    from ms_codegeex.extras.corpus.commands.prepare import _recipe, _settings

    arguments = parse(["prepare", "--output", "out", *words.split()])
    assert _settings(arguments, _recipe(arguments)).reading.strip_licences == expected


def test_defaults_without_input(monkeypatch):
    from ms_codegeex.cli import parse
    from ms_codegeex.extras.corpus.commands.prepare import _recipe, _settings
    from ms_codegeex.extras.corpus.settings import PrepareSettings

    arguments = parse(["prepare", "--output", "out"])
    assert _settings(arguments, _recipe(arguments)) == PrepareSettings()  # what `train` prepares


def test_every_option_arrives(recorded, sources, tmp_path):
    records = tmp_path / "a.jsonl"
    lines = [{"body": (sources / name / "module.py").read_text(), "l": "py", "c": "MIT"} for name in ("one", "two")]
    records.write_text("".join(json.dumps({**line, "r": line["body"]}) + "\n" for line in lines))
    given = {"text_field": "body", "language_field": "l", "licence_field": "c", "group_field": "r", "on_error": "stop"}
    given |= {"tags": "codegeex2", "near_duplicates": 0.5, "max_bytes": 5000, "seed": 7}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    further = "--all-text --licences mit isc --redact secrets email --filters codegen --min-bytes 2"
    found = recorded("--input", records, *words, further)
    assert {name: found[name] for name in given} == given
    assert found["licences"] == ["isc", "mit"] and found["redact"] == ["email", "secrets"] and found["all_text"] is True
    assert (found["rules"]["min_bytes"], found["rules"]["max_line"], len(found["languages"])) == (2, 1000, 96)


def test_how_duplicates_are_compared_needs_their_threshold(run, recorded):
    error = run("--near-duplicates-by", "tokens", status=2).err
    assert "--near-duplicates-by tokens: has no effect; add --near-duplicates" in error
    words = ("--near-duplicates", 1, "--near-duplicates-by")
    assert recorded(*words, "tokens")["near_duplicates_by"] == "tokens"
    assert "near_duplicates_by" not in recorded(*words, "words")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--languages", "pyton"], "did you mean Python"),
        (["--workers", "0"], "workers 0"),
        (["--tokenizer", "other"], "neither one of the names codegeex"),
        (["--tokenizer", "codegeex2"], "its files do not come with this program; give a directory that holds"),
    ],
)
def test_prepare_mistakes(run, tmp_path, arguments, message):
    output, error = run(*arguments, status=2, share=())
    assert output == "" and message in error and error.startswith("ms-codegeex prepare: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


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
def test_tokenizers_by_name(run, dataset, tmp_path, capsys, name, ids):
    out = tmp_path / "named"
    run("--tokenizer", name, out="named")
    description = json.loads((out / "dataset.json").read_text())
    assert (description["vocab_size"], description["eos_id"]) == (ids, 50256)
    assert description["settings"]["tokenizer"] == name
    assert description["tokenizer"].keys() == {"name", "fingerprint"} and not (out / "tokenizer").exists()
    indented = 50280 in np.fromfile(out / "train.bin", np.uint16)  # eight spaces
    assert indented == (name != "codegen-nl")
    assert decoded(out, capsys) == decoded(dataset, capsys)


@pytest.mark.slow
def test_a_tokenizer_from_a_directory_travels_along(run, dataset, tmp_path, capsys):
    model, out = write_chatglm(tmp_path / "codegeex2"), tmp_path / "chatglm"
    words = ("--tokenizer", model, "--workers", 2)
    run(*words, out="chatglm")
    description = json.loads((out / "dataset.json").read_text())
    assert description["tokenizer"]["name"] == "codegeex2" and description["eos_id"] == 2
    tokens = np.fromfile(out / "train.bin", np.uint16)
    assert tokens.max() < description["vocab_size"] - 5  # no prefix, no command token
    run(*words, out="chatglm")
    run(*words, "--replace", out="chatglm")
    model_bytes = (model / "tokenizer.model").read_bytes()
    shutil.rmtree(model)
    assert decoded(out, capsys) == decoded(dataset, capsys)
    assert (out / "tokenizer/tokenizer.model").read_bytes() == model_bytes
    write_chatglm(out / "tokenizer", chatglm_model(vocab_size=400))
    assert main(["inspect", str(out), "--document", "0"]) == 2
    assert "no longer the one" in capsys.readouterr().err
    shutil.rmtree(out / "tokenizer")
    assert main(["inspect", str(out), "--document", "0"]) == 2
    assert "tokenizer: missing, but" in capsys.readouterr().err


def test_a_directory_called_tokenizer_is_not_deleted(run, tmp_path):
    model = write_chatglm(tmp_path / "out/tokenizer")
    error = run("--tokenizer", model, "--replace", status=2).err
    assert "holds tokenizer, which is not part of a dataset" in error
    assert (model / "tokenizer.model").is_file()


def test_packages_too_large_for_the_validation_share(run, tmp_path):
    """Each is a third of the text: they are divided, with a line. Groups that the user names are not."""
    output, progress = run(share=())
    assert "split by file, 11.1% of the text; related files may be on both sides" in progress
    assert "split by file" in output and "validation: 1 documents" in output
    texts = [(who, f"def {who}{n}(x):\n    return x + {n}\n") for n in range(9) for who in "abc"]
    lines = (json.dumps({"text": text, "author": who, "lang": "python"}) for who, text in texts)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    words = ("--input", tmp_path / "rows.jsonl", "--group-field", "author")
    last = run(*words, out="of-rows", status=2, share=()).err.splitlines()[-1]
    assert "--validation-share 0.05" in last and "33% of the text" in last and not (tmp_path / "of-rows").exists()
    remedies = re.findall(r"--validation-share (0[.\d]*) (?:to|for)", last)
    assert len(remedies) == 2 and list((tmp_path / ".of-rows.work").glob("*.npz"))
    for share, documents in zip(remedies, (9, 0), strict=True):
        words = (*words, "--replace", "--json")
        splits = json.loads(run(*words, out="of-rows", share=("--validation-share", share)).out)["splits"]
        assert splits.get("validation", {}).get("documents", 0) == documents
    splits = json.loads(run(*words[:2], "--json", out="divided", share=()).out)["splits"]
    assert splits["validation"]["documents"] == 2


def test_files_for_validation(run, sources, tmp_path):
    """All of them are in validation, and nowhere else: neither in training nor what repeats them there."""
    body = "".join(f"    total += values[{n}] * weights[{n}]\n" for n in range(60))
    (sources / "near.py").write_text(f"def total(values, weights):\n    total = 0\n{body}    return total  # of all\n")
    (sources / "copy.py").write_text((sources / "one/module.py").read_text())
    own = tmp_path / "own/total.py"
    own.parent.mkdir()
    own.write_text(f"def total(values, weights):\n    total = 0\n{body}    return total\n")
    named = ("--validation", sources / "one", own, "--near-duplicates", "0.85")
    made = json.loads(run(*named, "--json", share=()).out)
    sides = [pq.read_table(tmp_path / f"out/{split}.documents.parquet")["source"].to_pylist() for split in SPLITS]
    assert sorted(sides[1]) == ["one/code.cpp", "one/module.py", "own/total.py"]
    assert sorted(sides[0]) == [f"src/{name}/{file}" for name in ("three", "two") for file in ("code.cpp", "module.py")]
    assert [entry.get("validation") for entry in made["sources"]] == [True, True, None] and made["split_by"] == "input"
    assert made["dropped"]["exact duplicate"]["documents"] == made["dropped"]["near duplicate"]["documents"] == 1
    assert "reused" in run(*named, share=()).out
    splits = json.loads(run(*named, "--max-bytes", "100", "--json", out="sample", share=()).out)["splits"]
    assert splits["train"]["documents"] < 4 and splits["validation"]["documents"] == 3  # a sample of the rest
    for wrong, said in ((sources, "nothing is left of --input"), (tmp_path / "none", "nothing is left of it")):
        wrong.mkdir(exist_ok=True)
        assert said in run("--validation", wrong, out="wrong", status=2, share=()).err


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
