"""What a conversion may overwrite, what it leaves behind, and what the original's software finds in the result."""

import contextlib
import json
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import save_file
from small_models import FIELDS, parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import read_json
from ms_codegeex.cli import main
from ms_codegeex.commands.convert import script
from ms_codegeex.formats import convert as module
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore, write_mindspore
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.torch_zip import read_torch
from ms_codegeex.models import registry

pytestmark = pytest.mark.usefixtures("weights_only")

# What the original's classes read of a configuration. Those of ChatGLM2 have no defaults of their own for the second
# group; that the library has none either is asserted below.
READ = {
    # codegeex/torch/codegeex_model.py of the release: arguments of CodeGeeXModel, by their names in a config.json
    "codegeex": (
        *("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"),
        *("layer_norm_eps", "eos_token_id"),
    ),
    # jaxformer/hf/codegen/configuration_codegen.py and modeling_codegen.py of the release
    "codegen": (
        *("vocab_size", "n_positions", "n_ctx", "n_embd", "n_layer", "n_head", "n_inner", "rotary_dim"),
        *("activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop", "layer_norm_epsilon"),
        *("scale_attn_weights", "use_cache", "bos_token_id", "eos_token_id"),
    ),
    # modeling_chatglm.py of the CodeGeeX2 release
    "codegeex2": (
        *("num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "kv_channels", "num_attention_heads"),
        *("seq_length", "hidden_dropout", "attention_dropout", "layernorm_epsilon", "rmsnorm"),
        *("apply_residual_connection_post_layernorm", "post_layer_norm", "add_bias_linear", "add_qkv_bias"),
        *("interleaved_qkv", "bias_dropout_fusion", "multi_query_attention", "multi_query_group_num"),
        *("apply_query_key_layer_scaling", "attention_softmax_in_fp32", "fp32_residual_connection"),
        *("quantization_bit", "torch_dtype"),
        *("use_cache", "original_rope", "pre_seq_len", "prefix_projection"),
    ),
}
LIBRARY = ("output_hidden_states", "use_return_dict", "max_length", "is_encoder_decoder")
NOT_IN_5 = ("max_length", "use_cache")  # its class has no such attributes, and drops them from files: docs/exchange.md


def run_of(tmp_path, family="codegen"):
    return save_run(tmp_path / f"run-{family}", family, parameters(family))


@pytest.mark.parametrize("family", list(READ))
@pytest.mark.parametrize("by", ["run", "megatron", "mindspore"])
def test_a_written_configuration_has_all_that_the_originals_classes_read(tmp_path, family, by):
    transformers = pytest.importorskip("transformers")
    place = run_of(tmp_path, family)
    if by != "run":
        place = Path(convert(place, by, tmp_path / "by")["output"])
    convert(open_source(place, FIELDS[family]), "hf", tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert [key for key in READ[family] if key not in written] == []
    loaded = transformers.PretrainedConfig.from_dict(written)
    for name in (*READ[family], *LIBRARY):
        assert hasattr(loaded, name) or (name in NOT_IN_5 and transformers.__version__ >= "5"), name
    assert written.get("use_cache", True) is True
    if family == "codegeex2":
        assert not hasattr(transformers.PretrainedConfig(), "use_cache")
        assert written["auto_map"]["AutoModel"] == "modeling_chatglm.ChatGLMForConditionalGeneration"
        assert written["kv_channels"] * written["num_attention_heads"] == written["hidden_size"]


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("codegen", {"num_heads": 2, "rotary_dim": 4}, "share the heads out to 4 groups, and there are 2"),
        ("codegen", {"num_heads": 6, "hidden_size": 24}, "share the heads out to 4 groups, and there are 6"),
        ("codegeex", {}, "4 x hidden_size = 32 wide, not 16"),
        ("codegeex2", {"rotary_dim": 2}, "they turn 4 channels of a head, half of them, not 2"),
        ("codegen", {}, None),
        ("codegeex", {"intermediate_size": 32}, None),
        ("codegeex2", {}, None),
    ],
    ids=["two heads", "six heads", "narrow", "rotary", "codegen", "codegeex", "codegeex2"],
)
def test_what_the_other_side_cannot_run_is_said(tmp_path, family, fields, message):
    sizes = registry.family(family).config.build_config(None, FIELDS[family] | fields)
    arrays = {name: np.full(shape, 0.5, np.float32) for name, shape in sizes.parameter_shapes().items()}
    run = save_run(tmp_path / "run", family, arrays, **fields)
    for to in ("megatron", "mindspore"):
        warnings = convert(run, to, tmp_path / to)["warnings"]
        assert warnings == [] if message is None else message in warnings[0]


