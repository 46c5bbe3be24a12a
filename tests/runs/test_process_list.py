"""What `train --dry-run` prints: every process and variable once, in lines that can be read."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, command_here

from ms_codegeex.runs import node as node_module
from ms_codegeex.runs.process_list import process_text
from ms_codegeex.runs.workers import WorkerSpec

RUN = Path("/runs/a")
TABLE = ROOT / "configs" / "rank_tables" / "2_servers_16_devices.json"
WORDS = ("train", "--config", "codegeex_base_8", "devices=16", "--rank-table", TABLE)


def specs(count: int = 8) -> list[WorkerSpec]:
    """Ranks as a rank table makes them."""
    found = []
    for rank in range(count):
        command = ("/usr/bin/taskset", "-c", f"{4 * rank}-{4 * rank + 3}", "python", "-m", "worker", str(RUN), "$$")
        environment = {"RANK_ID": str(rank), "PLACE": f"{RUN}/logs/rank_{rank}/x", "RANK_SIZE": "8", "A": "b c"}
        log = RUN / "logs" / f"worker_{rank}.log"
        label = f"rank {rank} on device {rank} of head, cores {command[2]}, log {log}"
        found.append(WorkerSpec(label, command, RUN / "logs" / f"rank_{rank}", log, environment, worker_logs=(log,)))
    return found


def test_what_is_shared_is_printed_once_and_what_differs_in_a_table():
    text = process_text(RUN, specs(), "list")
    head, command, variables, *rows = text.splitlines()
    assert head == "processes: 8 on this server, for the run /runs/a"
    assert command == "command: /usr/bin/taskset -c CORES python -m worker /runs/a $$"
    assert shlex.split(variables) == ["variables:", "RANK_SIZE=8", "A=b c"]
    assert rows[0].split() == ["process", "cores", "RANK_ID", "PLACE", "directory", "log"]
    for rank, row in enumerate(rows[1:]):
        place = f"logs/rank_{rank}"
        own = [f"{4 * rank}-{4 * rank + 3}", str(rank), f"{place}/x", place, f"logs/worker_{rank}.log"]
        assert row.split() == [*f"rank {rank} on device {rank} of head".split(), *own]
    assert len(rows) == 9 and max(map(len, text.splitlines())) <= 120


def test_one_process_needs_no_columns_for_its_variables():
    text = process_text(RUN, specs(1), "list")
    last = " ".join(text.splitlines()[-1].split())
    assert text.startswith("processes: 1 ") and last == "rank 0 on device 0 of head logs/worker_0.log"
    assert "RANK_ID=0" in text and "cores: 0-3" in text


def test_json_and_the_script_have_everything():
    run = json.loads(process_text(RUN, specs(), "json"))
    assert (run["directory"], len(run["processes"])) == ("/runs/a", 8)
    for spec, process in zip(specs(), run["processes"], strict=True):
        assert process["command"] == list(spec.command) and process["environment"] == spec.environment
        assert (process["directory"], process["log"]) == (str(spec.directory), str(spec.log))
    script = process_text(RUN, specs(), "script")
    assert script.splitlines() == [line for spec in specs() for line in spec.shell().splitlines()] + ["wait"]


def test_the_command_prints_each_form(monkeypatch, tmp_path):
    monkeypatch.setattr(node_module, "usable_cores", lambda: list(range(192)))
    words = (*WORDS, f"output={tmp_path}/run", "--node-rank", "1", "--dry-run")
    listed = command_here(*words)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[1] for line in listed.stdout.splitlines() if line.startswith("  rank ")] == [
        str(rank) for rank in range(8, 16)
    ]
    script = command_here(*words, "--script").stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    for process in json.loads(command_here(*words, "--json").stdout)["processes"]:
        for name, value in process["environment"].items():
            assert f" {name}={shlex.quote(value)} " in script
            assert value.replace(f"{tmp_path}/run/", "") in listed.stdout
    assert not (tmp_path / "run").exists()
    named, unnamed = (command_here(*words, "--json", f"parallel.hardware={name}") for name in ("ascend910", "null"))
    assert unnamed.stderr.count("\n") == 1
    assert json.loads(named.stdout)["processes"] and named.stderr.splitlines()[1].startswith(
        "Ascend 910: the newest MindSpore"
    )


@pytest.mark.parametrize("words, remedy", [((), "add it"), (("--dry-run", "--json"), "leave out --json")])
def test_script_is_a_form_of_a_dry_run(words, remedy):
    result = command_here("train", "--config", "codegeex_tiny_release", "--script", *words)
    assert result.returncode == 2 and f"--script: is a form of --dry-run; {remedy}" in result.stderr
