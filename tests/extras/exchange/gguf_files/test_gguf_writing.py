"""`convert --to gguf`: read with the `gguf` package's own reader, computed by transformers' classes of other models."""

import json
import tracemalloc
from dataclasses import replace
from itertools import pairwise, product

import gguf_models
import numpy as np
import pytest
import sentencepiece
from conftest import command_here
from gguf import GGUFReader
from gguf.quants import dequantize, quantize
from gguf_models import MODELS, TEXT, parameters, sizes, source
from small_models import parameters as small_parameters
from small_models import save_run
from tokenizer_files import chatglm_model, write_chatglm

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES, ChatTemplate
from ms_codegeex.data.description import ModelDescription
from ms_codegeex.data.jinja_templates import JinjaTemplate
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.exchange.gguf_files import writing
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.sources import open_source

memmap = np.memmap

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from twins import codegeex2_torch  # noqa: E402
from twins.peers import transformers_glm  # noqa: E402


def exported(name, place, dtype="f32", **options):
    """The reader of an exported model's file, with its keys as plain values, and what the export said."""
    result = convert(source(name, place / "tok", **options), "gguf", place / "out", dtype=dtype, verify=True)
    (path,) = (place / "out").glob("*.gguf")
    reader = GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    return {tensor.name: tensor for tensor in reader.tensors}, keys, result


def numbers(tensor):
    return torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype(np.float32))


def state_of(config, tensors, ends, blocks, kinds=("weight",)):
    """Tensors under transformers' names; `ends` and `blocks`: their layer -> that of GGUF."""
    each = product(range(config.num_layers), blocks.items())
    layers = ends | {f"model.layers.{i}.{theirs}": f"blk.{i}.{ours}" for i, (theirs, ours) in each}
    names = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in layers.items() for kind in kinds}
    names["model.embed_tokens.weight"] = "token_embd.weight"
    return {theirs: numbers(tensors[ours]) for theirs, ours in names.items()}


