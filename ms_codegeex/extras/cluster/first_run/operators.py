"""Which kernels of a run's graph a device computes correctly: the parent of `probe_program.py`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.processes import import_variables
from ms_codegeex.config import RunConfig
from ms_codegeex.config.chosen_hardware import aclnn_kernels, chosen_kernels, running_on
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.first_run.probe_program import TrialSettings

PROGRAM = "ms_codegeex.extras.cluster.first_run.probe_program"
PROBE_SECONDS = 300  # for the slowest: CANN compiles a kernel of its library on first use
NPU_SIGNS = (Path("/usr/local/Ascend/driver/version.info"), Path("/dev/davinci_manager"))
# Kinds that need other ranks, or that launch nothing.
COLLECTIVES = {"AllReduce", "AllGather", "ReduceScatter", "Broadcast", "Send", "Receive", "AlltoAll", "Barrier"}
VIEWS = {"Reshape", "ExpandDims", "Squeeze", "StreamSend", "StreamRecv", "Depend", "TupleGetItem", "MakeTuple"}


@dataclass(frozen=True)
class Trial:
    """A probe. `problem`: what is wrong, empty if nothing is, None if this device has no such kernel. `key`: the
    override that avoids its kernels."""

    probe: str
    kinds: tuple[str, ...]
    key: str
    problem: str | None
    seconds: float = 0.0


@dataclass(frozen=True)
class Tried:
    """The trials on a device. `libraries`: the kinds of the run's graph with the library of each, by a rehearsal; empty
    without one. `unknown`: why there is none. `untried`: kinds of the graph that no probe has."""

    device: str
    mindspore: str
    trials: tuple[Trial, ...]
    libraries: dict[str, str]
    unknown: str
    untried: tuple[str, ...]

    @property
    def failed(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.problem]


def is_ascend_server() -> bool:
    return any(sign.exists() for sign in NPU_SIGNS)


def graph_libraries(config: RunConfig) -> dict[str, str]:
    """The kinds of kernels that Ascend's back end chooses for a run's graph, with the library of each."""
    from ms_codegeex.extras.cluster.rehearsal.backend import backend_kernels
    from ms_codegeex.extras.cluster.rehearsal.compile import compiled_config, inlined_config

    small = compiled_config(config)
    few = inlined_config(small)
    return {kernel.op: kernel.library for kernel in backend_kernels(few or small, 0, inline=few is not None)}


def try_operators(config: RunConfig, device: str, rehearse: bool = True) -> Tried:
    """Try the kernels of this run's graph on `device` (ascend or cpu); all that are known if there is no rehearsal."""
    libraries: dict[str, str] = {}
    unknown = "no configuration was named"
    if rehearse:
        try:
            libraries, unknown = graph_libraries(replace(config, device="ascend")), ""
        except (RunFailure, UserError) as error:
            unknown = f"the rehearsal failed: {error}"
    on_device = replace(config, device=device)
    settings = TrialSettings(
        device=device,
        precision=config.training.precision,
        saturates=device == "ascend" and running_on(on_device).saturates,
        kernels=sorted(chosen_kernels(on_device) | aclnn_kernels(on_device, on_device.partitioned)),
        kinds=sorted(libraries) or None,
        without=[],
    )
    about, trials = _trials(settings)
    known = {kind for trial in trials for kind in trial.kinds} | COLLECTIVES | VIEWS
    untried = tuple(sorted(set(libraries) - known))
    return Tried(about["device"], about["mindspore"], tuple(trials), libraries, unknown, untried)


def _trials(settings: TrialSettings) -> tuple[dict[str, str], list[Trial]]:
    about: dict[str, str] = {}
    trials: list[Trial] = []
    while True:
        done = [trial.probe for trial in trials]
        lines, ended = _process(replace(settings, without=done))
        about = next((line for line in lines if "mindspore" in line), about)
        trials += [_trial(line) for line in lines if "problem" in line]
        begun = next((x for x in reversed(lines) if x.get("begins")), None)
        if not about:
            wrong = f"{settings.device}: MindSpore cannot use it ({ended})"
            raise RunFailure(f"{wrong}; `ms-codegeex doctor` says what is missing")
        if begun is None or begun["probe"] in {trial.probe for trial in trials}:
            if ended:
                raise RunFailure(f"the trials of kernels ended between two of them: {ended}")
            return about, trials
        trials.append(_trial({**begun, "problem": ended or "its process ended"}))


def _trial(line: dict[str, Any]) -> Trial:
    return Trial(line["probe"], tuple(line["kinds"]), line["key"], line["problem"], line.get("seconds", 0.0))


def _process(settings: TrialSettings) -> tuple[list[dict[str, Any]], str]:
    variables = {**os.environ, **import_variables(), "GLOG_v": "3"}
    command = (sys.executable, "-m", PROGRAM, json.dumps(asdict(settings)))
    how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=variables, **how) as process:
        try:
            output, errors = process.communicate(timeout=PROBE_SECONDS + (600 if settings.device == "ascend" else 300))
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            errors += f"\nno answer for {PROBE_SECONDS} s"
    lines = [parse_json(line) for line in output.splitlines() if line.startswith("{")]
    last = (errors.strip().splitlines() or [f"status {process.returncode}"])[-1]
    return lines, "" if process.returncode == 0 else last


def rows(device: str, name: str | None, overrides: Sequence[str]) -> Iterator[tuple[str, str, str, str, bool]]:
    """For `doctor`: name, what was found, what is wrong, how to avoid it, and whether a run needs it."""
    config = load_config(name or "codegeex_base_8", list(overrides))
    here = "ascend" if device == "ascend" and is_ascend_server() else "cpu"
    tried = try_operators(config, here, rehearse=name is not None)
    where = tried.device if here == device else f"no Ascend here, so these are the kernels of this {tried.device}"
    graph = f"of {name}, {len(tried.libraries)} kinds" if tried.libraries else f"all known kinds ({tried.unknown})"
    yield "device", f"{where}; MindSpore {tried.mindspore}", "", "", False
    yield "graph", graph, "", "", False
    for trial in tried.trials:
        yield (*_row(trial, tried.libraries), True)
    if tried.untried:
        yield "not tried", "", f"{', '.join(tried.untried)}: no test here", "", False


def _row(trial: Trial, libraries: dict[str, str]) -> tuple[str, str, str, str]:
    used = [kind for kind in trial.kinds if not libraries or kind in libraries]
    kinds = ", ".join(f"{kind} ({libraries[kind]})" if libraries.get(kind) else kind for kind in used)
    if trial.problem is None:
        return trial.probe, f"{kinds}: only an Ascend has it", "", ""
    return trial.probe, kinds or "ok", trial.problem and f"{kinds} {trial.problem}".strip(), trial.key
