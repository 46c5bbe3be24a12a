"""`ms-codegeex convert` end to end on a small model."""

import dataclasses
import json
import resource
import runpy
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small_models
from conftest import ROOT, flip_bit
from safetensors.numpy import load_file

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.commands import convert as verb
from ms_codegeex.formats import convert as module
from ms_codegeex.formats import sources
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.tensors import LazyTensor, from_array
from ms_codegeex.formats.torch_zip import read_torch, write_torch
from ms_codegeex.models.registry import family

FIELDS = small_models.FIELDS["codegeex"]
pytestmark = pytest.mark.usefixtures("weights_only")
CONVERTERS = ROOT / "converters"
LAYER = "language_model.transformer.layers.1.mlp.dense_4h_to_h.weight"


def save_run(root, arrays, **sizes):
    """With the moments of an optimizer."""
    moments = {f"optimizer.{kind}.{name}": array * 0 for kind in "mv" for name, array in arrays.items()}
    return small_models.save_run(root, "codegeex", arrays | moments, **sizes)


@pytest.fixture
def parameters():
    return small_models.parameters("codegeex")


@pytest.fixture
def run(tmp_path, parameters):
    return save_run(tmp_path / "run", parameters)


def test_a_run_becomes_a_model_directory(tmp_path, run, parameters, capsys):
    target = tmp_path / "hf"
    assert main(["convert", "--model", str(run), "--to", "hf", "--output", str(target), "--verify", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["verified"] and result["kind"] == "checkpoint" and result["dtypes"] == ["float32"]
    assert result["tensors"] == len(parameters) and result["parameters"] == sum(a.size for a in parameters.values())
    files = {"README.md", "config.json", "model.safetensors", "modeling_codegeex.py", "provenance.json"}
    assert {path.name for path in target.iterdir()} == files
    loaded = load_file(target / "model.safetensors")
    assert len(loaded) == len(parameters)  # no optimizer moments
    assert loaded[LAYER].tobytes() == parameters["blocks.1.feed_forward.down.weight"].tobytes()
    config = json.loads((target / "config.json").read_text())
    assert config["torch_dtype"] == "float32" and small_models.formats("codegeex").from_json(config) == FIELDS


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
    words = ("--to", "hf", "--output", str(target), "--set")
    with pytest.raises(UserError, match="--set num_heads"):
        convert(bare, "hf", target)
    assert main(["convert", "--model", str(bare), *words, "num_heads=4", "--set", "eos_token_id=10"]) == 0
    assert ModelDirectory(target).config["num_attention_heads"] == 4
    assert "float32" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--set num_head: .*did you mean 'num_heads'\?"):
        sources.open_source(bare, {"num_head": 4})
    assert main(["convert", "--model", str(run), *words, "num_heads"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err


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


def script(name, *words):
    words = [sys.executable, CONVERTERS / name, *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": ROOT})


def test_the_scripts_convert_and_report_mistakes(tmp_path, larger):
    words = ("--load-ckpt-path", larger, "--save-ckpt-path", tmp_path / "a.pt", "--verify")
    done = script("codegeex_to_megatron.py", *words)
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
def test_memory_does_not_grow_with_the_model(tmp_path, run, to):
    convert(run, to, tmp_path / "warm-up", dtype="fp16", verify=True)  # imports what it needs
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 12}
    shapes = family("codegeex").config.build_config(None, FIELDS | sizes).parameter_shapes()
    save_run(tmp_path / "run", {name: np.ones(shape, np.float32) for name, shape in shapes.items()}, **sizes)
    tracemalloc.start()
    try:
        result = convert(tmp_path / "run", to, tmp_path / "out", dtype="fp16", verify=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result["bytes"] > 18_000_000 and peak < result["bytes"] / 2


# --- damaged sources and a full disk: an error that names what is wrong, and the old output stays ---
# What damage a reader finds in a file, and which tensors belong to a model, is in tests/formats.


@pytest.fixture
def larger(tmp_path):
    """A run in whose files the numbers take the most room."""
    return small_models.save_run(tmp_path / "larger", "codegen", small_models.parameters("codegen"))


@pytest.fixture
def old(tmp_path):
    """An output that is there already: what it holds must survive every error."""
    other = save_run(tmp_path / "other", small_models.parameters("codegeex", seed=9))
    convert(other, "hf", tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    yield tmp_path / "out"
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


KINDS = {  # what is converted, to how many ranks, and the file that is damaged
    "hf": ("in", 1, "in/model.safetensors"),
    "megatron": ("in.pt", 1, "in.pt"),
    "megatron, ranks": ("in", 2, "in/mp_rank_01_model_states.pt"),
    "mindspore": ("in.ckpt", 1, "in.ckpt"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_became_of_a_file_is_named(larger, tmp_path, old, kind):
    """Truncated, and with a flipped bit."""
    name, ranks, damaged = KINDS[kind]
    fields = small_models.FIELDS["codegen"]
    convert(larger, kind.partition(",")[0], tmp_path / name, tensor_parallel=ranks)
    file = tmp_path / damaged
    whole = file.read_bytes()
    for kept in (0, 1, 100, -1):
        file.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=file.name):
            convert(sources.open_source(tmp_path / name, fields), "hf", old, replace=True)
    for place in (0.3, 0.6, 0.9):
        file.write_bytes(whole)
        flip_bit(file, int(len(whole) * place))
        with pytest.raises(UserError, match=f"{file.name}: .*(damaged|copy it again)"):
            convert(sources.open_source(tmp_path / name, fields), "hf", old, replace=True)


@pytest.mark.parametrize(
    ("to", "ranks"),
    [("hf", 1), ("megatron", 1), ("megatron", 2), ("mindspore", 1), ("mindspore", 2), ("mindformers", 1)],
)
def test_a_full_disk_leaves_the_old_output(tmp_path, larger, to, ranks, capsys):
    suffix = {"megatron": ".pt", "mindspore": ".ckpt"}.get(to, "") if ranks == 1 else ""
    out = tmp_path / "place" / f"out{suffix}"
    convert(larger, to, out, tensor_parallel=ranks)

    def content():
        files = sorted(path for path in out.parent.rglob("*") if path.is_file())
        return {str(file): file.read_bytes() for file in files}

    before, limits = content(), resource.getrlimit(resource.RLIMIT_FSIZE)
    said = ["mindspore", "--layout", "mindformers"] if to == "mindformers" else [to]
    words = ["--model", str(larger), "--to", *said, "--output", str(out), "--tensor-parallel", str(ranks), "--replace"]
    for limit in (0, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))  # no file may grow beyond
        try:
            with pytest.raises(UserError, match=r"could not be written \(File too large\).* unchanged"):
                convert(larger, to, out, tensor_parallel=ranks, replace=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert content() == before
    assert main(["convert", *words, "--dtype", "fp16"]) == 0 and content() != before
    assert "float16" in capsys.readouterr().out


def test_a_source_that_fails_on_the_way(tmp_path, run, old):
    model = sources.open_source(run)

    def fail():
        raise UserError("in.pt: record 7 is damaged")

    name = list(model.tensors)[-1]
    model.tensors[name] = LazyTensor("float32", model.tensors[name].shape, fail)
    with pytest.raises(UserError, match="record 7"):
        convert(model, "hf", old, replace=True)


def test_replace_leaves_a_file_where_a_directory_goes(tmp_path, run):
    """A zip archive is a converted file, but nothing that a model directory may take the place of."""
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("a", "b")
    for to, ranks in (("hf", 1), ("megatron", 2)):
        with pytest.raises(UserError, match="is not a converted model"):
            convert(run, to, tmp_path / "mine.zip", tensor_parallel=ranks, replace=True)
    assert zipfile.is_zipfile(tmp_path / "mine.zip")


def test_an_output_without_a_name(tmp_path, run, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="not a name that can be written"):
        convert(run, "hf", ".")