def test_transformers_before_5_24_cannot_run_two_heads(tmp_path):
    """What the warning says, said by the original."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    newer = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 24)
    for heads in (2, 6, 4):
        sizes = {"vocab_size": 8, "n_embd": 24, "n_layer": 1, "n_head": heads, "rotary_dim": 2, "n_positions": 8}
        model = transformers.CodeGenForCausalLM(transformers.CodeGenConfig(**sizes))
        refused = pytest.raises((RuntimeError, ValueError)) if heads != 4 and not newer else contextlib.nullcontext()
        with refused:
            model(torch.arange(3)[None])


def test_missing_classes_and_limits_are_printed(tmp_path, capsys):
    def printed(model, to, output):
        assert main(["convert", "--model", str(model), "--to", to, "--output", str(tmp_path / output)]) == 0
        return capsys.readouterr().err

    said = printed(run_of(tmp_path, "codegeex2"), "hf", "hf")
    assert "copy configuration_chatglm.py and modeling_chatglm.py of the release into it" in said
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "provenance.json").unlink()
    for number, auto_map in enumerate(([3], {"AutoModel": "THUDM/codegeex2-6b--modeling_chatglm.X", "Other": ["a.b"]})):
        (tmp_path / "hf" / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
        trusted = open_source(tmp_path / "hf", keep_code=True)
        assert convert(trusted, "hf", tmp_path / f"again{number}")["warnings"] == []
    wide = "make the feed-forward layers 4 x hidden_size = 32 wide, not 16"
    assert wide in printed(run_of(tmp_path, "codegeex"), "megatron", "a.pt")
    # our classes for transformers, put into it, run all sizes
    assert "feed-forward" not in printed(tmp_path / "a.pt", "hf", "of any width")


# --- what may be replaced ---


def content(place):
    return {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("to", "ranks"), [("hf", 1), ("megatron", 2), ("mindspore", 2), ("mindformers", 1)])
def test_other_files_in_a_model_directory_are_not_deleted(tmp_path, to, ranks):
    run, out = run_of(tmp_path), tmp_path / "out"
    convert(run, to, out, tensor_parallel=ranks)
    convert(run, to, out, tensor_parallel=ranks, replace=True, dtype="fp16")
    (out / "photos").mkdir()
    for name in ("photos/holiday.jpg", "notes.txt"):
        (out / name).write_text("ten years")
    before = content(out)
    with pytest.raises(UserError, match=r"\(notes\.txt, photos/holiday\.jpg\), so --replace leaves it alone"):
        convert(run, to, out, tensor_parallel=ranks, replace=True)
    assert content(out) == before
    shutil.rmtree(out / "photos")
    (out / "notes.txt").unlink()
    convert(run, to, out, tensor_parallel=ranks, replace=True)


def another_size(out):
    (out / "config.json").write_text((out / "config.json").read_text().replace('_id": 5', '_id": 6'))


def a_link(out):
    (out / "config.json").unlink()
    (out / "config.json").symlink_to(out.parent / "run")


def of_others(out, statement=None):
    shutil.rmtree(out)
    out.mkdir()
    (out / "config.json").write_text("{}")
    save_file(parameters("codegen"), out / "model.safetensors")
    if statement:
        (out / "provenance.json").write_text(statement)


EMPTY = '{"predicate": {"resources": [], "ms_codegeex": {"files": {"a": 1}}}}'
EDITS = {  # what was done to a converted directory, and the files that are then named
    "edited": (another_size, r"config\.json \(changed since\)"),
    "a link": (a_link, r"\(config\.json\)"),
    "no statement": (lambda out: (out / "provenance.json").unlink(), r"README\.md, config\.json, model\.safetensors"),
    "a model of others": (of_others, r"config\.json, model\.safetensors\), so --replace leaves it alone"),
    "a statement of others": (lambda out: of_others(out, EMPTY), r"config\.json, model\.safetensors, provenance\.json"),
}


@pytest.mark.parametrize(("edit", "message"), EDITS.values(), ids=EDITS)
def test_what_is_not_as_it_was_written_is_not_replaced(tmp_path, edit, message):
    run, out = run_of(tmp_path), tmp_path / "out"
    convert(run, "hf", out)
    edit(out)
    with pytest.raises(UserError, match=message):
        convert(run, "hf", out, replace=True)


def test_files_of_others_are_not_replaced(tmp_path):
    import mindspore as ms

    torch = pytest.importorskip("torch")

    run = run_of(tmp_path)
    convert(run, "megatron", tmp_path / "ours.pt")
    torch.save(torch.load(tmp_path / "ours.pt", weights_only=True), tmp_path / "theirs.pt")
    convert(run, "mindspore", tmp_path / "ours.ckpt")
    ms.save_checkpoint(ms.load_checkpoint(str(tmp_path / "ours.ckpt")), str(tmp_path / "theirs.ckpt"))
    with zipfile.ZipFile(tmp_path / "photos.pt", "w") as archive:
        archive.writestr("holiday.jpg", "the sea")
    for name, to in (("theirs.pt", "megatron"), ("theirs.ckpt", "mindspore"), ("photos.pt", "megatron")):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(UserError, match=rf"\({name}\), so --replace leaves it alone"):
            convert(run, to, tmp_path / name, replace=True)
        assert (tmp_path / name).read_bytes() == before
    for name, to in (("ours.pt", "megatron"), ("ours.ckpt", "mindspore")):
        convert(run, to, tmp_path / name, replace=True, dtype="fp16")


def test_the_source_is_never_overwritten(tmp_path):
    run = run_of(tmp_path)
    model = tmp_path / "model"
    convert(run, "megatron", model, tensor_parallel=2)
    first = model / "mp_rank_00_model_states.pt"
    (tmp_path / "link").symlink_to(first)
    before = content(model)
    for target in (first, tmp_path / "link", model / "new.pt"):
        with pytest.raises(UserError, match="is inside the model that is being converted"):
            convert(model, "megatron", target, replace=True)
    linked, blobs = tmp_path / "models--a--b/snapshots/1f", tmp_path / "models--a--b/blobs"
    linked.mkdir(parents=True)
    shutil.copytree(model, blobs)
    for file in blobs.iterdir():
        (linked / file.name).symlink_to(file)
    for target, ranks in ((blobs / first.name, 1), (blobs, 2)):
        with pytest.raises(UserError, match="leads there, which is being converted"):
            convert(linked, "megatron", target, replace=True, tensor_parallel=ranks)
    assert content(model) == before


def test_a_file_that_arrives_meanwhile_is_kept(tmp_path, monkeypatch):
    run, out = run_of(tmp_path), tmp_path / "hf"
    convert(run, "hf", out)
    verify = module.TensorFiles.verify

    def slow(*arguments):
        (out / "notes.txt").write_text("written meanwhile")
        verify(*arguments)

    monkeypatch.setattr(module.TensorFiles, "verify", slow)
    with pytest.raises(UserError, match=r"\(notes\.txt\)"):
        convert(run, "hf", out, replace=True, verify=True)
    assert (out / "notes.txt").read_text() == "written meanwhile" and (out / "model.safetensors").is_file()


@pytest.mark.parametrize("to", ["hf", "megatron"])
def test_an_output_that_cannot_be(tmp_path, capsys, to):
    run, loop = run_of(tmp_path), tmp_path / "loop"
    loop.symlink_to("loop")
    for target in (loop, loop / "in", tmp_path / ("x" * 300)):
        assert main(["convert", "--model", str(run), "--to", to, "--output", str(target), "--replace"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "choose another" in error
    assert loop.is_symlink()


def test_a_name_that_is_not_utf8_is_spelled_out(tmp_path):
    run = run_of(tmp_path).rename(tmp_path / os.fsdecode(b"n\xff"))
    for to, made in (("hf", "out/provenance.json"), ("megatron", "out.pt.provenance.json")):
        convert(run, to, tmp_path / made.removesuffix("provenance.json").rstrip("./"))
        assert '"n\\\\udcff/step' in json.dumps(read_json(tmp_path / made))


def test_a_link_to_a_converted_file_stays(tmp_path):
    run = run_of(tmp_path)
    convert(run, "megatron", tmp_path / "there" / "a.pt")
    (tmp_path / "link.pt").symlink_to("there/a.pt")
    convert(run, "megatron", tmp_path / "link.pt", replace=True, dtype="fp16")
    assert (tmp_path / "link.pt").is_symlink()
    assert read_torch(tmp_path / "there" / "a.pt")["module"]["lm_head.bias"].dtype == "float16"


# --- what is left behind ---


@pytest.mark.parametrize(("to", "ranks"), [("hf", 1), ("megatron", 1), ("mindspore", 2)])
def test_what_a_killed_conversion_left_is_swept_by_the_next(tmp_path, to, ranks):
    run, out = run_of(tmp_path), tmp_path / "place" / ("out.pt" if to == "megatron" else "out")
    code = f"""
