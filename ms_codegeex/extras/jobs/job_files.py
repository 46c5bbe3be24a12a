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
from ms_codegeex.config.chips import check_kind
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.runs.node import SCHEDULER_PORT, resolve_node
from ms_codegeex.runs.run_directory import RunDirectory

SPARE_SECONDS = 10  # between `checkpoint.grace` and the end of a stopped job
LONGEST_NAME = 40  # Kubernetes' names of pods and services have at most 63 characters; services' begin with a letter

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
export MASTER_ADDR=${{hosts[0]}}:{SCHEDULER_PORT}"""
# What MindCluster (scheduler plugin, device plugin and container runtime for Ascend) asks of a Volcano job: its page on
# YAML files (github.com/Ascend/mind-cluster, docs/en/scheduling/06_api/15_yaml_configuration.md) and its samples
# (github.com/Ascend/mindxdl-deploy, samples/train, *_vcjob*.yaml). No cluster with Ascends has run our file.
NPUS = "huawei.com/Ascend910"  # the resource; also the annotation with the devices that the scheduler gives to a pod
# the label `ring-controller.atlas`
CHIP_LABELS = {"ascend910": "ascend-910", "ascend910b": "ascend-910b", "ascend910c": "ascend-910b"}
SERVERS = {  # chip and devices of a server: its node's labels `accelerator-type` and `host-arch`
    ("ascend910", 8): ("module", "huawei-arm"),
    ("ascend910", 4): ("half", "huawei-arm"),
    ("ascend910b", 8): ("module-910b-8", "huawei-arm"),
    ("ascend910b", 16): ("module-910b-16", "huawei-x86"),
    ("ascend910c", 16): ("module-a3-16-super-pod", "huawei-arm"),
}
ASCEND = "/usr/local/Ascend"
FOLDERS = {"driver": f"{ASCEND}/driver", "add-ons": f"{ASCEND}/add-ons", "dcmi": "/usr/local/dcmi"}
# Not in the samples: `npu-smi` and its library `dcmi`, which tell what cores are near a device, and `hccn.conf`. Their
# type stops a pod whose server lacks the file: without it the container runtime makes a folder of that name there.
FILES = {"npu-smi": "/usr/local/bin/npu-smi", "hccn": "/etc/hccn.conf", "localtime": "/etc/localtime"}
# `bash -c` reads no profile. CANN is in `cann` from 8.5 on.
SET_ENV = f"for file in {ASCEND}/{{cann,ascend-toolkit}}/set_env.sh; do if [ -f $file ]; then . $file; break; fi; done"
ORDER = "# The servers of the rank table must be those of the job, in the same order: server K of the table is {which}."


def job_file(kind: str, config: RunConfig, arguments: Sequence[str], rank_table: Path | None = None) -> str:
    """A job file of `kind` `slurm` or `volcano`; `arguments` are those of `train`. `UserError` if it makes no sense.

    A restarted job resumes from its newest checkpoint; `checkpoint.resume` says where the first start begins.
    """
    servers = servers_of(config, rank_table)
    name = re.sub(r"[^a-z0-9]+", "-", Path(config.output).name.lower())[:LONGEST_NAME].strip("-")
    name = name if name[:1].isalpha() else f"ms-codegeex-{name}".strip("-")
    meeting = ["--rank-table", str(rank_table)] if rank_table else []
    words = [*arguments, *meeting]
    return {"slurm": _slurm, "volcano": _volcano}[kind](name, servers, config, words, rank_table is not None)


def servers_of(config: RunConfig, rank_table: Path | None = None) -> int:
    """The number of servers that a job of this configuration requests. `UserError` if it cannot run as a job."""
    check_kind(config)
    size = config.parallel.server_devices
    if config.device == "cpu":
        raise UserError("--job: device: cpu trains on one machine, without a job file; set device=ascend")
    if config.devices > size and config.devices % size:
        wrong = f"{config.devices} do not fill whole servers of {size} (parallel.server_devices)"
        raise UserError(f"devices: {wrong}; choose a multiple")
    servers = max(1, config.devices // size)
    if rank_table is not None:
        node = resolve_node(config, rank_table, 0)
        if node.count != servers:
            asked = f"a job of devices: {config.devices} asks for {servers} of {size} (parallel.server_devices)"
            raise UserError(f"--rank-table: {rank_table} has {node.count} servers, {asked}; change one of them")
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
    resource = NPUS if config.device == "ascend" else "nvidia.com/gpu"
    master = None if table else "${VC_SERVER_HOSTS%%,*}:" + str(SCHEDULER_PORT)
    command = f"exec {_command(config, arguments, servers, '$VC_TASK_INDEX', master)}"
    volumes = {  # path in the container, and what is mounted there
        "checkout": ("/checkout", {"persistentVolumeClaim": {"claimName": "CLAIM"}}),
        "memory": ("/dev/shm", {"emptyDir": {"medium": "Memory"}}),
    }
    if config.device == "ascend":
        volumes |= {name: (path, {"hostPath": {"path": path}}) for name, path in FOLDERS.items()}
        volumes |= {name: (path, {"hostPath": {"path": path, "type": "File"}}) for name, path in FILES.items()}
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
    if config.device == "ascend":
        head += _add_mindcluster(job, config)
    if table:
        head += ORDER.format(which="where pod K runs, both from 0 (pin them)") + "\n"
    return head + yaml.safe_dump(job, sort_keys=False, width=1000)


def _add_mindcluster(job: dict, config: RunConfig) -> str:
    """Add the labels, selectors and variables of Ascend servers to a job; returns a comment on them. TYPE is for the
    operator to fill in: the label of servers that we do not know."""
    chip, size = hardware_of(config).name, config.parallel.server_devices
    label = {"ring-controller.atlas": CHIP_LABELS[chip]}
    # On a fault of a device the scheduler deletes the pods: with "grace" they may save first.
    job["metadata"]["labels"] = {**label, "fault-scheduling": "grace"}
    (task,) = job["spec"]["tasks"]
    pod = task["template"]["spec"]
    task["template"] = {"metadata": {"labels": label}, "spec": pod}
    server, cores = SERVERS.get((chip, size), ("TYPE", "huawei-arm"))
    pod["nodeSelector"] = {"host-arch": cores, "accelerator-type": server}
    (container,) = pod["containers"]
    container["command"][2] = f"{SET_ENV}; {container['command'][2]}"
    devices = {"fieldRef": {"fieldPath": f"metadata.annotations['{NPUS}']"}}
    container["env"] = [{"name": "ASCEND_VISIBLE_DEVICES", "valueFrom": devices}]
    return (
        f"# Labels and mounts are MindCluster's, for servers of {size} {chip} (parallel.server_devices, "
        "parallel.hardware).\n# Check nodeSelector: accelerator-type, host-arch (huawei-arm or huawei-x86). "
        "Without MindCluster's scheduler\n# plugin, delete nodeSelector and ASCEND_VISIBLE_DEVICES.\n"
    )
