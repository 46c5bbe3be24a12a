"""What every family does alike: dropout where it belongs, first weights, precisions of the attention."""

import math

import mindspore as ms
import numpy as np
import psutil
import pytest
from mindspore import Tensor, ops
from networks import packed_batch

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.models.causal import Build
from ms_codegeex.models.layers import Dropout
from ms_codegeex.models.registry import FAMILIES, family
from ms_codegeex.parallel.sharding import parameter_layouts
from ms_codegeex.training.build import build_network

pytestmark = pytest.mark.usefixtures("pynative_mode_throughout")
SIZES = {"vocab_size": 40, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 24}
SIZES |= {"max_position_embeddings": 16, "eos_token_id": 3, "init_std": 0.3}


def config(name, **fields):
    turned = {"rotary_dim": 4} if name in ("codegen", "codegeex2") else {}
    return family(name).config.build_config("tiny", SIZES | turned | fields)


@pytest.mark.parametrize(
    "name", ["codegeex", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name != "codegeex")]
)
def test_every_dropout_drops_by_itself_and_none_in_evaluation(name):
    """In PyNative mode, where dropouts can be switched one by one in a network that is there already."""
    batch = [Tensor(array) for array in packed_batch(40, 3, 2, 8)]
    for layers in (2, 1):  # the one that runs has one
        sizes = config(name, num_layers=layers)
        network = family(name).model.Loss(sizes, Build(seq_length=8, dropout=0.4, attention_dropout=0.4, micro_batch=2))
        dropouts = [cell for _, cell in network.cells_and_names() if isinstance(cell, Dropout)]
        assert len(dropouts) == 1 + 3 * (layers + (name == "codegeex"))  # the top query layer
        assert len({int(cell.columns.asnumpy()[0]) for cell in dropouts}) == len(dropouts)  # no two drop alike
    network.set_train(False)
    whole = float(network(*batch)[0])
    plain = family(name).model.Loss(sizes, Build(seq_length=8, micro_batch=2))
    weights = {parameter.name: parameter for parameter in network.get_parameters()}
    for parameter in plain.get_parameters():
        parameter.set_data(weights[parameter.name])
    assert whole == float(plain.set_train(True)(*batch)[0])
    network.set_train(True)
    for cell in dropouts:
        cell.active = False
    assert whole == float(network(*batch)[0])
    seen = set()
    for cell in dropouts:
        cell.active = True
        seen.add(float(network(*batch)[0]))
        cell.active = False
    assert len(seen) == len(dropouts) and whole not in seen


def test_first_weights_of_codegen_are_scaled_by_depth():
    sizes = family("codegen").config.build_config("16b-nl", {})
    assert sizes.initial_std("embedding.word.weight") == pytest.approx(1 / math.sqrt(51200))
    for part in ("attention.output", "feed_forward.down"):
        assert sizes.initial_std(f"blocks.33.{part}.weight") == pytest.approx(2 / (34 * math.sqrt(6144)))
    for part in ("blocks.0.attention.query", "blocks.0.feed_forward.up", "head"):
        assert sizes.initial_std(f"{part}.weight") == sizes.init_std


@pytest.mark.parametrize("tied", [True, False], ids=["one stage", "last stage"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_network_has_the_parameters_of_the_familys_table(name, tied):
    sizes = config(name)
    network = family(name).model.Loss(sizes, Build(seq_length=8, head_table=not tied))
    built = {parameter.name: tuple(parameter.shape) for parameter in network.trainable_params()}
    mesh = Mesh(pipeline=1 if tied else 2)
    assert built == {layout.name: layout.shape for layout in parameter_layouts(sizes, mesh)}
    if tied:
        assert built == sizes.parameter_shapes()
    for parameter in network.trainable_params():
        if parameter.name.endswith(".weight") and "norm" not in parameter.name:
            assert parameter.asnumpy().std() == pytest.approx(sizes.initial_std(parameter.name), rel=0.3)


@pytest.mark.parametrize(
    ("name", "preset"), [("codegeex", "13b"), ("codegen", "16b-nl"), ("codegeex2", "6b"), ("qwen2", "7b")]
)
def test_a_published_network_is_built_without_allocating(name, preset):
    sizes, before = family(name).config.build_config(preset, {}), psutil.Process().memory_info().rss
    with ms.nn.utils.no_init_parameters():
        network = family(name).model.Loss(sizes, Build(seq_length=2048))
    assert {p.name: tuple(p.shape) for p in network.trainable_params()} == sizes.parameter_shapes()
    assert psutil.Process().memory_info().rss - before < 500_000_000


@pytest.mark.parametrize("lora", [{}, {"rank": 4, "targets": ["attention", "feed_forward"], "dropout": 0.1}])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_operator_of_a_partitioned_network_has_a_strategy(name, lora):
    """A cell that partitioning forgets would be left to the engine, which gathers whole tensors around it."""
    values = {"model": {"family": name, "preset": "tiny"}, "device": "ascend", "devices": 4, "data": {"seq_length": 8}}
    values["parallel"] = {"tensor": 2, "fusion": dict.fromkeys(("attention", "norm"), False)}
    values["training"] = {"steps": 1, "global_batch": 8, "dropout": 0.1, "precision": "fp16"}
    values["lora"] = lora
    network = build_network(build_run_config(values))
    operators = {
        f"{cell_name}.{attribute}": value
        for cell_name, cell in network.cells_and_names()
        for attribute, value in {**vars(cell), **getattr(cell, "_primitives", {})}.items()
        if isinstance(value, ops.Primitive)
    }
    assert len(operators) > 150
    assert [place for place, operator in operators.items() if getattr(operator, "in_strategy", None) is None] == []


@pytest.mark.parametrize("wide", [True, False])
def test_what_an_fp16_run_computes_in_fp32(wide):
    """CodeGen multiplies queries with keys in FP32 (modeling_codegen.py); the softmax wherever it can be chosen."""
    chosen = ms.float32 if wide else ms.float16
    for name, key in (("codegeex", "softmax_fp32"), ("codegeex2", "softmax_fp32"), ("codegen", "scores_fp32")):
        network = family(name).model.Loss(config(name, **{key: wide}), Build(seq_length=8, dtype=ms.float16))
        core, x = network.model.blocks[0].attention.core, Tensor(np.ones((8, 32)), ms.float16)
        found = core.softmax_dtype
        if name == "codegen":
            assert core.softmax_dtype == ms.float32
            angles = Tensor(np.ones((1, 1, 8, 8)), ms.float32)
            found = core.split_heads(x, x, x, 8, angles, angles)[0].dtype
        assert found == chosen, name


@pytest.mark.parametrize(
    "name,field,value",
    [
        ("codegeex", "num_heads", 7),
        ("codegeex", "hidden_size", -1),
        ("codegeex", "eos_token_id", 60000),
        ("codegen", "num_heads", 7),
        ("codegen", "rotary_dim", 3),
        ("codegen", "rotary_dim", 34),
        ("codegeex2", "num_kv_groups", 3),
        ("codegeex2", "rotary_dim", 33),
        ("codegeex2", "rotary_dtype", "fp8"),
        ("codegeex2", "norm_eps", 0.0),
        ("qwen2", "num_heads", 128),
    ],
)
def test_sizes_that_do_not_fit_name_the_key(name, field, value):
    with pytest.raises(UserError, match=field):
        family(name).config.build_config("tiny", {field: value})