import os, signal
from pathlib import Path
from ms_codegeex.formats import convert as module, sources
sources._tokenizer_saver = lambda *_: None
module.TensorFiles.verify = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
module.convert(Path({str(run)!r}), {to!r}, Path({str(out)!r}), tensor_parallel={ranks}, verify=True)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (left,) = out.parent.iterdir()
    assert left.name.startswith(f".{out.name}.")
    convert(run, to, out, tensor_parallel=ranks)
    beside = {"out.pt": ["out.pt", "out.pt.provenance.json"], "out": ["out"]}
    assert sorted(path.name for path in out.parent.iterdir()) == beside[out.name]


def test_no_empty_directory_is_left_behind(tmp_path, monkeypatch):
    run = run_of(tmp_path)

    def fail(*_):
        raise UserError("no")

    monkeypatch.setattr(module.TensorFiles, "verify", fail)
    for to, ranks in (("hf", 1), ("megatron", 1), ("mindspore", 1), ("megatron", 2)):
        with pytest.raises(UserError, match="no"):
            convert(run, to, tmp_path / "new" / "er", tensor_parallel=ranks, verify=True)
        assert [path.name for path in tmp_path.iterdir()] == [run.name]


# --- ranks ---


@pytest.fixture(params=["megatron", "mindspore"])
def ranks(request, tmp_path):
    out = tmp_path / "ranks"
    convert(run_of(tmp_path), request.param, out, tensor_parallel=2)
    return out, sorted(path for path in out.rglob("*") if path.suffix in (".pt", ".ckpt"))


