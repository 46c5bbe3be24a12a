"""A run on a blend as a user starts and continues it."""

import json
import shutil

import numpy as np
import pytest
from conftest import command, small_run, write_config, write_dataset
from equal_runs import last_checkpoint
from tokenizer_files import write_chatglm

from ms_codegeex import cli
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.opening import training_data
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.files.resolved_config import read_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.training_job import check_datasets


@pytest.mark.slow  # three runs with worker processes that compile; what they share is tested in parts in the fast tests
def test_stages_are_followed_recorded_and_may_be_added(tmp_path):
    tokenizer = load_tokenizer(write_chatglm(tmp_path / "model"))
    for number, name in enumerate(("nl", "multi", "mono")):
        directory = write_dataset(tmp_path / name, seed=number)
        shutil.copytree(tmp_path / "model", directory / "tokenizer")
        info = json.loads((directory / "dataset.json").read_text())
        (directory / "dataset.json").write_text(json.dumps({**info, "tokenizer": tokenizer.description()}))
    run = tmp_path / "run"
    values = small_run("", run)
    stages = [{"from_step": 0, "weights": {"nl": 1}}, {"from_step": 3, "weights": {"multi": 0.7, "nl": 0.3}}]
    values["data"] = {"blend": stages, "seq_length": 32}
    values["devices"], values["training"]["steps"] = 2, 5

    def train(stages, *words):
        values["data"]["blend"] = stages
        return command("train", "--config", write_config(tmp_path / "run.yaml", values), *words, cwd=tmp_path)

    first = train(stages)
    assert first.returncode == 0, first.stderr
    data = training_data(read_config(RunDirectory(run)))  # with absolute paths
    assert [str(corpus.directory) for corpus in data.corpora] == [str(tmp_path / name) for name in ("nl", "multi")]
    counted = np.cumsum([data.training_batch(4 * step, 4).loss_mask.sum() for step in range(5)])
    assert [line["tokens"] for line in read_log(run / "log.jsonl")] == counted.tolist()
    assert last_checkpoint(run).state["tokenizer"] == tokenizer.description()
    assert load_tokenizer(run / "tokenizer").fingerprint == tokenizer.fingerprint

    changed = train([stages[0], {"from_step": 3, "weights": {"mono": 1}}], "--resume", "auto", "training.steps=7")
    assert changed.returncode == 2 and "data.blend: " in changed.stderr and "was trained with" in changed.stderr
    more = train([*stages, {"from_step": 5, "weights": {"mono": 1}}], "--resume", "auto", "training.steps=7")
    assert more.returncode == 0, more.stderr
    assert last_checkpoint(run).state["samples"] == 28


def mistakes(root):
    good = write_dataset(root / "good")
    other = write_dataset(root / "other", vocabulary=90)
    short = write_dataset(root / "short", documents=4)
    (short / "validation.idx").unlink()
    return [
        ({"train": str(good), "blend": {str(good): 1}}, [], "data.blend: data.train is given too"),
        ({"blend": {str(good): 1}}, ["--corpus", str(root)], "--corpus: data.blend is given too"),
        ({"blend": {str(good): 1, str(root / "gone"): 1}}, [], f"data.blend: {root / 'gone'} is not a data"),
        ({"blend": {str(good): 1, str(other): 1}}, [], f"data.blend: {good} has vocab_size 96, {other} has 90"),
        ({"blend": {str(short): 1}}, [], f"{short}/validation.idx: no such file"),
    ]


def test_mistakes_are_found_before_anything_starts(tmp_path, capsys):
    for data, words, message in mistakes(tmp_path):
        values = {**small_run("", tmp_path / "run"), "data": {**data, "seq_length": 32}}
        config = write_config(tmp_path / "run.yaml", values)
        assert cli.main(["train", "--config", str(config), *words]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        assert len(lines) == 1 and message in lines[0]
        assert not (tmp_path / "run").exists()


def test_rounded_weights_are_said_once(tmp_path, capsys):
    directories = {name: str(write_dataset(tmp_path / name)) for name in "ab"}
    values = small_run("", tmp_path / "run")
    values["data"] = {"seq_length": 32, "blend": {directories["a"]: 0.123456789, directories["b"]: 1}}
    check_datasets(build_run_config(values))
    assert capsys.readouterr().err.count("rounded to multiples of one in 1,000,000") == 1
