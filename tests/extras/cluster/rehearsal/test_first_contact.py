"""First contact on MindSpore's Ascend plugin, nothing patched: a run's own launcher and workers, and an idle device."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from ascend_lines import ascend_lines
from conftest import ROOT, command, command_here, write_dataset
from small_models import FIELDS, parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.sections import ScheduleConfig
from ms_codegeex.extras.cluster.rehearsal import cann_stubs, first_contact
from ms_codegeex.extras.cluster.rehearsal.compile import distinct_ranks
from ms_codegeex.extras.cluster.rehearsal.first_contact import contact
from ms_codegeex.extras.cluster.rehearsal.stubs import compilers
from ms_codegeex.planning.communicators import unused_by
from ms_codegeex.runs.servers.rank_table import make_rank_table, write_rank_table
from ms_codegeex.runs.servers.supervision import program_of

pytestmark = pytest.mark.skipif(not compilers(), reason="no C compiler for the stub CANN libraries")

TINY = ("codegeex_tiny_release", "device=ascend", "training.precision=fp16")
SHARDED = ("devices=16", "model.num_layers=1", "parallel.tensor=2", "parallel.optimizer_shard=2")


def rehearsed(*words):
    """The exit status and the JSON of a first contact."""
    result = command("rehearse", "--first-contact", "--json", "--config", *words)
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


@pytest.mark.slow  # a whole start, training and save; tests/runs/test_ascend_start.py starts by default
def test_a_rank_of_a_job_of_several_servers():
    """Micro-batches of a step in the graph, for which the engine once refused the evaluation after it."""
    words = (*SHARDED, "parallel.hardware=ascend910b", "training.global_batch=32", "training.micro_batch=2")
    status, result = rehearsed(*TINY, *words, "--ranks", "3")
    (met,) = result["first_contact"]
    assert (status, result["verdict"], met["problem"]) == (0, "pass", None)
    assert (met["rank"], met["stage"], met["driver"]) == (3, 0, "Ascend910B1")
    assert met["groups"] == 5  # all ranks; tensor; data; optimizer shards; their replicas
    assert met["saved_bytes"] == met["planned_saved_bytes"] > 0
    assert 0 < met["memory_bytes"] < met["planned_bytes"]


def test_the_end_of_a_failed_worker_s_own_log_is_quoted(tmp_path, monkeypatch):
    """Of a rank of the second server, whose log msrun names by the server. A worker that dies without an exception."""
    ends = "import os\nif 'MS_NODE_ID' in os.environ:\n    print('too hot', flush=True)\n    os._exit(3)\n"
    (tmp_path / "sitecustomize.py").write_text(ends)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    config = load_config("codegeex_base_8", ["device=ascend", "devices=16", "model.num_layers=2"])
    problem = contact(config, 8).problem
    assert re.fullmatch(r"last lines of \S+/worker_1.log:\n  too hot", problem), problem


def test_a_run_from_a_model_is_started_without_it(monkeypatch):
    """The stand-in ends before any process; the shipped configurations below meet the real start."""
    stopped = create_autospec(first_contact._started, return_value="stopped")
    monkeypatch.setattr(first_contact, "_started", stopped)
    assert contact(load_config("codegeex2_6b_continued", ["data.train=x"]), 0).problem == "stopped"
    started = stopped.call_args.args[0]
    assert started.model.weights is None and program_of(started) == "ms_codegeex.runs.rank"


@pytest.mark.slow
def test_what_the_chip_cannot_hold_is_not_trained():
    """The pool of device memory is the engine's own."""
    words = ("devices=2", "training.global_batch=512", "training.micro_batch=256", "model.num_layers=1")
    status, result = rehearsed(*TINY, *words, "--ranks", "0")
    (met,) = result["first_contact"]
    assert (status, result["verdict"]) == (1, "fail") and met["planned_bytes"] > 30 << 30
    assert "its tensors take " in met["problem"] and met["memory_bytes"] > 30 << 30, met


@pytest.mark.slow
@pytest.mark.parametrize(
    "part,taken", [("Ascend910B4", []), ("Ascend910B2", ["--taken", "8"])], ids=["32 GB", "8 taken"]
)
def test_a_part_with_less_memory(part, taken):
    """MindSpore refuses a limit that is not below what its driver says is free."""
    words = ("devices=2", "model.num_layers=1", f"parallel.hardware={part}")
    status, result = rehearsed(*TINY, *words, *taken, "--ranks", "1")
    (met,) = result["first_contact"]
    assert (status, met["problem"], met["driver"]) == (0, None, part)


def test_devices_that_are_no_ascend_are_refused():
    for words, message in (
        (("codegeex_tiny_release",), "--first-contact: device is cpu; set device=ascend, whose plugin this starts"),
        ((*TINY, "--compile"), "--compile: belongs to another rehearsal than --first-contact; leave one of the two"),
        ((*TINY, "parallel.hardware=Ascend910B4", "--taken", "31"), "--taken: 31 GiB leave too little of 32"),
    ):
        result = command_here("rehearse", "--first-contact", "--config", *words)
        assert result.returncode == 2 and message in result.stderr


