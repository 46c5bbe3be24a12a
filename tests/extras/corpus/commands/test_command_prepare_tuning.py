"""`prepare` beyond corpora: examples of fine-tuning, and datasets in the formats of other programs."""

import json
import re

import pytest
from conftest import command

from ms_codegeex.cli import main
from ms_codegeex.data.datasets.indexed import IndexedDataset

PAIR = {"prompt": "def f(x):\n", "completion": "    return x\n"}


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps({**PAIR, "prompt": f"# {number}\n" + PAIR["prompt"]}) for number in range(20)]
    path.write_text("\n".join([*lines, "{"]) + "\n")
    return path


def run(capsys, *arguments, status=0):
    assert main(["prepare", *map(str, arguments)]) == status
    return capsys.readouterr()


def tune(capsys, pairs, out, *more, status=0):
    words = ("--input", pairs, "--output", out, "--task", "completion", "--seq-length", 32)
    return run(capsys, *words, *more, status=status)


def test_pairs_for_people_and_as_json(pairs, tmp_path, capsys):
    output, progress = tune(capsys, pairs, tmp_path / "out")
    assert output.startswith("finetune: completion, at most 32 tokens\ntrain: ")
    assert f"dataset: {tmp_path / 'out'}" in output
    assert re.search("dropped, invalid JSON: 1, for example", progress) and "tokenising" in progress
    result = json.loads(tune(capsys, pairs, tmp_path / "two", "--json", "--validation-share", "0.5").out)
    assert result["kind"] == "finetune" and result["splits"]["validation"]["documents"] > 2
    assert "add --replace" in tune(capsys, pairs, tmp_path / "out", status=2).err
    tune(capsys, pairs, tmp_path / "out", "--replace")
    assert "pairs.jsonl:21: invalid JSON" in tune(capsys, pairs, tmp_path / "3", "--on-error", "stop", status=2).err


def test_a_conversation_as_users_start_it(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": messages}))
    words = "prepare --input chat.jsonl --output out --task chat --seq-length 16 --template plain --validation-share 0"
    result = command(*words.split(), cwd=tmp_path)
    assert result.returncode == 0 and "train: 1 documents" in result.stdout, result.stderr
    shown = command("inspect", "out", "--sample", "0", cwd=tmp_path)
    assert "\u27e6User:\nHi\n\nAssistant:\n\u27e7Hello\u27e8eos\u27e9" in shown.stdout


def test_a_triplet_there_and_back(pairs, tmp_path, capsys):
    tune(capsys, pairs, tmp_path / "out", "--validation-share", "0")
    triplet = tmp_path / "triplet"
    output = run(capsys, "--input", tmp_path / "out", "--to", "triplet", "--output", triplet).out
    assert output == f"20 rows of 32 + 1 tokens of train: {triplet}\n"
    back = ["--input", triplet / "train", "--from", "triplet", "--output", tmp_path / "back", "--validation-share", "0"]
    assert json.loads(run(capsys, *back, "--json").out)["seq_length"] == 32
    for name in ("train.bin", "train.mask"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert main(["inspect", str(tmp_path / "back"), "--deep"]) == 0


def test_mindrecord_there_and_back(dataset_of_code, tmp_path, capsys):
    export = ["--input", dataset_of_code, "--to", "mindrecord", "--output", tmp_path / "records", "--seq-length", 16]
    result = json.loads(run(capsys, *export, "--files", 2, "--order", "training", "--seed", 7, "--json").out)
    tokens = IndexedDataset(dataset_of_code / "train").tokens.size
    assert result["rows"] == (tokens - 1) // 16 and len(result["files"]) == 2
    assert "give --output a new directory" in run(capsys, *export, status=2).err
    out = tmp_path / "back"
    output = run(capsys, "--input", tmp_path / "records", "--from", "mindrecord", "--output", out).out
    assert "train: " in output
    assert main(["inspect", str(out), "--deep"]) == 0


@pytest.fixture
def dataset_of_code(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    for name in "ab":
        (tmp_path / "src" / f"{name}.py").write_text(f"def {name}(x):\n    return x + 1\n" * 9)
    run(capsys, "--input", tmp_path / "src", "--output", tmp_path / "code", "--workers", "1", "--min-bytes", "1")
    return tmp_path / "code"


@pytest.mark.parametrize(
    "words, message",
    [
        ("--task chat --input x", "--task chat: lacks an option; give --input RECORDS and --seq-length"),
        ("--task chat --seq-length 8", "--task chat: lacks an option; give --input"),
        ("--task chat --seq-length 8 --input x --languages python", "--languages: only with --task pretrain"),
        ("--task chat --seq-length 8 --input x --filters codegen", "--filters: only with --task pretrain"),
        ("--seq-length 8", "--seq-length: only with --task completion, chat or translation"),
        ("--overlong drop", "--overlong: only with --task"),
        ("--files 2", "--files: only with --to"),
        ("--to mindrecord --task chat --input x", "give --input, and leave out --task"),
        ("--to mindrecord", "give --input, and leave out --task"),
        ("--to mindrecord --input x y", "--input: 2 paths, expected one, a dataset directory"),
        ("--to mindrecord --input x --replace", "--replace: only with"),
        ("--to triplet --input {here} --files 2", "--files: only with --to mindrecord"),
        ("--to triplet --input x", "x: not a dataset directory"),
        ("--from triplet --input x --seq-length 8", "--seq-length: only with --to or --task"),
        ("--from triplet --input x --redact email", "--redact: only with datasets that are made from text"),
        ("--from triplet --input x", "x_input_ids.idx: no such file"),
        ("--from mindrecord --input x", "x: neither a MindRecord file"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path, capsys, words, message):
    (tmp_path / "dataset.json").write_text("{}")
    error = run(capsys, *words.format(here=tmp_path).split(), "--output", tmp_path / "out", status=2).err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
