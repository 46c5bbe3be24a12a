"""`train --first-run`: the rungs that a CPU has, and the report that a team sends back."""

import getpass
import json
import platform

import pytest
from conftest import command

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_names
from ms_codegeex.cli import main
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.first_run import ladder
from ms_codegeex.extras.cluster.first_run.ladder import FAILED, LEFT, PASSED, Rung, rung_config, scrub


@pytest.mark.slow  # three trainings
def test_the_rungs_of_a_cpu_are_climbed_and_reported(tmp_path):
    result = command("train", "--config", "codegeex_tiny", "--first-run", "--json", f"output={tmp_path / 'x'}")
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / "x-first-run"
    text = (folder / "first_run.json").read_text()
    report = json.loads(text)
    assert report == json.loads(result.stdout)
    states = {rung["name"]: rung["state"] for rung in report["rungs"]}
    assert list(states.values()) == [PASSED, PASSED, PASSED, PASSED, LEFT]
    assert "needs two servers of Ascends" in report["rungs"][-1]["problem"]
    plain, full, server, _ = report["rungs"][1:]
    assert plain["settings"] == ["training.dropout=0", "parallel.fusion.graph_kernel=false"]
    assert server["devices"] == 2 and len(server["losses"]) == len(full["losses"]) == ladder.STEPS
    assert str(tmp_path) not in text and platform.node() not in text
    again = command("train", "--config", "codegeex_tiny", "--first-run", f"output={tmp_path / 'x'}")
    assert again.returncode == 2 and f"output: {folder} is there; give another one" in again.stderr


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_run_has_rungs(name):
    """Each rung is a valid run of two blocks on a flat mesh."""
    config = load_config(name, ["device=ascend", "training.loss_chunk=0"])
    plain = ("training.dropout=0", "parallel.fusion.graph_kernel=false")
    for devices, settings in ((1, plain), (1, ()), (8, ()), (16, ())):
        rung = rung_config(config, devices, settings)
        assert rung.mesh.world == devices and rung.mesh.pipeline == 1 and rung.accumulation == 1
        assert rung.model.sizes.num_layers <= 2 and rung.model.sizes.hidden_size == config.model.sizes.hidden_size
        assert rung.training.dropout == (0 if settings else config.training.dropout)


def climb(monkeypatch, tmp_path, *states):
    """The report of a first run whose trainings end like this."""
    monkeypatch.setattr(ladder, "_kernels", lambda config: (Rung("kernels against NumPy", PASSED), {}))
    rungs = iter(states)
    monkeypatch.setattr(ladder, "_run", lambda config, folder, name, *_: Rung(name, *next(rungs)))
    status = main(["train", "--config", "codegeex_tiny", "--first-run", f"output={tmp_path / 'x'}"])
    return status, json.loads((tmp_path / "x-first-run" / "first_run.json").read_text())


def test_the_first_rung_that_fails_is_the_last(monkeypatch, tmp_path, capsys):
    broken = (FAILED, f"{tmp_path}/a.py of {getpass.getuser()} at 10.1.2.3:8118")
    status, report = climb(monkeypatch, tmp_path, (PASSED,), broken)
    assert status == 1 and [rung["state"] for rung in report["rungs"]] == [PASSED, PASSED, FAILED]
    assert report["rungs"][-1]["problem"].startswith("(path) of ") and "(address)" in report["rungs"][-1]["problem"]
    assert "NO  one device, as configured (O1 on Ascend)" in capsys.readouterr().out
    assert report["run"]["configuration"] == "codegeex_tiny" and report["versions"]["ms_codegeex"]


def test_losses_must_be_finite_and_fall():
    falling = [2.0 - 0.1 * i for i in range(ladder.STEPS)]
    assert ladder._wrong(falling) == ""
    assert ladder._wrong(falling[::-1]) == "the loss does not fall: 1.1000 to 2.0000"
    assert ladder._wrong([None, *falling[1:]]) == "a loss is not finite"
    assert ladder._wrong(falling[1:]) == "9 of 10 steps were logged"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("no kernel: /data/ann/models/secret.bin (x)", "no kernel: (path) (x)"),
        ("~/data/corpus is gone", "(path) is gone"),
        ("/usr/local/Ascend/cann/lib64/libopapi.so: EI0002", "/usr/local/Ascend/cann/lib64/libopapi.so: EI0002"),
        ("cannot reach 192.168.1.20:8118 or fe80:0:0:0:1:2:3:4", "cannot reach (address) or (address)"),
        (f"device 0 of {platform.node()} has 3/8 GiB", "device 0 of (name) has 3/8 GiB"),
    ],
)
def test_names_and_places_are_left_out(text, kept):
    assert scrub(text) == kept


def test_what_a_first_run_refuses(tmp_path):
    with pytest.raises(UserError, match="--first-run: device is ascend, but no driver"):
        ladder.first_run(load_config("codegeex_base_8"), "x", (), 1, 0, False)
    config = load_config("codegeex_tiny", [f"output={tmp_path / 'x'}"])
    with pytest.raises(UserError, match="has no report of the rungs on one server; climb these first"):
        ladder.first_run(config, "x", ("--nodes", "2"), 2, 0, False)