@pytest.mark.slow
def test_a_chip_that_saturates():
    """The register's operators are in the graph, and the plugin takes them; so it does what recomputes there alone."""
    words = ("devices=2", "model.num_layers=1", "parallel.hardware=ascend910", "training.recompute=selective")
    status, result = rehearsed(*TINY, *words, "--ranks", "1")
    (met,) = result["first_contact"]
    assert status == 0 and met["driver"] == "Ascend910A" and met["problem"] is None


# --- every shipped configuration ---


ADAPTERS = "finetune_lora_13b"
RECIPES = sorted(path.stem for path in (ROOT / "configs/recipes").glob("*_910*.yaml"))
OTHERS = [
    *("codegeex2_6b", "codegeex2_6b_continued", "codegeex_13b", "codegeex_13b_64", "codegeex_13b_64_planned"),
    *("codegeex_13b_pipeline", "codegeex_13b_planned", "codegeex_13b_published_steps", "codegeex_2.6b_8"),
    *("codegeex_base_8", "finetune_13b_8", "qwen2_7b", "qwen2_32b"),
    *(f"codegen_{size}_{stage}" for size in ("350m", "2b", "6b", "16b") for stage in ("nl", "multi", "mono")),
]


def is_for_ascends(path: Path) -> bool:
    """Whether a configuration, or one of its stages, runs there."""
    try:
        return load_config(path, ["data.train=x"]).device == "ascend"
    except UserError as error:
        assert "several; choose one" in str(error)  # each has a file of its own
        return False


@pytest.mark.slow  # reads them all
def test_no_configuration_is_left_out():
    files = [path for folder in ("configs", "configs/recipes") for path in (ROOT / folder).glob("*.yaml")]
    assert sorted(path.stem for path in files if is_for_ascends(path)) == sorted([*RECIPES, *OTHERS, ADAPTERS])


def reduced(path: Path):
    """A configuration with as few layers and micro-batches as its mesh allows."""
    config = load_config(path, ["data.train=x"])
    mesh, top = config.mesh, config.model.sizes.attention_layers - config.model.sizes.num_layers
    parts = mesh.pipeline * mesh.virtual_stages
    layers = parts - top if mesh.virtual_stages > 1 else max(2 - top, parts)  # all parts of stages have equally many
    accumulation = min(config.accumulation, max(2, mesh.pipeline * min(2, mesh.virtual_stages)))
    batch = accumulation * config.micro_batch * mesh.data
    model = replace(config.model, sizes=replace(config.model.sizes, num_layers=layers))
    training = replace(config.training, global_batch=batch, micro_batch=config.micro_batch, recompute_blocks=None)
    parallel = replace(config.parallel, stage_layers=None, micro_batches=None, graph_micro_batches=None)
    return replace(config, model=model, training=training, parallel=parallel)


MET = {}  # what each reduced configuration met; several files are equal then


def graphs_of(config) -> str:
    """What decides the graphs of a run."""
    training = replace(config.training, steps=1, tokens=None, schedule=ScheduleConfig())
    same = dict.fromkeys(("output", "stage", "seed", "data", "checkpoint"), "")
    same |= {"model": config.model.sizes, "training": training}
    return repr({field.name: same.get(field.name, getattr(config, field.name)) for field in fields(config)})


@pytest.mark.slow  # the engine's back end compiles a graph of each
@pytest.mark.parametrize("name", [*OTHERS, *(f"recipes/{name}" for name in RECIPES)])
def test_every_shipped_configuration_starts_and_trains(name):
    config = reduced(ROOT / f"configs/{name}.yaml")
    key = graphs_of(config)
    if key not in MET:
        MET[key] = contact(config, distinct_ranks(config.mesh)[-1])
    met = MET[key]
    assert met.problem is None, met.problem
    assert met.saved_bytes == met.planned_saved_bytes and met.memory_bytes < met.planned_bytes
    # the last stage may lack the group that the engine makes and does not use
    unused = bool(unused_by(config.mesh, met.rank))
    assert met.planned_groups - unused <= met.groups <= met.planned_groups


@pytest.mark.slow  # as those above
def test_adapters_start_on_their_model(tmp_path):
    sizes = [f"model.{key}={value}" for key, value in FIELDS["codegeex"].items()]
    sizes.append(f"data.seq_length={FIELDS['codegeex']['max_position_embeddings']}")
    with pytest.raises(UserError, match=r"^--first-contact: adapters start on a model; give model.weights=DIR"):
        contact(load_config(ADAPTERS, ["data.train=x", *sizes]), 0)
    model = save_run(tmp_path / "model", "codegeex", parameters("codegeex"))
    met = contact(load_config(ADAPTERS, ["data.train=x", f"model.weights={model}", *sizes]), 0)
    assert met.problem is None and met.saved_bytes == met.planned_saved_bytes > 0, met.problem


