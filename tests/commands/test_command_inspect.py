import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import xxhash
from conftest import flip_bit
from safetensors.numpy import save_file
from tokenizer_files import write_chatglm, write_qwen2

from ms_codegeex.base.digests import sha256
from ms_codegeex.cli import build_parser, main
from ms_codegeex.commands.inspect import DIM, GREEN, PLAIN, sample_lines
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.indexed import IndexedDataset, IndexedWriter
from ms_codegeex.data.datasets.opening import open_sequences
from ms_codegeex.data.inspection import open_dataset, read_sample
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, prepare_finetune
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory


def prepare(sources, output, *more):
    words = ["--input", str(sources), "--output", str(output), "--workers", "1", "--validation-share", "0.4", *more]
    assert main(["prepare", *words]) == 0


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Sources and the dataset made from them."""
    folder = tmp_path_factory.mktemp("prepared")
    for package in ("one", "two", "three"):
        (folder / "src" / package).mkdir(parents=True)
        text = f"def {package}(argument):\n        return '{package} <|endoftext|>'\n"
        (folder / "src" / package / "module.py").write_text(text)
        (folder / "src" / package / "code.cpp").write_text(f"class {package} {{\n  int value;\n}};\n")
    prepare(folder / "src", folder / "out")
    return folder


@pytest.fixture
def dataset(prepared, tmp_path, capsys):
    """A copy that may be damaged."""
    capsys.readouterr()
    return shutil.copytree(prepared / "out", tmp_path / "out")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    lines = [{"prompt": f"# {n}\n", "completion": f"x = '{n} \x1b[31m é'\n", "language": "python"} for n in range(20)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{\n")
    prepare_finetune([folder / "a.jsonl"], folder / "out", FinetuneSettings("completion", 48))
    return folder / "out"


@pytest.fixture
def tuned_copy(tuned, tmp_path):
    return shutil.copytree(tuned, tmp_path / "tuned")


def inspect(capsys, *arguments, status=0):
    assert main(["inspect", *map(str, arguments)]) == status
    return capsys.readouterr()


def test_a_dataset(dataset, capsys):
    output = inspect(capsys, dataset).out
    assert "train: 4 documents" in output and "verified: sizes, offsets, ids, end tokens and hashes are right" in output
    result = json.loads(inspect(capsys, dataset, "--json").out)
    assert result["kind"] == "dataset" and result["verified"] is True and result["splits"]["train"]["documents"] == 4


def test_a_fine_tuning_dataset(tuned, capsys):
    output = inspect(capsys, tuned).out
    assert output.startswith("finetune: completion, at most 48 tokens\ntrain: ") and "of them in answers" in output
    assert re.search("dropped, invalid JSON: 1, for example", output) and "verified: " in output
    result = json.loads(inspect(capsys, tuned, "--json").out)
    assert (result["kind"], result["data"], result["verified"]) == ("dataset", "finetune", True)
    assert "the text of every document" in inspect(capsys, tuned, "--deep").out


def test_documents_and_where_they_are_from(dataset, prepared, capsys):
    found = []
    for split, count in (("train", 4), ("validation", 2)):
        for number in range(count):
            text, said = inspect(capsys, dataset, "--document", number, "--split", split)
            source = re.search(r": (src/\S+), (Python|C\+\+), sha256 ([0-9a-f]{16})$", said.strip())
            path = prepared / source[1]
            assert text.split("\n", 1)[1] == path.read_text() and f"language: {source[2]}" in text
            assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(source[3])
            found.append(source[1])
    assert sorted(found) == sorted(str(path.relative_to(prepared)) for path in (prepared / "src").rglob("*.*"))
    document = json.loads(inspect(capsys, dataset, "--document", 0, "--json").out)["document"]
    assert document["source"] == found[0] and len(document["sha256"]) == 64
    assert "--document 4: train has documents 0..3" in inspect(capsys, dataset, "--document", 4, status=2).err
    for split in ("train", "validation"):
        (dataset / f"{split}.documents.parquet").unlink()
    assert "source not recorded" in inspect(capsys, dataset, "--document", 0).err


@pytest.mark.parametrize(("number", "first"), [(0, None), (1, 1), (7, 9)])
def test_a_sample_is_what_training_takes(dataset, capsys, number, first):
    begun = [] if first is None else ["--functions-from", first]
    command = [dataset, "--sample", number, "--seq-length", 16, "--seed", 5, *begun]
    sample = json.loads(inspect(capsys, *command, "--json").out)["sample"]
    sequences = open_sequences(dataset, "train", 16, 5, functions_from=first)
    batch = sequences.training_batch(number, 1)
    assert sample["index"] == sequences.indices(np.array([number]))[0] and sample["padding"] == 0
    assert sample["counted"] == batch.loss_mask.sum()
    table = pyarrow.parquet.read_table(dataset / "train.documents.parquet").to_pylist()
    tokens, counted = [], []
    for part in sample["documents"]:
        ids = IndexedDataset(dataset / "train").document(part["number"])[part["start"] : part["stop"]].tolist()
        assert part["source"] == table[part["number"]]["source"]
        assert part["sha256"] == table[part["number"]]["sha256"].hex()
        text = "".join("<|endoftext|>" if run.get("end") else run["text"] for run in part["runs"])
        assert text == load_tokenizer("codegeex").decode(ids)
        tokens += ids
        counted += [run["counted"] for run in part["runs"] for _ in range(run["tokens"])]
    assert tokens == [*batch.inputs[0], batch.labels[0, -1]]
    assert counted[1:] == batch.loss_mask[0].astype(bool).tolist() and counted[0] is False


def test_a_sample_of_fine_tuning(tuned, capsys):
    output = inspect(capsys, tuned, "--sample", 0).out
    legend, *parts = output.split("--- ")
    marks = "not counted: \u27e6like this\u27e7; end of a document: \u27e8eos\u27e9"
    assert "with seed 1234" in legend and marks in legend
    assert len(parts) == 3 and parts[-1].startswith("padding: ")
    for part in parts[:-1]:
        number = re.search(r"# (\d+)\n", part)[1]
        expected = f"\u27e6# language: Python\n# {number}\n\u27e7x = '{number} \\x1b[31m é'\n\u27e8eos\u27e9\n"
        assert part.endswith(expected)
        assert re.match(rf"document \d+, tokens 0\.\.\d+: \S+/a\.jsonl:{int(number) + 1}, Python, sha256 ", part)
    assert "\x1b" not in output


def test_a_sample_on_a_terminal(tuned):
    sample = read_sample(open_dataset(tuned), "train", 0, None, 1234)
    lines = "\n".join(sample_lines(sample, colour=True))
    assert f"{GREEN}counted{PLAIN} {DIM}not counted{PLAIN}" in lines and "\u27e6" not in lines
    assert re.search(rf"{re.escape(DIM)}# language: Python\n# \d+\n{re.escape(PLAIN)}{re.escape(GREEN)}x = ", lines)


def test_a_sample_of_another_tokenizer(tmp_path, capsys):
    """SentencePiece's spaces at the front of a text must not show in the middle of it."""
    model = write_chatglm(tmp_path / "model")
    (tmp_path / "a.jsonl").write_text('{"prompt": "def f(x):", "completion": " return x"}\n')
    settings = FinetuneSettings("completion", 64, str(model), validation_share=0.0)
    prepare_finetune([tmp_path / "a.jsonl"], tmp_path / "out", settings)
    assert "\u27e6def f(x):\u27e7 return x\u27e8eos\u27e9" in inspect(capsys, tmp_path / "out", "--sample", 0).out
    assert "verified" in inspect(capsys, tmp_path / "out", "--deep").out


