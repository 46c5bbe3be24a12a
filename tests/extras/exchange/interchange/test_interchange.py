import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import write_dataset

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.data.datasets.batches import PackedSequences
from ms_codegeex.data.datasets.indexed import IndexedDataset, IndexedWriter
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus.finetuning.prepare import FinetuneSettings, prepare_finetune
from ms_codegeex.extras.exchange.interchange.foreign import export_triplet, import_triplet
from ms_codegeex.extras.exchange.interchange.mindrecord import export_mindrecord, import_mindrecord, mindrecord_rows

EOS = 50256


def read_with_mindspore(directory, names):
    """Rows as MindSpore's own pipeline gives them."""
    from mindspore.dataset import MindDataset

    data = MindDataset([str(directory / name) for name in names], columns_list=["input_ids"], shuffle=False)
    return [row["input_ids"] for row in data.create_dict_iterator(num_epochs=1, output_numpy=True)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("packed") / "dataset", vocabulary=900)


@pytest.mark.parametrize("files", [1, 3])
def test_mindspore_reads_the_packed_rows(packed, tmp_path, files):
    result = export_mindrecord(packed, tmp_path / "out", "train", 32, files=files)
    rows = read_with_mindspore(tmp_path / "out", result["files"])
    tokens = np.fromfile(packed / "train.bin", np.uint16)
    count = (tokens.size - 1) // 32
    assert len(rows) == result["rows"] == count and len(result["files"]) == files and count > 300
    for number, row in enumerate(rows):
        assert row.dtype == np.int32 and row.tolist() == tokens[number * 32 : number * 32 + 33].tolist()


def test_rows_in_the_order_of_training(packed, tmp_path):
    result = export_mindrecord(packed, tmp_path / "out", "validation", 16, files=2, seed=5)
    rows = [row for _, row in mindrecord_rows([tmp_path / "out" / name for name in result["files"]])]
    batch = PackedSequences(packed, "validation", 16, seed=5).training_batch(0, len(rows))
    assert [row[:-1].tolist() for row in rows] == batch.inputs.tolist()
    assert [row[1:].tolist() for row in rows] == batch.labels.tolist()


def write_rows(path, rows, column="input_ids", kind="int32", files=1, **more):
    from mindspore.mindrecord import FileWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = FileWriter(str(path), shard_num=files)
    columns = {column: rows, **more}
    writer.add_schema({name: {"type": kind, "shape": [-1]} for name in columns}, "as PanGu's preprocess.py")
    named = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    writer.write_raw_data([{name: np.array(value, kind) for name, value in row.items()} for row in named])
    writer.commit()


def documents(directory, split="train"):
    data = IndexedDataset(directory / split)
    return [data.document(number).tolist() for number in range(len(data))]


def test_rows_become_documents(tmp_path):
    hello = load_tokenizer("codegeex").encode("hello world")
    write_rows(tmp_path / "in" / "a.mindrecord0", [[*hello, EOS, 5, 6, EOS, EOS, EOS], [EOS, 7, 8]])
    write_rows(tmp_path / "in" / "a.mindrecord1", [[EOS, EOS], [9, EOS, EOS, 10]])
    out = tmp_path / "out"
    result = import_mindrecord([tmp_path / "in"], out, "codegeex", validation_share=0.0)
    assert documents(out) == [[*hello, EOS], [5, 6, EOS], [7, 8, EOS], [9, EOS], [10, EOS]]
    assert documents(out, "validation") == [] and "kind" not in result
    assert result["splits"]["train"]["documents"] == 5 and result["vocab_size"] == 50400
    table = pyarrow.parquet.read_table(out / "train.documents.parquet")
    sources = ["a.mindrecord0:0.0", "a.mindrecord0:0.1", "a.mindrecord0:1.1", "a.mindrecord1:1.0", "a.mindrecord1:1.2"]
    assert table["source"].to_pylist() == sources and table["bytes"][0].as_py() == len("hello world")
    split = import_mindrecord([tmp_path / "in"], tmp_path / "split", "codegeex", validation_share=0.4)
    assert split["splits"]["validation"]["documents"] > 0
    both = documents(tmp_path / "split") + documents(tmp_path / "split", "validation")
    assert sorted(both) == sorted(documents(out))


