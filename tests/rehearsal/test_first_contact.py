"""First contact on MindSpore's Ascend plugin, nothing patched: a run's own launcher and workers, and an idle device."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, command

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.loading import load_config
from ms_codegeex.rehearsal.compile import distinct_ranks
from ms_codegeex.rehearsal.first_contact import contact
from ms_codegeex.rehearsal.stubs import compilers

pytestmark = pytest.mark.skipif(not compilers(), reason="no C compiler for the stub CANN libraries")

TINY = ("codegeex_tiny", "device=ascend", "training.precision=fp16")
SHARDED = ("devices=16", "model.num_layers=1", "parallel.tensor=2", "parallel.optimizer_shard=2")


def rehearsed(*words):
    """The exit status and the JSON of a first contact."""
    result = command("rehearse", "--first-contact", "--json", "--config", *words)
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


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


def test_what_the_chip_cannot_hold_is_not_trained():
    """The pool of device memory is the engine's own."""
    words = ("devices=2", "training.global_batch=512", "training.micro_batch=256", "model.num_layers=1")
    status, result = rehearsed(*TINY, *words, "--ranks", "0")
    (met,) = result["first_contact"]
    assert (status, result["verdict"]) == (1, "fail") and met["planned_bytes"] > 30 << 30
    assert "its tensors take " in met["problem"] and met["memory_bytes"] > 30 << 30, met


def test_devices_that_are_no_ascend_are_refused():
    for words, message in (
        (("codegeex_tiny",), "--first-contact: device is cpu; set device=ascend, whose plugin this starts"),
        (
            (*TINY, "--compile"),
            "--compile: belongs to another rehearsal than --first-contact; leave one of the two out",
        ),
    ):
        result = command("rehearse", "--first-contact", "--config", *words)
        assert result.returncode == 2 and message in result.stderr


# --- every shipped configuration ---


RECIPES = sorted(path.stem for path in (ROOT / "configs/recipes").glob("*_910*.yaml"))
OTHERS = [
    *("codegeex2_6b", "codegeex2_6b_continued", "codegeex_13b", "codegeex_13b_64", "codegeex_13b_64_planned"),
    *("codegeex_13b_pipeline", "codegeex_13b_planned", "codegeex_13b_published_steps", "codegeex_2.6b_8"),
    *("codegeex_base_8", "finetune_13b_8", "finetune_lora_13b"),
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
    assert sorted(path.stem for path in files if is_for_ascends(path)) == sorted([*RECIPES, *OTHERS])


def reduced(path: Path):
    """A configuration with as few layers and micro-batches as its mesh allows."""
    config = load_config(path, ["data.train=x"])
    mesh, top = config.mesh, config.model.sizes.attention_layers - config.model.sizes.num_layers
    layers = max(2, 2 * mesh.pipeline * mesh.virtual_stages) - top
    accumulation = min(config.accumulation, max(2, mesh.pipeline * min(2, mesh.virtual_stages)))
    batch = accumulation * config.micro_batch * mesh.data
    model = replace(config.model, sizes=replace(config.model.sizes, num_layers=layers))
    training = replace(config.training, global_batch=batch, micro_batch=config.micro_batch, recompute_blocks=None)
    parallel = replace(config.parallel, stage_layers=None, micro_batches=None)
    return replace(config, model=model, training=training, parallel=parallel)


@pytest.mark.slow  # the engine's back end compiles a graph of each
@pytest.mark.parametrize("name", [*OTHERS, *(f"recipes/{name}" for name in RECIPES)])
def test_every_shipped_configuration_starts_and_trains(name):
    config = reduced(ROOT / f"configs/{name}.yaml")
    met = contact(config, distinct_ranks(config.mesh)[-1])
    assert met.problem is None, met.problem
    assert met.saved_bytes == met.planned_saved_bytes and met.memory_bytes < met.planned_bytes


@pytest.mark.slow  # forty layers at full width
def test_the_paper_s_run_in_full():
    status, result = rehearsed("codegeex_13b", "--ranks", "1535")
    (met,) = result["first_contact"]
    assert status == 0 and met["memory_bytes"] < met["planned_bytes"]