def test_files_that_are_not_where_they_were_written_are_refused_by_their_records(ranks):
    """One of several alone, a copy in another's place, and two that changed places."""
    out, (first, second) = ranks
    one, other = first.read_bytes(), second.read_bytes()
    with pytest.raises(UserError, match=r"was written as rank 1 of 2, and here it is the only file"):
        open_source(second, FIELDS["codegen"])
    second.write_bytes(one)
    with pytest.raises(UserError, match=r"was written as rank 0 of 2, and here it is rank 1 of 2"):
        open_source(out, FIELDS["codegen"])
    first.write_bytes(other)
    with pytest.raises(UserError, match=r"was written as rank 1 of 2, and here it is rank 0 of 2"):
        open_source(out, FIELDS["codegen"])


def test_a_copy_without_a_record_is_refused_by_its_numbers(tmp_path, ranks):
    """Files of the original's tools do not say which rank they are."""
    import mindspore as ms

    torch = pytest.importorskip("torch")

    out, files = ranks
    (out / "provenance.json").unlink()
    for file in files:
        if file.suffix == ".pt":
            tree = torch.load(file, weights_only=True)
            torch.save({"module": tree["module"]}, file)
        else:
            ms.save_checkpoint(ms.load_checkpoint(str(file)), str(file))
            os.chmod(file, 0o644)
    source = open_source(out, FIELDS["codegen"])
    convert(source, "hf", tmp_path / "hf")
    files[1].write_bytes(files[0].read_bytes())
    for to, count in (("hf", 1), ("megatron", 4)):
        with pytest.raises(UserError, match="so one of them is a copy of the other; copy the files of all ranks again"):
            convert(open_source(out, FIELDS["codegen"]), to, tmp_path / "other", tensor_parallel=count)


