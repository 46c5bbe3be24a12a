"""`ms-codegeex convert` and `checkpoint` end to end on a small model, in every direction we offer."""

import dataclasses
import json
import runpy
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import load_file

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import parse
from ms_codegeex.commands import convert as verb
from ms_codegeex.formats import convert as module
from ms_codegeex.formats import sources
from ms_codegeex.formats.checkpoint_writing import write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.family import FamilyFormats
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.formats.torch_zip import read_torch, write_torch
from ms_codegeex.models.codegeex.config import build_config
from ms_codegeex.models.registry import family

FORMATS = FamilyFormats(family("codegeex"))
FIELDS = {
    "vocab_size": 11,
    "hidden_size": 4,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 5,
    "layer_norm_eps": 1e-6,
    "init_std": 0.01,
    "softmax_fp32": True,
    "eos_token_id": 10,
}
pytestmark = pytest.mark.usefixtures("weights_only")
CONVERTERS = ROOT / "converters"
LAYER = "language_model.transformer.layers.1.mlp.dense_4h_to_h.weight"


@pytest.fixture
def parameters():
    generator = np.random.default_rng(3)
    return {
        name: generator.standard_normal(shape).astype(np.float32)
        for name, shape in build_config(None, FIELDS).parameter_shapes().items()
    }


def save_run(root, parameters, **model):
    moments = {f"optimizer.{kind}.{name}": array * 0 for kind in "mv" for name, array in parameters.items()}
    state = {"config": {"model": {"family": "codegeex", "preset": None, **FIELDS, **model}}}
    write_checkpoint(root / "checkpoints", 4, {**parameters, **moments}, state)
    return root


@pytest.fixture
def run(tmp_path, parameters):
    return save_run(tmp_path / "run", parameters)


def command(verb, *words):
    arguments = parse([verb, *map(str, words)])
    return arguments.run(arguments) or 0


