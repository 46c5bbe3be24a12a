"""GGUF read back, by `convert --model` and `inspect`; and what an attacker may put into such a file."""

import json
import os
import random
import shlex
import struct
from dataclasses import replace

import numpy as np
import pytest
from conftest import command_here
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize
from gguf_models import MODELS, TEXT, gguf, info, key, parameters, sizes, source, text
from terminal_stream import is_harmless
from tokenizer_files import CODEGEEX4_NAMES, write_qwen2

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.extras import missing_packages
from ms_codegeex.data.description import ModelDescription
from ms_codegeex.data.infilling.sentinels import sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.exchange.gguf_files import header, quantising
from ms_codegeex.extras.exchange.gguf_files.header import GGUFHeader
from ms_codegeex.extras.exchange.gguf_files.reading import open_gguf
from ms_codegeex.extras.exchange.gguf_files.vocabulary import CONTROL, UNUSED, USER_DEFINED, tokenizer_writer
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.files import is_gguf
from ms_codegeex.formats.rounding import cast
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def written(name, place, dtype="f32"):
    """The path of an exported model."""
    convert(source(name, place / "tok"), "gguf", place / "out", dtype=dtype, progress=False)
    (path,) = (place / "out").glob("*.gguf")
    return path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_round_trips(tmp_path, name, dtype):
    model = source(name, tmp_path / "again", dtype=f"{'b' * (dtype == 'bf16')}float{dtype[-2:]}")
    back = open_gguf(written(name, tmp_path, dtype))
    assert back.kind == "gguf" and back.family == model.family
    assert back.fields == {**model.fields, "init_std": back.fields["init_std"]}
    assert list(back.tensors) == list(model.tensors)
    for key_, tensor in back.tensors.items():
        expected = parameters(name)[key_] if len(tensor.shape) == 1 else model.tensors[key_].float32()
        assert np.array_equal(tensor.float32(), expected), key_


@pytest.mark.parametrize("name", MODELS)
def test_the_tokenizer_comes_back(tmp_path, name):
    path = written(name, tmp_path)
    done = command_here("convert", "--model", path, "--to", "hf", "--output", tmp_path / "hf", "--verify")
    assert done.returncode == 0 and "no tokenizer" not in done.stderr
    done = command_here("convert", "--model", path, "--to", "hf", "--output", tmp_path / "o", "--keep-code")
    assert done.returncode == 2 and "has no code to keep" in done.stderr
    first, second = load_tokenizer(tmp_path / "tok"), load_tokenizer(tmp_path / "hf")
    for piece in (TEXT, "  \t\t  ", "people", "", "[gMASK]sop", "<|endoftext|>"):
        assert second.encode(piece) == first.encode(piece) and second.encode_prompt(piece) == first.encode_prompt(piece)
    again = open_source(tmp_path / "hf")
    arrays = parameters(name)
    assert again.tensors.keys() == arrays.keys()
    assert all(again.tensors[each].array().tobytes() == array.tobytes() for each, array in arrays.items())


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_quantised_tensors_come_as_fp32(tmp_path, dtype):
    path = written("codegen", tmp_path, dtype)
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}["blk.1.ffn_down.weight"]
    found = open_gguf(path).tensors["blocks.1.feed_forward.down.weight"].array()
    assert np.array_equal(found, dequantize(theirs.data, theirs.tensor_type))
    assert theirs.tensor_type.name == dtype.upper()
    original = parameters("codegen")["blocks.1.feed_forward.down.weight"]
    assert np.abs(found - original).max() < np.abs(original).max() / (100 if dtype == "q8_0" else 7)


def test_files_of_llama_cpps_converter_are_read(tmp_path):
    """It gives two of the command tokens other names."""
    path = written("codegeex2", tmp_path)
    data = path.read_bytes().replace(text("<sop>"), text("sop")).replace(text("<eop>"), text("eop"))
    start = GGUFHeader(path).infos["token_embd.weight"].start
    head, short = data[: start - 4], len(data) - path.stat().st_size
    (tmp_path / "theirs.gguf").write_bytes(head + bytes(start - len(head)) + path.read_bytes()[start:])
    back = open_gguf(tmp_path / "theirs.gguf")
    assert short == -4
    back.save_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path).encode(TEXT) == load_tokenizer(tmp_path / "tok").encode(TEXT)


