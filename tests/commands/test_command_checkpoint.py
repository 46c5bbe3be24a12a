"""`checkpoint list` and `verify`, also of a run that goes on, and sizes of `reshard` that are not a mesh."""

import json
import shutil

import numpy as np
import pytest
from conftest import flip_bit

from ms_codegeex.cli import main
from ms_codegeex.formats import model_description
from ms_codegeex.formats.checkpoint_writing import write_checkpoint


@pytest.fixture
def run(tmp_path):
    for step in (1, 2):
        write_checkpoint(tmp_path / "checkpoints", step, {"w": np.ones(2)}, {})
    return tmp_path


def test_list_and_verify(run, capsys):
    assert main(["checkpoint", "list", str(run), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(entry["step"], entry["sound"]) for entry in listed] == [(1, True), (2, True)]
    assert main(["checkpoint", "verify", str(run)]) == 0
    file = run / "checkpoints" / "step-00000002" / "rank_00000.safetensors"
    flip_bit(file)
    assert main(["checkpoint", "verify", str(run)]) == 1 and "DAMAGED" in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(run / "checkpoints" / "step-00000001")]) == 0
    (run / "empty").mkdir()
    assert main(["checkpoint", "list", str(run / "empty")]) == 2 and "no checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["before its size is read", "before it is opened"])
def test_a_checkpoint_that_the_run_deletes_is_left_out(run, monkeypatch, capsys, moment):
    name = "bytes_of_tensors" if moment.endswith("read") else "summarise_checkpoint"
    whole = getattr(model_description, name)

    def deleted_first(path, *arguments):
        if path.name == "step-00000001":
            shutil.rmtree(path)
        return whole(path, *arguments)

    monkeypatch.setattr(model_description, name, deleted_first)
    assert main(["checkpoint", "verify", str(run), "--json"]) == 0
    (left,) = json.loads(capsys.readouterr().out)["checkpoints"]
    assert left["sound"] and left["step"] == 2


def test_sizes_of_no_mesh_are_refused_at_once(run, capsys):
    words = ["checkpoint", "reshard", str(run), "--output", str(run / "out"), "--data", "10000000"]
    assert main(words) == 2
    assert "a mesh of 10,000,000 ranks; expected at most 65,536" in capsys.readouterr().err
    assert not (run / "out").exists()
