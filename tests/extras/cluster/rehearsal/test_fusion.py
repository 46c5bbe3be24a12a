"""Communication is sent in as many buckets as the settings say, and graphs of fused kernels can be cut over devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from buckets import Bucket, buckets

from ms_codegeex.base.mesh import Mesh
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.rehearsal.job import RehearsalJob
from ms_codegeex.extras.cluster.rehearsal.mindir import CollectiveNode
from ms_codegeex.extras.cluster.rehearsal.shrink import shrunk
from ms_codegeex.extras.cluster.rehearsal.stubs import simulation_environment

ROOT = Path(__file__).resolve().parents[4]
EXPORT = "from ms_codegeex.extras.cluster.rehearsal.execution_program import *; export(RehearsalJob.read(Path()), 0)"
STEP = Path(__file__).with_name("fused_step.py")


def collective(**changes) -> CollectiveNode:
    fields = {"op": "AllReduce", "ranks": (0, 1), "shape": (4,), "input_shape": (4,), "dtype": "float32"}
    return CollectiveNode(**{**fields, "bytes": 16, "calls": 1, "fusion": 1, "name": "x", "tag": "x-0", **changes})


def test_buckets_differ_by_kind_group_and_id():
    fused = [{}, {"bytes": 8, "calls": 3}, {"fusion": 2}, {"ranks": (0, 2)}, {"op": "AllGather"}]
    alone = [{}, {"calls": 2}, {"op": "Send"}, {"op": "Receive"}]
    found = buckets([collective(**each) for each in (*fused, *({"fusion": 0, **each} for each in alone))])
    assert found == [
        Bucket("AllGather", (0, 1), 1, 1, 16),
        Bucket("AllReduce", (0, 1), 0, 3, 48),
        Bucket("AllReduce", (0, 1), 1, 4, 40),
        Bucket("AllReduce", (0, 1), 2, 1, 16),
        Bucket("AllReduce", (0, 2), 1, 1, 16),
    ]
    assert [bucket.messages for bucket in found] == [1, 3, 1, 1, 1]
    assert {bucket.group_size for bucket in found} == {2}


def start(arguments: list[str], directory: Path, ranks: int, rank: int = 0) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOG_v": "3", "PYTHONPATH": str(ROOT)}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment |= simulation_environment(rank, ranks)
    return subprocess.Popen([sys.executable, *arguments], cwd=directory, env=environment, **streams)


def finish(*processes: subprocess.Popen) -> list[str]:
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-4000:]
    return outputs


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Bucket]]:
    """Buckets of a rank of two with sharded weights, by `parallel.fusion.allreduce_groups`; a model of two blocks."""
    directories, running = {}, []
    for groups in (0, 2):
        config = load_config(None, ["training.steps=1", f"parallel.fusion.allreduce_groups={groups}"])
        directory = directories[groups] = tmp_path_factory.mktemp(f"groups{groups}")
        RehearsalJob(directory, shrunk(config, Mesh(2, 1, 1, 2)), 1).write()
        running.append(start(["-c", EXPORT], directory, 2))
    finish(*running)
    found = {}
    for groups, directory in directories.items():
        items = [CollectiveNode(**item) for item in read_json(directory / "rank_0.json")["collectives"]]
        found[groups] = buckets([replace(item, ranks=tuple(item.ranks)) for item in items])
    return found


def count(found: list[Bucket], op: str) -> tuple[int, int]:
    """Nodes and messages of one kind."""
    chosen = [bucket for bucket in found if bucket.op == op]
    return sum(bucket.nodes for bucket in chosen), sum(bucket.messages for bucket in chosen)


@pytest.mark.slow  # exports graphs of four ranks
def test_fusion_lowers_the_number_of_all_reduces_to_the_setting(exported):
    whole = 3 * 10 + 2 + 3  # parameters of three layers, a norm and three tables that are not sharded
    others = 4  # no gradients: the loss, its count, the norm, and the derivative of the loss
    assert count(exported[0], "AllReduce") == (whole + others, whole + others)
    assert count(exported[2], "AllReduce") == (whole + others, 2 + others)
    ids = {bucket.fusion: bucket.nodes for bucket in exported[2] if bucket.op == "AllReduce"}
    assert ids == {0: others, 1: 2 + 10, 2: 10 + 2 + 1 + 10}  # two tables and a block; a block and what follows


@pytest.mark.slow
@pytest.mark.parametrize("op", ["AllGather", "ReduceScatter"])
def test_fusion_joins_gathered_weights_and_scattered_gradients_too(exported, op):
    matrices = 3 * 6
    assert count(exported[0], op) == (matrices, matrices)
    assert count(exported[2], op) == (matrices, 2)


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_buckets(exported):
    totals = [sum(bucket.bytes for bucket in exported[groups]) for groups in (0, 2)]
    assert totals[0] == totals[1] > 0


def compiled(directory: Path, mesh: Mesh, rank: int, *overrides: str) -> subprocess.Popen:
    """A run's own step, with AdamW and the kernels of the hardware, compiled for one rank of a simulated cluster."""
    config = load_config(None, ["training.steps=1", "training.dropout=0", "parallel.hardware=ascend910b"])
    values = shrunk(config, mesh).to_dict()
    values["model"].update(num_layers=mesh.pipeline, hidden_size=32 * mesh.tensor, num_heads=2 * mesh.tensor)
    values["parallel"]["fusion"].update(attention=None, norm=None, graph_kernel=None)
    file = directory / f"{rank}.yaml"
    file.write_text(yaml.safe_dump(values))
    file.write_text(yaml.safe_dump(load_config(file, overrides).to_dict()))
    return start([str(STEP), str(file), str(rank)], directory, mesh.world, rank)


