"""Job files for Slurm and for Kubernetes with Volcano, made from a run's configuration.

A job file asks for as many servers as the configuration needs and runs `ascend_scripts/run_distributed.sh` on each.
The operator fills in the site's settings: image, volume, queue, partition.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from ms_codegeex.base.errors import UserError
from ms_codegeex.config import RunConfig
from ms_codegeex.runs.node import PORT, resolve_node
from ms_codegeex.runs.run_directory import RunDirectory

SPARE_SECONDS = 10  # between `checkpoint.grace` and the end of a stopped job

SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={servers}
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --output={name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@{seconds}
# Submit it in the checkout, on a file system that all servers share. A requeued job resumes from its newest checkpoint.
# Before its time limit the job gets SIGTERM and saves; submit it again to continue.
set -euo pipefail

{meeting}
# One task per server, with all its cores; server 0 may still export long after the others have ended (--wait=0).
srun --kill-on-bad-exit=1 --wait=0 --cpu-bind=none bash -c 'exec {command}'
"""
SLURM_MASTER = f"""\
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export MASTER_ADDR=${{hosts[0]}}:{PORT}"""
ORDER = "# The servers of the rank table must be those of the job, in the same order: server K of the table is {which}."


def job_file(kind: str, config: RunConfig, arguments: Sequence[str], rank_table: Path | None = None) -> str:
    """A job file of `kind` `slurm` or `volcano`; `arguments` are those of `train`. `UserError` if it makes no sense.

    A restarted job resumes from its newest checkpoint; `checkpoint.resume` says where the first start begins.
    """
    servers = servers_of(config, rank_table)
    name = re.sub(r"[^a-z0-9]+", "-", Path(config.output).name.lower()).strip("-") or "ms-codegeex"
    meeting = ["--rank-table", str(rank_table)] if rank_table else []
    words = [*arguments, *meeting]
    return {"slurm": _slurm, "volcano": _volcano}[kind](name, servers, config, words, rank_table is not None)


def servers_of(config: RunConfig, rank_table: Path | None = None) -> int:
    """The number of servers that a job of this configuration requests. `UserError` if it cannot run as a job."""
    size = config.parallel.server_devices
    if config.device == "cpu":
        raise UserError("--job: device: cpu trains on one machine, without a job file; set device=ascend")
    if config.devices > size and config.devices % size:
        raise UserError(
            f"devices: {config.devices} do not fill whole servers of {size} (parallel.server_devices); choose a "
            "multiple"
        )
    servers = max(1, config.devices // size)
    if rank_table is not None:
        node = resolve_node(config, rank_table, 0)
        if node.count != servers:
            raise UserError(
                f"--rank-table: {rank_table} has {node.count} servers, a job of devices: {config.devices} asks for "
                f"{servers} of {size} (parallel.server_devices); change one of them"
            )
    return servers


def _command(config: RunConfig, arguments: list[str], servers: int, rank: str, master: str | None) -> str:
    """The command that every server runs. `rank` and `master` are shell expressions; `master` is None with a rank
    table."""
    line = " ".join(map(shlex.quote, ["bash", "ascend_scripts/run_distributed.sh", *arguments]))
    line += f" --resume {_resume(config)}"
    if servers == 1:
        return line
    if master is None:
        return f'{line} --node-rank "{rank}"'
    return f'{line} --nodes {servers} --node-rank "{rank}" --master-addr "{master}"'


def _resume(config: RunConfig) -> str:
    """The value of `--resume` as a shell expression: the given start while the run has no checkpoint yet."""
    start = config.checkpoint.resume or "auto"
    if start == "auto":
        return start
    own = shlex.quote(str(RunDirectory(Path(config.output)).checkpoints))
    return f'"$(if ls -d {own}/step-* >/dev/null 2>&1; then echo auto; else echo {shlex.quote(start)}; fi)"'


def _termination_seconds(config: RunConfig) -> int:
    """Seconds from the signal to the end of a job: time to save."""
    return math.ceil(config.checkpoint.grace) + SPARE_SECONDS


def _slurm(name: str, servers: int, config: RunConfig, arguments: list[str], table: bool) -> str:
    command = _command(config, arguments, servers, "$SLURM_NODEID", None if table else "$MASTER_ADDR")
    meeting = ORDER.format(which='the K-th host of the job, both from 0 (see "scontrol show hostnames")')
    return SLURM.format(
        name=name,
        servers=servers,
        seconds=_termination_seconds(config),
        meeting=meeting if table else SLURM_MASTER,
        command=command.replace("'", "'\\''"),
    )


def _volcano(name: str, servers: int, config: RunConfig, arguments: list[str], table: bool) -> str:
    devices = min(config.devices, config.parallel.server_devices)
    resource = "huawei.com/Ascend910" if config.device == "ascend" else "nvidia.com/gpu"
    master = None if table else "${VC_SERVER_HOSTS%%,*}:" + str(PORT)
    command = f"exec {_command(config, arguments, servers, '$VC_TASK_INDEX', master)}"
    volumes = {  # path in the container, and what is mounted there
        "checkout": ("/checkout", {"persistentVolumeClaim": {"claimName": "CLAIM"}}),
        "driver": ("/usr/local/Ascend/driver", {"hostPath": {"path": "/usr/local/Ascend/driver"}}),
        "hccn": ("/etc/hccn.conf", {"hostPath": {"path": "/etc/hccn.conf"}}),
        "memory": ("/dev/shm", {"emptyDir": {"medium": "Memory"}}),
    }
    if config.device != "ascend":
        del volumes["driver"], volumes["hccn"]
    container = {
        "name": "train",
        "image": "IMAGE",
        "workingDir": "/checkout",
        "command": ["bash", "-c", command],
        "resources": {"requests": {resource: devices}, "limits": {resource: devices}},
        "volumeMounts": [
            {"name": name, "mountPath": path, **({"readOnly": True} if "hostPath" in volume else {})}
            for name, (path, volume) in volumes.items()
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _termination_seconds(config),
        "containers": [container],
        "volumes": [{"name": name, **volume} for name, (_, volume) in volumes.items()],
    }
    job = {
        "apiVersion": "batch.volcano.sh/v1alpha1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "schedulerName": "volcano",
            "queue": "default",
            "minAvailable": servers,
            "maxRetry": 10,
            "plugins": {"env": [], "svc": []},
            "policies": [
                {"event": "PodFailed", "action": "RestartJob"},
                {"event": "PodEvicted", "action": "RestartJob"},
                {"event": "TaskCompleted", "action": "CompleteJob"},
            ],
            "tasks": [{"name": "server", "replicas": servers, "template": {"spec": pod}}],
        },
    }
    head = (
        "# IMAGE: one with Python 3.10-3.12 and, for Ascend, CANN. CLAIM: a volume that all servers share, with this\n"
        "# checkout in it. A restarted job resumes from its newest checkpoint.\n"
    )
    if table:
        head += ORDER.format(which="where pod K runs, both from 0 (pin them)") + "\n"
    return head + yaml.safe_dump(job, sort_keys=False, width=1000)
