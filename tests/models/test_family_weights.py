"""The families' maps against the published layouts: names, shapes, order and transposes, sizes, config.json."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from small_models import FAMILIES, config, entries, foreign, formats, parameters, shapes

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.layout import packed_shape, to_ours
from ms_codegeex.models.registry import family

LAYOUTS = ("huggingface", "megatron", "mindspore")
LARGE = {"codegeex": "13b", "codegen": "16b-nl", "codegeex2": "6b", "qwen2": "7b"}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_family = pytest.mark.parametrize("name", FAMILIES)


def large(name):
    return family(name).config.build_config(LARGE[name], {})


def foreign_shapes(name, layout, sizes, ranks=1):
    ours = formats(name).rank_shapes(formats(name).layout(layout), sizes, ranks)
    its = entries(name, layout, sizes, ranks)
    return {entry.foreign: packed_shape(entry.packing, [ours[each] for each in entry.ours]) for entry in its}


def recorded(name, sizes):
    """What the formats record of a configuration."""
    return {key: asdict(sizes)[key] for key in formats(name).defaults}


@pytest.mark.parametrize(
    ("name", "preset", "tensors", "total"),
    [
        ("codegeex", "13b", 645, 12_873_943_040),
        ("codegen", "350m-mono", 8 * 20 + 5, 356_712_448),
        ("codegen", "16b-nl", 8 * 34 + 5, 16_032_155_648),
        ("codegeex2", "6b", 199, 6_243_584_000),  # of 200 in the release, one is a buffer
        ("codegeex2", "codegeex4-9b", 283, 9_399_951_360),
        ("qwen2", "0.5b", 12 * 24 + 2, 494_032_768),  # the head is tied, as in the next two
        ("qwen2", "1.5b", 12 * 28 + 2, 1_543_714_304),
        ("qwen2", "3b", 12 * 36 + 2, 3_085_938_688),
        ("qwen2", "7b", 12 * 28 + 3, 7_615_616_512),
        ("qwen2", "14b", 12 * 48 + 3, 14_770_033_664),
        ("qwen2", "32b", 12 * 64 + 3, 32_763_876_352),
    ],
)
def test_published_sizes(name, preset, tensors, total):
    sizes = family(name).config.build_config(preset, {})
    assert sum(map(math.prod, sizes.parameter_shapes().values())) == total == sizes.parameter_count()
    assert len(entries(name, "huggingface", sizes)) == tensors


@every_family
def test_every_preset_counts_its_parameters_and_is_read_from_its_config_json(name):
    for preset in family(name).config.PRESETS:
        sizes = family(name).config.build_config(preset, {})
        assert sum(map(math.prod, sizes.parameter_shapes().values())) == sizes.parameter_count()
        assert formats(name).from_json(formats(name).to_json(sizes)) == recorded(name, sizes)


@every_family
@every_layout
def test_every_parameter_is_in_every_layout_once(name, layout):
    found = entries(name, layout, large(name))
    assert sorted(ours for entry in found for ours in entry.ours) == sorted(large(name).parameter_shapes())
    assert len({entry.foreign for entry in found}) == len(found)


@every_family
@every_layout
def test_there_and_back(name, layout):
    mine = parameters(name)
    back = to_ours(entries(name, layout), foreign(name, layout, mine), shapes(name), "here")
    assert back.keys() == mine.keys()
    assert all(back[key].array().tobytes() == mine[key].tobytes() for key in mine)


@every_family
@every_layout
@pytest.mark.parametrize("ranks", [1, 2])
def test_sizes_are_inferred_from_the_tensors(name, layout, ranks):
    """What presets of that width and depth have; for others, those numbers that tensors do not have must be given."""
    its, small = formats(name).layout(layout), config(name)
    found = foreign_shapes(name, layout, large(name), ranks)
    assert formats(name).infer(its, found, {}, ranks) == recorded(name, large(name))
    found = foreign_shapes(name, layout, small, ranks)
    known = {"family": name, **{key: value for key, value in vars(small).items() if isinstance(value, int | float)}}
    assert formats(name).infer(its, found, known, ranks) == recorded(name, small)
    with pytest.raises(UserError, match=r"num_heads.*--set num_heads=N"):
        formats(name).infer(its, found, {"eos_token_id": 3}, ranks)


@every_layout
def test_codegeex_is_recognised_and_names_what_its_tensors_lack(layout):
    its = formats("codegeex").layout(layout)
    found = foreign_shapes("codegeex", layout, config("codegeex"))
    assert formats("codegeex").recognise(found) == (1, its)
    assert formats("codegeex").recognise({"lm_head.weight": ()}) == (0, None)
    with pytest.raises(UserError, match="missing or not a matrix"):
        formats("codegeex").infer(its, {}, {})
    expected = r"eos_token_id: the file does not record it, and 50256 has no row .*; add --set"
    with pytest.raises(UserError, match=expected):
        formats("codegeex").infer(its, found, {"num_heads": 4})


CHANGES = {
    "qwen2": [
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "type of rope_scaling"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "dynamic"}}, "rope_type of rope_parameters"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3"),
        ({"head_dim": 16}, "head_dim"),
        ({"rope_theta": "large"}, "rope_theta"),
    ],
    "codegeex": [
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
    "codegen": [
        ({"model_type": "gptj"}, "model_type"),
        ({"activation_function": "gelu"}, "activation_function"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"rotary_dim": None}, "rotary_dim"),
        ({"rotary_dim": 6}, "rotary_dim: 6"),
        ({"n_head": 5}, "n_head: 5"),
        ({"n_layer": 0}, "n_layer"),
        ({"n_inner": -1}, "n_inner"),
        ({"eos_token_id": 99}, "eos_token_id: 99"),
    ],
}


@pytest.mark.parametrize(
    ("name", "change", "key"), [(name, *each) for name, changes in CHANGES.items() for each in changes]
)
def test_a_bad_config_key_is_named(name, change, key):
    with pytest.raises(UserError, match=f"config.json: {key}"):
        formats(name).from_json(formats(name).to_json(config(name)) | change)


def test_codegeexs_names_of_the_pytorch_side():
    names = {entry.ours[0]: entry.foreign for entry in entries("codegeex", "huggingface", large("codegeex"))}
    assert names["embedding.word.weight"] == "language_model.embedding.word_embeddings.weight"
    assert names["top_query_embedding.weight"] == "language_model.topQueryEmbedding.top_query_embeddings.weight"
    assert names["blocks.38.attention.output.bias"] == "language_model.transformer.layers.38.attention.dense.bias"
    query = "language_model.transformer.topQueryLayer.attention.query.weight"
    assert names["top_query_layer.attention.query.weight"] == query
    assert names["final_norm.bias"] == "language_model.transformer.final_layernorm.bias"
    paths = {entry.ours[0]: entry.foreign for entry in entries("codegeex", "megatron", large("codegeex"))}
    outer = ("module", "language_model")
    assert paths["embedding.position.weight"] == (*outer, "embedding", "position_embeddings", "weight")
    assert paths["blocks.0.feed_forward.up.weight"] == (*outer, "transformer", "layers.0.mlp.dense_h_to_4h.weight")


def test_codegeexs_original_stores_three_matrices_transposed():
    mine = parameters("codegeex")
    found = foreign("codegeex", "mindspore", mine)
    for layer, ours in (("backbone.blocks.1", "blocks.1"), ("backbone.top_query_layer", "top_query_layer")):
        for name, own, turned in (
            ("attention.dense1", "attention.query", False),
            ("attention.dense3", "attention.value", False),
            ("attention.projection", "attention.output", True),
            ("output.mapping", "feed_forward.up", True),
            ("output.projection", "feed_forward.down", True),
        ):
            array = mine[f"{ours}.{own}.weight"]
            np.testing.assert_array_equal(found[f"{layer}.{name}.weight"].array(), array.T if turned else array)
    assert found["backbone.blocks.0.output.mapping.weight"].shape == (8, 16)


def test_codegeexs_config_json():
    config = formats("codegeex").to_json(large("codegeex"))
    assert config["model_type"] == "codegeex" and config["num_hidden_layers"] == 40
    assert config["hidden_act"] == "fast_gelu" and config["tie_word_embeddings"] is True
