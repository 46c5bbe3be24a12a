"""A fourth family, sketched in one file under 200 lines, goes through the public functions of every floor."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import sketched_family
from conftest import engine_mode
from mindspore import Tensor
from networks import LossGradients, packed_batch

from ms_codegeex.base.errors import UserError
from ms_codegeex.config.rules import build_run_config, check_mesh
from ms_codegeex.extras.cluster.plans.planner import make_plan, to_dict
from ms_codegeex.formats import family as formats_of_a_family
from ms_codegeex.formats import sources
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.generation import network as graphs
from ms_codegeex.generation.matrices import TensorWeights
from ms_codegeex.generation.rows import SlotSizes
from ms_codegeex.generation.slots import SlotEngine
from ms_codegeex.generation.targets import open_network
from ms_codegeex.kernels.compiling import library_path
from ms_codegeex.models import registry
from ms_codegeex.models.causal import Build
from ms_codegeex.models.parameters import COLUMN, LAYER_NORM, RMS_NORM, ROW, Layer, ParameterTable, Role
from ms_codegeex.parallel.sharding import parameter_layouts
from ms_codegeex.training.build import build_network

TINY = {"model": {"family": "gpt2", "preset": "tiny"}, "training": {"steps": 1, "global_batch": 8}}


@pytest.fixture(autouse=True)
def gpt2(monkeypatch):
    """The sketch in the places of the family's five files."""
    monkeypatch.setattr(registry, "FAMILIES", (*registry.FAMILIES, "gpt2"))
    for reader in (sources, formats_of_a_family):
        monkeypatch.setattr(reader, "FAMILIES", registry.FAMILIES)
    for part in ("parameters", "config", "model", "weights"):
        monkeypatch.setitem(sys.modules, f"ms_codegeex.models.gpt2.{part}", sketched_family)


def test_the_sketch_is_short():
    assert len(Path(sketched_family.__file__).read_text().splitlines()) < 200


def test_counts_are_the_published_ones():
    assert sketched_family.GPT2Config().parameter_count() == 124_439_808


def test_it_trains_a_step():
    network = build_network(build_run_config({**TINY, "data": {"seq_length": 8}}))
    batch = [Tensor(array) for array in packed_batch(64, 0, 8, 8)]
    with engine_mode("pynative"):
        sums, gradients = LossGradients(network)(*batch)
        assert float(sums[0] / sums[1]) == pytest.approx(math.log(64), abs=0.1)
        for parameter, gradient in zip(network.trainable_params(), gradients, strict=True):
            assert "key.bias" in parameter.name or np.abs(gradient.asnumpy()).max() > 0, parameter.name
            parameter.set_data(parameter - 0.01 * gradient)
        assert network(*batch)[0] < sums[0]


@pytest.mark.parametrize("pipeline", [1, 2])
def test_its_network_is_partitioned_by_the_roles_of_its_layers(pipeline):
    parallel = {"tensor": 2, "pipeline": pipeline, "optimizer_shard": 2, "micro_batches": pipeline}
    config = build_run_config({**TINY, "device": "ascend", "devices": 4 * pipeline, "parallel": parallel})
    network = build_network(config)
    block = network.model.blocks[1]
    assert block.attention.query.matmul.in_strategy == ((2, 1), (2, 1))
    assert block.feed_forward.down.matmul.in_strategy == ((2, 2), (1, 2))
    layouts = parameter_layouts(config.model.sizes, config.mesh)
    built = {parameter.name: parameter for parameter in network.trainable_params()}
    assert {name: p.shape for name, p in built.items()} == {layout.name: layout.shape for layout in layouts}
    assert all(built[layout.name].parallel_optimizer == layout.optimizer_sharded for layout in layouts)


def test_it_is_planned():
    model = {"family": "gpt2", "preset": "124m", "vocab_size": 50264}
    training = {"steps": 10, "global_batch": 64, "precision": "fp16", "micro_batch": 8}
    parallel = {"tensor": 4, "pipeline": 2}
    config = build_run_config(
        {"model": model, "training": training, "parallel": parallel, "device": "ascend", "devices": 8}
    )
    found = to_dict(make_plan(config))
    assert found["fits"] and found["parameters"] == config.model.sizes.parameter_count()
    assert found["executed_flops"] == found["model_flops"] == config.model.sizes.flops_per_token(1024) * 64 * 1024


