"""First contact: a run's own launcher and workers on MindSpore's Ascend plugin, on a machine without an Ascend.

Nothing of ours or of MindSpore is replaced. msrun starts the worker of one rank as in MindSpore's dry run
(`MS_SIMULATION_LEVEL=2`: one device, and no partners). The stub CANN libraries are a chip that computes nothing
(`idle_device.c`). The worker asks the driver which chip it is on, joins, compiles with Ascend's back end, takes steps
from MindSpore's own pool of device memory, evaluates, and writes its part of a checkpoint. Then it waits for the other
ranks, and is ended.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.hardware import ASCEND_910, ASCEND_910B, ASCEND_910C, GIB, Chip
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.printing import table
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import hardware_of, memory_limit
from ms_codegeex.config.sections import InfillConfig
from ms_codegeex.data.datasets.indexed import IndexedWriter, token_dtype
from ms_codegeex.data.datasets.layout import DATASET_JSON, SPLITS
from ms_codegeex.extras.cluster.rehearsal import cann_stubs
from ms_codegeex.formats.safetensors_file import SafetensorsFile
from ms_codegeex.parallel.sharding import checkpoint_bytes
from ms_codegeex.planning.communicators import communicators_of
from ms_codegeex.planning.memory import stage_memory
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import left_error
from ms_codegeex.runs.rank.callbacks import FIRST_STEP
from ms_codegeex.runs.servers.node import Node, node_processes, resolve_node
from ms_codegeex.runs.servers.supervision import reserved_port, worker_command
from ms_codegeex.runs.servers.workers import Workers, WorkerSpec

DRIVER_NAMES = {ASCEND_910.name: "Ascend910A", ASCEND_910B.name: "Ascend910B1", ASCEND_910C.name: "Ascend910_9391"}
STEPS = 2
LEVEL = "2"  # MindSpore's level of simulation that also has a driver, a back end and a pool of memory
UNASKED_MASTER = "127.0.0.1:8118"  # for a job of several servers; nobody answers there
POLL_SECONDS = 0.1
SPLIT_SEQUENCES = 4
CYCLE = 97  # different ids of the data
# A warning of MindSpore's. "1-…" are groups of one rank.
GROUP = re.compile(r"Create collective communication group: (?!1-)(\S+) ")


@dataclass(frozen=True)
class RankContact:
    """What happened when one rank was started.

    Attributes:
        driver: the driver's name of the chip.
        seconds: from its start until it waits for the others, or ends.
        groups: how many communicators MindSpore made on its device, that of all ranks included.
        planned_groups: the plan's communicators.
        memory_bytes: the most that MindSpore's pool of device memory had given out after the first step. At this level
            of simulation the pool has no end.
        planned_bytes: the same by the plan: all but the buffers of communicators.
        saved_bytes: the size of its part of the checkpoint; `planned_saved_bytes`: the same by the plan's layouts.
        problem: why it would not start or train; None if it would.
    """

    rank: int
    stage: int
    driver: str
    seconds: float
    groups: int
    planned_groups: int
    memory_bytes: int | None
    planned_bytes: int
    saved_bytes: int | None
    planned_saved_bytes: int
    problem: str | None


def contact_config(config: RunConfig, directory: Path) -> RunConfig:
    """The run with two steps and synthetic data, which writes to `directory`; weights are random unless adapters have
    a model."""
    if config.device != "ascend":
        raise UserError(f"--first-contact: device is {config.device}; set device=ascend, whose plugin this starts")
    if config.lora.rank and config.model.weights is None:
        raise UserError("--first-contact: adapters start on a model; give model.weights=DIR")
    cluster = config.cluster
    if cluster.stress_check == "all":  # a rank without partners has no links to test
        cluster = replace(cluster, stress_check="cores")
    started = synthetic_run(replace(config, cluster=cluster), directory, directory / "data", STEPS)
    return replace(started, model=config.model) if config.lora.rank else started


def synthetic_run(config: RunConfig, output: Path, data: Path, steps: int) -> RunConfig:
    """The run with this many steps on a few sequences that are made up, and kept in `data`; it writes to `output`, and
    neither checkpoints on the way nor an export."""
    if not (data / DATASET_JSON).exists():
        write_data(config, data)
    made = {"train": str(data), "blend": None, "validation": None, "held_out": {}, "functions_from": None}
    return replace(
        config,
        output=str(output),
        data=replace(config.data, **made, infill=InfillConfig()),
        model=replace(config.model, weights=None),
        lora=replace(config.lora, weights=None),
        profile=replace(config.profile, steps=None),
        training=replace(config.training, steps=steps, tokens=None, evaluate_samples=1),
        checkpoint=replace(config.checkpoint, every=0, resume=None, export=False),
    )


def write_data(config: RunConfig, directory: Path) -> None:
    """A dataset of a few sequences that a model of this size learns quickly: each id follows from the one before."""
    directory.mkdir(parents=True)
    model, length = config.model.sizes, config.seq_length
    known = [i for i in range(min(CYCLE, model.vocab_size)) if i != model.eos_token_id]
    for split in SPLITS:
        with IndexedWriter(directory / split, token_dtype(model.vocab_size)) as writer:
            for start in range(SPLIT_SEQUENCES):
                writer.add(np.resize(np.roll(known, start), length))
    write_json(directory / DATASET_JSON, {"vocab_size": model.vocab_size, "eos_id": model.eos_token_id})


def first_contact(
    config: RunConfig,
    ranks: Sequence[int],
    progress: Callable[[int, int], None] = lambda done, total: None,
    taken: int = 0,
) -> list[RankContact]:
    """Start these ranks, one after the other, on devices of which another process has `taken` bytes. Calls
    `progress(done, all)` after each."""
    contacts = []
    progress(0, len(ranks))
    for rank in ranks:
        contacts.append(contact(config, rank, taken))
        progress(len(contacts), len(ranks))
    return contacts


def contact(config: RunConfig, rank: int, taken: int = 0) -> RankContact:
    """Start one rank on a device of which `taken` bytes are taken, and compare what it does with the plan."""
    chip, stage = hardware_of(config), config.mesh.coordinates(rank)[0]
    memory, communicators = stage_memory(config, chip)[stage], communicators_of(config, rank)
    with tempfile.TemporaryDirectory(prefix="ms-codegeex-contact-") as folder:
        run = RunDirectory(Path(folder) / "run")
        run.logs.mkdir(parents=True)
        started = contact_config(config, run.path)
        write_config(run, started)
        began = time.monotonic()
        problem = _started(started, run, rank, taken)
        seconds = time.monotonic() - began
        parts = _parts(run, rank, "safetensors")
        saved = sum(x.nbytes for path in parts for x in SafetensorsFile(path).tensors.values())
        log = "".join(path.read_text(errors="replace") for path in run.logs.glob("worker_*.log"))
    first = re.search(rf"^{FIRST_STEP} (.*)$", log, re.MULTILINE)
    met = RankContact(
        rank=rank,
        stage=stage,
        driver=_driver_name(chip),
        seconds=seconds,
        groups=len(set(GROUP.findall(log))) + (config.devices > 1),
        planned_groups=len(communicators),
        memory_bytes=parse_json(first[1])["memory_bytes"] if first else None,
        planned_bytes=memory.total - memory.communication,
        saved_bytes=None if problem else saved,
        planned_saved_bytes=checkpoint_bytes(config, rank),
        problem=problem,
    )
    limit = memory_limit(config, chip.memory - taken) - memory.communication
    return met if problem else replace(met, problem=_mismatch(met, limit))


def _driver_name(chip: Chip) -> str:
    return DRIVER_NAMES.get(chip.name, chip.name)


def _mismatch(met: RankContact, limit: int) -> str | None:
    """How a rank that trains differs from the plan, or None. `limit`: bytes of device memory for tensors."""
    if met.saved_bytes != met.planned_saved_bytes:
        layouts = f"the plan's layouts say {met.planned_saved_bytes:,}"
        return f"its part of a checkpoint has {met.saved_bytes:,} bytes, {layouts}"
    if (met.memory_bytes or 0) > limit:
        needed = f"its tensors take {met.memory_bytes / GIB:.2f} GiB in the engine's pool of device memory"
        return f"{needed}, which has {limit / GIB:.2f} beside communicators' buffers; see `ms-codegeex plan --search`"
    return None


def node_of(config: RunConfig, rank: int) -> Node:
    """The server that has this rank, in a job on as many full servers as are needed."""
    local = min(config.devices, config.parallel.server_devices)
    count = config.devices // local
    return resolve_node(config, node_rank=rank // local, nodes=count, master=UNASKED_MASTER if count > 1 else None)


def _started(config: RunConfig, run: RunDirectory, rank: int, taken: int) -> str | None:
    with ExitStack() as stack:
        node = node_of(config, rank)
        port = stack.enter_context(reserved_port()) if node.needs_port else None
        specs = node_processes(config, node, run, worker_command(config, run, str(os.getpid())), port)
        workers = stack.enter_context(Workers([_on_the_idle_device(config, spec, node, rank, taken) for spec in specs]))
        while not any(workers.poll()) and not _saved(run, rank):
            time.sleep(POLL_SECONDS)
        if _saved(run, rank):
            return None
        if run.error.is_file():
            return str(left_error(run))
        return workers.failure()


def _on_the_idle_device(config: RunConfig, spec: WorkerSpec, node: Node, rank: int, taken: int) -> WorkerSpec:
    """The same process, which finds the stub libraries. msrun numbers devices itself, and would start all ranks of a
    server without the number of the one to simulate. It names that one's log by the server."""
    chip = hardware_of(config)
    environment = {
        **spec.environment,
        **cann_stubs.loader_environment(),
        **cann_stubs.device_environment(_driver_name(chip), chip.memory, config.parallel.server_devices, taken),
        "GLOG_v": "2",  # MindSpore warns of each communicator that it makes
        "MS_SIMULATION_LEVEL": LEVEL,
        "RANK_ID": str(rank),
        "RANK_SIZE": str(config.devices),
        "PYTHONPATH": os.pathsep.join([spec.environment["PYTHONPATH"], str(cann_stubs.stub_folder() / "python")]),
    }
    return replace(spec, environment=environment, worker_logs=(spec.log.with_name(f"worker_{node.rank}.log"),))


