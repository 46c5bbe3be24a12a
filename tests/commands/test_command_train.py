"""`ms-codegeex train` as a user runs it: real processes, real data parallelism."""

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, command, command_here, flip_bit, small_run, write_config
from equal_runs import check_equal, last_checkpoint
from run_processes import processes_of

from ms_codegeex.formats.checkpoint import Checkpoint, list_checkpoints
from ms_codegeex.runs.files.records import read_events, read_log


def train(tmp_path, values, *arguments, **options):
    return command("train", "--config", write_config(tmp_path / "run.yaml", values), *arguments, **options)


def train_here(tmp_path, values, *arguments, status=0):
    """The same in this process; its workers are processes of their own."""
    return command_here("train", "--config", write_config(tmp_path / "run.yaml", values), *arguments, status=status)


def refused(tmp_path, values, *arguments):
    """What ends before any other process starts."""
    return train_here(tmp_path, values, *arguments, status=2)


LONG = 50_000  # steps: minutes


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """The same run on one and on two workers: the same global batch, masks as unequal as the documents. That on two
    would take long, and is asked to end after ten steps. A group shares them."""
    root, results = tmp_path_factory.mktemp("runs"), {}
    before = os.umask(0o002)
    for devices, steps in ((1, 10), (2, LONG)):
        values = small_run(dataset, root / f"devices{devices}")
        values |= {"devices": devices, "logging": {}}
        values["training"].update(clip_norm=0.5, evaluate_every=4, steps=steps)
        values["checkpoint"].update(every=4)
        if devices == 1:
            results[1] = (train_here(root, values, "--json"), root / "devices1")
        else:
            values["checkpoint"].update(keep=1000)
            results[2] = (stopped(root, values), root / "devices2")
    os.umask(before)
    return results


def stopped(root, values):
    """What the command leaves that gets a SIGINT after ten steps, as from Ctrl-C."""
    log = Path(values["output"]) / "log.jsonl"
    words = [sys.executable, "-m", "ms_codegeex.cli", "train", "--config", write_config(root / "long.yaml", values)]
    words += ["--restarts", "1"]  # then one process imports the engine
    job = subprocess.Popen(
        [*map(str, words)], stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT}
    )
    while len(read_log(log)) < 10 and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    _, errors = job.communicate(timeout=600)
    return subprocess.CompletedProcess(words, job.returncode, "", errors)


def test_two_workers_give_the_losses_of_one(runs):
    one, two = (read_log(path / "log.jsonl")[:10] for _, path in runs.values())
    assert len(one) == len(two) == 10, runs[2][0].stderr
    assert [r["tokens"] for r in one] == [r["tokens"] for r in two]
    assert one[3]["validation_loss"] == pytest.approx(two[3]["validation_loss"], rel=1e-5)
    equal_but_for_rounding(one, two, *(Checkpoint(path / "checkpoints" / "step-00000008") for _, path in runs.values()))