NO_SAMPLES = [
    *(((number,), "numbered from 0") for number in (-1, 2**63)),
    *(((0, "--seed", seed), f"--seed {seed}: ") for seed in (-1, 2**64)),
    *(((0, "--seq-length", length), f"seq_length {length}: expected 1 or more") for length in (0, -1)),
    *(
        ((0, "--seq-length", 16, "--functions-from", first), f"--functions-from {first}: samples are numbered from 0")
        for first in (-5, -(2**70), 2**63)
    ),
    ((0,), "less than one sequence of 2048"),
]


@pytest.mark.parametrize(("words", "message"), NO_SAMPLES)
def test_samples_that_are_none(dataset, capsys, words, message):
    assert message in inspect(capsys, dataset, "--sample", *words, status=2).err


def test_the_default_seed_is_that_of_a_run():
    assert build_parser().parse_args(["inspect", "x"]).seed == build_run_config({"training": {"steps": 1}}).seed


def test_where_the_report_is(dataset, capsys):
    assert inspect(capsys, dataset, "--report").out == f"{dataset / 'report.html'}\n"
    (dataset / "report.html").unlink()
    assert "report.html: no such file" in inspect(capsys, dataset, "--report", status=2).err


@pytest.mark.parametrize("tags", ["codegeex", "none", "# {language}"])
def test_every_document_compared_with_its_hash(prepared, tmp_path, capsys, tags):
    out = tmp_path / "out"
    prepare(prepared / "src", out, "--tags", tags)
    capsys.readouterr()
    output, said = inspect(capsys, out, "--deep")
    assert "and the text of every document, are right" in output and "MB/s" in said
    result = json.loads(inspect(capsys, out, "--deep", "--json").out)
    assert result["deep"] == {"documents": 6, "not_comparable": 0}


