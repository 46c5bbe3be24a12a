import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizer_files import chatglm_model, write_chatglm

from ms_codegeex.cli import main
from ms_codegeex.data.indexed import IndexedWriter
from ms_codegeex.files import sha256


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
    assert main(["prepare", "--input", str(sources), "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    capsys.readouterr()
    return tmp_path / "out"


def test_prepare_for_people(sources, tmp_path, capsys):
    assert main(["prepare", "--input", str(sources), "--output", str(tmp_path / "out"), "--workers", "1"]) == 0
    output, progress = capsys.readouterr()
    assert "train: 4 documents" in output and "validation: 2 documents" in output and "  Python:" in output
    assert "MB/s" in progress and "tokenising: " in progress


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
    words = ["prepare", "--output", str(tmp_path / "out"), "--replace", "--workers", "1", "--json", *arguments]
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


def test_defaults_without_input(monkeypatch):
    from ms_codegeex.cli import parse
    from ms_codegeex.commands.prepare import _settings
    from ms_codegeex.data.settings import PrepareSettings

    assert _settings(parse(["prepare", "--output", "out"])) == PrepareSettings()  # what `train` prepares


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


def test_stop_is_one_line(sources, tmp_path, capsys):
    (sources / "broken.jsonl").write_text('{"text": "name = 1", "lang": "python"}\n{"text": \n')
    command = ["prepare", "--input", str(sources), "--output", str(tmp_path / "out"), "--workers", "2"]
    assert main([*command, "--on-error", "stop"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ms-codegeex prepare: src/broken.jsonl:2: invalid JSON (") and "--on-error skip" in last
    assert main(command) == 0
    assert "dropped, invalid JSON: 1 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--input", "absent"], "absent: no such file or directory"),
        (["--languages", "pyton"], "did you mean Python"),
        (["--workers", "0"], "workers 0"),
        (["--tokenizer", "other"], "neither one of the names codegeex"),
        (["--tokenizer", "codegeex2"], "its tokenizer.model does not come with this program; give a directory"),
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


@pytest.mark.parametrize("name, ids", [("codegen-nl", 50257), ("codegen-multi", 50295), ("codegen-mono", 50295)])
def test_tokenizers_by_name(sources, dataset, tmp_path, capsys, name, ids):
    out = tmp_path / "named"
    assert main(["prepare", "--input", str(sources), "--output", str(out), "--tokenizer", name, "--workers", "1"]) == 0
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


def test_a_tokenizer_from_a_directory_travels_along(sources, dataset, tmp_path, capsys):
    model, out = write_chatglm(tmp_path / "codegeex2"), tmp_path / "chatglm"
    command = ["prepare", "--input", str(sources), "--output", str(out), "--tokenizer", str(model), "--workers", "2"]
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
    command = ["prepare", "--input", str(sources), "--output", str(tmp_path / "out"), "--tokenizer", str(model)]
    assert main([*command, "--replace", "--workers", "1"]) == 2
    assert "holds tokenizer, which is no part of a dataset" in capsys.readouterr().err
    assert (model / "tokenizer.model").is_file()


def change_description(change):
    def damage(directory):
        path = directory / "dataset.json"
        description = json.loads(path.read_text())
        change(description)
        path.write_text(json.dumps(description))

    return damage


def rewrite(documents):
    """Replace train by other documents, with hashes and counts that fit: only the content is wrong."""

    def damage(directory):
        with IndexedWriter(directory / "train", np.uint16) as writer:
            for document in documents:
                writer.add(document)

        def change(description):
            description["splits"]["train"] |= {"documents": len(documents), "tokens": sum(map(len, documents))}
            for name in ("train.bin", "train.idx"):
                description["files"][name]["sha256"] = sha256(directory / name)

        change_description(change)(directory)

    return damage


def flip(name, place):
    def damage(directory):
        data = bytearray((directory / name).read_bytes())
        data[place] ^= 1
        (directory / name).write_bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage, message",
    [
        (flip("train.bin", 4), "train.bin: its sha256"),
        (flip("validation.bin", 0), "validation.bin: its sha256"),
        (flip("train.idx", 0), "train.idx: starts with"),
        (flip("train.idx", 34), "train.idx: "),
        (lambda directory: (directory / "train.bin").unlink(), "train.bin: no such file"),
        (lambda directory: (directory / "dataset.json").write_text("{"), "dataset.json: not readable"),
        (lambda directory: (directory / "dataset.json").write_text("{}"), "dataset.json: not the description"),
        (change_description(lambda description: description.pop("files")), "'files' is missing"),
        (
            change_description(lambda description: description["splits"]["train"].update(tokens=1)),
            "and 1 tokens in train",
        ),
        (rewrite([[1, 50400, 50256]]), "id 50400 in document 0 is outside"),
        (rewrite([[1, 50256], [1, 2]]), "document 1 does not end with id 50256"),
    ],
)
def test_inspect_finds_damage(dataset, capsys, damage, message):
    damage(dataset)
    assert main(["inspect", str(dataset)]) == 2
    output, error = capsys.readouterr()
    assert output == "" and message in error and error.count("\n") == 1


def test_inspect_other_directories(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 2
    assert "neither a dataset (dataset.json) nor a model (config.json)" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "absent")]) == 2
    assert "no such directory" in capsys.readouterr().err


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "codegeex", "hidden_size": 8}))
    save_file({"a.weight": np.zeros((2, 3), np.float16)}, folder / "model-1.safetensors")
    save_file({"b.bias": np.zeros(4, np.float32)}, folder / "model-2.safetensors")
    weights = {"a.weight": "model-1.safetensors", "b.bias": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


def test_inspect_model(model, capsys):
    assert main(["inspect", str(model), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["kind"] == "model" and result["parameters"] == 10 and result["config"]["hidden_size"] == 8
    expected = {"name": "a.weight", "shape": [2, 3], "dtype": "float16", "file": "model-1.safetensors"}
    assert result["tensors"][0] == expected
    assert main(["inspect", str(model)]) == 0
    assert "b.bias  float32  [4]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda model: (model / "model-1.safetensors").write_bytes(b"\xff" * 30), "not a safetensors file"),
        (lambda model: (model / "model-2.safetensors").unlink(), "model-2.safetensors: missing, but"),
        (lambda model: (model / "model.safetensors.index.json").write_text("[]"), "expected a weight_map"),
        (lambda model: [path.unlink() for path in model.glob("*.safetensors")], "model-1.safetensors: missing"),
        (lambda model: [path.unlink() for path in model.glob("model*")], "not a model directory"),
        (lambda model: (model / "config.json").write_text("{}"), "no model_type"),
    ],
)
def test_inspect_damaged_model(model, capsys, damage, message):
    damage(model)
    assert main(["inspect", str(model)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_has_no_documents(model, capsys):
    assert main(["inspect", str(model), "--document", "0"]) == 2
    assert "leave out --document" in capsys.readouterr().err