@pytest.mark.slow  # forty layers at full width
def test_the_paper_s_run_in_full():
    """It fits only because each mask of dropout is computed again with its block (`models/layers.py`): kept, the masks
    of a layer take 1.1 GiB."""
    met = contact(load_config("codegeex_13b"), 1535)
    assert met.problem is None and met.groups == met.planned_groups, met
    assert 0 < met.memory_bytes < met.planned_bytes


# --- whole runs ---


@pytest.fixture
def ascends():
    """Variables with which new processes find two idle Ascends, and no simulation."""
    found = {**cann_stubs.loader_environment(), **cann_stubs.device_environment(count=2)}
    del found["MS_SIMULATION_LEVEL"]
    return {**found, "PYTHONPATH": f"{ROOT}:{cann_stubs.stub_folder() / 'python'}"}


SLURM = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
VOLCANO = {"VC_TASK_INDEX": "0", "VC_SERVER_HOSTS": "a,b", "ASCEND_VISIBLE_DEVICES": "0,1"}
CLUSTERS = {"schedulers": {**SLURM, **VOLCANO}, "rank table": {"RANK_TABLE_FILE": "table.json"}}


@pytest.mark.slow  # two ranks on the plugin
@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_run_from_the_script_to_the_exported_model(cluster, ascends, tmp_path):
    """Two ranks meet, train, save together and resume, with the variables of schedulers or of a rank table. The sample
    of the model comes from this process, whose engine must not see the table."""
    write_rank_table(tmp_path / "table.json", make_rank_table([("10.0.0.11", {d: f"192.168.100.{d}" for d in (0, 1)})]))
    write_dataset(tmp_path / "data", vocabulary=50400)
    words = "devices=2 parallel.tensor=2 data.train=data data.seq_length=64 model.num_layers=1 model.eos_token_id=0"
    script = ("bash", str(ROOT / "ascend_scripts/run_distributed.sh"), "--config", *TINY, *words.split(), "output=run")
    settings = {"MS_CODEGEEX_VENV": sys.prefix, **ascends, **CLUSTERS[cluster]}
    for steps, exports in (2, "false"), (3, "true"):
        words, how = (
            [*script, f"training.steps={steps}", f"checkpoint.export={exports}"],
            {"check": False, "text": True},
        )
        run = subprocess.run(words, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, **how)
        assert run.returncode == 0, run.stderr
        assert (tmp_path / f"run/checkpoints/step-0000000{steps}/rank_00001.safetensors").is_file()
    assert (tmp_path / "run/huggingface").is_dir() and "continuing from step 2" in run.stderr


# --- which lines have run ---

HERE = "tests/extras/cluster/rehearsal/test_first_contact.py"
MEETING = (
    *("tests/runs/test_ascend_start.py", "tests/runs/servers/test_cores.py", "tests/runs/servers/test_node.py"),
    "tests/config",
    *("tests/extras/jobs/test_job_files.py", "tests/setup/test_cluster_script.py", "tests/runs/test_memory_check.py"),
    "tests/extras/cluster/commands/test_command_plan.py::test_the_papers_recipe_in_tables",
    "tests/runs/servers/test_process_list.py::test_the_command_prints_each_form",
    "tests/runs/rank/test_worker_kernels.py::test_without_an_answer_nothing_is_known_to_be_free",
    "tests/extras/cluster/first_run/test_ladder.py::test_what_a_first_run_refuses",
    *(f"{HERE}::test_a_rank_of_a_job_of_several_servers", f"{HERE}::test_a_chip_that_saturates"),
)


@pytest.mark.slow  # these tests once more, traced
def test_every_line_that_runs_on_ascend_only_has_run(tmp_path):
    package = ROOT / "ms_codegeex"
    rehearsal = "extras/cluster/rehearsal/"
    wanted = {name: lines for name, lines in ascend_lines(package).items() if not name.startswith(rehearsal)}
    (tmp_path / "sitecustomize.py").write_text((ROOT / "tests/extras/cluster/rehearsal/line_tracer.py").read_text())
    traced = {"PACKAGE": str(package), "LINES": str(tmp_path / "lines"), "FILES": os.pathsep.join(wanted)}
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    environment |= {f"TRACED_{name}": value for name, value in traced.items()}
    options = ("-q", "-p", "no:cacheprovider", "-n", "0", "-m", "slow or not slow")
    words = [sys.executable, "-m", "pytest", *options, *MEETING]
    run = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    met = set((tmp_path / "lines").read_text().split())
    missing = [f"{name}:{line}" for name, lines in wanted.items() for line in sorted(lines)]
    every, missing = len(missing), [line for line in missing if line not in met]
    print(f"{every - len(missing)} of {every} lines that run on Ascend only have run")
    assert not missing, missing