def test_inspect(tmp_path):
    path = written("codegeex2", tmp_path, "q4_0")
    lines = command_here("inspect", path).stdout.splitlines()
    assert lines[0] == "GGUF: architecture 'chatglm', that of codegeex2"
    assert "chatglm.context_length: 128" in lines and lines[-1].startswith("verified: 17 tensors, ")
    assert "tokenizer.ggml.tokens: 448 values: '<unk>', '<bos>', '<eos>', …" in lines
    assert "  output.weight  Q8_0  [448, 64]" in command_here("inspect", path, "--tensors").stdout.splitlines()
    described = json.loads(command_here("inspect", path, "--json").stdout)
    assert described["parameters"] == sizes("codegeex2").parameter_count() and described["family"] == "codegeex2"
    assert "has no documents; leave out --document" in command_here("inspect", path, "--document", 0).stderr


def test_another_architecture_is_shown_and_not_converted(tmp_path):
    path = tmp_path / "m.gguf"
    keys = [key("general.architecture", STRING, text("llama"))]
    path.write_bytes(gguf(keys, [info("a", (2, 256), 14, 0)], bytes(2 * 210 + 28)))  # Q6_K
    out = command_here("inspect", path, "--tensors").stdout
    assert "architecture 'llama', which none of our families has" in out and "  a  Q6_K  [2, 256]" in out
    done = command_here("convert", "--model", path, "--to", "hf", "--output", tmp_path / "o")
    assert done.returncode == 2 and "general.architecture is 'llama', which none of our families is" in done.stderr


