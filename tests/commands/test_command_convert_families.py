"""Conversions of every family: round trips equal byte for byte, and what comes out in the other side's own software."""

import json
import sys
from functools import reduce
from operator import getitem
from types import SimpleNamespace

import numpy as np
import pytest
from small_models import FAMILIES, FIELDS, bfloat16, equal, parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array

pytestmark = pytest.mark.usefixtures("weights_only")

torch = pytest.importorskip("torch")

RANKS = {"codegeex": 4, "codegen": 4, "codegeex2": 2}
CHAIN = (("hf", 1), ("megatron", 1), ("mindspore", 1), ("megatron", 2), ("mindspore", 2), ("megatron", 0))
CHAIN += (("mindformers", 1), ("hf", 1))


@pytest.mark.parametrize(
    ("family", "dtype"), [("codegeex", "float32"), ("codegen", "float16"), ("codegeex2", "bfloat16")]
)
def test_round_trips_are_equal_byte_for_byte(tmp_path, family, dtype):
    arrays = parameters(family)
    arrays = bfloat16(arrays) if dtype == "bfloat16" else {name: a.astype(dtype) for name, a in arrays.items()}
    place = save_run(tmp_path / "run", family, arrays, dtype)
    for step, (to, ranks) in enumerate(CHAIN):
        source = open_source(place, None if step == 0 else FIELDS[family])
        result = convert(source, to, tmp_path / f"{step}", tensor_parallel=ranks or RANKS[family], verify=True)
        assert result["verified"] and result["dtypes"] == [dtype] and result["family"] == family
        assert result["parameters"] == sum(array.size for array in arrays.values())
        place = tmp_path / f"{step}"
        equal(open_source(place, FIELDS[family]), arrays)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "0" / file).read_bytes() == (place / file).read_bytes()
    assert open_source(place).fields == FIELDS[family]  # a model directory says its sizes itself


@pytest.mark.parametrize("family", FAMILIES)
def test_mindspore_loads_our_file(tmp_path, family):
    ms = pytest.importorskip("mindspore")
    arrays = parameters(family)
    place = convert(save_run(tmp_path / "run", family, arrays), "mindspore", tmp_path / "m.ckpt")["output"]
    loaded = ms.load_checkpoint(place, crc_check=True)
    if family == "codegeex":
        found = loaded["backbone.blocks.1.output.mapping.weight"]
        expected = arrays["blocks.1.feed_forward.up.weight"].T
        assert "backbone.top_query_layer.attention.dense3.bias" in loaded and len(loaded) == len(arrays)
    elif family == "codegen":
        found, expected = loaded["transformer.ln_f.beta"], arrays["final_norm.bias"]
        assert loaded["transformer.h.1.attn.qkv_proj.weight"].shape == (192, 64) and len(loaded) == 8 * 2 + 5
    elif family == "qwen2":
        found = loaded["model.layers.1.attention.wk.weight"]  # heads of 8 channels, ours by pairs
        expected = arrays["blocks.1.attention.key.weight"].reshape(2, 4, 2, 32).swapaxes(1, 2).reshape(16, 32)
        assert "model.tok_embeddings.embedding_weight" in loaded and len(loaded) == 12 * 2 + 2
    else:
        name = "transformer.encoder.layers.1.self_attention.query_key_value.bias"
        found = loaded[name]
        expected = np.concatenate([arrays[f"blocks.1.attention.{part}.bias"] for part in ("query", "key", "value")])
        assert "transformer.embedding.embedding_weight" in loaded and len(loaded) == 7 * 2 + 3
    assert np.array_equal(found.asnumpy(), expected)


