"""Job files for Slurm and Kubernetes (Volcano's jobs or MindCluster's AscendJob): the templates in `configs/jobs`,
filled in for a run.

A job asks for as many servers as the configuration needs and runs `ms-codegeex train` on each. The operator fills in
the site's settings: image, volume, queue, partition."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.shipped import shipped_directory
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chips import check_kind
from ms_codegeex.config.chosen_hardware import hardware_of
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.servers.node import SCHEDULER_PORT, resolve_node

TEMPLATES = {"slurm": "slurm.sh", "volcano": "kubernetes.yaml", "acjob": "kubernetes.yaml"}
SPARE_SECONDS = 10  # between `checkpoint.grace` and the end of a stopped job
LONGEST_NAME = 40  # names in Kubernetes have at most 63 characters; those of services begin with a letter
# What MindCluster (scheduler plugin, device plugin and container runtime for Ascend) requires of a Volcano job: its
# page on YAML files (github.com/Ascend/mind-cluster, docs/en/scheduling/06_api/15_yaml_configuration.md) and its
# samples (github.com/Ascend/mindxdl-deploy, samples/train, *_vcjob*.yaml). No cluster with Ascends has run our file.
# The samples lack `npu-smi` and its library `dcmi`, which tell what cores are near a device, and `hccn.conf`.
RESOURCES = {"ascend": "huawei.com/Ascend910", "gpu": "nvidia.com/gpu"}  # Ascend's also names an annotation
# values of the label `ring-controller.atlas`
CHIP_LABELS = {"ascend910": "ascend-910", "ascend910b": "ascend-910b", "ascend910c": "ascend-910b"}
SERVERS = {  # chip and devices of a server -> its node's labels `accelerator-type` and `host-arch`
    ("ascend910", 8): ("module", "huawei-arm"),
    ("ascend910", 4): ("half", "huawei-arm"),
    ("ascend910b", 8): ("module-910b-8", "huawei-arm"),
    ("ascend910b", 16): ("module-910b-16", "huawei-x86"),
    ("ascend910c", 16): ("module-a3-16-super-pod", "huawei-arm"),
}


def job_file(kind: str, config: RunConfig, arguments: Sequence[str], rank_table: Path | None = None) -> str:
    """Return a job file of `kind` `slurm`, `volcano` or `acjob`, with the arguments of `train`. Raises `UserError` if
    the configuration cannot run as such a job.

    A restarted job resumes from its newest checkpoint; `checkpoint.resume` says where the first start begins. In a
    template, `<word>` is a value, and a line that ends with `#only FACT` is kept for jobs with this fact."""
    servers, size = servers_of(config, rank_table), config.parallel.server_devices
    if kind == "acjob" and config.device != "ascend":
        raise UserError(f"--job: acjob is for Ascend, device is {config.device}; choose volcano, or set device=ascend")
    name = re.sub(r"[^a-z0-9]+", "-", Path(config.output).name.lower())[:LONGEST_NAME].strip("-")
    chip = hardware_of(config).generation
    server, cores = SERVERS.get((chip, size), ("TYPE", "huawei-arm"))  # TYPE is for the operator to fill in
    words = ["ms-codegeex", "train", *arguments, *(["--rank-table", str(rank_table)] if rank_table else [])]
    values = {
        "name": name if name[:1].isalpha() else f"ms-codegeex-{name}".strip("-"),
        "servers": servers,
        "size": size,
        "seconds": math.ceil(config.checkpoint.grace) + SPARE_SECONDS,  # from the signal to the end: time to save
        "command": f"{shlex.join(words)} --resume {_resume(config)}",
        "port": SCHEDULER_PORT,
        "devices": min(config.devices, size),
        "resource": RESOURCES[config.device],
        "chip": chip,
        "label": CHIP_LABELS.get(chip),
        # In an AscendJob of several servers, server 0 is the Scheduler, with devices of its own. In its pods, the
        # container must be called `ascend`.
        "first": "Scheduler" if servers > 1 else "Worker",
        "others": servers - 1,
        "container": "ascend" if kind == "acjob" else "train",
        "server": server,
        "cores": cores,
    }
    meeting = "table" if rank_table else "address"
    facts, lines = {config.device, kind, meeting, f"{kind}-{meeting}"}, []
    if kind == "acjob" and servers > 1:
        facts.add("several")
    for line in (shipped_directory("jobs") / TEMPLATES[kind]).read_text(encoding="utf-8").splitlines():
        text, _, fact = line.partition("  #only ")
        if not fact or fact in facts:
            lines.append(re.sub(r"<(\w+)>", lambda found: str(values[found[1]]), text))
    return "\n".join(lines) + "\n"


def servers_of(config: RunConfig, rank_table: Path | None = None) -> int:
    """Return the number of servers that a job of this configuration requests. `UserError` if it cannot be a job."""
    check_kind(config)
    size = config.parallel.server_devices
    if config.device == "cpu":
        raise UserError("--job: device: cpu trains on one machine, without a job file; set device=ascend")
    if config.devices > size and config.devices % size:
        wrong = f"{config.devices} do not fill whole servers of {size} (parallel.server_devices)"
        raise UserError(f"devices: {wrong}; choose a multiple")
    servers = max(1, config.devices // size)
    if rank_table is not None:
        node = resolve_node(config, rank_table, 0, dry_run=True)
        if node.count != servers:
            asked = f"a job of devices: {config.devices} asks for {servers} of {size} (parallel.server_devices)"
            raise UserError(f"--rank-table: {rank_table} has {node.count} servers, {asked}; change one of them")
    return servers


def _resume(config: RunConfig) -> str:
    start = config.checkpoint.resume or "auto"
    if start == "auto":
        return start
    own = shlex.quote(str(RunDirectory(Path(config.output)).checkpoints))
    return f'"$(if ls -d {own}/step-* >/dev/null 2>&1; then echo auto; else echo {shlex.quote(start)}; fi)"'
