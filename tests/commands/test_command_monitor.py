"""`ms-codegeex monitor` as a user runs it."""

import contextlib
import json

from conftest import command_here
from pseudo_terminal import Terminal
from written_run import write_run


def test_runs_are_compared_as_text_json_and_page(dataset, tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, dataset)
    result = command_here("monitor", tmp_path / "a", tmp_path / "b", "--once", status=0)
    first, *rest = result.stdout.splitlines()
    assert first.split()[:3] == ["run", "step", "loss"] and rest[0].split()[:2] == ["a", "10/10"]
    assert "b: fault" in result.stdout
    result = command_here("monitor", tmp_path / "a", "--json", "--report", tmp_path / "report.html")
    found = json.loads(result.stdout)["a"]
    assert (found["step"], found["faults"], found["goodput"]) == (10, 1, 0.4)
    assert [attempt["reason"] for attempt in found["attempts"]] == ["lost", "failed"]
    assert (tmp_path / "report.html").read_text().startswith("<!DOCTYPE html>")


def test_profiles_and_checks_of_the_hardware_are_shown(dataset, tmp_path):
    run = write_run(tmp_path / "a", dataset)
    strikes = [f"Silent detect strike detected: name: <b>{name}" for name in ("fc1.weight", "fc2.weight")]
    run.add_event("stress check", passed=["arithmetic"], seconds=30.0)
    run.add_event("profile", step=5, steps="3..5", folder="profile", without_result=0)
    for strike in strikes:
        run.add_event("silent check", rank=0, message=strike)
    for step in range(9):
        run.add_event("saved", step=step)
    told = command_here("monitor", run.path, "--once").stdout
    assert f"a: 2 findings of cluster.silent_check, the last: rank 0, message {strikes[1]}" in " ".join(told.split())
    result = command_here("monitor", run.path, "--json", "--report", tmp_path / "report.html")
    watched = json.loads(result.stdout)["a"]["watched"]
    assert [event["event"] for event in watched] == ["stress check", "profile", "silent check", "silent check"]
    page = (tmp_path / "report.html").read_text()
    assert "Profiles and hardware of a" in page and "steps 3..5, folder profile" in page
    assert "name: &lt;b&gt;fc1.weight" in page and "<b>fc1" not in page
    write_run(tmp_path / "b", dataset)
    assert "cluster.silent_check" not in command_here("monitor", tmp_path / "b", "--once").stdout


def test_it_follows_a_run_to_its_end(dataset, tmp_path):
    run = write_run(tmp_path / "run", dataset, ended=False)
    with contextlib.closing(Terminal("monitor", run.path, "--interval", "0.1", home=tmp_path)) as terminal:
        terminal.expect("running")
        run.add_event("end", step=10, reason="finished")
        terminal.expect("finished")
        assert terminal.end() == 0


def test_mistakes_are_one_line(tmp_path):
    intervals = [(("--interval", words), "is out of range; give") for words in ("1e300", "inf", "0")]
    for words, message in [((), "not a run directory"), *intervals]:  # no clock waits so
        result = command_here("monitor", tmp_path, *words, status=2)
        assert message in result.stderr and "Traceback" not in result.stderr