def equal_but_for_rounding(one, two, a, b):
    """Two logs and two checkpoints."""
    for key in ("loss", "gradient_norm"):  # the norm shows a wrong gradient scale, which Adam would hide
        np.testing.assert_allclose([r[key] for r in two], [r[key] for r in one], rtol=1e-5)
    for name in a.names:
        if "key.bias" not in name:  # its gradient is zero but for rounding, which Adam blows up to full steps
            np.testing.assert_allclose(b.tensor(name), a.tensor(name), rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow  # gradients are added up before any optimizer sees them, which the test above shows
def test_two_workers_train_with_muon_as_one(dataset, tmp_path):
    for devices in (1, 2):
        values = small_run(dataset, tmp_path / f"{devices}") | {"devices": devices}
        values["training"]["optimizer"]["name"] = "muon"
        train_here(tmp_path, values)
    logs = (read_log(tmp_path / f"{devices}/log.jsonl") for devices in (1, 2))
    equal_but_for_rounding(*logs, *(last_checkpoint(tmp_path / f"{devices}") for devices in (1, 2)))


def test_ctrl_c_saves_the_run_says_how_it_continues_and_is_not_a_success(runs):
    result, path = runs[2]
    assert result.returncode == 130 and "SIGINT: the run saves a checkpoint and ends" in result.stderr
    step = last_checkpoint(path).step
    again = f"ms-codegeex train --config {path}/config.yaml --resume auto"
    assert f"saved: step {step}; to continue: {again}\n" in result.stderr
    assert not processes_of(path)
    last, saved = read_log(path / "log.jsonl")[-1]["step"], last_checkpoint(path)
    assert saved.step == last < LONG and saved.verify()
    often = ("evaluation", "saving", "saved")
    events = [event for event in read_events(path / "events.jsonl") if event["event"] not in often]
    assert [event["event"] for event in events] == ["start", "compiled", "end"]
    assert (events[-1]["reason"], events[-1]["signal"], events[-1]["step"]) == ("stopped", "SIGINT", last)


def test_masks_of_the_two_workers_are_unequal(dataset):
    """The comparison above means something only if a mean of the workers' means would differ."""
    from ms_codegeex.data.datasets.batches import PackedSequences

    data = PackedSequences(dataset, "train", 32, 7)
    counts = [data.training_batch(2 * i, 2).loss_mask.sum() for i in range(20)]
    assert any(a != b for a, b in zip(counts[::2], counts[1::2], strict=True))


def test_a_group_may_write_what_the_umask_lets_it(runs):
    files = [file for _, path in runs.values() for file in (path, *path.rglob("*"))]
    assert files and not [file for file in files if not file.stat().st_mode & stat.S_IWGRP]


def test_what_a_run_leaves(runs):
    result, path = runs[1]
    summary = json.loads(result.stdout)
    assert summary == json.loads((path / "summary.json").read_text())
    names = "parameters validation_loss unigram_entropy shuffled_context_loss tokens_per_second mfu checkpoint "
    assert set(summary) >= {*names.split(), "huggingface", "pytorch", "sample"}
    assert (summary["steps"], summary["devices"]) == (10, 1)
    unknown = ("validation_bits_per_byte", "ngram_bits_per_byte", "gzip_bits_per_byte", "byte_frequency_bits_per_byte")
    assert {summary[key] for key in (*unknown, "parse_share")} == {None}  # nothing says which text the ids are
    assert summary["seconds"]["total"] >= summary["seconds"]["steps"] > 0
    for name in ("config.yaml", "environment.json", "log.jsonl", "loss.png", "logs/worker_0.log"):
        assert (path / name).is_file(), name
    assert list((path / "tensorboard").iterdir())
    names = [p.name for p in list_checkpoints(path / "checkpoints")]
    assert names == ["step-00000008", "step-00000010"]
    checkpoint = Checkpoint(path / "checkpoints" / "step-00000010")
    assert checkpoint.verify() and checkpoint.state["samples"] == 40 and checkpoint.state["rng"] == {"seed": 7}
    line = read_log(path / "log.jsonl")[-1]
    names = "step loss validation_loss learning_rate gradient_norm loss_scale skipped tokens tokens_per_second mfu "
    assert set(line) >= {*names.split(), "data_wait_percent", "memory_bytes", "eta_seconds"}
    environment = json.loads((path / "environment.json").read_text())
    assert environment["packages"]["mindspore"]


def test_terminal_says_what_happens(runs):
    for devices, words in ((1, "starting 1 worker "), (2, "starting 2 workers"), (1, "step 10/10")):
        assert words in runs[devices][0].stderr
    for words in ("compiling the training graph", "compiled in", "evaluating"):
        assert words in runs[2][0].stderr


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_reported_and_passed_over(dataset, tmp_path):
    """With relative paths throughout, as people type them."""
    shutil.copytree(dataset, tmp_path / "data")
    values, checkpoints = small_run("data", "run"), tmp_path / "run" / "checkpoints"
    values["training"].update(steps=4)
    values["checkpoint"].update(every=2)
    values["data"]["validation"] = "data"
    train(tmp_path, values, cwd=tmp_path, status=0)
    flip_bit(checkpoints / "step-00000004" / "rank_00000.safetensors", -5)
    again = train(tmp_path, values, "--resume", "auto", "training.steps=5", cwd=tmp_path, status=0)
    assert "skipped:" in again.stderr and "continuing from step 2" in again.stderr
    names = sorted(p.name for p in checkpoints.iterdir())
    assert names == ["damaged-step-00000004", "step-00000004", "step-00000005"]
    assert Checkpoint(checkpoints / "step-00000004").verify()
    assert [r["step"] for r in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3, 4, 5]


def test_resume_auto_continues_to_the_bit(runs, dataset, tmp_path):
    """What a kill leaves between the checkpoint of step 8 and the end: two logged steps too many. It is a copy, which
    continues by its own file and leaves the original alone."""
    _, reference = runs[1]
    killed = shutil.copytree(reference, tmp_path / "killed")
    shutil.rmtree(killed / "checkpoints" / "step-00000010")
    (killed / "summary.json").unlink()
    again = command_here("train", "--config", killed / "config.yaml", "--resume", "auto", status=0)
    assert "continuing from step 8" in again.stderr and f"this run was in {reference}" in again.stderr
    check_equal(killed, reference)


@pytest.mark.slow
def test_a_run_that_goes_on_for_longer_joins_the_cosine_of_its_new_length(dataset, tmp_path):
    """Rates of all steps against NumPy in float64; and a kill in the line between the two cosines changes no bit."""
    values = small_run(dataset, tmp_path / "run")
    values["training"]["schedule"] = {"learning_rate": 1e-2, "end_learning_rate": 1e-3}
    values["checkpoint"].update(every=12, keep=9)
    train_here(tmp_path, values)
    longer = train_here(tmp_path, values, "--resume", "auto", "training.steps=50")
    steps = np.arange(50.0)
    first, second = (1e-3 + 9e-3 * np.cos(np.pi / 2 * steps / length) ** 2 for length in (10, 50))
    line = 1e-3 + (second[14] - 1e-3) * (steps - 10) / 4  # a tenth of the steps to come
    expected = np.select([steps < 1, steps < 10, steps < 14], [0.0, first, line], second)
    rates = [record["learning_rate"] for record in read_log(tmp_path / "run" / "log.jsonl")]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    note = f"goes from 0.001 at step 10 to {second[14]:.3g} at step 14, and then follows the cosine of 50 steps"
    assert f"the learning rate {note}" in longer.stderr
    killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    for step in (24, 36, 48, 50):
        shutil.rmtree(killed / "checkpoints" / f"step-000000{step}")
    (killed / "summary.json").unlink()
    values["output"] = str(killed)
    again = train_here(tmp_path, values, "--resume", "auto", "training.steps=50")
    assert "continuing from step 12" in again.stderr and note in again.stderr
    check_equal(killed, tmp_path / "run")


def test_a_dry_run_says_what_does_not_fit(dataset, tmp_path):
    """Other lengths: tests/config/test_run_schedule.py."""
    result = train_here(tmp_path, small_run(dataset, tmp_path / "run"), "training.steps=70", "--dry-run")
    said = "decay_steps: 50, so 29 % of the 70 steps have the end rate; training.schedule.decay_steps=null fits the run"
    assert [x for x in result.stderr.splitlines() if "training.schedule" in x] == [f"training.schedule.{said}"]


@pytest.mark.slow  # finetune starts from weights too
def test_a_run_starts_from_the_weights_of_another(runs, dataset, tmp_path):
    _, first = runs[1]
    values = small_run(dataset, tmp_path / "run")
    values["training"].update(steps=1)
    values["training"]["schedule"].update(learning_rate=0.0, end_learning_rate=0.0)
    values["seed"] = 8
    result = train(tmp_path, values, "--from", first, status=0)
    assert f"starting from the weights of {first}" in result.stderr
    a, b = map(last_checkpoint, (tmp_path / "run", first))
    for name in (name for name in a.names if not name.startswith("optimizer.")):
        np.testing.assert_array_equal(a.tensor(name), b.tensor(name))
    assert (a.step, a.state["optimizer_step"], a.state["config"]["model"]["weights"]) == (1, 1, str(first))
    last = read_log(first / "log.jsonl")[-1]["validation_loss"]
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["validation_loss"] == pytest.approx(last, rel=1e-6)


LARGE = {"preset": "13b", "hidden_size": 5120, "num_layers": 39, "num_heads": 40, "intermediate_size": 20480}
# Changes of the file, words of the command line, and the message; FOLDER stands for the test's own. Others are in
# tests/config/test_config.py and in tests/test_remedies.py.
MISTAKES = {
    "wrong type": ({}, ["training.steps=few"], "training.steps: found 'few'"),
    "missing corpus": ({"data": {"train": None}}, ["--corpus", "FOLDER/nowhere"], "nowhere"),
    "empty corpus": ({"data": {"train": None}}, ["--corpus", "FOLDER/empty"], "empty"),
    "too little memory": ({"model": LARGE}, [], "model: 12,586,403,840 parameters"),
    "output on a read-only disk": ({}, ["output=/proc/self"], "/proc/"),  # refuses every file, also to root
    "corrupt index": ({}, ["data.train=FOLDER/broken"], "train.idx"),
    "resume from nothing": ({}, ["--resume", "FOLDER/nowhere"], "nowhere"),
}


@pytest.mark.parametrize(("changes", "words", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_exit_2_and_leave_nothing(dataset, tmp_path, changes, words, message):
    (tmp_path / "empty").mkdir()
    broken = shutil.copytree(dataset, tmp_path / "broken")
    (broken / "train.idx").write_bytes((broken / "train.idx").read_bytes()[:-9])
    values = small_run(dataset, tmp_path / "out" / "run")
    for section, content in changes.items():
        values[section] = {**values[section], **content}
    result = refused(tmp_path, values, *(word.replace("FOLDER", str(tmp_path)) for word in words))
    errors = [line for line in result.stderr.splitlines() if line.startswith("ms-codegeex train:")]
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in result.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_refused_run_changes_nothing_of_the_one_that_is_there(runs, dataset, tmp_path):
    _, path = runs[1]
    before = sorted(p.name for p in (path / "checkpoints").iterdir())
    values = small_run(dataset, path)
    assert "already holds a run" in refused(tmp_path, values).stderr
    values["model"]["intermediate_size"] = 48
    assert "model.intermediate_size: 48" in refused(tmp_path, values, "--resume", "auto").stderr
    step = path / "checkpoints" / before[0]
    assert f"later than {before[0]}" in refused(tmp_path, small_run(dataset, path), "--resume", step).stderr
    assert sorted(p.name for p in (path / "checkpoints").iterdir()) == before and (path / "summary.json").exists()


@pytest.fixture
def trained(runs, tmp_path):
    """A copy of the run on one worker: checkpoints at 8 and 10."""
    return shutil.copytree(runs[1][1], tmp_path / "trained")


@pytest.mark.parametrize(
    "verb", ["convert", *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("resume", "generate", "evaluate"))]
)
def test_a_named_checkpoint_with_a_flipped_bit_is_refused(trained, dataset, tmp_path, verb):
    step = trained / "checkpoints" / "step-00000010"
    arguments = {
        "resume": ("train", "--config", trained / "config.yaml", "--resume", step, f"output={tmp_path / 'on'}"),
        "generate": ("generate", "--model", step, "--prompt", "x"),
        "convert": ("convert", "--model", step, "--to", "megatron", "--output", tmp_path / "out.pt"),
        "evaluate": ("evaluate", "perplexity", "--model", step, "--data", dataset, "--output", tmp_path / "out"),
    }[verb]
    checkpoint = Checkpoint(step)
    weight = next(name for name in checkpoint.names if not name.startswith("optimizer."))
    file = step / "rank_00000.safetensors"
    flip_bit(file, file.read_bytes().index(checkpoint.tensor(weight).tobytes()))
    ran = command_here if verb in ("resume", "convert") else command
    result = ran(*arguments, status=2)
    errors = [line for line in result.stderr.splitlines() if "is damaged (its hash does not match" in line]
    assert len(errors) == 1 and "rank_00000.safetensors: tensor " in errors[0] and "Traceback" not in result.stderr
    assert not list_checkpoints(tmp_path / "on" / "checkpoints") and not (tmp_path / "out.pt").exists()


@pytest.mark.slow
def test_a_run_that_ends_not_finite_goes_back_to_a_good_checkpoint(dataset, tmp_path):
    values = small_run(dataset, tmp_path / "run")
    values["training"].update(steps=20)
    values["checkpoint"].update(every=1)
    train(tmp_path, values, "training.steps=6", status=0)
    wild = ["training.schedule.learning_rate=1e18", "--allow-change", "training.schedule"]
    diverged = train(tmp_path, values, "--resume", "auto", *wild, status=1)
    assert "nothing was saved from this step" in diverged.stderr and "Traceback" not in diverged.stderr
    checkpoints = [Checkpoint(path) for path in list_checkpoints(tmp_path / "run" / "checkpoints")]
    checkpoints.append(Checkpoint(tmp_path / "run" / "checkpoints" / "doubtful-step-00000007"))
    largest = {c.step: max(float(np.abs(c.tensor(name)).max()) for name in c.names) for c in checkpoints}
    assert largest[6] < 100 and largest[7] > 1e6
    again = train(tmp_path, values, "--resume", "auto", "training.steps=10", status=0)
    assert f"set aside: {tmp_path}/run/checkpoints/doubtful-step-00000007" in diverged.stderr
    assert "continuing from step 6" in again.stderr
    listed = json.loads(command("checkpoint", "list", tmp_path / "run", "--json").stdout)["checkpoints"]
    assert [report["step"] for report in listed] == [9, 10]
    assert (tmp_path / "run" / "checkpoints" / "doubtful-step-00000007").is_dir()


def test_the_lock_comes_before_the_choice_of_a_checkpoint(trained, dataset, tmp_path):
    """A second launcher must not touch the checkpoints of a running job, even damaged ones."""
    flip_bit(trained / "checkpoints" / "step-00000010" / "rank_00000.safetensors", -5)
    before = sorted(path.name for path in (trained / "checkpoints").iterdir())
    with open(trained / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = refused(tmp_path, small_run(dataset, trained), "--resume", "auto")
    assert "another job is running" in result.stderr and "skipped" not in result.stderr
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == before


@pytest.mark.slow
def test_resuming_from_elsewhere_leaves_the_runs_own_checkpoints(trained, dataset, tmp_path):
    shutil.copytree(trained / "checkpoints" / "step-00000010", tmp_path / "best")
    shutil.copytree(trained / "checkpoints" / "step-00000010", tmp_path / "a-good-one")
    values = small_run(dataset, trained)
    values["training"].update(clip_norm=0.5, evaluate_every=4)
    values["checkpoint"]["keep"] = 9
    for place in ("best", "a-good-one"):
        train(tmp_path, values, "--resume", tmp_path / place, status=0)
        assert sorted(p.name for p in (trained / "checkpoints").iterdir()) == ["step-00000008", "step-00000010"]


@pytest.mark.slow
def test_a_copy_under_a_newer_name_is_found(trained, dataset, tmp_path):
    checkpoints = trained / "checkpoints"
    shutil.copytree(checkpoints / "step-00000008", checkpoints / "step-00000099")
    values = small_run(dataset, trained)
    values["training"].update(clip_norm=0.5, evaluate_every=4)
    result = train(tmp_path, values, "--resume", "auto", "training.steps=11", status=0)
    assert "step-00000099: holds step 8, not the step of its name" in result.stderr
    assert "continuing from step 10" in result.stderr


@pytest.mark.slow  # two runs; the rules themselves are in tests/runs/test_resume.py
def test_changes_at_a_resume_are_refused_or_recorded(trained, dataset, tmp_path):
    values = small_run(shutil.copytree(dataset, tmp_path / "moved"), trained)
    values["training"].update(clip_norm=0.5, evaluate_every=4)
    arguments = ("training.dropout=0.5", "training.steps=11", "logging.every=2")
    refused = train(tmp_path, values, "--resume", "auto", *arguments, status=2)
    assert "--allow-change training.dropout" in refused.stderr
    accepted = train(tmp_path, values, "--resume", "auto", *arguments, "--allow-change", "training.dropout", status=0)
    assert "changed since step-00000010: training.dropout from 0.0 to 0.5" in accepted.stderr
    starts = [event for event in read_events(trained / "events.jsonl") if event["event"] == "start"]
    assert [start["step"] for start in starts] == [0, 10]
    changed = {change["key"]: (change["before"], change["now"]) for change in starts[1]["changed"]}
    expected = {"logging.every": (1, 2), "training.steps": (10, 11), "training.dropout": (0.0, 0.5)}
    assert {key: changed[key] for key in changed if key in expected or key.startswith("training.")} == expected


@pytest.mark.slow
def test_tokens_are_those_trained_on_whatever_the_batch(dataset, tmp_path):
    values = small_run(dataset, tmp_path / "run")
    values["training"].update(steps=None, tokens=500)
    train(tmp_path, values, status=0)
    log = read_log(tmp_path / "run" / "log.jsonl")
    assert log[-1]["tokens"] >= 500 > log[-2]["tokens"]
    again = train(tmp_path, values, "--resume", "auto")
    assert "nothing left to train" in again.stderr
    arguments = ("training.tokens=1500", "training.global_batch=8", "--allow-change", "training.global_batch")
    train(tmp_path, values, "--resume", "auto", *arguments, status=0)
    longer = read_log(tmp_path / "run" / "log.jsonl")
    assert longer[: len(log)] == log and longer[-1]["tokens"] >= 1500 > longer[-2]["tokens"]