def test_files_that_were_written_together(tmp_path, capsys):
    """Each of them names the others, and MindRecord's reader would follow."""
    write_rows(tmp_path / "in" / "a.mindrecord", [[1, 2], [3, 4], [5, 6], [7, 8]], files=2)
    import_mindrecord([tmp_path / "in"], tmp_path / "out", "codegeex", validation_share=0.0)
    assert sorted(documents(tmp_path / "out")) == [[1, 2, EOS], [3, 4, EOS], [5, 6, EOS], [7, 8, EOS]]
    assert not capsys.readouterr().err
    import_mindrecord([tmp_path / "in" / "a.mindrecord0"], tmp_path / "first", "codegeex", validation_share=0.0)
    assert "in/a.mindrecord…: 1 more files of this set are not named" in capsys.readouterr().err


def test_columns_beside_the_ids(tmp_path, capsys):
    """As mindformers writes examples: padding is left out, and columns that are not read are named."""
    rows, labels = [[1, 2, EOS, 0, 0]], [[-100, 2, EOS, -100, -100]]
    for name, mask in (("train", [1, 1, 1, 0, 0]), ("wrong", [1, 1, 1, 0])):  # FileWriter takes any name
        write_rows(tmp_path / "in" / name, rows, attention_mask=[mask], labels=labels)
    with pytest.raises(UserError, match="wrong: attention_mask has 4 numbers for 5 ids"):
        import_mindrecord([tmp_path / "in"], tmp_path / "out", "codegeex")
    (tmp_path / "in" / "wrong").unlink()
    import_mindrecord([tmp_path / "in"], tmp_path / "out", "codegeex", validation_share=0.0)
    assert documents(tmp_path / "out") == [[1, 2, EOS]]
    assert "in: of MindRecord's columns only input_ids is imported, not labels" in capsys.readouterr().err


