"""Job files ask for what the configuration needs, and what they run is what the script understands."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from ms_codegeex.config import build_run_config
from ms_codegeex.errors import UserError
from ms_codegeex.training.job_files import job_file


def values(output: Path | str = "runs/a", devices: int = 16, device: str = "ascend", **parallel) -> dict:
    return {
        "output": str(output),
        "device": device,
        "devices": devices,
        "model": {"preset": "13b"},
        "training": {"steps": 1, "global_batch": 1024, "micro_batch": 8},
        "parallel": {"tensor": 8, **parallel},
    }


def config(*arguments, **keywords):
    return build_run_config(values(*arguments, **keywords))


def test_slurm_file(tmp_path):
    text = job_file("slurm", config(), ["--config", "it's.yaml", "training.steps=4"])
    assert "#SBATCH --nodes=2\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    (tmp_path / "scontrol").write_text("#!/bin/bash\necho head\necho second\n")
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\nSLURM_NODEID=1 "${@: -3}"\n')
    (tmp_path / "ascend_scripts").mkdir()
    (tmp_path / "ascend_scripts" / "run_distributed.sh").write_text('printf "<%s>" "$@"\n')
    for name in ("scontrol", "srun"):
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "head,second"}
    result = subprocess.run(["bash"], input=text, text=True, capture_output=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == (
        "<--config><it's.yaml><training.steps=4><--resume><auto><--nodes><2><--node-rank><1><--master-addr><head:8118>"
    )


def test_volcano_file():
    job = yaml.safe_load(job_file("volcano", config("runs/My_Run"), ["--config", "c.yaml"]))
    assert job["metadata"]["name"] == "my-run" and re.fullmatch(r"[a-z0-9-]+", job["metadata"]["name"])
    (task,) = job["spec"]["tasks"]
    assert job["spec"]["minAvailable"] == task["replicas"] == 2
    (container,) = task["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"huawei.com/Ascend910": 8}
    words = shlex.split(container["command"][2])
    hosts = f"${{VC_{task['name'].upper()}_HOSTS%%,*}}:8118"
    assert words[-6:] == ["--nodes", "2", "--node-rank", "$VC_TASK_INDEX", "--master-addr", hosts]
    names = {volume["name"] for volume in task["template"]["spec"]["volumes"]}
    assert names == {mount["name"] for mount in container["volumeMounts"]}


def test_a_job_of_one_server_needs_no_address():
    for kind in ("slurm", "volcano"):
        assert "--node-rank" not in job_file(kind, config(devices=4, tensor=4), ["--config", "c.yaml"])


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"device": "cpu", "devices": 1, "tensor": 1}, "--job: device: cpu"),
        ({"devices": 12, "tensor": 4, "data": 3, "server_devices": 8}, "devices: 12 are no whole servers of 8"),
    ],
)
def test_jobs_that_make_no_sense_are_refused(keys, message):
    run = values(**keys)
    run["training"]["global_batch"] = 768
    with pytest.raises(UserError, match=message):
        job_file("slurm", build_run_config(run), [])
