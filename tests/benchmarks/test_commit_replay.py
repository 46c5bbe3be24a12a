"""Figures of a replay follow their definitions for models whose answers are known."""

import functools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import small_benchmarks
from conftest import ROOT
from git_repositories import write_repository

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.evaluation.infilling import Asker
from ms_codegeex.extras.evaluation.local_model import LocalModel

sys.path.insert(0, str(ROOT / "benchmarks"))
from commit_history import Edit
from commits import ALONE, WITH_OTHERS, accepted, evaluate_commits, replay

EDITS = [
    Edit("1" * 40, "a.py", "Python", "x = 1\n", "total = add(x, 2)", "\n", ("def add(a, b):\n    return a + b\n",)),
    Edit("2" * 40, "b.py", "Python", "y = 1\n", "y += first(1)\ny += 1", "\nprint(y)\n", ()),
]


@pytest.mark.parametrize(
    ("suggestion", "typed", "count"),
    [
        ("total = add(x, 2)\nmore", "total = add(x, 2)", 17),
        ("total = add(y)", "total = add(x, 2)", 12),
        ("total = address", "total = add(x, 2)", 7),  # "add" is a part of another word, and a blank at the end is none
        ("totals = 1", "total = 1", 0),
        ("total", "total_sum = 1", 0),
        ("", "x", 0),
        ("名称", "名称 = 1", 2),
    ],
)
def test_characters_that_a_user_accepts_word_by_word(suggestion, typed, count):
    assert accepted(suggestion, typed) == count


class Recalling:
    """A model that knows what was typed if its prompt has the definition, and otherwise the first line at most."""

    def __init__(self, sentinels=None, context=400):
        self.tokenizer, self.sentinels, self.seq_length = load_tokenizer("codegeex"), sentinels, context
        self.asked = []

    def log_probabilities(self, ids):
        assert len(ids) <= self.seq_length
        return np.full(len(ids) - 1, -0.25 if "def add" in self.tokenizer.decode(self._text(ids)) else -0.5, np.float32)

    def _text(self, ids):
        return [number for number in ids if number < self.tokenizer.vocab_size]

    def stream(self, ids, settings):
        assert settings.temperature == 0 and len(ids) + settings.max_new_tokens <= self.seq_length
        text = self.tokenizer.decode(self._text(ids))
        self.asked.append(text)
        if "y = 1" in text:
            return iter(["y += first(1)\n", "y += 2"])
        return iter(["total = add(x, 2)" if "def add" in text else "total = 0", "" if self.sentinels else "\nmore"])


@pytest.mark.parametrize("trained", [False, True])
def test_figures_with_and_without_other_files(trained):
    tokenizer = load_tokenizer("codegeex")
    model = Recalling(Sentinels(*tokenizer.sentinels) if trained else None)
    tallies, rows = replay(Asker(model), EDITS)
    alone, together = tallies[ALONE].row(), tallies[WITH_OTHERS].row()
    assert (alone["exact match"]["value"], together["exact match"]["value"]) == (0.0, 0.5)
    assert (alone["first line"]["value"], together["first line"]["value"]) == (0.5, 1.0)
    typed = sum(len(edit.typed) for edit in EDITS)
    assert alone["characters typed"] == together["characters typed"] == typed
    second = len("y += first(1)\ny +=")
    assert (alone["characters accepted"], together["characters accepted"]) == (len("total =") + second, 17 + second)
    tokens = [len(tokenizer.encode(edit.typed)) for edit in EDITS]
    nats = 0.25 * tokens[0] + 0.5 * tokens[1]
    assert together["bits per byte"] == pytest.approx(nats / math.log(2) / typed)
    assert [row[WITH_OTHERS]["exact"] for row in rows] == [True, False]
    assert all("\nprint(y)" in text for text in model.asked if "y = 1" in text) is trained  # the suffix
    assert model.asked[1].index("def add") < model.asked[1].index("x = 1") and "def add" not in model.asked[0]


def test_an_edit_that_does_not_fit_is_left_out():
    _, rows = replay(Asker(Recalling(context=18)), EDITS)
    assert [row["path"] for row in rows] == ["a.py"]


def test_a_history_without_edits_is_refused_before_the_model_is_opened(tmp_path):
    write_repository(tmp_path)
    with pytest.raises(UserError, match="no commit with a short edit"):
        evaluate_commits(LocalModel(tmp_path / "none"), tmp_path, tmp_path / "out", commits=0)
    with pytest.raises(UserError, match="no commit with a short edit that uses a name of another file"):
        evaluate_commits(LocalModel(tmp_path / "none"), tmp_path, tmp_path / "out", commits=1, cross_file=True)


def test_the_program_replays_a_repository(tmp_path):
    repository, output = tmp_path / "repository", tmp_path / "out"
    repository.mkdir()
    write_repository(repository)
    model = small_benchmarks.write_model(tmp_path / "model")
    program = [sys.executable, "benchmarks/commits.py", "--model", model, "--output", output, "--limit", "2"]
    run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, timeout=300)
    done = run([*program, "--data", repository])
    assert done.returncode == 0 and "other files over without" in done.stdout, done.stderr
    report = json.loads((output / "report.json").read_text("utf-8"))
    assert report["infill"] == "prefix-only" and [*report["commits"]] == [ALONE, WITH_OTHERS]
    assert all(found["edits"] == 2 and found["bits per byte"] > 0 for found in report["commits"].values())
    rows = [json.loads(line) for line in (output / "edits.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 2 and all({"commit", "path", "typed", *report["commits"]} < row.keys() for row in rows)
    failed = run([*program, "--data", tmp_path])
    assert failed.returncode and "cannot be read as a git repository" in failed.stderr