# --- sizes ---


def test_guessed_sizes_are_said(tmp_path, monkeypatch, capsys):
    def printed(output, *words):
        assert main(["convert", "--model", str(ckpt), "--to", "hf", "--output", str(tmp_path / output), *words]) == 0
        return capsys.readouterr()

    fields = FIELDS["codegen"] | {"num_heads": 16}
    monkeypatch.setitem(registry.family("codegen").config.PRESETS, "mine", {**fields, "num_heads": 8})
    ours = convert(run_of(tmp_path), "mindspore", tmp_path / "ours.ckpt")["output"]
    write_mindspore(ckpt := tmp_path / "m.ckpt", read_mindspore(Path(ours)))  # as others write it, without the sizes
    error = printed("a").err
    assert "guessed, because IN does not record it: num_heads 8, rotary_dim 2," in error and "--set NAME=" in error
    assert json.loads(printed("b", "--json").out)["guessed"]["num_heads"] == 8
    settings = [word for key in open_source(ckpt).guessed for word in ("--set", f"{key}={fields[key]}")]
    assert "guessed, because" not in printed("c", *settings).err
    assert open_source(tmp_path / "a").fields["num_heads"] == 8 and open_source(tmp_path / "c").fields == fields
    assert convert(run_of(tmp_path), "megatron", tmp_path / "m.pt")["guessed"] == {}
    assert open_source(tmp_path / "m.pt").guessed == ()