def test_ids_of_another_tokenizer(tmp_path):
    write_rows(tmp_path / "a.mindrecord", [[1, 2], [3, 60000]])
    with pytest.raises(UserError, match=r"a\.mindrecord:1: id 60000 is outside 0\.\.50399"):
        import_mindrecord([tmp_path / "a.mindrecord"], tmp_path / "out", "codegeex")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_what_is_no_mindrecord(tmp_path):
    (tmp_path / "x.mindrecord").write_bytes(b"x" * 100)
    write_rows(tmp_path / "y.mindrecord", [[1.0]], "weights", "float32")
    write_rows(tmp_path / "z.mindrecord", [[1.5]], kind="float32")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "x.mindrecord": r"x\.mindrecord: not readable as MindRecord",
        "y.mindrecord": r"y\.mindrecord: has no column input_ids, but weights; write the token ids",
        "z.mindrecord": r"z\.mindrecord: input_ids holds float32, expected whole numbers",
        "absent": "neither a MindRecord file",
        "empty": "neither a MindRecord file",
    }.items():
        with pytest.raises(UserError, match=message):
            import_mindrecord([tmp_path / name], tmp_path / "out", "codegeex")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    lines = [{"prompt": f"# number {n}\n" * (n % 5), "completion": f"x = {n}\n" * (1 + n % 3)} for n in range(60)]
    (folder / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare_finetune([folder / "a.jsonl"], folder / "out", FinetuneSettings("completion", 24))
    return folder / "out"


def masks(directory, split="train"):
    bounds = np.cumsum(IndexedDataset(directory / split).sizes)[:-1]
    return [part.tolist() for part in np.split(np.fromfile(directory / f"{split}.mask", np.uint8), bounds)]


def test_a_triplet_as_the_published_packer_writes_it(examples, tmp_path):
    result = export_triplet(examples, tmp_path / "out", "train")
    parts = [documents(tmp_path / "out", f"train_{part}") for part in ("input_ids", "attention_mask", "labels")]
    ids, mask = documents(examples), masks(examples)
    assert result["rows"] == len(ids) == len(parts[0]) and len(ids) > 40
    for row, (tokens, attention, labels) in enumerate(zip(*parts, strict=True)):
        size = len(ids[row])
        assert tokens == ids[row] + [EOS] * (25 - size)
        assert attention == [1] * size + [0] * (25 - size)
        counted = [token if flag else -100 for token, flag in zip(ids[row], mask[row], strict=True)]
        assert labels == counted + [-100] * (25 - size)
    assert IndexedDataset(tmp_path / "out" / "train_labels").dtype == np.int32
    export_triplet(examples, tmp_path / "wide", "validation", 30)
    assert {len(row) for row in documents(tmp_path / "wide", "validation_labels")} == {31}
    with pytest.raises(UserError, match="--seq-length 8"):
        export_triplet(examples, tmp_path / "narrow", "train", 8)


def test_there_and_back(examples, tmp_path):
    export_triplet(examples, tmp_path / "out", "train")
    result = import_triplet(tmp_path / "out" / "train", tmp_path / "back", "codegeex", validation_share=0.0)
    for name in ("train.bin", "train.idx", "train.mask"):
        assert (tmp_path / "back" / name).read_bytes() == (examples / name).read_bytes()
    assert (result["kind"], result["seq_length"]) == ("finetune", 24)
    splits = [read_json(path / "dataset.json")["splits"]["train"] for path in (examples, tmp_path / "back")]
    assert splits[0]["answer_tokens"] == splits[1]["answer_tokens"]


def write_triplet(prefix, rows):
    for place, part in enumerate(("input_ids", "attention_mask", "labels")):
        with IndexedWriter(prefix.with_name(f"{prefix.name}_{part}"), np.int32, lowest=-100) as writer:
            for row in rows:
                writer.add(row[place])


def test_windows_without_an_end(tmp_path):
    """The packer's sliding windows: full rows, nothing but code, or the end of one."""
    rows = [
        ([1, 2, 3, 4, 5], [1] * 5, [-100, 2, 3, 4, 5]),
        ([1, 2, 3, 4, EOS], [1] * 5, [-100, -100, -100, 4, EOS]),
        ([1, 2, EOS, EOS, EOS], [1, 1, 0, 0, 0], [-100, 2, -100, -100, -100]),
    ]
    write_triplet(tmp_path / "a", rows)
    import_triplet(tmp_path / "a", tmp_path / "out", "codegeex", validation_share=0.0)
    assert documents(tmp_path / "out") == [[3, 4, 5, EOS], [2, 3, 4, EOS], [1, 2, EOS]]
    assert masks(tmp_path / "out") == [[1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    "row, message",
    [
        (([1, 2, 3], [0, 1, 1], [-100, 2, 3]), "a:1: attention_mask is not ones"),
        (([1, 2, 3], [1, 0, 1], [-100, 2, 3]), "a:1: attention_mask is not ones"),
        (([1, 2, 3], [0, 0, 0], [-100] * 3), "a:1: attention_mask"),
        (([1, 2, 3], [1, 1, 1], [-100, 2, 4]), "a:1: labels are neither"),
        (([1, 2, 3], [1, 1, 0], [-100, 2, 3]), "a:1: labels are neither"),
        (([1, 2, 60000], [1, 1, 1], [-100, -100, -100]), "a:1: id 60000"),
        (([1, 2, EOS], [1, 1], [-100, 2, EOS]), "rows of different sizes"),
    ],
)
def test_triplets_that_are_none(tmp_path, row, message):
    write_triplet(tmp_path / "a", [([1, 2, EOS], [1, 1, 1], [-100, 2, EOS]), row])
    with pytest.raises(UserError, match=message):
        import_triplet(tmp_path / "a", tmp_path / "out", "codegeex")
    assert not (tmp_path / "out").exists()


def test_rows_too_short_for_an_answer(tmp_path):
    write_triplet(tmp_path / "a", [([1, EOS], [1, 1], [-100, EOS])])
    with pytest.raises(UserError, match="a: rows of 2 tokens, expected 3 or more"):
        import_triplet(tmp_path / "a", tmp_path / "out", "codegeex")
    for given in (tmp_path, tmp_path / "a_input_ids.bin", Path(".")):
        with pytest.raises(UserError, match="no such file; give the triplet's path without _input_ids"):
            import_triplet(given, tmp_path / "out", "codegeex")


def test_what_is_damaged_cannot_be_exported(examples, tmp_path):
    damaged = shutil.copytree(examples, tmp_path / "damaged")
    info = read_json(damaged / "dataset.json")
    for length, message in (
        (1, r"train: damaged, a row of \d+ tokens, seq_length 1; prepare it again"),
        (None, r"dataset\.json: 'seq_length' is missing"),
        (info["seq_length"], r"train\.mask: no such file"),
    ):
        write_json(damaged / "dataset.json", {**info, "seq_length": length})
        if length == info["seq_length"]:
            (damaged / "train.mask").unlink()
        with pytest.raises(UserError, match=message):
            export_triplet(damaged, tmp_path / "out")


def test_what_cannot_be_exported(packed, examples, tmp_path):
    out = tmp_path / "out"
    for export, source, options, message in (
        (export_mindrecord, packed, {"seq_length": 0}, "seq_length 0: expected 1 or more"),
        (export_mindrecord, packed, {"seq_length": -1}, "seq_length -1: expected 1 or more"),
        (export_mindrecord, packed, {"seq_length": 32, "seed": -1}, "seed -1: expected 0 to"),
        (export_mindrecord, packed, {"seq_length": 32, "files": 0}, "files 0: expected 1 to"),
        (export_mindrecord, examples, {}, "MindRecord has no mask; export it --to triplet"),
        (export_triplet, packed, {}, "export it --to mindrecord"),
    ):
        with pytest.raises(UserError, match=message):
            export(source, out, "train", **options)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for export, source in ((export_mindrecord, packed), (export_triplet, examples)):
        with pytest.raises(UserError, match="give --output a new directory"):
            export(source, out, "train", 32)


def test_an_export_that_fails_leaves_nothing(packed, tmp_path, monkeypatch):
    from mindspore.mindrecord import FileWriter

    def full(self, *arguments, **options):
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(FileWriter, "commit", full)
    with pytest.raises(UserError, match="No space left"):
        export_mindrecord(packed, tmp_path / "out", "train", 32)
    assert list(tmp_path.iterdir()) == []


MINDFORMERS = """
import sys
from mindformers.dataset.blended_datasets.indexed_dataset import IndexedDataset
for prefix in sys.argv[1:]:
    data = IndexedDataset(prefix)
    print("ROWS", [[int(token) for token in data[number]] for number in range(len(data))])
"""


@pytest.mark.slow  # imports mindformers
def test_mindformers_reads_our_files(examples, tmp_path):
    export_triplet(examples, tmp_path / "out", "train")
    prefixes = [examples / "train", *(tmp_path / "out" / f"train_{part}" for part in ("input_ids", "labels"))]
    # In a directory of its own: mindformers writes logs into the current one.
    result = subprocess.run(
        [sys.executable, "-c", MINDFORMERS, *map(str, prefixes)], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = [json.loads(line[5:]) for line in result.stdout.splitlines() if line.startswith("ROWS ")]
    assert found == [documents(prefix.parent, prefix.name) for prefix in prefixes]
