"""`train --first-run`: the kernels of a device, then ten steps on one device, on one server and on several. It ends at
the first rung that fails, and writes `first_run.json`, which a team can send back: versions, kernels, losses, times and
memory, but no data, path, address, host or user."""

from __future__ import annotations

import getpass
import math
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ms_codegeex import __version__
from ms_codegeex.base.errors import RunFailure, UserError, first_line
from ms_codegeex.base.files import write_json
from ms_codegeex.base.hardware import GIB
from ms_codegeex.base.host import available_cores
from ms_codegeex.base.printing import print_error, print_result, table
from ms_codegeex.base.processes import import_variables
from ms_codegeex.base.reading import read_json
from ms_codegeex.config import RunConfig
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.values import merged, parse_overrides
from ms_codegeex.extras.cluster.first_run.operators import is_ascend_server, try_operators
from ms_codegeex.extras.cluster.rehearsal.first_contact import synthetic_run
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.files.stopping import left_error

STEPS, BLOCKS = 10, 2
REPORT = "first_run.json"
PASSED, FAILED, LEFT = "passed", "failed", "not run"
MARKS = {PASSED: "ok", FAILED: "NO", LEFT: "-"}
ASCEND = Path(os.environ.get("ASCEND_HOME_PATH", "/usr/local/Ascend/ascend-toolkit/latest"))
VERSIONS = {  # where CANN and the driver say which they are
    "cann": [ASCEND / f"{platform.machine()}-linux" / "ascend_toolkit_install.info", ASCEND / "version.cfg"],
    "driver": [Path("/usr/local/Ascend/driver/version.info")],
}
PRIVATE = (  # besides the names of this host and user
    (re.compile(r"(?<![\w/])(?!/usr/local/Ascend)~?(?:/[\w.+@%~-]+)+/?"), "(path)"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\b(?:[0-9a-fA-F]{1,4}:){4,}[0-9a-fA-F]{0,4}\b"), "(address)"),
)


@dataclass(frozen=True)
class Rung:
    """What one rung has shown. `problem`: why it failed, or what it needs to run. Seconds are those of a step after the
    first, whose are `compile_seconds`; `memory_bytes`: of the fullest device."""

    name: str
    state: str
    problem: str = ""
    devices: int = 0
    settings: tuple[str, ...] = ()
    losses: tuple[float | None, ...] = ()
    skipped: int = 0
    compile_seconds: float | None = None
    step_seconds: float | None = None
    memory_bytes: int | None = None

    @property
    def line(self) -> str:
        """What a person reads of it."""
        if self.state != PASSED:
            return self.problem
        if not self.losses:
            return self.problem or "all compute correctly"
        memory = f", {self.memory_bytes / GIB:.1f} GiB" if self.memory_bytes else ""
        times = f"{self.compile_seconds or 0:.0f} s for the first step, {self.step_seconds or 0:.2f} s for others"
        return f"loss {self.losses[0]:.3f} to {self.losses[-1]:.3f}, {times}{memory}, {self.skipped} skipped"


def first_run(config: RunConfig, name: str, servers: Sequence[str], nodes: int, node_rank: int, as_json: bool) -> int:
    """Climb, print and write the report; the exit status is 0 if no rung failed. `name`: of the configuration.
    `servers`: the words of the command line that say which servers there are, `nodes` how many, `node_rank` which one
    this is; with several, only the rung of several servers is run."""
    folder = Path(f"{config.output}-first-run").absolute()
    if config.device == "ascend" and not is_ascend_server():
        raise UserError("--first-run: device is ascend, but no driver of one is here; add device=cpu to try it here")
    if nodes > 1:
        if not (folder / REPORT).is_file():
            wrong = f"{folder} has no report of the rungs on one server"
            raise UserError(f"--first-run: {wrong}; climb these first, on one server, without --nodes and --rank-table")
        rungs = [_run(config, folder / "servers", _servers_name(nodes), nodes * _local(config), (), servers)]
        if node_rank:
            return 1 if rungs[0].state == FAILED else 0
        before = read_json(folder / REPORT)
        earlier = [x for x in before["rungs"] if x["name"] != rungs[0].name]
        report = {**before, **_about(config, name), "rungs": [*earlier, asdict(rungs[0])]}
    else:
        if folder.exists():
            raise UserError(f"output: {folder} is there; give another one, such as output={config.output}-2")
        tried, rungs = _kernels(config), []
        for rung in _rungs(config, folder, tried[0]):
            rungs.append(rung)
            print_error(f"first run: {MARKS[rung.state]} {rung.name}: {rung.line}")
        report = {**_about(config, name), "kernels": tried[1], "rungs": [asdict(rung) for rung in rungs]}
    report = scrubbed(report)
    write_json(folder / REPORT, report)
    rows = [(MARKS[rung.state], rung.name, rung.line) for rung in rungs]
    text = f"{table(('', 'rung', 'what it showed'), rows, 3)}\n\nto send back: {folder / REPORT}"
    print_result(report, text, as_json)
    return 1 if any(rung.state == FAILED for rung in rungs) else 0


def _rungs(config: RunConfig, folder: Path, kernels: Rung) -> Iterator[Rung]:
    local = _local(config)
    plain, server = ("training.dropout=0", "parallel.fusion.graph_kernel=false"), "one server"
    alone = Rung(server, LEFT, "needs a server with several devices")
    climbed = [
        lambda: kernels,
        lambda: _run(config, folder / "device-plain", "one device, O0, without dropout", 1, plain),
        lambda: _run(config, folder / "device", "one device, as configured (O1 on Ascend)", 1),
        lambda: _run(config, folder / "server", server, local) if local > 1 else alone,
    ]
    for climb in climbed:
        rung = climb()
        yield rung
        if rung.state == FAILED and rung is not kernels:  # the run may not have the kernel
            return
    more = "--nodes 2 --node-rank K --master-addr HOST:PORT, or --rank-table FILE"
    where = "" if config.device == "ascend" else " of Ascends"
    yield Rung(_servers_name(2), LEFT, f"needs two servers{where}: the same command with {more} on each")


def _servers_name(nodes: int) -> str:
    return f"{ {2: 'two'}.get(nodes, nodes) } servers"


def _local(config: RunConfig) -> int:
    if config.device == "cpu":
        return min(2, available_cores())
    return min(config.parallel.server_devices, len(list(Path("/dev").glob("davinci[0-9]*"))) or 1)


def _kernels(config: RunConfig) -> tuple[Rung, dict[str, Any]]:
    name = "kernels against NumPy"
    try:
        tried = try_operators(config, config.device, rehearse=False)
    except RunFailure as error:
        return Rung(name, FAILED, scrub(str(error))), {}
    wrong = "; ".join(f"{x.probe}: {x.problem} (avoid: {x.key})" for x in tried.failed)
    found = {x.probe: {"kinds": x.kinds, "problem": x.problem, "seconds": x.seconds} for x in tried.trials}
    state = FAILED if wrong else PASSED
    return Rung(name, state, wrong or f"{len(found)} computed, on {tried.device}"), {tried.device: found}


def rung_config(config: RunConfig, devices: int, settings: Sequence[str] = ()) -> RunConfig:
    """The run with two blocks on a flat mesh of this many devices, ten steps from a small loss scale. `settings`:
    overrides on top."""
    values = config.to_dict()
    tensor = config.parallel.tensor if devices > 1 and devices % config.parallel.tensor == 0 else 1
    shard = devices // tensor if config.parallel.optimizer_shard > 1 else 1
    micro = min(config.micro_batch, 8)
    rate = values["training"]["schedule"]["learning_rate"]
    values.update(devices=devices, profile={}, lora={"rank": 0})
    values["model"]["num_layers"] = min(config.model.sizes.num_layers, BLOCKS)
    values["training"].update(
        global_batch=micro * (devices // tensor),
        micro_batch=micro,
        recompute_blocks=None,
        evaluate_every=0,
        patience=0,
        schedule={"learning_rate": rate, "end_learning_rate": rate, "warmup_steps": 0},
    )
    values["training"]["optimizer"]["name"] = "adamw"  # Muon is for one device
    if config.training.precision == "fp16":  # steps that are skipped show nothing
        values["training"]["loss_scale"]["initial"] = 2.0**14
    parallel = values["parallel"]
    parallel.update(data=devices // tensor, tensor=tensor, pipeline=1, optimizer_shard=shard, stage_layers=None)
    parallel.update(virtual_stages=1, micro_batches=None, graph_micro_batches=None)
    parallel["optimizer_level"] = config.parallel.optimizer_level if shard > 1 else 1
    parallel["sequence"] = config.parallel.sequence and tensor > 1
    parallel["overlap"] = parallel["overlap"] if tensor > 1 else {}
    parallel["short_gradients"] = config.parallel.short_gradients and devices > 1 and config.device != "cpu"
    return build_run_config(merged(values, parse_overrides(settings)))


def _run(
    config: RunConfig,
    folder: Path,
    name: str,
    devices: int,
    settings: tuple[str, ...] = (),
    servers: Sequence[str] = (),
) -> Rung:
    run = RunDirectory(folder)
    small = synthetic_run(rung_config(config, devices, settings), folder, folder.parent / "data", STEPS)
    plan = RunDirectory(folder.parent / f"{folder.name}-settings")
    if not servers or not plan.config.exists():  # the servers of one run write the same
        plan.path.mkdir(parents=True, exist_ok=True)
        write_config(plan, small)
    log = plan.path / f"output-{os.getpid()}.log"
    print_error(f"first run: {name} ({devices} device{'s' * (devices > 1)}); its output is in {log}")
    variables = {**os.environ, **import_variables()}
    if not servers:
        variables.pop("RANK_TABLE_FILE", None)  # of the whole job
    command = (sys.executable, "-m", "ms_codegeex.cli", "train", "--config", str(plan.config), *servers)
    with open(log, "wb") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        status = subprocess.run(command, env=variables, **streams).returncode
    lines = read_log(run.log) if run.log.exists() else []
    losses = tuple(line["loss"] for line in lines)
    later = sorted(line["step_seconds"] for line in lines[1:] if line["step_seconds"])
    memory = [line["memory_bytes"] for line in lines if line["memory_bytes"]]
    problem = _why(run, log, status) if status else _wrong(losses)
    return Rung(
        name,
        FAILED if problem else PASSED,
        scrub(problem),
        devices,
        settings,
        losses,
        sum(line["skipped"] for line in lines),
        lines[0]["step_seconds"] if lines else None,
        later[len(later) // 2] if later else None,
        max(memory, default=None),
    )


def _why(run: RunDirectory, log: Path, status: int) -> str:
    with suppress(OSError, UserError, KeyError, StopIteration):
        return first_line(left_error(run))
    words = log.read_text(errors="replace").strip().splitlines()
    return words[-1] if words else f"ended with status {status}"


def _wrong(losses: Sequence[float | None]) -> str:
    if len(losses) != STEPS:
        return f"{len(losses)} of {STEPS} steps were logged"
    if any(loss is None or not math.isfinite(loss) for loss in losses):
        return "a loss is not finite"
    return "" if losses[-1] < losses[0] else f"the loss does not fall: {losses[0]:.4f} to {losses[-1]:.4f}"


def _about(config: RunConfig, name: str) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"ms_codegeex": __version__, "python": platform.python_version(), "machine": platform.machine()}
    versions["libc"] = " ".join(platform.libc_ver())
    for package in ("mindspore", "numpy"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    for part, places in VERSIONS.items():
        found = next((place.read_text(errors="replace") for place in places if place.is_file()), "")
        if match := re.search(r"(?:^|_)version\s*[=:]\s*\[?([\w.+-]+)", found, re.IGNORECASE | re.MULTILINE):
            versions[part] = match[1]
    sizes = config.model.sizes
    shape = {"hidden_size": sizes.hidden_size, "num_heads": sizes.num_heads, "vocab_size": sizes.vocab_size}
    precision, hardware = config.training.precision, config.parallel.hardware
    about = {"configuration": name, "family": config.family, **shape, "precision": precision, "hardware": hardware}
    return {"versions": versions, "run": about}


def scrub(text: str) -> str:
    """A text without paths, addresses, and the names of this host and user."""
    names = {platform.node(), socket.gethostname(), platform.node().partition(".")[0]}
    with suppress(OSError, KeyError):
        names.add(getpass.getuser())
    for pattern, stand_in in PRIVATE:
        text = pattern.sub(stand_in, text)
    for name in sorted(filter(None, names - {"root", "localhost"}), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "(name)", text)
    return text


def scrubbed(value: Any) -> Any:
    """The same with every text in a JSON value, except keys."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {key: scrubbed(one) for key, one in value.items()}
    return [scrubbed(one) for one in value] if isinstance(value, list | tuple) else value
