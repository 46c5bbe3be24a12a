"""Seeded mistakes: each is refused in one line that starts with the key to change and says what to do.

Each starts from a correct configuration and applies the changes in `mistakes.txt`. `ms_codegeex/config/rules.py` holds
the rules of meshes; without any one of them, a line of the table is not refused.
"""

from pathlib import Path

import pytest
from conftest import ROOT, command, write_config
from remedies_in_code import settings_in

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config, check_mesh
from ms_codegeex.extras.cluster.plans.planner import make_plan, problems
from ms_codegeex.extras.cluster.rehearsal.shrink import parse_mesh

CLUSTER = ROOT / "configs" / "codegeex_13b.yaml"  # 1,536 devices: data 192 x tensor 8, optimizer shards 16
PIPELINE = ROOT / "configs" / "codegeex_13b_pipeline.yaml"  # data 48 x tensor 8 x pipeline 4
SERVER = ROOT / "configs" / "codegeex_2.6b_8.yaml"  # 8 devices: data 4 x tensor 2, 32 heads
TINY = ROOT / "configs" / "codegeex_tiny_release.yaml"  # a CPU; 4 heads, 3 layers


def mistakes():
    for line in Path(__file__).with_name("mistakes.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, words, key, what, remedy = (cell.strip() for cell in line.split("|"))
            yield globals()[name], words, key or words.partition("=")[0], what, remedy


MISTAKES = list(mistakes())


def refused(found: Exception | str, key: str, what: str, remedy: str) -> None:
    text = str(found)
    assert text.startswith(f"{key}:") and what in text and remedy in text and "\n" not in text, text


@pytest.mark.parametrize("path", [CLUSTER, PIPELINE, SERVER, TINY], ids=lambda path: path.stem)
def test_what_the_mistakes_are_seeded_in_is_right(path):
    check_mesh(load_config(path))


@pytest.mark.parametrize("path,words,key,what,remedy", MISTAKES, ids=[f"{m[0].stem} {m[1]}" for m in MISTAKES])
def test_a_wrong_configuration_names_the_key_and_the_remedy(path, words, key, what, remedy):
    with pytest.raises(UserError) as error:
        load_config(path, words.split())
    refused(error.value, key, what, remedy)
    for settings in settings_in(str(error.value)):
        load_config(path, [*words.split(), *settings])


def test_there_are_enough_of_them():
    assert len({words for _, words, *_ in MISTAKES}) == len(MISTAKES) >= 45


NARROW = "model.hidden_size=1920 model.intermediate_size=7680"
RIGHT = [  # what lies just inside the rules
    (SERVER, "model.vocab_size=52221 parallel.vocabulary=false"),
    (SERVER, "parallel.sequence=true"),
    (SERVER, "parallel.optimizer_shard=2"),
    (SERVER, "devices=4 parallel.optimizer_shard=2"),
    (SERVER, f"devices=24 parallel.optimizer_shard=3 training.global_batch=384 {NARROW}"),
    (SERVER, "devices=4096 training.global_batch=8192"),
    (SERVER, "parallel.micro_batches=16"),
    (PIPELINE, "training.micro_batch=16"),
    (PIPELINE, "parallel.graph_micro_batches=4"),
    (PIPELINE, "model.num_layers=4"),
    (TINY, "devices=3 training.global_batch=12"),  # CPU processes: nothing is partitioned
]


@pytest.mark.parametrize("path,words", RIGHT, ids=[words for _, words in RIGHT])
def test_what_is_right_is_not_refused(path, words):
    load_config(path, words.split())


# --- where the mistake is not in the configuration alone; test_node.py and test_rank_table.py have those of servers ---


TOO_LARGE = [
    (CLUSTER, "training.recompute=none", "training.recompute", "fits with training.recompute=full"),
    (CLUSTER, "parallel.optimizer_shard=1", "parallel.optimizer_shard", "fits with"),
    (SERVER, "training.micro_batch=64", "training.micro_batch", "fits with training.micro_batch="),
    (SERVER, "model.preset=200b training.micro_batch=2", "parallel.tensor", "no single change fits; try --search"),
]


@pytest.mark.parametrize("path,words,key,remedy", TOO_LARGE, ids=[words for _, words, *_ in TOO_LARGE])
def test_a_plan_that_needs_too_much_memory(path, words, key, remedy):
    plan = make_plan(load_config(path, words.split()))
    (line,) = problems(plan)
    assert not plan.fits
    refused(line, key, "GiB, a run on ascend910 may use 30.0 GiB", remedy)


MESHES = [
    ("nonsense", "found 'nonsense', expected axis=size"),
    ("data", "found 'data'"),
    ("data=two", "found 'data=two'"),
    ("data=-2", "found 'data=-2'"),
    ("data=2;tensor=2", "found 'data=2;tensor=2'"),
    ("rows=2", "found 'rows=2'"),
    ("data=2,", "found ''"),
    ("", "found ''"),
    ("tensor=0", "tensor is 0; give 1 or more"),
    ("data=2,data=4", "data is given twice"),
    ("data=1", "1 rank has nothing to communicate; give an axis above 1"),
    ("data=3", "cannot partition for 3 devices"),
    ("data=4104", "cannot partition for 4104 devices"),
]


@pytest.mark.parametrize("text,message", MESHES, ids=[text or "nothing" for text, _ in MESHES])
def test_a_mesh_to_execute_that_is_invalid(text, message):
    with pytest.raises(UserError) as error:
        parse_mesh(text)
    refused(error.value, "--mesh", message, "")


def test_a_mesh_to_execute():
    assert parse_mesh("pipeline=2,data=4,optimizer_shard=2") == Mesh(4, 1, 2, 2)


def test_a_mistake_ends_the_command_with_one_line_and_2(tmp_path):
    config = write_config(tmp_path / "run.yaml", {"base": str(SERVER), "parallel": {"optimizer_shard": 3}})
    for verb in ("plan", "rehearse", "train"):
        result = command(verb, "--config", config)
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith(f"ms-codegeex {verb}: parallel.optimizer_shard: 3 does not divide the 4")
        assert result.stderr.count("\n") == 1


def test_axes_without_devices():
    with pytest.raises(UserError, match=r"^parallel\.tensor: tensor 2 x pipeline 1 = 2 does not divide devices: 1;"):
        build_run_config({"device": "ascend", "parallel": {"tensor": 2}, "training": {"steps": 1}})
