"""What `train --dry-run` prints: every process and variable once, in lines that can be read."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, command_here, small_run, write_config

from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.servers import node as node_module
from ms_codegeex.runs.servers.process_list import list_of_processes, processes_as_json
from ms_codegeex.runs.servers.workers import WorkerSpec

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
    text = list_of_processes(RUN, specs())
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
    text = list_of_processes(RUN, specs(1))
    last = " ".join(text.splitlines()[-1].split())
    assert text.startswith("processes: 1 ") and last == "rank 0 on device 0 of head logs/worker_0.log"
    assert "RANK_ID=0" in text and "cores: 0-3" in text


def test_json_has_everything():
    run = json.loads(processes_as_json(RUN, specs()))
    assert (run["directory"], len(run["processes"])) == ("/runs/a", 8)
    for spec, process in zip(specs(), run["processes"], strict=True):
        assert process["command"] == list(spec.command) and process["environment"] == spec.environment
        assert (process["directory"], process["log"]) == (str(spec.directory), str(spec.log))


def test_the_command_prints_each_form(monkeypatch, tmp_path):
    monkeypatch.setattr(node_module, "usable_cores", lambda: list(range(192)))
    words = (*WORDS, f"output={tmp_path}/run", "--node-rank", "1", "--dry-run")
    listed = command_here(*words)
    assert listed.returncode == 0, listed.stderr
    ranks = [int(line.split()[1]) for line in listed.stdout.splitlines() if line.startswith("  rank ")]
    assert ranks == [*range(8, 16)]
    for process in json.loads(command_here(*words, "--json").stdout)["processes"]:
        for value in process["environment"].values():
            assert value.replace(f"{tmp_path}/run/", "") in listed.stdout
    assert not (tmp_path / "run").exists()
    named, unnamed = (command_here(*words, "--json", f"parallel.hardware={name}") for name in ("ascend910", "null"))
    assert unnamed.stderr.count("\n") == 1
    assert json.loads(named.stdout)["processes"]
    assert named.stderr.splitlines()[1].startswith("Ascend 910: the newest MindSpore")


def started(script, folder, *words):
    """What a script prints in a shell of another user: from another folder, with that shell's own variables only."""
    (folder / "start.sh").write_text(script)
    (folder / "start.sh").chmod(0o755)
    plain = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run([folder / "start.sh", *words], capture_output=True, text=True, cwd="/", env=plain)


@pytest.mark.slow  # in an empty environment, where operators are compiled
def test_the_script_trains_from_anywhere_and_ends_with_the_status_of_the_run(dataset, tmp_path, monkeypatch):
    (tmp_path / "it's here").mkdir()
    monkeypatch.chdir(tmp_path / "it's here")
    write_config(Path("run.yaml"), small_run(dataset, "run"))
    words = ("train", "--config", "run.yaml", "training.steps=2", "--restarts", "1", "--dry-run", "--script")
    script = command_here(*words).stdout
    assert not Path("run").exists()
    result = started(script, tmp_path)
    assert result.returncode == 0, result.stderr
    assert [line["step"] for line in read_log(Path("run/log.jsonl"))] == [1, 2]
    again = started(script, tmp_path)
    assert again.returncode == 2 and "already holds a run; continue it with --resume auto" in again.stderr


def test_a_script_of_several_servers_starts_the_one_that_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = command_here(*WORDS, f"output={tmp_path}/run", "--node-rank", "1", "--dry-run", "--script").stdout
    listing = f"{script.rstrip()} --dry-run\n"
    for words, first in (((), 8), (("0",), 0)):
        result = started(listing, tmp_path, *words)
        assert f"  rank {first} " in result.stdout, result.stderr
    assert started(listing, tmp_path, "2").stderr.endswith("expected 0 to 1, one of the job's servers\n")


@pytest.mark.parametrize("words, remedy", [((), "add it"), (("--dry-run", "--json"), "leave out --json")])
def test_script_is_a_form_of_a_dry_run(words, remedy):
    result = command_here("train", "--config", "codegeex_tiny_release", "--script", *words)
    assert result.returncode == 2 and f"--script: is a form of --dry-run; {remedy}" in result.stderr
