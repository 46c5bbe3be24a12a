"""`run_distributed.sh` with the flags of a cluster: `--dry-run` prints what would run, process by process."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from cann_environment import NAMES, install_cann, sourced
from conftest import ROOT, command_here

CONFIG = """
device: ascend
devices: 16
output: {output}
model: {{preset: 13b}}
data: {{train: nowhere}}
training: {{steps: 1, micro_batch: 8}}
parallel: {{tensor: 8}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text(CONFIG.format(output=tmp_path / "a run"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def script(tmp_path):
    """Runs the script in a directory of its own, without an environment made by setup.sh."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
        line = ["bash", ROOT / "ascend_scripts" / "run_distributed.sh", "--config", "run.yaml", *words, "--dry-run"]
        settings = {"MS_CODEGEEX_VENV": str(tmp_path / "none"), "PYTHON": sys.executable, **environment}
        return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **settings})

    return run


TABLE = ("--rank-table", str(ROOT / "configs" / "rank_tables" / "2_servers_16_devices.json"))


def test_every_process_of_a_rank_table_is_printed(script, tmp_path):
    result = script(*TABLE, "--node-rank", "1", "training.steps=2")
    assert result.returncode == 0, result.stderr
    assert f"train --config run.yaml {' '.join(TABLE)} --node-rank 1 training.steps=2\n" in result.stdout
    assert "RANK_SIZE=16" in result.stdout
    head, *lines = (line for line in result.stdout.splitlines() if re.match("#   (process|rank) ", line))
    assert re.search(r"\sRANK_ID +DEVICE_ID\s", head) and len(lines) == 8
    for i, line in enumerate(lines):
        assert re.search(rf"\s{8 + i} +{i}\s", line) and line.endswith(f" logs/worker_{8 + i}.log")
    assert "MS_SCHED_HOST=10.0.0.11" in result.stdout
    commands = [line for line in result.stdout.splitlines() if line and line[0] != "#"]
    assert len(commands) == 2  # the others are comments
    assert subprocess.run(["bash", "-n"], input=result.stdout, text=True).returncode == 0
    assert not (tmp_path / "a run").exists()


def train(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs in this process what the script starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return command_here("train", "--config", "run.yaml", *words, "--dry-run")


def test_the_environments_rank_table_is_taken_and_said(script):
    words, (_, table) = ("--node-rank", "1"), TABLE
    named = script(*words, RANK_TABLE_FILE=table)
    said = f"ms-codegeex train: --rank-table {table}: from RANK_TABLE_FILE in the environment; unset it to train"
    assert named.returncode == 0 and said in named.stderr
    flag = train(*TABLE, *words)
    printed = [f"# {line}" for line in processes(flag)]
    assert processes(named) == printed and len(printed) == 8 and "RANK_TABLE_FILE" not in flag.stderr
    both = train(*TABLE, *words, RANK_TABLE_FILE="other.json")
    assert f"--rank-table {table} is used, not RANK_TABLE_FILE=other.json" in both.stderr
    assert processes(both) == processes(flag)
    same = train(*TABLE, *words, RANK_TABLE_FILE=table)
    assert "RANK_TABLE_FILE" not in same.stderr and processes(same) == processes(flag)
    meeting = ("--nodes", "2", "--node-rank", "1", "--master-addr", "10.0.0.11:8118")
    for path in (table, "gone.json"):  # platforms set it in every job
        flags = train(*meeting, RANK_TABLE_FILE=path)
        assert f"--nodes 2 is used, not RANK_TABLE_FILE={path} of the environment" in flags.stderr
        assert flags.stdout == train(*meeting).stdout and "--master_addr=10.0.0.11" in flags.stdout
    cpu = train("device=cpu", "devices=2", "parallel.tensor=1", "model.preset=tiny", RANK_TABLE_FILE=table)
    assert cpu.returncode == 0 and "is not used: rank tables are for Ascend, device is cpu" in cpu.stderr


def processes(result) -> list[str]:
    return [line for line in result.stdout.splitlines() if re.match("(# )?  rank ", line)]


def test_msrun_is_printed_with_the_address_of_the_scheduler(script):
    result = script("--nodes=2", "--node-rank=1", "--master-addr=head:8118")
    flags = "--worker_num=16 --local_worker_num=8 --node_rank=1 --master_addr=head --master_port=8118"
    words = result.stdout.replace("#", "").split()
    assert " ".join(words).count(f"/msrun {flags} ") == 1 and words[-1] == "logs/msrun_1.log"


def test_one_server_needs_no_flag_and_a_cpu_prints_two_lines(script):
    result = script("devices=8")
    assert result.stdout.count("/msrun ") == 1 and "--local_worker_num=8" in result.stdout
    cpu = script("device=cpu", "devices=2", "parallel.tensor=1")
    assert cpu.returncode == 0 and len(cpu.stdout.splitlines()) == 2


def test_without_python_the_train_command_is_still_printed(script):
    result = script(*TABLE, "--node-rank", "1", PYTHON="no-such-python")
    assert (result.returncode, len(result.stdout.splitlines())) == (0, 2) and "setup.sh" in result.stderr


def test_the_run_gets_what_set_env_of_cann_has_set(tmp_path):
    """With a stand-in for setup.sh, which unsets PYTHONPATH for itself, and for the command that it installs."""
    scripts, command = tmp_path / "ascend_scripts", tmp_path / "venv" / "bin" / "ms-codegeex"
    scripts.mkdir()
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/bash\nenv -0\n")
    command.chmod(0o755)
    shutil.copy(ROOT / "ascend_scripts" / "run_distributed.sh", scripts)
    (scripts / "setup.sh").write_text(f"unset PYTHONPATH\necho '{tmp_path}/venv'\n")
    set_env = install_cann(tmp_path / "cann")
    line = f". {set_env} && exec bash {scripts}/run_distributed.sh --config run.yaml"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path)
    seen = dict(entry.split("=", 1) for entry in result.stdout.split("\0") if "=" in entry)
    expected = sourced(set_env)
    for name in (*NAMES, "LD_LIBRARY_PATH", "PYTHONPATH"):
        assert seen[name] == expected[name] != ""
    assert seen["PATH"] == f"{command.parent}:{expected['PATH']}"


@pytest.mark.parametrize(
    "words, message",
    [
        (TABLE, "--node-rank: missing; give --node-rank K, this server's number, 0 to 1"),  # as `train` says it
        (("--rank-table",), "--rank-table needs a value"),
    ],
)
def test_mistakes_are_one_line(script, words, message):
    result = script(*words)
    errors = [line for line in result.stderr.splitlines() if "not set up yet" not in line]
    assert result.returncode == 2 and len(errors) == 1 and message in errors[0]