@pytest.mark.parametrize(
    ("deepspeed", "softmax"),
    [
        (True, {"attention_softmax_in_fp32": True}),
        (False, {"attention_softmax_in_fp32": False, "apply_query_key_layer_scaling": False}),
        (False, {"attention_softmax_in_fp32": False, "apply_query_key_layer_scaling": True}),
    ],
)
def test_the_originals_own_checkpoints_say_their_sizes(tmp_path, deepspeed, softmax):
    """Megatron saves its arguments and the states of its random generators beside the model."""
    import argparse

    torch = pytest.importorskip("torch")

    run = run_of(tmp_path, "codegeex")
    convert(run, "megatron", tmp_path / "ours.pt")
    sizes = {"num_attention_heads": 4, "layernorm_epsilon": 1e-6, "num_layers": 2}
    arguments = argparse.Namespace(tensor_model_parallel_size=1, params_dtype=torch.float16, **sizes, **softmax)
    state = {
        **{"args": arguments, "checkpoint_version": 3.0, "iteration": 7},
        "module" if deepspeed else "model": torch.load(tmp_path / "ours.pt", weights_only=True)["module"],
        "torch_rng_state": torch.get_rng_state(),
        "rng_tracker_states": {"model-parallel-rng": torch.get_rng_state()},
        "optimizer": {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    }
    torch.save(state, tmp_path / "theirs.pt")
    source = open_source(tmp_path / "theirs.pt", {"eos_token_id": 10})
    assert source.fields == FIELDS["codegeex"] | {"softmax_fp32": any(softmax.values())} and source.guessed == ()
    assert any("torch_rng_state" in name for name in source.skipped)
    convert(source, "hf", tmp_path / "hf", verify=True)
    arguments.tensor_model_parallel_size = 2
    torch.save(state, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="was written as rank 0 of 2, and here it is the only file"):
        open_source(tmp_path / "theirs.pt", {"eos_token_id": 10})


# --- the original's command lines ---


@pytest.fixture
def arrays(tmp_path):
    """A run of CodeGeeX, as a folder of NumPy's files."""
    (tmp_path / "npy").mkdir()
    convert(run_of(tmp_path, "codegeex"), "mindspore", tmp_path / "m.ckpt")
    for name, tensor in read_mindspore(tmp_path / "m.ckpt").items():
        np.save(tmp_path / "npy" / f"{name}.npy", tensor.array())


def test_the_originals_command_lines(tmp_path, arrays, capsys):
    """Every option in the shell scripts of the release that call these tools."""
    common = (
        f"--tokenizer-path {tmp_path} --attention-softmax-in-fp32 --fp16 --seq-length 8 --set eos_token_id=10 "
        "--make-vocab-size-divisible-by 12 --num-layers 2 --hidden-size 8 --num-attention-heads 4 "
        "--max-position-embeddings 8"
    )

    def ran(line, to="megatron", ranks=1):
        return script(to, "", ranks, line.format(tmp_path).split())

    first = "--npy-ckpt-path {0}/npy/ --save-ckpt-path {0}/a.pt --load x.pt --layernorm-epsilon 1e-6 "
    assert ran(f"{first} --ws-encoding-start-id 10 --ws-encoding-length 10 {common}") == 0
    cut = "--load-ckpt-path {0}/a.pt --save-ckpt-path {0}/mp2 --target-tensor-model-parallel-size 2"
    assert ran(f"{cut} --micro-batch-size 1 {common}", ranks=2) == 0
    merge = "--load-ckpt-path {0}/mp2 --save-ckpt-path {0}/merged --ln-fp16 --save-name a.pt --micro-batch-size 1 "
    merge += f"{common} --source-tensor-model-parallel-size"
    assert ran(f"{merge} 2") == 0
    assert read_torch(tmp_path / "merged" / "a.pt")["config"]["num_heads"] == 4
    assert (tmp_path / "merged" / "a.pt").read_bytes() == (tmp_path / "a.pt").read_bytes()
    capsys.readouterr()
    assert ran(f"{merge} 4") == 2
    assert "is split over 2 ranks, --source-tensor-model-parallel-size says 4" in capsys.readouterr().err
    assert ran("--load-ckpt-path {0}/mp2 --save-ckpt-path {0}/hf --num-layers 3", "hf") == 2
    assert "missing tensor" in capsys.readouterr().err


def test_the_scripts_commands_on_the_page(tmp_path, arrays, monkeypatch):
    """Those of docs/exchange.md, with the sizes of a small model."""
    small = {"39": "2", "5120": "8", "40": "4", "2048": "8"}
    text = (ROOT / "docs" / "exchange.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("python converters/")]
    monkeypatch.chdir(tmp_path)
    for _, program, *words in commands:
        words = [small.get(word, word) for word in words]
        extra = ["--set", "eos_token_id=10"] if "--npy-ckpt-path" in words else []
        monkeypatch.setattr(sys, "argv", [program, *words, *extra])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(ROOT / program), run_name="__main__")
    assert len(commands) == 3 and len(list((tmp_path / "mp4").glob("*.pt"))) == 4
    assert (tmp_path / "merged" / "codegeex_13b.pt").read_bytes() == (tmp_path / "codegeex_13b.pt").read_bytes()
