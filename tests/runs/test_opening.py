"""Where a run starts, and what its directory then holds."""

import os
from dataclasses import replace

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.sections import CheckpointConfig, DataConfig
from ms_codegeex.formats.checkpoint import Checkpoint
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.opening import StartingPoint, open_run, starting_point


def steps(run, *numbers):
    return [write_checkpoint(run.checkpoints, number, {"w": np.arange(3)}, {}) for number in numbers]


def resumed_from(path):
    return replace(RunConfig(), checkpoint=CheckpointConfig(resume=str(path)))


def test_an_earlier_checkpoint_of_the_same_run_is_refused_with_a_way_out(tmp_path):
    run, other = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "other")
    first, _ = steps(run, 10, 20)
    way_out = "later than step-00000010 to continue from; choose another output, or --resume auto for the newest that"
    with pytest.raises(UserError, match=way_out):
        starting_point(resumed_from(first), run)
    steps(other, 20)
    with pytest.raises(UserError, match=r"later than step-00000010 to continue from; choose another output$"):
        starting_point(resumed_from(first), other)


def test_a_checkpoint_under_the_name_of_a_replaced_one_is_not_later_than_itself(tmp_path):
    run = RunDirectory(tmp_path)
    (path,) = steps(run, 10)
    kept = path.rename(path.with_name("step-00000010.replaced"))
    assert starting_point(resumed_from(kept), run).checkpoint.path == kept


def test_a_run_that_begins_anew_forgets_the_model_that_an_earlier_attempt_started_from(tmp_path):
    run = RunDirectory(tmp_path)
    losses = {"validation_loss_before": 1.25, "held_out_before": {}}
    (path,) = steps(run, 10)
    for start, kept in ((StartingPoint(Checkpoint(path)), True), (StartingPoint(), False)):
        write_json(run.before, losses)
        open_run(RunConfig(), run, start)
        assert run.before.is_file() is kept


@pytest.mark.parametrize("key", ["output", "data.train", "data.held_out", "data.held_out.caf", "data.blend"])
def test_a_path_that_is_no_text_is_refused_before_anything_is_written(tmp_path, key):
    odd = os.fsdecode(b"caf\xe9")
    changes = {
        "output": {"output": odd},
        "data.train": {"data": DataConfig(train=odd)},
        "data.held_out": {"data": DataConfig(held_out={"C": odd})},
        "data.held_out.caf": {"data": DataConfig(held_out={odd: "C"})},
        "data.blend": {"data": DataConfig(blend={odd: 1, "C": 1})},
    }
    with pytest.raises(UserError, match=rf"{key}.*: .*is not text in UTF-8; rename it, or choose another"):
        open_run(replace(RunConfig(), **changes[key]), RunDirectory(tmp_path), StartingPoint())
    assert not list(tmp_path.iterdir())


def test_other_letters_than_ascii_are_text(tmp_path):
    (tmp_path / "café").mkdir()
    config = replace(RunConfig(), output=str(tmp_path / "café"))
    open_run(config, RunDirectory(tmp_path / "café"), StartingPoint())
    assert RunDirectory(tmp_path / "café").config.is_file()