def test_a_run_becomes_a_model_directory(tmp_path, run, parameters, capsys):
    target = tmp_path / "hf"
    assert command("convert", "--model", run, "--to", "hf", "--output", target, "--verify", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["verified"] and result["kind"] == "checkpoint" and result["dtypes"] == ["float32"]
    assert result["tensors"] == len(parameters) and result["parameters"] == sum(a.size for a in parameters.values())
    files = {"README.md", "config.json", "model.safetensors", "modeling_codegeex.py", "provenance.json"}
    assert {path.name for path in target.iterdir()} == files
    loaded = load_file(target / "model.safetensors")
    assert len(loaded) == len(parameters)  # no optimizer moments
    assert loaded[LAYER].tobytes() == parameters["blocks.1.feed_forward.down.weight"].tobytes()
    config = json.loads((target / "config.json").read_text())
    assert config["torch_dtype"] == "float32" and FORMATS.from_json(config) == FIELDS


def test_a_run_becomes_a_nested_file_that_torch_reads(tmp_path, run, parameters):
    torch = pytest.importorskip("torch")
    result = convert(run / "checkpoints" / "step-00000004", "megatron", tmp_path / "out", dtype="fp16", verify=True)
    assert result["output"] == str(tmp_path / "out" / "codegeex.pt") and result["dtypes"] == ["float16"]
    layers = torch.load(result["output"], weights_only=True)["module"]["language_model"]["transformer"]
    expected = parameters["top_query_layer.attention.output.weight"].astype(np.float16)
    assert np.array_equal(layers["topQueryLayer.attention.dense.weight"].numpy(), expected)


def test_a_released_file_without_sizes(tmp_path, run, capsys):
    bare, target = tmp_path / "bare.pt", tmp_path / "hf"
    convert(run, "megatron", tmp_path / "a.pt")
    write_torch(bare, {"module": read_torch(tmp_path / "a.pt")["module"], "iteration": 3})
    words = ("--to", "hf", "--output", target, "--set")
    with pytest.raises(UserError, match="--set num_heads"):
        convert(bare, "hf", target)
    assert command("convert", "--model", bare, *words, "num_heads=2", "--set", "eos_token_id=10") == 0
    assert ModelDirectory(target).config["num_attention_heads"] == 2
    assert "float32" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--set num_head: .*did you mean 'num_heads'\?"):
        sources.open_source(bare, {"num_head": 2})
    with pytest.raises(UserError, match="NAME=VALUE"):
        command("convert", "--model", run, *words, "num_heads")


def test_every_tensor_of_a_run_is_accounted_for(tmp_path, parameters):
    del parameters["final_norm.bias"]
    with pytest.raises(UserError, match=r"step-00000004: missing tensor final_norm\.bias"):
        convert(save_run(tmp_path / "run", parameters), "hf", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_verify_notices_a_wrong_byte(tmp_path, run, monkeypatch):
    hf = module.TARGETS["hf"]

    def careless(its, file, tensors, *more):
        last = list(tensors)[-1]
        hf.write(its, file, tensors | {last: from_array(tensors[last].array() + 1)}, *more)

    convert(run, "hf", tmp_path / "hf", dtype="fp16", verify=True)
    before = {file.name: file.read_bytes() for file in (tmp_path / "hf").iterdir()}
    monkeypatch.setattr(module, "TARGETS", {"hf": dataclasses.replace(hf, write=careless)})
    with pytest.raises(UserError, match="differs from the source"):
        convert(run, "hf", tmp_path / "hf", verify=True, replace=True)
    assert {file.name: file.read_bytes() for file in (tmp_path / "hf").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_is_there_is_not_overwritten(tmp_path, run):
    convert(run, "hf", tmp_path / "hf")
    with pytest.raises(UserError, match="add --replace"):
        convert(run, "hf", tmp_path / "hf")
    convert(run, "hf", tmp_path / "hf", dtype="fp16", replace=True)
    assert ModelDirectory(tmp_path / "hf").tensors[LAYER].dtype == "float16"
    for name in ("thesis.pt", "training/rank_0/code-13B0-50.ckpt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("ten years")
    for to, place in (("hf", "training"), ("megatron", "thesis.pt")):
        with pytest.raises(UserError, match="leaves it alone"):
            convert(run, to, tmp_path / place, replace=True)
    for target in (run, tmp_path, run / "checkpoints" / "step-00000004"):
        with pytest.raises(UserError, match="is or contains"):
            convert(run, "hf", target, replace=True)
    assert (tmp_path / "thesis.pt").read_text() == "ten years"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or directory"),
        (Path.mkdir, "nothing of these"),
        (lambda path: path.write_text("hello"), "not in PyTorch's zip format"),
        (lambda path: write_torch(path, {"state": from_array(np.ones(2))}), "not a checkpoint of a known.*state"),
    ],
)
def test_an_unknown_source_is_named(tmp_path, make, message):
    make(tmp_path / "in.pt")
    with pytest.raises(UserError, match=f"in.pt: .*{message}"):
        convert(tmp_path / "in.pt", "hf", tmp_path / "hf")


def test_a_run_without_a_usable_configuration(tmp_path, parameters):
    with pytest.raises(UserError, match="family: 'bloom'"):
        convert(save_run(tmp_path / "a", parameters, family="bloom"), "hf", tmp_path / "hf")
    with pytest.raises(UserError, match="num_heads: 3 does not divide"):
        convert(save_run(tmp_path / "b", parameters, num_heads=3), "hf", tmp_path / "hf")
    for argument in ({"to": "onnx"}, {"to": "hf", "dtype": "int3"}):
        with pytest.raises(UserError, match="is unknown"):
            convert(tmp_path / "a", output=tmp_path / "hf", **argument)


def test_checkpoint_list_and_verify(tmp_path, run, parameters, capsys):
    save_run(run, parameters)
    write_checkpoint(run / "checkpoints", 8, parameters, {})
    assert command("checkpoint", "list", run, "--json") == 0
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [(entry["step"], entry["sound"]) for entry in listed] == [(4, True), (8, True)]
    assert command("checkpoint", "verify", run) == 0
    file = run / "checkpoints" / "step-00000008" / "rank_00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert command("checkpoint", "verify", file.parent.parent.parent) == 1
    assert "DAMAGED" in capsys.readouterr().out
    assert command("checkpoint", "verify", run / "checkpoints" / "step-00000004") == 0
    with pytest.raises(UserError, match="no checkpoints"):
        command("checkpoint", "list", tmp_path)


def script(name, *words):
    words = [sys.executable, CONVERTERS / name, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": ROOT})


def test_the_scripts_convert_and_report_mistakes(tmp_path, run):
    done = script("codegeex_to_megatron.py", "--load-ckpt-path", run, "--save-ckpt-path", tmp_path / "a.pt", "--verify")
    assert done.returncode == 0 and "equal byte for byte" in done.stdout and done.stderr == ""  # no bar off a terminal
    failed = script("megatron_to_hf.py", "--load-ckpt-path", tmp_path / "b.pt", "--save-ckpt-path", tmp_path / "hf")
    assert failed.returncode == 2 and "no such file" in failed.stderr and "Traceback" not in failed.stderr
    wrong = script("codegeex_to_hf.py", "--load-ckpt-path", tmp_path / "b.pt")
    assert wrong.returncode == 2 and "required: --save-ckpt-path" in wrong.stderr
    assert "usage: python converters/codegeex_to_hf.py --load-ckpt-path IN " in wrong.stderr


@pytest.mark.parametrize("file", sorted(CONVERTERS.glob("*.py")), ids=lambda file: file.stem)
def test_every_script_writes_what_its_name_says(monkeypatch, file):
    """By default the original's splitter makes two files."""
    given = []
    monkeypatch.setattr(verb, "script", lambda to, _, ranks=1: given.append((to, ranks)))
    with pytest.raises(SystemExit):
        runpy.run_path(str(file), run_name="__main__")
    target = file.stem.rpartition("_to_")[2] if "_to_" in file.stem else "megatron"
    assert given == [(target, 1 + (file.stem == "convert_ckpt_parallel"))]


@pytest.mark.parametrize("to", ["hf", "megatron"])
def test_memory_does_not_grow_with_the_model(tmp_path, run, monkeypatch, to):
    convert(run, to, tmp_path / "warm-up", dtype="fp16", verify=True)  # imports what it needs
    fields = FIELDS | {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 12}
    monkeypatch.setitem(globals(), "FIELDS", fields)
    shapes = build_config(None, fields).parameter_shapes()
    save_run(tmp_path / "run", {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    tracemalloc.start()
    try:
        result = convert(tmp_path / "run", to, tmp_path / "out", dtype="fp16", verify=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result["bytes"] > 18_000_000 and peak < result["bytes"] / 2
