"""Rows for a model that copies from other files: what a replay asks, and its answer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from git_repositories import write_repository

from ms_codegeex.data.datasets.packing import FineTuningRows
from ms_codegeex.data.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "validation")
SOURCE = (
    "from helpers import total_{n}\n\n\ndef value_{n}(first, second):\n    return total_{n}(first) + second * {n}\n" * 6
)


def made(directory, *words):
    """The rows of a dataset that the script makes, without the ends; its output."""
    words = ["--tokenizer", "codegeex", "--output", directory / "rows", "--packages", directory / "packages", *words]
    done = subprocess.run(
        [sys.executable, "benchmarks/commit_rows.py", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    splits = [directory / "rows" / split for split in SPLITS]
    ids = np.concatenate([np.fromfile(f"{split}.bin", np.uint16) for split in splits]).tolist()
    tokenizer = load_tokenizer("codegeex")
    rows = " ".join(map(str, ids)).split(f" {tokenizer.eos_id}")
    return [[int(each) for each in row.split()] for row in rows if row], done.stdout


def test_a_copied_gap_is_in_one_of_the_other_files(tmp_path):
    (tmp_path / "packages" / "one").mkdir(parents=True)
    for n in range(6):  # no line of a file is in another one
        lines = (f"def function_{n}_{line}(a):\n    return a * {1000 * n + line}\n" for line in range(40))
        (tmp_path / "packages" / "one" / f"m{n}.py").write_text("".join(lines))
    tokenizer = load_tokenizer("codegeex")
    for share in (0, 1):
        output = tmp_path / str(share)
        output.mkdir()
        (output / "packages").symlink_to(tmp_path / "packages")
        rows, _ = made(output, "--seq-length", 2048, "--gaps", 30, "--copied", share)
        texts = [tokenizer.decode(row[row.index(50257) + 1 :]) for row in rows]
        ends = [text[text.rfind("\n") + 1 :] for text in texts]  # the gap, and what precedes it in its line
        found = [text.count(end) for text, end in zip(texts, ends, strict=True) if "_" in end]
        assert len(found) > 5 and all(count == 1 + share for count in found)


def test_pieces_of_a_row_can_be_copied_from_its_beginning(tmp_path):
    (tmp_path / "packages" / "one").mkdir(parents=True)
    for n in range(6):
        lines = (f"def function_{n}_{line}(a):\n    return a * {1000 * n + line}\n" for line in range(40))
        (tmp_path / "packages" / "one" / f"m{n}.py").write_text("".join(lines))
    rows, _ = made(tmp_path, "--seq-length", 512, "--repeats", 40)
    tokenizer = load_tokenizer("codegeex")
    texts, known = [tokenizer.decode(row) for row in rows], 0
    assert len(rows) == 40 and all(len(row) == 511 for row in rows)
    for row, text in zip(rows, texts, strict=True):
        if "function_" not in text:  # random ids
            assert len({*row}) <= 511 // 3 and min(row) >= 256
            continue
        lines = text.splitlines()[:-1]  # the last one may have been shortened
        first, later = lines[: len(lines) * 3 // 5], lines[len(lines) * 3 // 5 :]
        assert len({*lines}) < 0.7 * len(lines) and {*later} <= {*first}
        known += 1
    assert 30 <= known < 40


def test_rows_of_packages_and_histories(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    write_repository(repository)
    for package in ("one", "two"):
        (tmp_path / "packages" / package).mkdir(parents=True)
        for n in range(6):
            (tmp_path / "packages" / package / f"m{n}.py").write_text(SOURCE.format(n=n))
    rows, said = made(tmp_path, "--seq-length", 256, "--gaps", 30, "--history", repository, "--edits", 9)
    marked = '{"infill": {"prefix": 50257, "suffix": 50258, "middle": 50259, "order": ["suffix", "middle", "prefix"]}}'
    assert marked in said
    tokenizer = load_tokenizer("codegeex")
    marks = [50258, 50259, 50257]
    counted = np.concatenate([np.fromfile(tmp_path / "rows" / f"{split}.mask", np.uint8) for split in SPLITS])
    assert len(rows) > 25 and all([each for each in row if each in marks] == marks for row in rows)
    assert counted.sum() == sum(len(row) - 2 for row in rows)  # all but the sentinels, and the end
    texts = [tokenizer.decode(row[row.index(50257) + 1 :]) for row in rows]
    assert any("total_" in text for text in texts)
    (edit,) = (text for text in texts if text.endswith("func add(a int, b int) int {\n\treturn a + b"))
    assert "area(2, 3)" in edit
    assert FineTuningRows(tmp_path / "rows", "train", 256, 0).size <= len(rows)
