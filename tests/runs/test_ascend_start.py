"""A worker's start on MindSpore's own Ascend plugin, nothing patched: stub CANN libraries answer for eight devices.

Everything until the first graph is the real thing: the signatures of the engine's functions, what the plugin accepts,
and how ranks meet. The libraries compute nothing, so no step is taken.
"""

import json
import os
import re
from dataclasses import replace

import pytest
from conftest import ROOT
from run_processes import wait_for

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.rehearsal import cann_stubs
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.runs.memory_check import check_ascend
from ms_codegeex.runs.servers.node import node_processes, resolve_node
from ms_codegeex.runs.servers.rank_table import make_rank_table, write_rank_table
from ms_codegeex.runs.servers.supervision import reserved_port, worker_command
from ms_codegeex.runs.servers.workers import Workers

START = """
import json, sys
from ms_codegeex.config.loading import load_config
from ms_codegeex.runs.rank import joining
from ms_codegeex.training.progress import used_memory
config, rank, _ = joining.join(load_config(None, sys.argv[1:]))
import mindspore as ms
peak = joining.matmul_peak(config)
found = [config.parallel.hardware, rank, *ms.get_current_device(), peak, used_memory("ascend")]
print("STARTED", json.dumps(found), flush=True)
"""
STAY = "import signal; signal.pause()"  # until the others have met it, too: the stubs may crash at its exit
STRESSED = """
import json, os, sys
from pathlib import Path
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.runs.rank import joining
from ms_codegeex.runs.files.records import read_events
from ms_codegeex.runs.files.run_directory import RunDirectory
from ms_codegeex.training.progress import used_memory
config, rank, _ = joining.join(load_config(None, sys.argv[1:]))
run, found = RunDirectory(Path.cwd()), []
cores, links = "AmlAicoreDetectOnline", "AmlP2PDetectOnline"
for function, code in (cores, "0"), (cores, "574006"), (cores, "1"), (links, "574006"):  # CANN's: a bit is wrong
    os.environ[function] = code
    try:
        joining.stress_check(config, run, rank)
        found.append("passed" if used_memory("ascend") == 0 else "memory")
    except (RunFailure, UserError) as error:
        found.append(f"{type(error).__name__}: {error}")
    os.environ.pop(function)
from unittest.mock import create_autospec
from mindspore import tools
missing = RuntimeError("Aml is not found\\nin C++")  # as with a CANN without this function, which a stub library has
tools.stress_detect = create_autospec(tools.stress_detect, side_effect=missing)
try:
    joining.stress_check(config, run, rank)
except UserError as error:
    found.append(str(error))
from mindspore._c_expression import get_silent_detect_config, is_silent_detect_enable
watched = [is_silent_detect_enable(), get_silent_detect_config("strikes_num")]
events = [event.get("passed") for event in read_events(run.events)]
print("STARTED", json.dumps([rank, watched, found, events]), flush=True)
"""
PROFILED = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from mindspore import profiler
from ms_codegeex.config.loading import load_config
from ms_codegeex.runs.rank import joining
from ms_codegeex.runs.rank.profiling import Profile

class Trainer:
    "What the callback uses of a trainer; tests/runs/rank/test_profiling.py has the real one."
    progress, heard = SimpleNamespace(step=0), []
    def status(self, text): pass
    def event(self, event, **content): self.heard.append(content)
    def warn(self, text): self.heard.append(text)

config, rank, _ = joining.join(load_config(None, sys.argv[1:]))
trainer, markers = Trainer(), []
profile = Profile(config, Path.cwd() / "profile" / "rank_0", rank, float)
for step in 1, 2, 3:
    trainer.progress.step = step - 1
    profile.begin(trainer)
    markers.append((profile.marker, profile.profiler and profile.profiler.step_num))
    trainer.progress.step = step
    profile.step(trainer, SimpleNamespace(step=step))
