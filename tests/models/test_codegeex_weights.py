"""CodeGeeX's maps against the published layout: names, shapes, transposes, sizes."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.layout import packed_shape, to_foreign, to_ours
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.models.codegeex.config import CodeGeeXConfig
from ms_codegeex.models.registry import family

LARGE = CodeGeeXConfig(
    vocab_size=52224,
    hidden_size=5120,
    num_layers=39,
    num_heads=40,
    intermediate_size=20480,
    max_position_embeddings=2048,
    layer_norm_eps=1e-5,
    eos_token_id=50256,
)
SMALL = CodeGeeXConfig(
    vocab_size=11,
    hidden_size=4,
    num_layers=2,
    num_heads=2,
    intermediate_size=6,
    max_position_embeddings=5,
    layer_norm_eps=1e-5,
    eos_token_id=10,
)
FORMATS = FamilyFormats(family("codegeex"))
LAYOUTS = ("huggingface", "megatron", "mindspore")


def sizes_of(config):
    """What the formats record of a configuration."""
    return {name: getattr(config, name) for name in FORMATS.defaults}


def entries(layout, config, ranks=1):
    return FORMATS.entries(FORMATS.layout(layout), config, ranks)


def tensors(config):
    generator = np.random.default_rng(1)
    return {
        name: from_array(generator.standard_normal(shape).astype(np.float32))
        for name, shape in config.parameter_shapes().items()
    }


def test_the_13b_model_has_the_published_size():
    shapes = LARGE.parameter_shapes()
    assert len(shapes) == 645 and sum(math.prod(shape) for shape in shapes.values()) == 12_873_943_040


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_parameter_is_in_every_layout_once(layout):
    found = entries(layout, LARGE)
    ours = [name for entry in found for name in entry.ours]
    assert sorted(ours) == sorted(LARGE.parameter_shapes())
    assert len({entry.foreign for entry in found}) == 645


def test_names_of_the_pytorch_side():
    names = {entry.ours[0]: entry.foreign for entry in entries("huggingface", LARGE)}
    assert names["embedding.word.weight"] == "language_model.embedding.word_embeddings.weight"
    assert names["top_query_embedding.weight"] == "language_model.topQueryEmbedding.top_query_embeddings.weight"
    assert names["blocks.38.attention.output.bias"] == "language_model.transformer.layers.38.attention.dense.bias"
    assert names["top_query_layer.attention.query.weight"] == (
        "language_model.transformer.topQueryLayer.attention.query.weight"
    )
    assert names["final_norm.bias"] == "language_model.transformer.final_layernorm.bias"
    paths = {entry.ours[0]: entry.foreign for entry in entries("megatron", LARGE)}
    assert paths["embedding.position.weight"] == (
        "module",
        "language_model",
        "embedding",
        "position_embeddings",
        "weight",
    )
    assert paths["blocks.0.feed_forward.up.weight"] == (
        "module",
        "language_model",
        "transformer",
        "layers.0.mlp.dense_h_to_4h.weight",
    )


def test_the_original_stores_three_matrices_transposed():
    foreign = to_foreign(entries("mindspore", SMALL), mine := tensors(SMALL))
    for layer, ours in (("backbone.blocks.1", "blocks.1"), ("backbone.top_query_layer", "top_query_layer")):
        for name, own, turned in (
            ("attention.dense1", "attention.query", False),
            ("attention.dense3", "attention.value", False),
            ("attention.projection", "attention.output", True),
            ("output.mapping", "feed_forward.up", True),
            ("output.projection", "feed_forward.down", True),
        ):
            array = mine[f"{ours}.{own}.weight"].array()
            np.testing.assert_array_equal(foreign[f"{layer}.{name}.weight"].array(), array.T if turned else array)
    assert foreign["backbone.blocks.0.output.mapping.weight"].shape == (4, 6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout):
    mine, its = tensors(SMALL), entries(layout, SMALL)
    back = to_ours(its, to_foreign(its, mine), SMALL.parameter_shapes(), "here")
    assert back.keys() == mine.keys()
    assert all(back[name].array().tobytes() == mine[name].array().tobytes() for name in mine)


def test_config_json_there_and_back():
    config = FORMATS.to_json(LARGE)
    assert config["model_type"] == "codegeex" and config["num_hidden_layers"] == 40
    assert config["hidden_act"] == "fast_gelu" and config["tie_word_embeddings"] is True
    assert FORMATS.from_json(config) == sizes_of(LARGE)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": "39"}, "num_hidden_layers"),
        ({"num_attention_heads": 7}, "num_attention_heads"),
        ({"vocab_size": True}, "vocab_size"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_a_bad_config_key_is_named(change, key):
    with pytest.raises(UserError, match=key):
        FORMATS.from_json(FORMATS.to_json(LARGE) | change)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_sizes_are_inferred_from_the_tensors(layout, ranks):
    its = FORMATS.layout(layout)

    def shapes(config):
        ours = FORMATS.rank_shapes(its, config, ranks)
        return {e.foreign: packed_shape(e.packing, [ours[e.ours[0]]]) for e in entries(layout, config, ranks)}

    small = replace(SMALL, vocab_size=12, max_position_embeddings=6)
    assert FORMATS.recognise(shapes(small)) == (1, its) and FORMATS.recognise({"lm_head.weight": ()}) == (0, None)
    assert FORMATS.infer(its, shapes(LARGE), {}, ranks) == sizes_of(LARGE)
    known = {"num_heads": 2, "eos_token_id": 10, "family": "codegeex"}
    assert FORMATS.infer(its, shapes(small), known, ranks) == sizes_of(small)
    with pytest.raises(UserError, match="add --set num_heads=N"):
        FORMATS.infer(its, shapes(small), {"eos_token_id": 10}, ranks)
    with pytest.raises(UserError, match="missing or not a matrix"):
        FORMATS.infer(its, {}, {})
    with pytest.raises(
        UserError, match=r"eos_token_id: the file does not record it, and 50256 has no row .*; add --set"
    ):
        FORMATS.infer(its, shapes(small), {"num_heads": 2}, ranks)


def test_it_agrees_with_the_models_own_configuration():
    config = pytest.importorskip("ms_codegeex.models.codegeex.config")
    for name in config.PRESETS:
        model = config.build_config(name, {})
        count = sum(math.prod(shape) for shape in model.parameter_shapes().values())
        assert count == model.parameter_count()
        assert FORMATS.from_json(FORMATS.to_json(model))["num_layers"] == model.num_layers