def test_deep_on_a_prompt_that_was_cut_inside_a_character(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "\U0001f980" * 20, "completion": "crab"}))
    for length in (10, 11, 12, 13):
        settings = FinetuneSettings("completion", length, validation_share=0.0)
        prepare_finetune([tmp_path / "a.jsonl"], tmp_path / f"out{length}", settings)
        assert "the text of every document" in inspect(capsys, tmp_path / f"out{length}", "--deep").out


def test_deep_needs_hashes(dataset, capsys):
    def forget(description):
        for split in ("train", "validation"):
            (dataset / f"{split}.documents.parquet").unlink()
            description["files"].pop(f"{split}.documents.parquet")

    change_description(forget)(dataset)
    assert "verified" in inspect(capsys, dataset).out
    assert "hashes of documents are not recorded" in inspect(capsys, dataset, "--deep", status=2).err


def test_deep_finds_what_fits_otherwise(dataset, capsys):
    """Another id in place of one, and all hashes of files as if it had always been there."""
    documents = [IndexedDataset(dataset / "train").document(number).tolist() for number in range(4)]
    documents[2][5] = 11 if documents[2][5] != 11 else 12
    rewrite(documents)(dataset)
    assert "verified" in inspect(capsys, dataset).out
    assert "train.bin: document 2 (src/" in inspect(capsys, dataset, "--deep", status=2).err