def _parts(run: RunDirectory, rank: int, ending: str) -> list[Path]:
    return [path for path in run.checkpoints.rglob(f"rank_{rank:05d}.{ending}") if path.is_file()]


def _saved(run: RunDirectory, rank: int) -> bool:
    if rank:
        return bool(_parts(run, rank, "json"))
    try:
        return any(SafetensorsFile(path).tensors for path in _parts(run, 0, "safetensors"))
    except UserError:  # not complete
        return False


def text(config: RunConfig, contacts: Sequence[RankContact]) -> str:
    """A table of the ranks, and a verdict."""
    header, rows = ("rank", "stage", "seconds", "groups", "planned", "memory", "planned", "checkpoint", "planned"), []
    for x in contacts:
        memory = "-" if x.memory_bytes is None else f"{x.memory_bytes / GIB:.2f} GiB"
        saved = "-" if x.saved_bytes is None else f"{x.saved_bytes / 1e6:,.1f} MB"
        rows.append(
            (
                *(f"{x.rank:,}", str(x.stage), f"{x.seconds:.0f}", str(x.groups), str(x.planned_groups), memory),
                *(f"{x.planned_bytes / GIB:.2f} GiB", saved, f"{x.planned_saved_bytes / 1e6:,.1f} MB"),
            )
        )
    failed = [x for x in contacts if x.problem]
    lines = [
        f"first contact with {contacts[0].driver}: {len(contacts)} of {config.devices:,} ranks, as started by msrun on "
        "MindSpore's Ascend plugin, whose device computes nothing",
        table(header, rows),
        *(f"rank {x.rank} would not train: {x.problem}" for x in failed),
        "verdict: " + ("a rank would not start or train" if failed else "these ranks would start and train"),
    ]
    return "\n".join(lines)


def to_json(contacts: Sequence[RankContact]) -> list[dict[str, Any]]:
    return [asdict(x) for x in contacts]