GLM = {"self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
GLM |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
PHI = {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"}
PHI |= {"self_attn.dense": "attn_output", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down", "input_layernorm": "attn_norm"}


def test_codegeex2_is_what_glm_computes(tmp_path):
    """transformers' GLM rotates neighbours too, and has q, k, v and gate and up below each other."""
    config, (tensors, *_) = sizes("codegeex2"), exported("codegeex2", tmp_path)
    kv = config.num_kv_groups * config.head_dim
    model = transformers_glm(transformers, config)
    state = state_of(config, tensors, {"model.norm": "output_norm", "lm_head": "output"}, GLM)
    for i, kind in product(range(config.num_layers), ("weight", "bias")):
        parts = numbers(tensors[f"blk.{i}.attn_qkv.{kind}"]).split([config.hidden_size, kv, kv])
        state |= {f"model.layers.{i}.self_attn.{part}_proj.{kind}": x for part, x in zip("qkv", parts, strict=True)}
    model.load_state_dict(state)
    twin = codegeex2_torch.CodeGeeX2(codegeex2_torch.Sizes.of(config))
    twin.load_state_dict(open_theirs("codegeex2", tmp_path))
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, twin.eval()(ids), atol=2e-4, rtol=1e-4)


def open_theirs(name, place):
    """The same parameters as tensors of a model directory in Hugging Face layout."""
    target = place / "hf"
    convert(source(name, place / "tok2"), "hf", target, progress=False)
    return {key: torch.from_numpy(tensor.array().copy()) for key, tensor in ModelDirectory(target).tensors.items()}


def test_codegen_is_what_phi_computes(tmp_path):
    """Phi pairs a channel with one of the other half, which the order of rows has to undo; its further biases are 0."""
    config, (tensors, *_) = sizes("codegen"), exported("codegen", tmp_path)
    settings = {"hidden_size": config.hidden_size, "num_hidden_layers": config.num_layers, "hidden_act": "gelu_new"}
    settings |= {"num_attention_heads": config.num_heads, "intermediate_size": config.intermediate_size}
    settings |= {"vocab_size": config.vocab_size, "layer_norm_eps": config.layer_norm_eps}
    settings |= {"partial_rotary_factor": config.rotary_dim / config.head_dim, "tie_word_embeddings": False}
    model = transformers.PhiForCausalLM(transformers.PhiConfig(**settings))
    ends = {"model.final_layernorm": "output_norm", "lm_head": "output"}
    state = state_of(config, tensors, ends, PHI, ("weight", "bias"))
    model.load_state_dict(state)
    theirs = open_theirs("codegen", tmp_path)
    codegen = transformers.CodeGenForCausalLM.from_pretrained(tmp_path / "hf")
    assert codegen.state_dict().keys() >= theirs.keys()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert torch.allclose(model.eval()(ids).logits, codegen.eval()(ids).logits, atol=2e-4, rtol=1e-4)


def test_qwen2_has_the_numbers_of_its_directory(tmp_path):
    """Both have a tensor for each matrix, and turn channels of a head's two halves; the head is the word table."""
    tensors, *_ = exported("qwen2", tmp_path)
    names = {"token_embd": "embed_tokens", "output_norm": "norm", "blk": "layers"}
    names |= {"ffn_norm": "post_attention_layernorm"}
    names |= {f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"} | {"attn_output": "self_attn.o_proj"}
    names |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")} | {"attn_norm": "input_layernorm"}
    theirs = {name: tensor.numpy() for name, tensor in open_theirs("qwen2", tmp_path).items()}
    found = {
        "model." + ".".join(names.get(part, part) for part in name.split(".")): numbers(tensor).numpy()
        for name, tensor in tensors.items()
    }
    assert found.keys() == theirs.keys() and all(np.array_equal(found[name], theirs[name]) for name in theirs)


ROTATED = {"attention.head_count_kv": 2, "rope.dimension_count": 8}
RMS, BASE = "attention.layer_norm_rms_epsilon", "rope.freq_base"
KEYS_OF = {  # GGUF's architecture, tensors of a block and further ones, and keys that are not everywhere equal
    "codegeex2": ("chatglm", 7, 3, {RMS: 1e-5, **ROTATED}, {"model": "llama", "pre": "chatglm-spm"}),
    "codegeex4": ("chatglm", 7, 3, {RMS: 1.5625e-7, BASE: 5e6, **ROTATED}, {"model": "gpt2", "pre": "chatglm-bpe"}),
    "codegen": (
        *("phi2", 14, 5),
        {"attention.head_count_kv": 4, "attention.layer_norm_epsilon": 1e-6, "rope.dimension_count": 8},
        {"model": "gpt2", "pre": "gpt-2"},
    ),
    "qwen2": ("qwen2", 12, 2, {"attention.head_count_kv": 2, RMS: 1e-6, BASE: 1e6}, {"model": "gpt2", "pre": "qwen2"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_keys_and_types_of_a_file(tmp_path, name):
    config, (tensors, keys, result) = sizes(name), exported(name, tmp_path, "q8_0")
    its, blocks, others, sized, tokenizer = KEYS_OF[name]
    small = {key: value for key, value in keys.items() if not (isinstance(value, list) or key.startswith("GGUF."))}
    small.pop("ms_codegeex.description", None)  # tests/data/test_model_description.py
    assert small == {
        "general.architecture": its,
        "general.type": "model",
        "general.name": "tok",
        "general.size_label": f"{round(result['parameters'] / 1000)}K",
        "general.file_type": 7,  # MOSTLY_Q8_0
        "general.quantization_version": 2,
        f"{its}.context_length": 128,
        f"{its}.embedding_length": 64,
        f"{its}.feed_forward_length": 96,
        f"{its}.block_count": 2,
        f"{its}.attention.head_count": 4,
        f"{its}.rope.freq_base": 10000.0,
        **{f"{its}.{key}": value if value > 1 else float(np.float32(value)) for key, value in sized.items()},
        **{f"tokenizer.ggml.{key}": value for key, value in tokenizer.items()},
        "tokenizer.ggml.eos_token_id": config.eos_token_id,
        "tokenizer.ggml.add_bos_token": False,
        **({} if tokenizer["model"] == "llama" else {"tokenizer.ggml.bos_token_id": config.eos_token_id}),
    }
    for tensor in tensors.values():
        assert tensor.tensor_type.name == ("F32" if len(tensor.shape) == 1 else "Q8_0"), tensor.name
    assert len(tensors) == 2 * blocks + others


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q4_0"])
def test_every_number_is_the_packages_own(tmp_path, dtype):
    arrays = parameters("codegeex2")
    tensors, _, result = exported("codegeex2", tmp_path, dtype)
    parts = [arrays[f"blocks.1.feed_forward.{part}.weight"] for part in ("gate", "up")]
    found = tensors["blk.1.ffn_up.weight"]
    expected = quantize(np.concatenate(parts), found.tensor_type)
    assert found.tensor_type.name == dtype.upper() and found.data.tobytes() == expected.tobytes()
    head = tensors["output.weight"]
    assert head.tensor_type.name == ("Q8_0" if dtype == "q4_0" else dtype.upper())
    assert head.data.tobytes() == quantize(arrays["head.weight"], head.tensor_type).tobytes()
    assert result["verified"] and "F32" in result["dtypes"]


def test_rows_that_do_not_divide_into_blocks_are_f16(tmp_path, monkeypatch):
    monkeypatch.setitem(gguf_models.SIZES["codegeex2"], "intermediate_size", 40)
    tensors, *_ = exported("codegeex2", tmp_path, "q8_0")
    assert tensors["blk.0.ffn_down.weight"].tensor_type.name == "F16"
    assert tensors["blk.0.ffn_up.weight"].tensor_type.name == "Q8_0"


def test_the_vocabulary_of_codegeex2(tmp_path):
    _, keys, _ = exported("codegeex2", tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tok" / "tokenizer.model"))
    count = pieces.get_piece_size()
    tokens, scores, types = (keys[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    assert len(tokens) == len(scores) == len(types) == 448
    assert tokens[3:count] == [pieces.id_to_piece(number) for number in range(3, count)]
    assert np.allclose(scores[:count], [pieces.get_score(number) for number in range(count)])
    assert tokens[:3] == ["<unk>", "<bos>", "<eos>"] and types[:3] == [2, 3, 3]
    assert {tokens[number][:3] for number in range(count) if types[number] == 6} == {"<0x"}
    assert tokens[count : count + 5] == ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"]
    assert types[count:] == [3] * 5 + [5] * (448 - count - 5) and tokens[-1] == "[PAD447]"
    # llama.cpp finds a control token's name inside any word
    named = [token for token, kind in zip(tokens, types, strict=True) if kind in (2, 3)]
    assert not any(name.isalnum() for name in named)


def test_the_vocabulary_of_codegen(tmp_path):
    _, keys, _ = exported("codegen", tmp_path)
    vocab = json.loads((tmp_path / "tok" / "vocab.json").read_text())
    merges = (tmp_path / "tok" / "merges.txt").read_text().splitlines()[1:]
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert tokens[: len(vocab)] == sorted(vocab, key=vocab.get) and keys["tokenizer.ggml.merges"] == merges
    end = vocab["<|endoftext|>"]
    assert tokens[end + 1] == " " * 31 and tokens[end + 38] == "\t\t" and tokens[end + 39] == f"[PAD{end + 39}]"
    assert types == [1] * end + [3] + [4] * 38 + [5] * (384 - end - 39)


def test_whole_tokens_are_reported(tmp_path):
    pieces = chatglm_model(user_defined_symbols=["\u2581\u2581", "# language: Python"])
    its = load_tokenizer(write_chatglm(tmp_path / "own", pieces))
    result = convert(replace(source("codegeex2", tmp_path / "tok"), save_tokenizer=its.save), "gguf", tmp_path / "o")
    assert len(result["warnings"]) == 1 and "one of 2 whole tokens" in result["warnings"][0]


@pytest.mark.parametrize(
    ("chat", "template"),
    [
        (
            ChatTemplate("U {content}\n", "A {content}\n", "{content}\n", ("U ",)),
            'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}{{ .Content }}\n{{ end }}'
            '{{ if eq .Role "user" }}U {{ .Content }}\n{{ end }}{{ if eq .Role "assistant" }}A {{ .Content }}\n'
            '{{ end }}{{ end }}A """\nPARAMETER stop "U "\n',
        ),
        (TEMPLATES["codegeex2"], ""),  # which counts rounds
        (JinjaTemplate((("default", "{{ messages }}"),)), ""),
    ],
)
def test_the_modelfile_of_a_chat_model(tmp_path, chat, template):
    model = source("codegen", tmp_path / "m")
    convert(replace(model, description=ModelDescription(chat=chat)), "gguf", tmp_path / "out", progress=False)
    text = (tmp_path / "out/Modelfile").read_text()
    assert text == f"FROM ./codegen-f32.gguf\n{template}PARAMETER num_ctx 128\nPARAMETER num_predict 256\n"


def test_the_modelfile(tmp_path):
    exported("codegeex2", tmp_path, "q4_0")
    assert (tmp_path / "out" / "Modelfile").read_text().splitlines() == [
        "FROM ./codegeex2-q4_0.gguf",
        'TEMPLATE """[gMASK]<sop>{{ .Prompt }}"""',
        "PARAMETER num_ctx 128",
        "PARAMETER num_predict 256",
    ]


def test_some_rows_are_in_memory(tmp_path, monkeypatch):
    """With pieces of 32 KB less than the largest tensor, 4 MB of FP16: no copy of one, and no map of it."""
    wide = {"hidden_size": 512, "intermediate_size": 256, "num_layers": 1, "num_heads": 8, "rotary_dim": 32}
    wide["vocab_size"] = 4096
    monkeypatch.setattr(gguf_models, "SIZES", {"codegeex2": {**gguf_models.SIZES["codegeex2"], **wide}})
    monkeypatch.setattr(writing, "_PIECE", 1 << 16)
    arrays = {name: np.zeros(shape, "float16") for name, shape in sizes("codegeex2").parameter_shapes().items()}
    largest, mapped = max(array.nbytes for array in arrays.values()), []
    convert(source("codegeex2", tmp_path / "tok", arrays, "float16"), "hf", tmp_path / "hf", progress=False)
    monkeypatch.setattr(np, "memmap", lambda *given, **named: mapped.append(named["shape"]) or memmap(*given, **named))
    for dtype in ("f32", "q8_0"):
        tracemalloc.start()
        try:
            convert(open_source(tmp_path / "hf"), "gguf", tmp_path / dtype, dtype=dtype, progress=False)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert largest == 4 << 20 and peak < largest * 0.75, peak / largest
        assert all(size < largest / 2 for (size,) in mapped)


def test_what_cannot_become_gguf(tmp_path):
    run = save_run(tmp_path / "run", "codegeex", small_parameters("codegeex"))
    with pytest.raises(UserError, match=r"codegeex cannot become GGUF: llama\.cpp has no architecture with its top"):
        convert(run, "gguf", tmp_path / "o")
    run = save_run(tmp_path / "two", "codegeex2", small_parameters("codegeex2"))
    words = ("convert", "--model", run, "--to", "gguf", "--output")
    for further, message in (
        ((tmp_path / "o",), "does not say which tokenizer it has, and GGUF needs it; add --tokenizer"),
        ((tmp_path / "o.gguf",), "names a directory, for the model and its Modelfile; leave .gguf out"),
        ((tmp_path / "o", "--tensor-parallel", 2), "--tensor-parallel: --to gguf is one file"),
        ((tmp_path / "o", "--tokenizer", "codegen-multi"), "has 50295 tokens, the model's tables 24 rows"),
        ((run / "checkpoints",), "choose another --output"),
    ):
        done = command_here(*words, *further)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    bare = tmp_path / "bare"  # without a tokenizer
    convert(open_source(run), "hf", bare, progress=False)
    done = command_here("convert", "--model", bare, "--to", "gguf", "--output", tmp_path / "o")
    assert done.returncode == 2 and f"{bare}: does not say which tokenizer it has" in done.stderr
    done = command_here("convert", "--model", run, "--to", "hf", "--dtype", "q8_0", "--output", tmp_path / "o")
    assert done.returncode == 2 and "--dtype: 'q8_0' is unknown; choose one of fp32, fp16, bf16" in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(("value", "dtype"), [(1e6, "f16"), (np.inf, "q8_0"), (np.nan, "q4_0")])
@pytest.mark.parametrize("allowed", [True, False])
def test_numbers_that_a_type_cannot_hold(tmp_path, value, dtype, allowed):
    arrays, how = parameters("codegeex2"), {"dtype": dtype, "progress": False, "non_finite": allowed}
    arrays["blocks.1.attention.output.weight"][3, 5] = value
    refused = r"blocks\.1\.attention\.output\.weight holds numbers that are not finite"
    if allowed or np.isfinite(value):  # no block of this type can have it
        refused = r"blk\.1\.attn_output\.weight: holds"
    with pytest.raises(UserError, match=refused):
        convert(source("codegeex2", tmp_path / "tok", arrays), "gguf", tmp_path / "out", **how)
    assert [path.name for path in tmp_path.iterdir()] == ["tok"]


def test_the_command(tmp_path):
    """From a model directory, with --replace; the default keeps the dtype of the matrices."""
    convert(source("codegeex2", tmp_path / "tok", dtype="float16"), "hf", tmp_path / "hf", progress=False)
    words = ("convert", "--model", tmp_path / "hf", "--to", "gguf", "--output", tmp_path / "out", "--verify")
    done = command_here(*words, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["dtypes"], result["prompt_begins_with"]) == (0, ["F16", "F32"], "[gMASK]<sop>")
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["Modelfile", "codegeex2-f16.gguf", "provenance.json"]
    assert command_here(*words).returncode == 2
    assert "F32, read back and equal byte for byte" in command_here(*words, "--replace", "--dtype", "f32").stdout
    assert not (tmp_path / "out" / "codegeex2-f16.gguf").exists()
    (tmp_path / "out" / "Modelfile").write_text("FROM mine")
    assert "Modelfile (changed since)" in command_here(*words, "--replace").stderr


def test_texts_survive_the_vocabulary(tmp_path):
    """Ids of the tokens' texts, greedily merged as llama.cpp does, are the tokenizer's."""
    _, keys, _ = exported("codegeex2", tmp_path)
    tokens, scores = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"]
    number, parts = {token: i for i, token in enumerate(tokens)}, [*f" {TEXT}".replace(" ", "\u2581")]
    while pairs := [(scores[number[a + b]], -i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in number]:
        i = -max(pairs)[1]
        parts[i : i + 2] = ["".join(parts[i : i + 2])]
    names = [[part] if part in number else [f"<0x{byte:02X}>" for byte in part.encode()] for part in parts]
    assert [number[name] for each in names for name in each] == load_tokenizer(tmp_path / "tok").encode(TEXT)