CHANGED = {
    "codegeex2": (write_chatglm, "mark = '\u2581'  # of a space\n", "have spaces that may have been U+2581"),
    "qwen2": (write_qwen2, "name = 'e\u0301'\n", "have characters that may not have been in NFC"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_a_tokenizer_changes_is_not_called_damage(tmp_path, capsys, name):
    write, text, message = CHANGED[name]
    model = write(tmp_path / "model")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text(text)
    (tmp_path / "src" / "b.py").write_text("Quiet = ' '\n" * 8)  # the longer one is for training
    out = tmp_path / "out"
    command = ["prepare", "--input", str(tmp_path / "src"), "--output", str(out), "--tokenizer", str(model)]
    assert main([*command, "--workers", "1"]) == 0
    capsys.readouterr()
    assert f"1 documents {message}" in inspect(capsys, out, "--deep").out
    # Damage to the other document is.
    tokenizer, data = load_tokenizer(model), np.fromfile(out / "train.bin", np.uint16)
    letter = next(number for number in data.tolist() if tokenizer.token_bytes(number) == b"Q")
    other = next(number for number in range(tokenizer.vocab_size) if tokenizer.token_bytes(number) == b"Z")
    np.where(data == letter, other, data).astype(np.uint16).tofile(out / "train.bin")
    change = change_description(lambda it: it["files"]["train.bin"].update(sha256=sha256(out / "train.bin")))
    change(out)
    assert "train.bin: document 0 (src/" in inspect(capsys, out, "--deep", status=2).err


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


def table(change):
    """Replace the table of train's documents, with a hash that fits."""

    def damage(directory):
        path = directory / "train.documents.parquet"
        pyarrow.parquet.write_table(change(pyarrow.parquet.read_table(path)), path)
        change_description(lambda description: description["files"][path.name].update(sha256=sha256(path)))(directory)

    return damage


def flip(name, place):
    return lambda directory: flip_bit(directory / name, place)


def mask(change):
    return lambda directory: (directory / "train.mask").write_bytes(change((directory / "train.mask").read_bytes()))


DAMAGE = {
    "dataset": [
        (flip("train.bin", 4), "train.bin: its sha256"),
        (flip("validation.bin", 0), "validation.bin: its sha256"),
        (flip("train.idx", 0), "train.idx: starts with"),
        (lambda directory: (directory / "train.bin").unlink(), "train.bin: no such file"),
        (lambda directory: (directory / "dataset.json").write_text("{"), "dataset.json: not readable"),
        (lambda directory: (directory / "dataset.json").write_text("{}"), "dataset.json: not the description"),
        (change_description(lambda description: description.pop("files")), "'files' is missing"),
        (change_description(lambda description: description.update(vocab_size="x")), "'vocab_size' is missing, or not"),
        (change_description(lambda description: description.update(tokenizer=None)), "'tokenizer' is missing, or not"),
        (change_description(lambda description: description.update(kind=3)), "kind 3, known is 'finetune'"),
        (
            change_description(lambda description: description["splits"]["train"].update(tokens=1)),
            "and 1 tokens in train",
        ),
        (lambda directory: (directory / "train.documents.parquet").unlink(), "train.documents.parquet: missing"),
        (flip("train.documents.parquet", 200), "train.documents.parquet: "),
        (table(lambda rows: rows.slice(1)), "documents.parquet: 3 rows for 4 documents"),
        (table(lambda rows: rows.take([1, 0, 2, 3])), "documents.parquet: row 0 says "),
        (change_description(lambda description: description["files"].update({"../x": {}})), "x: missing, but"),
        (rewrite([[1, 50400, 50256]]), "id 50400 in document 0 is outside"),
        (rewrite([[1, 50256], [1, 2]]), "document 1 does not end with id 50256"),
    ],
    "tuned_copy": [
        (mask(lambda data: data[1:]), "train.mask: "),
        (mask(lambda data: b"\2" + data[1:]), "train.mask: holds other values than 0 and 1"),
        (mask(lambda data: b"\1" + data[1:]), "train.mask: its sha256"),
        (lambda directory: (directory / "train.mask").unlink(), "train.mask: no such file"),
    ],
    "model": [
        (lambda model: (model / "model-2.safetensors").unlink(), "model-2.safetensors: missing, but"),
        (lambda model: [path.unlink() for path in model.glob("model*")], "not a model directory"),
        (lambda model: (model / "config.json").write_text("{}"), "no model_type"),
    ],
}


@pytest.mark.parametrize(
    ("what", "damage", "message"), [(what, *case) for what, cases in DAMAGE.items() for case in cases]
)
def test_damage_is_found(request, capsys, what, damage, message):
    directory = request.getfixturevalue(what)
    damage(directory)
    output, error = inspect(capsys, directory, status=2)
    assert output == "" and message in error and error.count("\n") == 1


def test_inspect_other_directories(tmp_path, capsys):
    said = "neither a dataset (dataset.json) nor a model (config.json or quantised.json)"
    assert said in inspect(capsys, tmp_path, status=2).err
    assert "no such directory" in inspect(capsys, tmp_path / "absent", status=2).err
    for name in ("log.jsonl", "train.idx", "events.out.tfevents.1.host.1.0"):
        (tmp_path / name).write_text("x")
        assert "holds no weights; give the directory of the" in inspect(capsys, tmp_path / name, status=2).err
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.yaml").write_text("")
    assert f"; name one in it, such as {tmp_path}/runs/a\n" in inspect(capsys, tmp_path / "runs", status=2).err
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file({"a.lora_A.weight": np.zeros((2, 4), np.float32)}, tmp_path / "adapter_model.safetensors")
    lines = inspect(capsys, tmp_path).out
    assert "adapters: rank 2, alpha 4" in lines and "use_dora is True, and only False" in lines


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
    result = json.loads(inspect(capsys, model, "--json").out)
    assert result["kind"] == "model" and result["parameters"] == 10 and result["config"]["hidden_size"] == 8
    expected = {"name": "a.weight", "shape": [2, 3], "dtype": "float16", "file": "model-1.safetensors"}
    assert result["tensors"][0] == expected
    assert result["family"] == "codegeex" and result["dtypes"] == {"float16": 6, "float32": 4}
    lines = inspect(capsys, model).out.splitlines()
    assert lines[:5] == [
        "model: codegeex",
        "sizes: hidden_size 8",
        "parameters: 10 (6 float16, 4 float32)",
        "tokenizer: none; `generate` and `serve` need one",
        "tensors: 2",
    ]
    assert "  b.bias  float32  [4]" in lines
    assert lines[-1].startswith("not read here: ") and "config.json" in lines[-1]


def test_a_model_of_many_tensors_is_summarised(tmp_path, capsys):
    config = {"model_type": "gpt", "n_layer": 20, "eos_token_id": 7, "tie": True, "activation": "gelu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    tensors = {f"block.{number:02d}.weight": np.zeros((2, 2), np.float16) for number in range(20)}
    save_file(tensors, tmp_path / "model.safetensors")
    lines = inspect(capsys, tmp_path).out.splitlines()
    assert lines[0] == "model: a family that this program does not read (model_type gpt)"
    assert lines[1:4] == ["sizes: n_layer 20", "parameters: 80 (float16)", "tokenizer: tokenizer.json"]
    shown = [line.split()[0] for line in lines if "block" in line]
    assert shown == [f"block.{k:02d}.weight" for k in (0, 1, 2, 17, 18, 19)]
    assert "  … 14 more: --tensors lists them" in lines
    size = (tmp_path / "model.safetensors").stat().st_size
    assert f"model.safetensors: {size:,} bytes" in lines
    assert inspect(capsys, tmp_path, "--tensors").out.count("block") == 20
    assert len(json.loads(inspect(capsys, tmp_path, "--json").out)["tensors"]) == 20


@pytest.mark.parametrize("option", [["--document", "0"], ["--sample", "0"], ["--deep"], ["--report"]])
def test_a_model_has_no_documents(model, capsys, option):
    assert f"leave out {option[0]}" in inspect(capsys, model, *option, status=2).err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run directory as a run of 240 steps leaves it after 80 of them, without training."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    config = load_config(Path("codegeex_tiny_release"), ["model.hidden_size=16", "model.num_heads=2", "devices=1"])
    run = RunDirectory(folder)
    folder.mkdir()
    write_config(run, config)
    lines = [
        {"step": step, "loss": loss, "validation_loss": validation}
        for step, loss, validation in ((1, 9.5, None), (2, 9.25, 9.125), (80, 8.75, None), (81, None, None))
    ]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 82, "lo')
    weights = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.bias": np.ones(4, np.float32)}
    tensors = {**weights, "optimizer.m.a.weight": np.zeros((2, 3), np.float32)}
    for step in (40, 80):
        write_checkpoint(run.checkpoints, step, tensors, {"config": config.to_dict(), "seed": 7})
    run.huggingface.mkdir()
    (run.huggingface / "model.safetensors").write_bytes(b"x" * 1000)
    return run


def test_a_run(trained, capsys):
    run = json.loads(inspect(capsys, trained.path, "--json").out)
    assert (run["kind"], run["step"], run["steps"]) == ("run", 81, 240)
    assert (run["loss"], run["validation_loss"]) == (8.75, 9.125)
    assert run["config"]["model"]["hidden_size"] == 16 and run["artefacts"]["huggingface"] == 1000
    assert [(one["step"], one["sound"]) for one in run["checkpoints"]] == [(40, True), (80, True)]
    lines = inspect(capsys, trained.path).out.splitlines()
    assert lines[0].startswith("model: codegeex tiny, ")
    assert "step 81 of 240: loss 8.7500, validation loss 9.1250" in lines
    assert any("step-00000040: sound, step 40, 3 tensors" in line for line in lines)
    assert "huggingface: 1,000 bytes" in lines


def test_a_run_with_damage(trained, tmp_path, capsys):
    copy = shutil.copytree(trained.path, tmp_path / "copy")
    (copy / "checkpoints" / "step-00000080" / "rank_00000.safetensors").write_bytes(b"")
    (copy / "log.jsonl").unlink()
    shutil.rmtree(copy / "checkpoints" / "step-00000040")
    output = inspect(capsys, copy).out
    assert "step-00000080: DAMAGED: " in output and "step 0 of 240\n" in output
    shutil.rmtree(copy / "checkpoints")
    assert "no checkpoints yet" in inspect(capsys, copy).out
    (copy / "config.yaml").write_text("training: {stepss: 3}\n")
    error = inspect(capsys, copy, status=2).err
    assert "config.yaml: not the configuration of a run (training.stepss: unknown key; did you mean" in error
    (copy / "config.yaml").write_text("training: [")
    assert "not valid YAML" in inspect(capsys, copy, status=2).err


def test_a_checkpoint(trained, capsys):
    path = trained.checkpoints / "step-00000040"
    found = json.loads(inspect(capsys, path, "--json").out)
    assert (found["kind"], found["verified"], found["step"]) == ("checkpoint", True, 40)
    assert found["parameters"] == 10 and found["state"]["seed"] == 7
    (tensor,) = (tensor for tensor in found["tensors"] if tensor["name"] == "a.weight")
    digest = xxhash.xxh3_128_hexdigest(np.arange(6, dtype=np.float32).tobytes())
    assert tensor == {"name": "a.weight", "shape": [2, 3], "dtype": "float32", "hashes": [digest]}
    output = inspect(capsys, path).out
    assert f"a.weight  float32  [2, 3]  hash {digest[:16]}\n" in output and "parameters: 10\n" in output
    assert "model: codegeex tiny\n" in output and "step 40\n" in output and "all hashes are right" in output
    assert "a checkpoint has no documents; leave out --deep" in inspect(capsys, path, "--deep", status=2).err


def test_a_damaged_checkpoint(trained, tmp_path, capsys):
    copy = shutil.copytree(trained.checkpoints / "step-00000040", tmp_path / "step-00000040")
    flip_bit(copy / "rank_00000.safetensors")
    assert "is damaged (its hash does not match the manifest)" in inspect(capsys, copy, status=2).err