def test_it_is_converted_there_and_back(tmp_path):
    config, generator = sketched_family.build_config("tiny", {}), np.random.default_rng(1)
    arrays = {name: generator.random(shape, np.float32) for name, shape in config.parameter_shapes().items()}
    tensors = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in arrays.items()}
    state = {"config": {"model": {"family": "gpt2", "preset": "tiny", **sketched_family.TINY}}}
    write_checkpoint(tmp_path / "run" / "checkpoints", 1, tensors, state)
    convert(tmp_path / "run", "hf", tmp_path / "hf", progress=False)
    convert(tmp_path / "run", "megatron", tmp_path / "ranks", tensor_parallel=2, progress=False)
    for place in (tmp_path / "hf", tmp_path / "ranks"):
        found = open_source(place, sketched_family.TINY)
        assert found.family.name == "gpt2"
        assert all(found.tensors[name].array().tobytes() == array.tobytes() for name, array in arrays.items())


def test_it_decodes_by_its_table_as_its_network_computes():
    config, generator = sketched_family.build_config("tiny", {}), np.random.default_rng(1)
    shapes = config.parameter_shapes().items()
    arrays = {name: generator.normal(size=shape, scale=0.3).astype(np.float32) for name, shape in shapes}
    network = sketched_family.Logits(config, Build(seq_length=8, reset_at_eos=False))
    for parameter in network.get_parameters():
        parameter.set_data(Tensor(arrays[parameter.name]))
    weights = TensorWeights({name: from_array(array) for name, array in arrays.items()})
    found = open_network(registry.family("gpt2"), config, weights, SlotSizes(8, threads=1))
    assert found.compiled or library_path() is None
    ids = [5, 63, 7, 1, 1, 30, 2, 9]
    with engine_mode("pynative"):
        expected = [network(Tensor([ids], ms.int32), Tensor([i], ms.int32)).asnumpy()[0] for i in range(8)]
    assert np.abs(SlotEngine(found).all_logits(0, ids) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.skipif(library_path() is None, reason="no C++ compiler")
def test_a_layer_that_no_operator_computes_leaves_it_to_mindspore(monkeypatch):
    reason, adapted = [], Adapted(**sketched_family.TINY)
    monkeypatch.setattr(graphs, "LocalNetwork", lambda *given: reason.append(given[-1]))
    open_network(registry.family("gpt2"), adapted, TensorWeights({}), SlotSizes(8, threads=1))
    assert reason[0].startswith("none was compiled for attention.query.adapter_down, ")


def low_rank(layers, rank):
    """LoRA as a function from table to table: two narrow layers for each linear one, split as its ends are."""
    whole = Role("replicated", linear=True)
    for layer in layers:
        yield layer
        if layer.role.linear:
            down, up = (ROW, whole) if layer.role is ROW else (whole, COLUMN)
            yield Layer(f"{layer.name}.adapter_down", down, rank, layer.columns)
            yield Layer(f"{layer.name}.adapter_up", up, layer.rows, rank)


class Adapted(sketched_family.GPT2Config):
    adapter_rank = 4
    table = replace(sketched_family.PARAMETERS, block=tuple(low_rank(sketched_family.PARAMETERS.block, "adapter_rank")))


def test_rows_that_optimizer_shards_would_lose_are_refused():
    """Three rows on two replicas; whatever layer of the family has them."""
    parallel = {"tensor": 2, "optimizer_shard": 2}
    config = build_run_config({**TINY, "device": "ascend", "devices": 4, "parallel": parallel})

    class Narrow(Adapted):
        adapter_rank = 3

    for sizes in (Adapted(**sketched_family.TINY), Narrow(**sketched_family.TINY)):
        adapted = replace(config, model=replace(config.model, sizes=sizes))
        if sizes.adapter_rank == 4:
            check_mesh(adapted)
        else:
            with pytest.raises(UserError, match=r"the 3 rows .* blocks.{i}.attention.output.adapter_down.weight"):
                check_mesh(adapted)


def test_a_name_with_a_block_is_looked_up_in_the_block_alone():
    table = ParameterTable((), (Layer("norm", RMS_NORM, "hidden_size"),), (Layer("norm", LAYER_NORM, "hidden_size"),))
    assert table.layer("blocks.3.norm").role is table.layer("blocks.{i}.norm").role is RMS_NORM
    assert table.layer("norm").role is LAYER_NORM
    with pytest.raises(KeyError, match=r"blocks\.0\.embedding"):
        sketched_family.PARAMETERS.layer("blocks.0." + sketched_family.PARAMETERS.first[0].name)
