"""`train` on a file with stages: their order, checks before the first, resumption, and the report."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT, command, command_here, small_run, write_dataset
from equal_runs import last_checkpoint

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.base.files import write_json
from ms_codegeex.config.loading import load_staged_run
from ms_codegeex.config.values import merged
from ms_codegeex.formats.checkpoint import list_checkpoints, step_name
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.runs import staged_run, staged_training
from ms_codegeex.runs.records import read_log
from ms_codegeex.runs.run_directory import RunDirectory

NAMES = ("nl", "multi", "mono")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    return {name: str(write_dataset(root / name, seed=number)) for number, name in enumerate(NAMES)}


@pytest.fixture
def recipe(datasets, tmp_path):
    """Writes a file with three stages of that many steps; returns the output and the words that train it."""

    def write(steps=2, entries=None, **sections):
        values = small_run("", tmp_path / "out")
        values["training"]["steps"] = steps
        values["data"] = {"seq_length": 32, "held_out": datasets}
        for name, section in sections.items():
            values[name] = {**values[name], **section}
        values["stages"] = entries or [{"name": name, "data": {"train": datasets[name]}} for name in NAMES]
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path / "out", ["train", "--config", tmp_path / "s.yaml"]

    return write


class Trained:
    """Stands in for the training of a stage: what a finished run leaves, without workers. Fails for `broken`."""

    def __init__(self):
        self.configs, self.broken = [], None

    def __call__(self, config, node, corpus, allow_change, restarts, quiet):
        run, steps = RunDirectory(Path(config.output)), config.training.steps
        self.configs.append(config)
        shapes = config.model.sizes.parameter_shapes()
        arrays = {name: np.full(shape, len(self.configs), np.float32) for name, shape in shapes.items()}
        slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in arrays.items()}
        state = {"config": config.to_dict(), "samples": 4 * steps, "tokens": 100}
        run.path.mkdir(parents=True, exist_ok=True)
        write_checkpoint(run.checkpoints, steps, slices, state)
        if config.stage == self.broken:
            raise RunFailure("a worker ended")
        line = {"step": steps, "loss": 4.0, "tokens": 100, "validation_loss": 4.5, "skipped": False}
        run.log.write_text(json.dumps({**line, "learning_rate": 0.1}) + "\n")
        if config.model.weights:
            write_json(run.before, {"validation_loss_before": 5.0, "held_out_before": {}})
        losses = {name: 4.0 + 0.1 * len(self.configs) for name in NAMES}
        figures = {"steps": steps, "validation_loss": 4.5, "held_out": losses}
        write_json(run.summary, {**figures, "checkpoint": str(run.checkpoints / step_name(steps))})


@pytest.fixture
def trained(monkeypatch):
    stand_in = Trained()
    monkeypatch.setattr(staged_training, "train_once", stand_in)
    return stand_in


def test_each_stage_starts_from_the_last_checkpoint_of_the_one_before(recipe, trained):
    out, words = recipe(logging={"plots": True})
    result = command_here(*words)
    assert result.returncode == 0, result.stderr
    assert [config.stage for config in trained.configs] == list(NAMES)
    weights = [config.model.weights for config in trained.configs]
    assert weights == [None, *(str(out / name / "checkpoints" / step_name(2)) for name in NAMES[:2])]
    report = json.loads((out / "stages.json").read_text())
    assert [stage["name"] for stage in report["stages"]] == list(NAMES)
    assert [stage["held_out"]["mono"] for stage in report["stages"]] == pytest.approx([4.1, 4.2, 4.3])
    assert result.stdout.startswith((out / "stages.txt").read_text())
    assert result.stdout.splitlines()[-1].split() == ["last", "model", str(out / "mono")]
    assert "mono   multi" in result.stdout and "4.3000" in result.stdout
    assert command_here("inspect", out).stdout == (out / "stages.txt").read_text()
    assert json.loads(command_here("inspect", out, "--json").stdout) == {"kind": "stages", **report}
    page = (out / "stages.html").read_text()
    assert "4.3000" in page and "<svg" in page and page.startswith("<!DOCTYPE html>")
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_after_a_failure_the_same_command_goes_on_in_that_stage(recipe, trained):
    out, words = recipe()
    trained.broken = "multi"
    failed = command_here(*words)
    assert failed.returncode == 1 and [config.stage for config in trained.configs] == ["nl", "multi"]
    report = json.loads((out / "stages.json").read_text())
    assert [stage["finished"] for stage in report["stages"]] == [True, False, False]
    again = command_here(*words)
    assert again.returncode == 2 and "stages.nl: output: " in again.stderr and "--resume auto" in again.stderr
    trained.broken = None
    resumed = command_here(*words, "--resume", "auto")
    assert resumed.returncode == 0, resumed.stderr
    assert "stage 1 of 3, nl: already finished" in resumed.stderr
    assert [config.stage for config in trained.configs] == ["nl", "multi", "multi", "mono"]
    done = command_here(*words, "--resume", "auto", "--json")
    assert len(trained.configs) == 4 and json.loads(done.stdout) == json.loads((out / "stages.json").read_text())


def test_an_earlier_stage_is_not_trained_further_under_a_later_one(recipe, trained):
    _, words = recipe()
    command_here(*words)
    words += ["--resume", "auto"]
    longer = command_here(*words, "stages.nl.training.steps=3")
    assert longer.returncode == 2 and len(trained.configs) == 3
    assert "was trained from a model of stage nl, which is not finished with these settings" in longer.stderr
    changed = command_here(*words, "stages.multi.seed=8")
    assert changed.returncode == 2 and "stages.multi: seed: 8, but " in changed.stderr
    last = command_here(*words, "stages.mono.training.steps=3")
    assert last.returncode == 0 and [config.stage for config in trained.configs[3:]] == ["mono"]


def test_one_stage_alone(recipe, trained):
    _, words = recipe()
    early = command_here(*words, "stage=multi")
    assert early.returncode == 2 and "stages.multi: model.weights: stage nl is not finished in " in early.stderr
    for name in ("nl", "multi"):
        assert command_here(*words, f"stage={name}").returncode == 0
    assert [config.stage for config in trained.configs] == ["nl", "multi"]


def test_other_servers_wait_until_server_0_has_exported(recipe, trained, monkeypatch):
    _, words = recipe()
    progress = staged_run.StagedRunProgress(staged_run.with_absolute_paths(load_staged_run(words[2])))
    first, second = progress.staged.stages[:2]
    waited = []

    def finish(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            trained(first.config, None, (), (), 0, True)

    monkeypatch.setattr(staged_run.time, "sleep", finish)
    assert progress.begun(second, server=1).model.weights.endswith("nl/checkpoints/" + step_name(2))
    assert len(waited) == 2


@pytest.mark.parametrize(
    ("changed", "words", "message"),
    [
        ({"mono": {"data": {"train": "gone"}}}, (), "stages.mono: data.train: "),
        ({"mono": {"data": {"held_out": {"C": "gone"}}}}, (), "stages.mono: data.held_out.C: "),
        ({"mono": {"model": {"weights": "gone"}}}, (), "/gone: no such file"),
        ({"multi": {"start": {"stage": "mono"}}}, (), "stages.multi.start.stage: mono is not an earlier stage"),
        ({"multi": {"model": {"hidden_size": 32}}}, (), "model.weights: stage nl has hidden_size 16"),
        ({"mono": {"model": {"vocab_size": 64}}}, (), "stages.mono: model.vocab_size: 64 rows, but "),
        ({"mono": {"training": {"global_batch": 2**22}}}, (), "stages.mono: model: "),
        ({}, ("--resume", "elsewhere"), "stages.nl: checkpoint.resume: elsewhere, but stages continue in their own"),
    ],
)
def test_a_mistake_in_any_stage_is_one_line_before_the_first_trains(datasets, recipe, trained, changed, words, message):
    entries = [merged({"name": name, "data": {"train": datasets[name]}}, changed.get(name, {})) for name in NAMES]
    out, command_words = recipe(entries=entries)
    result = command_here(*command_words, *words)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr.splitlines()[-1] and not trained.configs and not out.exists()


def test_a_dry_run_shows_the_processes_of_all_stages(recipe, trained):
    out, words = recipe()
    result = command_here(*words, "--dry-run")
    assert result.returncode == 0 and not trained.configs and not out.exists()
    assert [line for line in result.stdout.splitlines() if line.startswith("# stage")] == [
        "# stage nl, 2 steps",
        "# stage multi, 2 steps, from the weights of nl",
        "# stage mono, 2 steps, from the weights of multi",
    ]
    ascend = ["device=ascend", "parallel.hardware=ascend910b", "training.precision=fp16"]
    result = command_here(*words, "--dry-run", "devices=8", "training.global_batch=8", *ascend)
    assert result.returncode == 0 and result.stderr.count("Ascend 910B: the newest MindSpore") == 1


def test_a_job_file_trains_all_stages(recipe):
    _, words = recipe()
    job = ["device=ascend", "training.precision=fp16", "devices=8", "training.global_batch=8", "--job", "slurm"]
    result = command_here(*words, *job)
    assert result.returncode == 0 and "--job-name=out\n" in result.stdout, result.stderr
    unequal = command_here(*words, *job, "stages.mono.devices=16", "stages.mono.training.global_batch=16")
    assert unequal.returncode == 2 and "--job: the stages need unequal numbers of servers" in unequal.stderr


def test_plan_shows_every_stage(recipe):
    _, words = recipe()
    result = command_here("plan", *words[1:], "--json")
    plans = json.loads(result.stdout)["stages"]
    assert list(plans) == list(NAMES) and all(plan["parameters"] > 0 for plan in plans.values())
    for word in ("--search", "--measure"):
        one = command_here("plan", *words[1:], word)
        assert one.returncode == 2 and f"{word}: is for one run; choose a stage with stage=NAME" in one.stderr
    assert command_here("plan", *words[1:], "stage=multi", "--json").returncode == result.returncode


# --- with workers ---


def weights(run):
    checkpoint = last_checkpoint(run)
    return checkpoint.step, {name: checkpoint.tensor(name).tobytes() for name in checkpoint.names}


@pytest.mark.slow  # nine runs with workers that compile; the order of stages is tested above
def test_a_run_that_is_killed_in_a_stage_goes_on_to_the_bit(datasets, recipe, tmp_path):
    out, words = recipe(6, checkpoint={"export": False, "every": 2, "resume": "auto"})
    whole = tmp_path / "whole"
    unbroken = command(*words, f"output={whole}")
    assert unbroken.returncode == 0, unbroken.stderr
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "ms_codegeex.cli", *map(str, words), "stages.multi.logging.every=1"]
    with subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not list_checkpoints(out / "multi" / "checkpoints"):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (out / "multi" / "summary.json").exists()
    resumed = command(*words)
    assert resumed.returncode == 0, resumed.stderr
    assert "stage 1 of 3, nl: already finished" in resumed.stderr
    for name in NAMES:
        assert weights(out / name) == weights(whole / name), name
        loss = [[(line["stage"], line["loss"]) for line in read_log(o / name / "log.jsonl")] for o in (out, whole)]
        assert loss[0] == loss[1] and loss[0][0][0] == name
    reports = [json.loads((root / "stages.json").read_text())["stages"] for root in (out, whole)]
    for mine, theirs in zip(*reports, strict=True):
        for key in ("steps", "tokens", "training_loss", "validation_loss", "validation_loss_before", "held_out"):
            assert mine[key] == theirs[key] is not None or key == "validation_loss_before", key
    first, second = reports[0][:2]
    assert second["held_out_before"] == first["held_out"]  # it began where the other ended
    assert "multi  step 6/6" in unbroken.stderr


@pytest.mark.slow
def test_what_is_fresh_is_not_taken_from_the_stage_before(datasets, recipe):
    entries = [{"name": "a"}, {"name": "b", "model": {"fresh": ["embedding.word"]}}]
    for stage in entries:
        stage["data"] = {"train": datasets["nl"]}
    still = {"learning_rate": 0.0, "end_learning_rate": 0.0, "warmup_steps": 0}
    out, words = recipe(entries=[entries[0], {**entries[1], "training": {"schedule": still}}])
    result = command(*words)
    assert result.returncode == 0, result.stderr
    (_, first), (_, second) = weights(out / "a"), weights(out / "b")
    changed = {name for name in first if first[name] != second[name] and not name.startswith("optimizer.")}
    assert changed == {"embedding.word.weight"}