def results(*processes: subprocess.Popen) -> list[dict]:
    return [json.loads(output.strip().splitlines()[-1]) for output in finish(*processes)]


@pytest.mark.slow
def test_fused_kernels_are_cut_over_devices(tmp_path):
    """Tensor 2 and data 2: attention with a mask per sample and with one for all."""
    mesh, half = Mesh(2, 2, 1, 1), "training.precision=fp16"
    first, second = results(
        compiled(tmp_path, mesh, 0, half, "data.reset_at_eos=true"),
        compiled(tmp_path, mesh, 3, half, "data.reset_at_eos=false"),
    )
    layers, heads, rows = 2, 2, 4 * 16  # with the top query layer; of a device
    for found, mask in ((first, [4, 1, 16, 16]), (second, [16, 16])):
        assert found["counts"]["FlashAttentionScore"] == found["counts"]["FlashAttentionScoreGrad"] == layers
        assert found["counts"]["LayerNorm"] == found["counts"]["LayerNormGrad"] == 2 * layers + 1
        assert found["counts"]["AdamWeightDecay"] == found["parameters"]
        assert found["counts"].get("Softmax", 0) == 0
        attention = [[4, heads, 16, 16], "float16"]
        assert found["inputs"]["FlashAttentionScore"] == [attention, attention, attention, [mask, "uint8"]]
        assert found["inputs"]["LayerNorm"] == [[[rows, 64], "float32"], [[64], "float32"], [[64], "float32"]]


@pytest.mark.slow
def test_fused_attention_skips_what_follows_the_diagonal(tmp_path):
    """Of 256 tokens, three of four tiles; with a mask of documents and with one for all."""
    long = ("training.precision=fp16", "data.seq_length=256", "model.max_position_embeddings=256")
    for reset in ("true", "false"):
        (found,) = results(compiled(tmp_path, Mesh(1, 1, 1, 1), 0, *long, f"data.reset_at_eos={reset}"))
        (query, *_, mask) = found["inputs"]["FlashAttentionScore"]
        assert query == [[2, 2, 256, 16], "float16"] and mask[0][-2:] == [256, 256]
        rows, width, inner, words = 2 * 256, 32, 32, 64
        linear = 3 * 2 * rows * (2 * (4 * width * width + 2 * width * inner) + words * width)
        attention = 2 * (2 + 5) * 2 * (2 * 2) * 256 * 256 * 16 * 3 // 4
        assert found["products"]["float16"] == found["planned"]["fp16"] == linear + attention


@pytest.mark.slow
def test_composed_adamw_is_cut_into_stages(tmp_path):
    mesh = Mesh(1, 1, 2, 1)
    off = [f"parallel.fusion.{name}=false" for name in ("optimizer", "norm")]
    found = results(*(compiled(tmp_path, mesh, rank, *off) for rank in (0, 1)))
    for one in found:
        assert one["counts"].get("AdamWeightDecay", 0) == one["counts"].get("LayerNorm", 0) == 0
        assert one["moments"] == 2 * one["parameters"]  # those of other stages are gone
    assert found[0]["parameters"] + found[1]["parameters"] == 53 + 1  # the head's copy of the word table