LAYERS = "language_model -> transformer -> layers.0.attention.dense"
RANK_FILES = {  # tensors of PyTorch's files of ranks: the axis along which they are cut (None: not at all), and ours
    "codegeex": (
        ("language_model -> topQueryEmbedding -> top_query_embeddings -> weight", 0, "top_query_embedding.weight"),
        (f"{LAYERS}.weight", 1, "blocks.0.attention.output.weight"),
        (f"{LAYERS}.bias", None, "blocks.0.attention.output.bias"),
    ),
    "codegen": (("lm_head.bias", 0, "head.bias"),),
    "codegeex2": (("transformer.encoder.layers.0.mlp.dense_4h_to_h.weight", 1, "blocks.0.feed_forward.down.weight"),),
    "qwen2": (
        ("model.layers.0.self_attn.v_proj.weight", 0, "blocks.0.attention.value.weight"),
        ("model.layers.0.mlp.down_proj.weight", 1, "blocks.0.feed_forward.down.weight"),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_torch_loads_each_rank(tmp_path, family):
    arrays = parameters(family)
    convert(save_run(tmp_path / "run", family, arrays), "megatron", tmp_path / "ranks", tensor_parallel=2)
    files = [tmp_path / f"ranks/mp_rank_0{rank}_model_states.pt" for rank in range(2)]
    trees = [torch.load(file, weights_only=True, mmap=bool(rank))["module"] for rank, file in enumerate(files)]

    def parts(path):
        return [reduce(getitem, path.split(" -> "), tree).numpy() for tree in trees]

    for path, axis, ours in RANK_FILES[family]:
        for whole in parts(path) if axis is None else [np.concatenate(parts(path), axis)]:
            assert np.array_equal(whole, arrays[ours]), path
    if family == "codegen":  # groups of heads in order: the original layout needs no regrouping
        whole = np.concatenate(parts("transformer.h.0.attn.qkv_proj.weight"))
        assert np.array_equal(whole[48:64], arrays["blocks.0.attention.query.weight"][16:32])
        assert np.array_equal(whole[64:80], arrays["blocks.0.attention.value.weight"][16:32])
    elif family == "codegeex2":
        _, part = parts("transformer.encoder.layers.0.mlp.dense_h_to_4h.weight")
        assert np.array_equal(part[:10], arrays["blocks.0.feed_forward.gate.weight"][10:])
        assert np.array_equal(part[10:], arrays["blocks.0.feed_forward.up.weight"][10:])
        part, _ = parts("transformer.encoder.layers.1.self_attention.query_key_value.weight")
        rows = (("query", 16), ("key", 8), ("value", 8))
        expected = np.concatenate([arrays[f"blocks.1.attention.{name}.weight"][:count] for name, count in rows])
        assert np.array_equal(part, expected)


@pytest.mark.parametrize(("family", "ranks"), [("codegen", 8), ("codegeex2", 4), ("codegeex", 3), ("codegen", 0)])
def test_ranks_that_do_not_divide(tmp_path, family, ranks):
    run = save_run(tmp_path / "run", family, parameters(family))
    for to in ("megatron", "mindspore"):
        with pytest.raises(UserError, match=f"--tensor-parallel: {ranks} does not divide"):
            convert(run, to, tmp_path / "out", tensor_parallel=ranks)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def codegen(tmp_path_factory):
    """A CodeGen made by transformers, saved in all its ways; the network itself."""
    from transformers import CodeGenConfig, CodeGenForCausalLM

    config = CodeGenConfig(
        vocab_size=96, n_embd=64, n_layer=2, n_head=16, n_inner=None, rotary_dim=2, n_positions=32, eos_token_id=5
    )
    torch.manual_seed(1)
    model = CodeGenForCausalLM(config).eval()
    for parameter in model.parameters():  # biases too, which start as zeros
        torch.nn.init.normal_(parameter, std=0.3)
    root = tmp_path_factory.mktemp("codegen")
    model.save_pretrained(root / "one")
    model.save_pretrained(root / "shards", max_shard_size="50KB")
    model.save_pretrained(root / "bin", safe_serialization=False)
    model.save_pretrained(root / "bins", safe_serialization=False, max_shard_size="50KB")
    return root, model


@pytest.mark.parametrize("saved", ["one", "shards", "bin", "bins"])
def test_codegen_of_transformers_there_and_back(tmp_path, codegen, saved, monkeypatch):
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root, model = codegen
    files = [*(root / saved).glob("*.bin"), *(root / saved).glob("*.safetensors")]
    assert len(files) > 2 * saved.endswith("s")
    ours = open_source(root / saved)
    convert(ours, "mindspore", tmp_path / "m.ckpt")
    back = open_source(tmp_path / "m.ckpt", ours.fields)
    convert(back, "hf", tmp_path / "hf", verify=True)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert type(loaded) is type(model) and loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    ids = torch.arange(9)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert loaded.config.eos_token_id == 5 and loaded.config.n_inner == 256


def test_codegens_three_matrices_give_what_transformers_computes(codegen, monkeypatch):
    root, model = codegen
    ours = {name: tensor.array() for name, tensor in open_source(root / "bin").tensors.items()}
    attention = model.transformer.h[1].attn
    hidden = torch.randn(1, 7, 64)
    seen = {}

    def spy(*arguments, **_more):
        query, key, value = [each for each in arguments if isinstance(each, torch.Tensor)][:3]
        seen.update(query=query, key=key, value=value)
        return value, None

    if hasattr(attention, "_attn"):  # before transformers 5.24
        monkeypatch.setattr(attention, "_attn", spy)
        attention(hidden, layer_past=None, position_ids=torch.zeros(1, 7, dtype=torch.long))  # position 0 turns nothing
    else:
        functions = SimpleNamespace(get_interface=lambda *_: spy)
        monkeypatch.setattr(sys.modules[type(attention).__module__], "ALL_ATTENTION_FUNCTIONS", functions)
        turned = attention.rotary_dim // 2
        attention(hidden, (torch.zeros(1, 7, turned), torch.ones(1, 7, turned)))
    for part in ("query", "key", "value"):
        expected = hidden @ torch.from_numpy(ours[f"blocks.1.attention.{part}.weight"].copy()).T
        found = seen[part].permute(0, 2, 1, 3).reshape(1, 7, 64)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_old_buffers_are_left_out_and_named(tmp_path, codegen, capsys):
    root, model = codegen
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((root / "bin" / "config.json").read_text())
    state = dict(model.state_dict())
    for i in range(2):
        state[f"transformer.h.{i}.attn.causal_mask"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
        state[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e9)
    torch.save(state, old / "pytorch_model.bin")
    assert main(["convert", "--model", str(old), "--to", "hf", "--output", str(tmp_path / "hf"), "--verify"]) == 0
    output = capsys.readouterr()
    assert "transformer.h.0.attn.causal_mask and 3 more" in output.err and "byte for byte" in output.out
    assert open_source(tmp_path / "hf").skipped == ()
    torch.save(state | {"transformer.h.0.attn.rotary": torch.ones(2)}, old / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"unexpected tensor transformer\.h\.0\.attn\.rotary"):
        open_source(old)


def test_a_model_directory_keeps_what_lies_beside_the_weights(tmp_path, codegen):
    root, _ = codegen
    (root / "bin" / "tokenizer_config.json").write_text("{}")
    config = json.loads((root / "bin" / "config.json").read_text()) | {"task": {"my": "own"}}
    (root / "bin" / "config.json").write_text(json.dumps(config))
    convert(root / "bin", "hf", tmp_path / "hf", dtype="fp16")
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert written["task"] == {"my": "own"} and written["torch_dtype"] == "float16" and "dtype" not in written
    assert (tmp_path / "hf" / "tokenizer_config.json").read_text() == "{}"
    assert not [*(tmp_path / "hf").glob("*.bin*")]


def test_bf16_as_a_target_rounds_like_torch(tmp_path):
    """Other numbers are in tests/formats/test_rounding_types.py."""
    values = np.array([1.0, 1.00390625, 1.01171875, -0.0, 1e-40, -np.inf, np.nan, 3.3895e38], np.float32)
    for source in (values, values[:7].astype(np.float16)):
        found = torch.from_numpy(cast("x", from_array(source), "bfloat16").array().view(np.int16)).view(torch.bfloat16)
        assert torch.equal(found.nan_to_num(7), torch.from_numpy(source).bfloat16().nan_to_num(7))
    nan = cast("x", from_array(np.array([0x7F800001], np.uint32).view(np.float32)), "bfloat16").array()
    assert nan[0] & 0x7F80 == 0x7F80 and nan[0] & 0x7F
    with pytest.raises(UserError, match=r"x: holds 3\.4.*larger than bfloat16"):
        cast("x", from_array(np.array([3.4e38], np.float32)), "bfloat16").array()
    run = save_run(tmp_path / "run", "codegen", parameters("codegen"))
    result = convert(run, "megatron", tmp_path / "m.pt", dtype="bf16", tensor_parallel=1, verify=True)
    assert result["dtypes"] == ["bfloat16"]
    assert torch.load(tmp_path / "m.pt", weights_only=True)["module"]["lm_head.weight"].dtype == torch.bfloat16


def test_a_model_without_a_known_tokenizer_is_converted_and_says_so(tmp_path, capsys):
    convert(save_run(tmp_path / "run", "codegen", parameters("codegen")), "megatron", tmp_path / "m.pt")
    words = ("convert", "--model", str(tmp_path / "m.pt"), "--to", "hf", "--output")
    assert main([*words, str(tmp_path / "bare")]) == 0 and "has no tokenizer" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "hf"), "--tokenizer", "codegen-nl"]) == 0
    assert (tmp_path / "hf" / "vocab.json").is_file() and "tokenizer" not in capsys.readouterr().err
