"""CodeGen's maps against the published layout: names, the order inside the fused matrix, sizes, config.json."""

import math
from dataclasses import asdict

import numpy as np
import pytest
from small_models import FIELDS, foreign, parameters, shapes

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.layout import pack, packed_shape, to_ours, unpack
from ms_codegeex.formats.tensors import LazyTensor
from ms_codegeex.models.codegen.config import build_config
from ms_codegeex.models.registry import family

SMALL = build_config(None, FIELDS["codegen"])

FORMATS = FamilyFormats(family("codegen"))


def entries(kind, config=SMALL, ranks=1):
    return FORMATS.entries(FORMATS.layout(kind), config, ranks)


@pytest.mark.parametrize(("preset", "total"), [("350m-mono", 356_712_448), ("16b-nl", 16_032_155_648)])
def test_published_sizes(preset, total):
    config = build_config(preset, {})
    found = config.parameter_shapes()
    assert sum(math.prod(shape) for shape in found.values()) == total == config.parameter_count()
    assert len(entries("huggingface", config)) == 8 * config.num_layers + 5


def test_names_of_each_side():
    names = [entry.foreign for entry in entries("huggingface")]
    assert names[0] == "transformer.wte.weight" and names[-1] == "lm_head.bias"
    assert {"transformer.h.1.attn.qkv_proj.weight", "transformer.h.1.mlp.fc_in.bias", "transformer.ln_f.bias"} <= {
        *names
    }
    assert [entry.foreign for entry in entries("megatron")] == [("module", name) for name in names]
    original = dict(zip(names, (entry.foreign for entry in entries("mindspore")), strict=True))
    assert original["transformer.wte.weight"] == "transformer.wte.embedding_table"
    assert original["transformer.h.0.ln_1.weight"] == "transformer.h.0.ln_1.gamma"
    assert original["transformer.ln_f.bias"] == "transformer.ln_f.beta"
    same = {"transformer.h.0.attn.qkv_proj.weight", "transformer.h.0.mlp.fc_out.bias", "lm_head.weight", "lm_head.bias"}
    assert all(original[name] == name for name in same)


def test_query_value_key_in_four_groups_of_heads():
    hidden, heads = 64, 16
    fused = np.arange(3 * hidden * hidden, dtype=np.float32).reshape(3 * hidden, hidden)
    tensors = foreign("codegen", "huggingface", parameters("codegen"))
    tensors["transformer.h.1.attn.qkv_proj.weight"] = LazyTensor("float32", fused.shape, lambda: fused)
    ours = to_ours(entries("huggingface"), tensors, shapes("codegen"), "here")
    for row in range(hidden):  # row = head * 4 + channel, heads of 4 channels, 4 heads in a group
        group, inner = divmod(row, hidden // 4)
        start = group * 3 * hidden // 4 + inner
        for place, part in enumerate(("query", "value", "key")):
            found = ours[f"blocks.1.attention.{part}.weight"].array()[row]
            assert found.tobytes() == fused[start + place * hidden // 4].tobytes(), (part, row)
    assert heads % 4 == 0


def test_a_ranks_slice_holds_its_groups():
    whole = foreign("codegen", "huggingface", mine := parameters("codegen"))
    fused = whole["transformer.h.0.attn.qkv_proj.weight"].array()
    entry = next(e for e in entries("huggingface", ranks=2) if "qkv_proj" in e.foreign and ".h.0." in e.foreign)
    second = [mine[name][32:] for name in entry.ours]
    assert np.array_equal(pack(entry.packing, second), fused[96:])
    back = unpack(entry.packing, fused[96:], [array.shape for array in second])
    assert all(np.array_equal(a, b) for a, b in zip(back, second, strict=True))


def test_a_fused_matrix_is_read_once():
    tensors, loads = foreign("codegen", "huggingface", parameters("codegen")), []

    def counted(name, tensor):
        def load():
            loads.append(name)
            return tensor.array()

        return LazyTensor(tensor.dtype, tensor.shape, load)

    tensors = {name: counted(name, tensor) for name, tensor in tensors.items()}
    for tensor in to_ours(entries("huggingface"), tensors, shapes("codegen"), "here").values():
        tensor.array()
    assert sorted(loads) == sorted(tensors)


def test_config_json_there_and_back():
    config = FORMATS.to_json(SMALL)
    assert FORMATS.from_json(config) == FIELDS["codegen"]
    assert config["n_embd"] == 64 and config["architectures"] == ["CodeGenForCausalLM"] and config["bos_token_id"] == 1
    released = {  # codegen-350M-mono, what its file says about sizes
        **{"model_type": "codegen", "activation_function": "gelu_new", "vocab_size": 51200, "n_embd": 1024},
        **{"n_layer": 20, "n_head": 16, "n_inner": None, "rotary_dim": 32, "n_positions": 2048, "n_ctx": 2048},
        **{"layer_norm_epsilon": 1e-05, "eos_token_id": 50256, "bos_token_id": 1, "tie_word_embeddings": False},
    }
    fields = FORMATS.from_json(released)
    expected = asdict(build_config("350m-mono", {}))
    assert fields == {key: expected[key] for key in FORMATS.defaults}


@pytest.mark.parametrize(
    ("change", "key"),
    [
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
)
def test_a_bad_config_key_is_named(change, key):
    with pytest.raises(UserError, match=f"config.json: {key}"):
        FORMATS.from_json(FORMATS.to_json(SMALL) | change)


@pytest.mark.parametrize("kind", ["huggingface", "megatron", "mindspore"])
def test_sizes_are_inferred_from_the_tensors(kind):
    its, large = FORMATS.layout(kind), build_config("2b-multi", {})

    def found(config):
        ours = config.parameter_shapes()
        return {e.foreign: packed_shape(e.packing, [ours[n] for n in e.ours]) for e in entries(kind, config)}

    expected = {key: asdict(large)[key] for key in FORMATS.defaults}
    assert FORMATS.infer(its, found(large), {}) == expected
    assert FORMATS.infer(its, found(SMALL), vars(SMALL)) == FIELDS["codegen"]
    with pytest.raises(UserError, match=r"num_heads.*--set num_heads=N"):
        FORMATS.infer(its, found(SMALL), {})
    shallow = build_config("2b-multi", {"num_layers": 2})  # its heads need not be the preset's
    with pytest.raises(UserError, match=r"no preset has hidden_size 2560, num_layers 2, .*--set num_heads=N"):
        FORMATS.infer(its, found(shallow), {})