profile.leave(trainer)
(log,) = Path.cwd().glob("profile/rank_0/*_ascend_ms/logs/profiler_*.log")
print("STARTED", json.dumps([markers, trainer.heard, log.read_text()]), flush=True)
"""
CHOSEN = """
from ms_codegeex.generation.targets import use_device
use_device("ascend")
import mindspore as ms
print("CHOSEN", *ms.get_current_device(), flush=True)
"""
# Importing the engine takes most of the time of a start, so programs that need one device are forked from one process.
# Those of several ranks import it themselves.
FORKED = """
import json, os, sys, traceback
import mindspore
for program, words in json.loads(sys.argv[1]):
    print("PROGRAM", flush=True)
    if not (process := os.fork()):
        sys.argv[1:] = words
        try:
            exec(program, {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.waitpid(process, 0)
"""
RUN = ("model.preset=tiny", "training.steps=1", "training.dropout=0", "training.precision=fp16", "device=ascend")
PEAK = 400e12  # of a 910B1 in FP16


@pytest.fixture(scope="module")
def plugin():
    """New processes find the stub libraries."""
    try:
        libraries = cann_stubs.loader_environment()
    except UserError as error:
        pytest.skip(str(error))
    del libraries["MS_SIMULATION_LEVEL"]  # the devices are to be there, not simulated
    paths = (str(ROOT), str(cann_stubs.stub_folder() / "python"), os.environ.get("PYTHONPATH"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in libraries.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield


def has_started(log) -> bool:
    return log.is_file() and re.search(r"^STARTED .*\n", log.read_text(), re.MULTILINE) is not None


def start(directory, *overrides, table=None, words=("-c", START + STAY), until=has_started):
    """Start the processes of this server as `train` would, with `words` in place of the worker, by default what a
    worker does first; returns the output of each rank when it has ended or `until` holds for its log."""
    config = load_config(None, [*RUN, *overrides])
    node = resolve_node(config, table)
    with reserved_port() as port:
        run = RunDirectory(directory)
        specs = node_processes(config, node, run, worker_command(config, run, "1"), port)
        workers = [_with(spec, *words, *RUN, *overrides) for spec in specs]
        logs = [log for spec in specs for log in spec.worker_logs]
        with Workers(workers) as group:
            wait_for(lambda: any(group.poll()) or all(map(until, logs)))
    return [log.read_text() for log in logs]


@pytest.fixture(scope="module")
def alone(plugin, tmp_path_factory):
    """The output of each program that needs one device, by name."""
    words = [*RUN, "devices=1"]
    programs = {
        "a model": (CHOSEN, []),
        "other hardware": (START, [*words, "parallel.hardware=ascend910"]),
        "a worker": (START, words),
        "hidden": (f"import os; os.environ['MS_ASCEND_CHECK_OVERFLOW_MODE'] = 'SATURATION_MODE'{START}", words),
        "stress": (STRESSED, [*words, "cluster.stress_check=all"]),
        "profile": (PROFILED, [*words, "training.steps=3", "profile.steps=2..3", "profile.memory=true"]),
    }
    forked = ("-c", FORKED, json.dumps(list(programs.values())))
    (output,) = start(tmp_path_factory.mktemp("alone"), "devices=1", words=forked, until=lambda log: False)
    _, *outputs = re.split(r"^PROGRAM\n", output, flags=re.MULTILINE)
    assert len(outputs) == len(programs), output
    return dict(zip(programs, outputs, strict=True))


def _with(spec, *words):
    """The process with another program for Python."""
    return replace(spec, command=(*spec.command[: spec.command.index("-m")], *words))


def started(output: str) -> list:
    """What a worker has found; fails with its output if it did not start."""
    lines = [line for line in output.splitlines() if line.startswith("STARTED ")]
    assert lines, output
    return json.loads(lines[-1].removeprefix("STARTED "))


def test_the_command_finds_that_the_plugin_loads(plugin):
    check_ascend(load_config(None, [*RUN, "devices=1"]))


def test_a_model_is_put_onto_the_device(alone):
    assert "CHOSEN Ascend 0\n" in alone["a model"], alone


def test_one_device(alone):
    assert started(alone["a worker"]) == ["Ascend910B1", 0, "Ascend", 0, PEAK, 0]


def test_hardware_that_the_driver_contradicts_is_refused(alone):
    assert "the driver says Ascend910B1, which is ascend910b" in alone["other hardware"]
    assert "STARTED" not in alone["other hardware"]


def test_overflows_that_the_environment_hides_are_refused(alone):
    assert "MS_ASCEND_CHECK_OVERFLOW_MODE=SATURATION_MODE: hides overflows" in alone["hidden"]


def test_stress_of_one_device(alone):
    rank, watched, found, events = started(alone["stress"])
    assert rank == 0 and not watched[0] and events == [["arithmetic"], ["arithmetic"]], found
    assert found[0] == found[3] == "passed"  # there are no links
    fault = r"RunFailure: device 0 of .* \(rank 0\): the stress test found a fault in its arithmetic;"
    assert re.match(fault, found[1])
    assert re.match(r"UserError: cluster.stress_check: all, but the test of arithmetic could not be done on", found[2])
    assert "Aml is not found" in found[4] and "C++" not in found[4]


def test_profile(alone):
    """Up to CANN's own files, which a stub does not write."""
    markers, heard, log = started(alone["profile"])
    assert markers[0] == [0, None] and 0 < markers[1][0] < markers[2][0]
    assert [number for _, number in markers[1:]] == [0, 1]  # of the profiler's own marks
    assert heard[0]["steps"] == "2..3" and heard[0]["without_result"] == 1 and "found no result" in heard[1]
    assert len(heard) == 2
    for words in ('"mstx": true', '"npu_trace": true', '"profile_memory": true', "Profiler start.", "Profiler stop."):
        assert words in log


@pytest.mark.slow
def test_stress_of_links(plugin, tmp_path):
    """MindSpore also reads the variables of the silent check."""
    words = ("cluster.stress_check=all", "cluster.silent_check=true", "training.precision=bf16")
    for number, output in enumerate(start(tmp_path, "devices=2", *words, words=("-c", STRESSED + STAY))):
        rank, watched, found, events = started(output)
        assert rank == number and found[0] == "passed" and watched == [True, 3]
        assert f"device {rank} of" in found[1] and "a fault in its arithmetic" in found[1]
        assert f"(rank {rank}): the stress test found a fault in its links" in found[3]
        assert rank or events == [["arithmetic", "links to the other devices of its server"]]


@pytest.mark.parametrize("devices", [None, pytest.param((4, 6), marks=pytest.mark.slow)], ids=["msrun", "rank table"])
def test_ranks_meet_and_each_has_its_device(plugin, tmp_path, monkeypatch, devices):
    table = None
    if devices:
        table = tmp_path / "table.json"
        monkeypatch.setenv("RANK_TABLE_FILE", str(table))  # which the engine must not see
        write_rank_table(table, make_rank_table([("10.0.0.11", {d: f"192.168.100.{d}" for d in devices})]))
    found = [started(output) for output in start(tmp_path, "devices=2", table=table)]
    assert found == [["Ascend910B1", rank, "Ascend", (devices or range(2))[rank], PEAK, 0] for rank in range(2)]


GROUP = """
from ms_codegeex.config.loading import load_config
from ms_codegeex.runs.rank import joining
import mindspore
from unittest.mock import create_autospec
limit = mindspore.runtime.set_memory
mindspore.runtime.set_memory = create_autospec(limit, side_effect=limit)  # watched, and called
joining.join(load_config(None, sys.argv[1:]))
print("MEMORY", json.dumps(mindspore.runtime.set_memory.call_args.kwargs), flush=True)
from mindspore.communication import create_group
create_group("both", [0, 1])
print("STARTED []", flush=True)
"""
LARGER = ("devices=2", "model.hidden_size=512")  # the FP32 gradient of its word table has 102 MiB


@pytest.mark.slow
@pytest.mark.parametrize("own, size", [(None, 102), ("33", 33)], ids=str)
def test_communicators_are_made_with_the_planned_buffers(plugin, tmp_path, monkeypatch, own, size):
    """What `planning/communicators.py` says MindSpore's own plugin does with the two variables."""
    monkeypatch.setenv("GLOG_v", "2")  # the plugin then says with which buffers it makes a communicator
    if own:
        monkeypatch.setenv("HCCL_BUFFSIZE", own)
    words = ("-c", "import json, sys" + GROUP + STAY)
    output, _ = start(tmp_path, *LARGER, words=words)
    assert 'MEMORY {"max_size": "58GB", "increase_size": "0.125GB"}' in output  # small blocks for each stream
    assert 52224 * 512 * 4 / 2**20 == 102
    found = re.findall(r"RootInfoConfig for (\S+), hcclBufferSize is (\d+) MB", output)
    assert ("both", str(size)) in found and {x for _, x in found} == {str(size)}, output
