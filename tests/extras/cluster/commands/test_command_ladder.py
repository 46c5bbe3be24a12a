"""`ms-codegeex ladder` on runs whose losses are made from a known law, and on runs that it trains."""

import json

import numpy as np
import pytest
from conftest import VOCABULARY, command_here, small_run, write_config

from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.extras.cluster.ladder.fit import PowerLaw
from ms_codegeex.extras.cluster.ladder.report import verdict
from ms_codegeex.extras.cluster.ladder.results import Result, comparisons, result_of
from ms_codegeex.extras.cluster.ladder.settings import load_ladder

LAW = PowerLaw(e=1.2, a=60.0, alpha=0.3, b=90.0, beta=0.25)
WORSE = 0.1  # what the second value costs
WIDTHS = ({"hidden_size": 16}, {"hidden_size": 32}, {"hidden_size": 48})


def ladder(dataset, tmp_path, **changes):
    """A ladder's YAML file over small runs."""
    run = small_run(dataset, tmp_path / "unused")
    values = {
        "run": str(write_config(tmp_path / "run.yaml", run)),
        "output": str(tmp_path / "ladder"),
        "tokens": [1024, 4096, 16384, 65536],
        "sizes": list(WIDTHS),
    }
    return write_config(tmp_path / "ladder.yaml", values | changes)


@pytest.fixture
def finished(dataset, tmp_path):
    """A ladder with two values and three seeds, all of whose runs are finished but one that diverged."""
    vary = {"key": "data.reset_at_eos", "values": [True, False]}
    path = ladder(dataset, tmp_path, seeds=[1, 2, 3], vary=vary)
    generator = np.random.default_rng(0)
    for number, rung in enumerate(load_ladder(path, [])[1]):
        known = result_of(rung, None)
        loss = LAW.loss(known.parameters, known.tokens) * (1 + 0.001 * generator.normal()) + WORSE * (not rung.value)
        rung.directory.mkdir(parents=True)
        if number:
            write_json(rung.directory / "summary.json", {"validation_loss": loss})
        else:
            (rung.directory / "logs").mkdir()
            write_json(rung.directory / "logs" / "error.json", {"message": "", "user": False, "not_finite": 3})
    return path


def test_it_reads_finished_runs_and_finds_their_law_and_the_better_value(finished, tmp_path):
    result = command_here("ladder", "--config", finished)
    assert result.returncode == 0, result.stderr
    assert "data.reset_at_eos=true: at 10 x the compute of the largest run" in result.stdout
    found = read_json(tmp_path / "ladder" / "ladder.json")
    assert [x["loss"] for x in found["runs"]].count(None) == 1 and len(found["runs"]) == 72
    true, other = found["laws"]
    assert (true["value"], other["value"]) == (True, False)
    for forecast in true["forecasts"]:
        assert 6 * forecast["parameters"] * forecast["tokens"] == pytest.approx(forecast["flops"])
        assert forecast["loss"] == pytest.approx(LAW.loss(forecast["parameters"], forecast["tokens"]), rel=0.02)
        assert forecast["low"] < forecast["loss"] < forecast["high"]
    held = true["held_out"]
    assert held["low"] <= held["measured"] <= held["high"]
    for row in found["comparisons"]:
        assert row["best"] == 0 and row["losses"][1] - row["losses"][0] == pytest.approx(WORSE, abs=0.06)
    page = (tmp_path / "ladder" / "ladder.html").read_text()
    assert page.count("diverged") == 1 and "the first is best" in page and "inside the interval" in page
    assert (tmp_path / "ladder" / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_counts_if_it_is_larger_than_the_seeds():
    def runs(*losses):
        pairs = [(value, seed, losses[value][seed]) for value in range(2) for seed in range(2)]
        return [Result(0, 1000, 5000, 1, seed, value, loss, "") for value, seed, loss in pairs]

    (row,) = comparisons([0, 1], runs((3.0, 3.02), (2.9, 2.92)))
    assert row["best"] == 1 and row["difference"] == pytest.approx(-0.1)
    assert row["noise"] == pytest.approx(2 * np.std([3.0, 3.02], ddof=1))  # of two means of two
    assert "beyond noise" in verdict(row)
    assert "within noise" in verdict(comparisons([0, 1], runs((3.0, 3.2), (2.9, 3.1)))[0])
    assert "the first is best" in verdict(comparisons([0, 1], runs((2.9, 2.92), (3.0, 3.02)))[0])
    (alone,) = comparisons([0, 1], runs((3.0, None), (2.9, None)))
    assert alone["noise"] is None and "noise unknown" in verdict(alone)
    (diverged,) = comparisons([0, 1], runs((None, None), (2.9, 2.9)))
    assert diverged["losses"] == [None, 2.9] and verdict(diverged) == "not comparable"


def test_a_dry_run_lists_the_runs_and_starts_none(dataset, tmp_path):
    result = command_here("ladder", "--config", ladder(dataset, tmp_path), "--dry-run")
    lines = result.stdout.splitlines()
    assert len(lines) == 12 and all("parameters" in line and "FLOPs" in line for line in lines)
    assert not (tmp_path / "ladder").exists()


def test_a_dry_run_as_json_has_the_runs(dataset, tmp_path):
    path = ladder(dataset, tmp_path, tokens=[1024])
    found = json.loads(command_here("ladder", "--config", path, "--dry-run", "--json").stdout)
    assert [run["directory"] for run in found["runs"]] == [rung.directory.name for rung in load_ladder(path, [])[1]]
    assert {(run["tokens"], run["seed"], run["value"]) for run in found["runs"]} == {(1024, 1, None)}
    assert "loss" not in found["runs"][0]


@pytest.mark.slow
def test_it_trains_what_is_not_trained_yet_and_leaves_out_what_diverges(dataset, tmp_path):
    path = ladder(dataset, tmp_path, tokens=[512], sizes=[{"num_layers": 1}, {"num_layers": 2}])
    first = command_here("ladder", "--config", path, "sizes=[{num_layers: 1}]", "--json")
    assert first.returncode == 0, first.stderr
    (run,) = json.loads(first.stdout)["runs"]
    directory = tmp_path / "ladder" / "runs" / run["directory"]
    assert run["loss"] == read_json(directory / "summary.json")["validation_loss"] < np.log(VOCABULARY) + 0.5
    before = (directory / "summary.json").stat().st_mtime_ns
    both = command_here("ladder", "--config", path, "--json")
    runs = json.loads(both.stdout)["runs"]
    assert runs[0] == run and len(runs) == 2 and runs[1]["loss"] is not None
    assert (directory / "summary.json").stat().st_mtime_ns == before
    assert "needs at least 3" in json.loads(both.stdout)["laws"][0]["reason"]
    vary = "vary={key: training.schedule.learning_rate, values: [1.0e+30]}"
    for _ in range(2):  # the second time it is known
        wild = command_here("ladder", "--config", path, "sizes=[{num_layers: 1}]", vary, "--json")
        assert wild.returncode == 0, wild.stderr
        assert json.loads(wild.stdout)["runs"][0]["loss"] is None
    assert "left out of the fit" not in wild.stderr
