"""Profiles of some steps of a run: MindSpore's own profiler on a CPU. `test_ascend_start.py` starts it on an Ascend's
plugin."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import command, command_here, small_run, write_config

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.data.datasets.opening import training_data, validation_data
from ms_codegeex.runs.files.records import read_events, read_log
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.rank.callbacks import EventLog, callbacks_of
from ms_codegeex.runs.rank.profiling import Profile
from ms_codegeex.runs.rank.saving import Checkpoints
from ms_codegeex.training.observers import Callback
from ms_codegeex.training.operators import operators_library
from ms_codegeex.training.start import RankPlace, RunData, RunStart
from ms_codegeex.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


def recorded_steps(folder: Path) -> int:
    """How many steps a profile of one attempt has: of the operators in its timeline, most run once a step."""
    (timeline,) = folder.glob("*_ascend_ms/ASCEND_PROFILER_OUTPUT/trace_view.json")
    events = json.loads(timeline.read_text())
    names = [event["name"] for event in events if event["ph"] == "X"]
    pattern = re.compile("(AdamWeightDecay|Custom)-op")  # compiled ones are Custom
    (count,) = set(Counter(filter(pattern.search, names)).values())
    return count


def profiles(run: RunDirectory) -> list[dict]:
    events = [event for event in read_events(run.events) if event["event"] == "profile"]
    return [{key: event[key] for key in ("step", "steps", "without_result")} for event in events]


class Interrupt(Callback):
    """Keeps losses; stops or fails after a step."""

    def __init__(self):
        self.losses, self.stop_after, self.fail_after = [], 0, 0

    def step(self, trainer, record):
        self.losses.append(record.loss)
        if record.step == self.stop_after:
            trainer.stop()
        if record.step == self.fail_after:
            raise RunFailure("the device is lost")


@pytest.fixture(scope="module")
def unprofiled(dataset, tmp_path_factory):
    """A trainer after 5 of 10 steps, what interrupts it, and the path of its run."""
    values = small_run(dataset, tmp_path_factory.mktemp("unprofiled") / "run")
    config = build_run_config(values)
    data = RunData(training_data(config), validation_data(config))
    place = RankPlace(library=operators_library(config, 1))
    trainer = Trainer(config, data, RunStart(), place, [keep := Interrupt()])
    keep.stop_after = 5
    trainer.run()
    return trainer, keep, Path(values["output"])


@pytest.mark.slow  # a run in processes of its own; the next test writes a profile by default
def test_the_command_writes_the_files_and_computes_the_same(run_values, tmp_path, unprofiled):
    run_values["training"]["steps"] = 5
    run_values["profile"] = {"steps": "3..4"}
    done = command("train", "--config", write_config(tmp_path / "run.yaml", run_values))
    assert done.returncode == 0, done.stderr
    run = RunDirectory(Path(run_values["output"]))
    assert recorded_steps(run.profile / "rank_0") == 2
    assert profiles(run) == [{"step": 4, "steps": "3..4", "without_result": 0}]
    assert "writing the profile …" in done.stderr
    assert [line["loss"] for line in read_log(run.log)] == unprofiled[1].losses[:5]
    assert "profile  step 4, steps 3..4, folder profile\n" in command_here("monitor", run.path, "--once").stdout


def test_an_attempt_that_fails_within_the_range_writes_what_it_has(unprofiled):
    """As after a resume, it begins within the range, too."""
    trainer, keep, path = unprofiled
    run = RunDirectory(path)
    run.path.mkdir()
    config = replace(trainer.config, profile=replace(trainer.config.profile, steps="3..9"))
    trainer.callbacks[:] = [Profile(config, run.profile / "rank_0", 0, float), keep, EventLog(run)]
    trainer.stopped, keep.fail_after = False, 7
    with pytest.raises(RunFailure, match="the device is lost"):
        trainer.run()
    assert recorded_steps(run.profile / "rank_0") == 2
    assert profiles(run) == [{"step": 7, "steps": "6..7", "without_result": 0}]


def config_of(*overrides):
    return load_config(None, ["training.steps=9", "training.global_batch=64", "model.num_layers=4", *overrides])


def test_ranks():
    partitioned = ("device=ascend", "devices=16", "parallel.pipeline=4", "parallel.micro_batches=4")
    for overrides, expected in (
        (("devices=2",), [0]),
        (partitioned, [0, 4, 8, 12]),
        ((*partitioned, "profile.ranks=[3]"), [3]),
        (("devices=2", "profile.ranks=all"), [0, 1]),
    ):
        assert list(config_of(*overrides).profiled_ranks) == expected


def test_a_rank_that_records_nothing_waits_for_the_others_only(tmp_path):
    """It imports no profiler, and counts no missing result. Rank 0 warns of those of the others."""
    told, counted = [], []

    class Trainer:  # what the callback uses of one; the tests above have the real one
        progress = SimpleNamespace(step=0)
        status = staticmethod(told.append)
        warn = staticmethod(told.append)
        event = staticmethod(lambda name, **content: told.append(content["without_result"]))

    config = config_of("devices=4", "profile.steps=1..1", "profile.ranks=[3]")
    profile = Profile(config, tmp_path, 0, lambda missing: counted.append(missing) or 2.0)
    profile.begin(Trainer)
    profile.step(Trainer, SimpleNamespace(step=1))
    profile.leave(Trainer)
    assert counted == [0] and not list(tmp_path.iterdir())
    assert told[:2] == ["writing the profile", 2] and "2 ranks found no result" in told[2] and len(told) == 3


def test_only_a_run_that_asks_for_it_has_the_callback(tmp_path):
    run = RunDirectory(tmp_path)
    run.logs.mkdir()
    kinds = [type(callback) for callback in callbacks_of(config_of("profile.steps=2..3"), run, 0, None)]
    assert kinds[-3:] == [Checkpoints, Profile, EventLog]  # a stopped run first saves; a profile reports an event
    assert Profile not in map(type, callbacks_of(config_of(), run, 0, None))
