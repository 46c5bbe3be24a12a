"""CodeGen's maps against the published layout: names, the order inside the fused matrix, sizes, config.json."""

from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from small_models import FIELDS, config, entries, equal, foreign, formats, parameters, shapes

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.layout import pack, packed_shape, to_ours, unpack
from ms_codegeex.formats.model_directory import write_model_directory
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import LazyTensor, from_array
from ms_codegeex.models.codegen.config import build_config

FORMATS = formats("codegen")


def test_names_of_each_side():
    names = [entry.foreign for entry in entries("codegen", "huggingface")]
    assert names[0] == "transformer.wte.weight" and names[-1] == "lm_head.bias"
    some = {"transformer.h.1.attn.qkv_proj.weight", "transformer.h.1.mlp.fc_in.bias", "transformer.ln_f.bias"}
    assert some <= {*names}
    assert [entry.foreign for entry in entries("codegen", "megatron")] == [("module", name) for name in names]
    original = dict(zip(names, (entry.foreign for entry in entries("codegen", "mindspore")), strict=True))
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
    ours = to_ours(entries("codegen", "huggingface"), tensors, shapes("codegen"), "here")
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
    entry = next(
        e for e in entries("codegen", "huggingface", ranks=2) if "qkv_proj" in e.foreign and ".h.0." in e.foreign
    )
    second = [mine[name][32:] for name in entry.ours]
    assert np.array_equal(pack(entry.packing, second), fused[96:])
    back = unpack(entry.packing, fused[96:], [array.shape for array in second])
    assert all(np.array_equal(a, b) for a, b in zip(back, second, strict=True))


def test_a_fused_matrix_is_read_once():
    tensors, loads = foreign("codegen", "huggingface", parameters("codegen")), []
    for name, tensor in tensors.items():
        load = partial(lambda name, tensor: loads.append(name) or tensor.array(), name, tensor)
        tensors[name] = LazyTensor(tensor.dtype, tensor.shape, load)
    for tensor in to_ours(entries("codegen", "huggingface"), tensors, shapes("codegen"), "here").values():
        tensor.array()
    assert sorted(loads) == sorted(tensors)


def test_config_json_there_and_back():
    written = FORMATS.to_json(config("codegen"))
    assert FORMATS.from_json(written) == FIELDS["codegen"]
    assert (written["n_embd"], written["architectures"], written["bos_token_id"]) == (64, ["CodeGenForCausalLM"], 1)
    released = {  # codegen-350M-mono, what its file says about sizes
        **{"model_type": "codegen", "activation_function": "gelu_new", "vocab_size": 51200, "n_embd": 1024},
        **{"n_layer": 20, "n_head": 16, "n_inner": None, "rotary_dim": 32, "n_positions": 2048, "n_ctx": 2048},
        **{"layer_norm_epsilon": 1e-05, "eos_token_id": 50256, "bos_token_id": 1, "tie_word_embeddings": False},
    }
    fields = FORMATS.from_json(released)
    expected = asdict(build_config("350m-mono", {}))
    assert fields == {key: expected[key] for key in FORMATS.defaults}


def test_sizes_without_a_preset_need_a_number_of_heads():
    shallow = build_config("2b-multi", {"num_layers": 2})  # its heads need not be the preset's
    ours = shallow.parameter_shapes()
    found = {
        e.foreign: packed_shape(e.packing, [ours[n] for n in e.ours])
        for e in entries("codegen", "huggingface", shallow)
    }
    with pytest.raises(UserError, match=r"no preset has hidden_size 2560, num_layers 2, .*--set num_heads=N"):
        FORMATS.infer(FORMATS.layout("huggingface"), found, {})


@pytest.mark.parametrize("to", ["huggingface", "gptj"])
def test_a_tied_head_is_the_embedding_as_in_transformers(tmp_path, to):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    arrays = parameters("codegen")
    tensors, table = foreign("codegen", to, arrays), arrays["embedding.word.weight"]
    tied = FORMATS.to_json(config("codegen")) | FORMATS.layout(to).config | {"tie_word_embeddings": True}
    heads = {"equal": table, "other": arrays["head.weight"], "none": None, "shape": arrays["head.weight"][:, :-1]}
    for name, head in heads.items():
        tensors.pop("lm_head.weight", None)
        more = {} if head is None else {"lm_head.weight": from_array(head)}
        write_model_directory(tmp_path / name, tied, tensors | more)
    said = {"other": "has other numbers and is not used", "none": "is missing"}
    for name in ("equal", "other", "none"):
        lines = []
        source = open_source(tmp_path / name, say=lines.append)
        equal(source, arrays | {"head.weight": table})
        assert source.config_json["tie_word_embeddings"] is False
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).lm_head.weight.detach().numpy()
        assert np.array_equal(theirs, table)
        why = f"lm_head.weight {said.get(name)}; by tie_word_embeddings, the head is transformer.wte.weight"
        assert [line for line in lines if "lm_head" in line] == [f"{tmp_path / name}: {why}"] * (name in said)
    with pytest.raises(UserError, match=r"config\.json: tie_word_embeddings is True, expected False; give a model"):
        open_source(tmp_path / "shape")