F32 = info("a", (2, 4), 0, 0)
HOSTILE = {
    "version 1, expected 2 or 3": gguf(version=1),
    "big-endian, which is not read": gguf(version=3 << 24),
    "ends in its header": gguf(tensors=1),
    "18,446,744,073,709,551,615 tensors, more than": gguf(tensors=2**64 - 1),
    "1,000,000 keys, more than": gguf(keys_said=10**6),
    "bytes in a name, more than": gguf([struct.pack("<Q", 1 << 40)]),
    "key a is there twice": gguf([key("a", UINT32, bytes(4))] * 2),
    "unknown type 99": gguf([key("a", 99, b"")]),
    "values in a list, more than": gguf([key("a", ARRAY, struct.pack("<IQ", STRING, 1 << 60))]),
    "ends in its header ": gguf([key("a", ARRAY, struct.pack("<IQ", UINT32, 1 << 20))]),
    "a list of the type 9": gguf([key("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]),
    "its alignment is 0": gguf([key("general.alignment", UINT32, bytes(4))]),
    "its alignment is 'x'": gguf([key("general.alignment", STRING, text("x"))]),
    "its alignment is 2147483648": gguf([key("general.alignment", UINT32, struct.pack("<I", 1 << 31))]),
    "tensor a is there twice": gguf([], [F32] * 2, bytes(64)),
    "tensor a has 0 axes": gguf([], [info("a", (), 0, 0)], bytes(32)),
    "tensor a has 9 axes": gguf([], [info("a", (1,) * 9, 0, 0)], bytes(32)),
    "bytes in a name, more than 64": gguf([], [info("a" * 65, (8,), 0, 0)], bytes(32)),
    "tensor a has the unknown type 4000": gguf([], [info("a", (8,), 4000, 0)], bytes(32)),
    "tensor a has shape [0, 4]": gguf([], [info("a", (0, 4), 0, 0)], bytes(32)),
    "tensor a has shape [2, 31], which Q8_0 cannot have": gguf([], [info("a", (2, 31), 8, 0)], bytes(96)),
    "tensor a ends after the file's": gguf([], [info("a", (1 << 40, 1 << 40), 0, 0)], bytes(32)),
    "tensor a ends after the file's ": gguf([], [F32], bytes(31)),
    "tensor b begins at byte 0, expected 32": gguf([], [F32, info("b", (2, 4), 0, 0)], bytes(64)),
    "tensor b begins at byte 64, expected 32": gguf([], [F32, info("b", (2, 4), 0, 64)], bytes(96)),
    "tensor a begins at byte 18446744073709551584": gguf([], [info("a", (8,), 0, 2**64 - 32)], bytes(32)),
    "32 bytes follow the last tensor": gguf([], [F32], bytes(64)),
    "it does not begin like one": b"GGML" + bytes(60),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_files(tmp_path, message):
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[message])
    with pytest.raises(UserError) as error:
        GGUFHeader(path)
    assert "\n" not in str(error.value) and message.strip() in str(error.value)
    if message.startswith("version"):
        for words in (("inspect", path), ("convert", "--model", path, "--to", "hf", "--output", tmp_path / "o")):
            done = command_here(*words)
            assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
        assert not (tmp_path / "o").exists()


def _changed(data, name, kind, old, new):
    """The file with another value of a key."""
    assert key(name, kind, old) in data
    return data.replace(key(name, kind, old), key(name, kind, new))


def u32(value):
    return struct.pack("<I", value)


SIZES = {
    "asks for 70000 layers, but only": ("chatglm.block_count", UINT32, u32(2), u32(70000)),
    "positive whole number": ("chatglm.embedding_length", UINT32, u32(64), u32(0)),
    "[448, 64], the model's configuration asks for [448, 128]": ("chatglm.embedding_length", UINT32, u32(64), u32(128)),
    "num_kv_groups: 3 does not divide": ("chatglm.attention.head_count_kv", UINT32, u32(2), u32(3)),
    "norm_eps is nan": ("chatglm.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5), b"\0\0\xc0\x7f"),
    "eos_token_id": ("tokenizer.ggml.eos_token_id", UINT32, u32(2), u32(4_000_000_000)),
    "its end token is 5": ("tokenizer.ggml.eos_token_id", UINT32, u32(2), u32(5)),
    "tokenizer.ggml.add_bos_token is True, expected False": ("tokenizer.ggml.add_bos_token", BOOL, b"\0", b"\1"),
    "general.type is 'lora?', not a model": ("general.type", STRING, text("model"), text("lora?")),
}


@pytest.mark.parametrize("message", SIZES)
def test_sizes_that_do_not_fit(tmp_path, message):
    path = written("codegeex2", tmp_path)
    path.write_bytes(_changed(path.read_bytes(), *SIZES[message]))
    done = command_here("convert", "--model", path, "--to", "hf", "--output", tmp_path / "o")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_a_missing_size_can_be_given(tmp_path):
    path = written("codegeex2", tmp_path)
    path.write_bytes(path.read_bytes().replace(b"attention.head_count_kv", b"attention.head_count_xx"))
    words = ("convert", "--model", path, "--to", "hf", "--output", tmp_path / "o")
    said = "key chatglm.attention.head_count_kv is missing; give it with --set num_kv_groups=N"
    assert said in command_here(*words).stderr
    assert command_here(*words, "--set", "num_kv_groups=2").returncode == 0


def test_a_phi_model_is_not_taken_for_codegen(tmp_path):
    path = written("codegen", tmp_path)
    start, data = GGUFHeader(path).infos["blk.1.attn_k.bias"].start, bytearray(path.read_bytes())
    data[start + 3] = 0x3F
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"attn_k\.bias is not zero; this phi2 model is not one"):
        open_gguf(path)


def test_a_tokenizer_that_does_not_fit_together(tmp_path):
    path, target = written("codegeex2", tmp_path), tmp_path / "o"
    sound = path.read_bytes()
    for damaged in (
        sound.replace(text("[sMASK]"), text("[tMASK]")),
        _changed(sound, "tokenizer.ggml.model", STRING, text("llama"), text("llamb")),
        sound.replace(text("<0x41>"), text("<0x42>")),
    ):
        path.write_bytes(damaged)
        done = command_here("convert", "--model", path, "--to", "hf", "--output", target, "--replace")
        refused = done.returncode == 2 and "its tokenizer is not one of ours" in done.stderr
        assert refused or "no tokenizer" in done.stderr
    path.write_bytes(sound)
    metadata = GGUFHeader(path).metadata
    scores = [1e300, *metadata["tokenizer.ggml.scores"][1:]]  # as an array of float64 may have them
    with pytest.raises(UserError, match="its tokenizer is not one of ours"):
        tokenizer_writer({**metadata, "tokenizer.ggml.scores": scores}, "x")(tmp_path)
    path = written("codegen", tmp_path / "g")
    sound = path.read_bytes()
    twice = {"min": "mer", "m in": "m er"}  # a token that is there twice, and no merge that makes the one that is gone
    for changes in ({"<|endoftext|>": "<|endoftexu|>"}, {"m in": "m xx"}, twice, {"gpt-2": "qwen3"}):
        damaged = sound
        for old, new in changes.items():
            assert text(old) in damaged
            damaged = damaged.replace(text(old), text(new))
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="its tokenizer is not one of ours"):
            open_gguf(path).save_tokenizer(tmp_path)


def test_qwen2s_tokenizer_comes_back(tmp_path):
    """With CodeGen's weights. Only a file of ours says whether the model fills in; others are asked as by llama.cpp."""
    tokenizer = load_tokenizer(write_qwen2(tmp_path / "tok", size=300))
    model = source("codegen", tmp_path / "own")
    fields = {**model.fields, "eos_token_id": tokenizer.eos_id}
    convert(replace(model, fields=fields, save_tokenizer=tokenizer.save), "gguf", tmp_path / "out", progress=False)
    (path,) = (tmp_path / "out").glob("*.gguf")
    found = open_gguf(path)
    (tmp_path / "again").mkdir()
    found.save_tokenizer(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert (again.name, again.fingerprint, again.infilling) == ("qwen2", tokenizer.fingerprint, tokenizer.infilling)
    assert again.added == replace(tokenizer.added, roles=again.added.roles)
    keys = GGUFHeader(path).metadata
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    names, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    special = ("<|im_end|>", "<|fim_pad|>", "<tool_call>")
    assert [types[names.index(name)] for name in special] == [CONTROL, CONTROL, USER_DEFINED]
    assert found.description.infill is None
    path.write_bytes(path.read_bytes().replace(b"ms_codegeex.description", b"xx_codegeex.description"))
    assert open_gguf(path).description.infill == sentinels(tokenizer.infilling)
    marks = replace(sentinels(tokenizer.infilling), end=("<|x|>",))
    told = replace(model, fields=fields, save_tokenizer=tokenizer.save, description=ModelDescription(infill=marks))
    convert(told, "gguf", tmp_path / "told", progress=False)
    (path,) = (tmp_path / "told").glob("*.gguf")
    assert open_gguf(path).description.infill == marks  # the ids of llama.cpp's keys are those of the texts
    assert GGUFHeader(path).metadata["tokenizer.ggml.fim_mid_token_id"] == names.index("<|fim_middle|>")


def test_codegeex4s_tokenizer_comes_back(tmp_path):
    """The tokens and merges are those that transformers makes of the same file of ranks."""
    converting = pytest.importorskip("transformers.convert_slow_tokenizer")
    path = written("codegeex4", tmp_path)
    tokenizer = load_tokenizer(tmp_path / "tok")
    keys, ranks = GGUFHeader(path).metadata, str(tmp_path / "tok/tokenizer.model")
    vocab, merges = converting.TikTokenConverter(ranks).extract_vocab_merges_from_model(ranks)
    names = keys["tokenizer.ggml.tokens"]
    assert (names[:706], keys["tokenizer.ggml.merges"]) == ([*vocab], [" ".join(pair) for pair in merges])
    assert names[706:] == [*CODEGEEX4_NAMES, *(f"[PAD{number}]" for number in range(719, 736))]
    assert keys["tokenizer.ggml.eos_token_id"] == 706
    assert keys["tokenizer.ggml.token_type"][706:] == [CONTROL] * 13 + [UNUSED] * 17
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "chatglm-bpe")
    (tmp_path / "again").mkdir()
    open_gguf(path).save_tokenizer(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert (again.name, again.fingerprint) == ("codegeex4", tokenizer.fingerprint)
    assert (again.infilling, again.added) == (tokenizer.infilling, tokenizer.added)
    assert open_gguf(path).description.infill is None
    path.write_bytes(path.read_bytes().replace(b"ms_codegeex.description", b"xx_codegeex.description"))
    asked = open_gguf(path).description.infill  # of a file by another program
    assert asked == sentinels(tokenizer.infilling) and asked.order[0] == "suffix" and asked.frame and asked.files


@pytest.mark.parametrize("name", MODELS)
def test_changed_and_cut_files_never_end_in_a_traceback(tmp_path, name):
    path, draw, refused = written(name, tmp_path), random.Random(3), 0
    sound, start = path.read_bytes(), GGUFHeader(path).infos["token_embd.weight"].start
    for number in range(300):
        data = bytearray(sound)
        for _ in range(draw.choice((1, 4))):
            data[draw.randrange(start)] = draw.randrange(256)
        path.write_bytes(data if number % 8 else data[: draw.randrange(start)])
        try:
            if (save := open_gguf(path).save_tokenizer) is not None:
                save(tmp_path / "tok")
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused > 75


def test_a_header_of_any_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(header, "_MAX_HEADER_BYTES", 1000)
    (tmp_path / "m.gguf").write_bytes(gguf([key(f"k{i}", UINT32, bytes(4)) for i in range(100)]) + bytes(10_000))
    with pytest.raises(UserError, match="its header is longer than any model's"):
        GGUFHeader(tmp_path / "m.gguf")


def test_names_cannot_command_a_terminal(tmp_path):
    path = tmp_path / "m.gguf"
    names = ["\x1b]0;owned\x07", "\u202egpj", "two\nlines"]
    keys = [key(name, STRING, text(name)) for name in names] + [key("x", STRING, text(b"\xff\xfe"))]
    path.write_bytes(gguf(keys, [info(names[2], (8,), 0, 0)], bytes(32)))
    for words in ((), ("--tensors",), ("--json",)):
        done = command_here("inspect", path, *words)
        assert done.returncode == 0 and is_harmless(done.stdout)


@pytest.mark.parametrize("verb", ["generate", "serve", "evaluate", "quantize"])
def test_commands_that_need_another_form_say_how_to_convert(tmp_path, verb):
    """A file by its suffix or its beginning, and the folder that `--to gguf` writes."""
    if missing_packages({"serve": "serving", "evaluate": "evaluation"}.get(verb, "")):
        pytest.skip(f"{verb} is not installed")
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "m.gguf").write_bytes(gguf())
    (tmp_path / "unnamed").write_bytes(gguf())
    (tmp_path / "x").write_text("x")
    words = {
        "generate": ("generate", "--prompt", "x"),
        "serve": ("serve", "--port", "0"),
        "evaluate": ("evaluate", "perplexity", "--data", tmp_path / "x", "--output", tmp_path / "out"),
        "quantize": ("quantize", "--bits", "8", "--output", tmp_path / "out"),
    }[verb]
    for given, file in (("a b/m.gguf", "a b/m.gguf"), ("a b", "a b/m.gguf"), ("unnamed", "unnamed")):
        done = command_here(*words, "--model", tmp_path / given)
        line = f"first: ms-codegeex convert --model {shlex.quote(str(tmp_path / file))} --to hf --output DIR\n"
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and done.stderr.endswith(line), done.stderr


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    assert not is_gguf(tmp_path / "pipe.gguf") and not is_gguf(tmp_path / "folder.gguf")
    assert command_here("inspect", tmp_path / "pipe.gguf").returncode == 2
    (tmp_path / "unnamed").write_bytes(gguf())
    assert is_gguf(tmp_path / "unnamed") and "0 tensors" in command_here("inspect", tmp_path / "unnamed").stdout


def test_through_gguf_and_back_to_the_same_file(tmp_path):
    first = written("codegen", tmp_path / "a", "f16")
    convert(open_gguf(first), "hf", tmp_path / "tok", progress=False)
    convert(open_source(tmp_path / "tok"), "gguf", tmp_path / "b", dtype="f16", progress=False)
    assert (tmp_path / "b" / first.name).read_bytes() == first.read_bytes()
    words = ("convert", "--model", tmp_path / "b", "--to", "hf", "--output")  # the folder with that one file
    assert command_here(*words, tmp_path / "c").returncode == 0
    assert command_here("inspect", tmp_path / "b").stdout.startswith("GGUF: architecture 'phi2'")
    (tmp_path / "b/other.gguf").write_bytes(first.read_bytes())
    assert command_here(*words, tmp_path / "d").returncode == 2


# -- Q8_0 and Q4_0 are the bytes of the package's `quantize`, from every type that a model is stored in


def odd_rows():
    """Rows of ordinary numbers, and of those at which a rounding or a choice may go wrong."""
    draw = np.random.default_rng(3)
    rows = draw.normal(0, 0.02, (40, 256)).astype(np.float32)
    rows[3], rows[4] = 0, -0.0
    rows[5], rows[6] = [0.5, -0.5] * 128, [-0.5, 0.5] * 128  # of equal magnitudes the first counts
    rows[7] = draw.integers(-127, 128, 256) / 2  # halves
    rows[8] = np.arange(256) % 255 * 0.5 - 63.5
    rows[9] = np.round(rows[9] * 64) / 64
    rows[10] *= 1e-4
    rows[11, ::5] = 6e4
    rows[12] = np.nextafter(rows[7], np.float32(0))
    return rows


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bytes_are_the_packages(monkeypatch, dtype, kind):
    monkeypatch.setattr(quantising, "_CACHED", 1 << 10)  # several parts, the last one smaller
    stored, kind = cast("x", from_array(odd_rows()[:39]), dtype), GGMLQuantizationType[kind]
    expected = quantize(stored.float32(), kind)
    before = stored.array().copy()
    found = quantising.quantised(stored.array(), dtype, kind)
    assert np.array_equal(found.reshape(expected.shape), expected)
    assert np.array_equal(stored.array(), before)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the package's own
def test_scales_without_an_inverse_are_the_packages_affair(kind):
    rows, kind = odd_rows() * np.float32(1e-38), GGMLQuantizationType[kind]
    assert np.array_equal(quantising.quantised(rows, "float32", kind), quantize(rows, kind).reshape(-1))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite(dtype, kind, value):
    rows = odd_rows()
    rows[30, 77] = value
    with pytest.raises(UserError, match="not finite"):
        quantising.quantised(cast("x", from_array(rows), dtype).array(), dtype, GGMLQuantizationType[kind])
