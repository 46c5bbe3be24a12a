"""Every kind of damaged source and a full disk: an error that names what is wrong, and the old output stays."""

import json
import os
import pickle
import resource
import zipfile

import numpy as np
import pytest
from small_models import FIELDS, parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.mindspore_checkpoint import read_mindspore, write_mindspore
from ms_codegeex.formats.model_directory import ModelDirectory
from ms_codegeex.formats.safetensors_file import write_safetensors
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import LazyTensor, from_array
from ms_codegeex.formats.torch_zip import read_torch, write_torch

pytestmark = pytest.mark.usefixtures("weights_only")

torch = pytest.importorskip("torch")

FAMILY = "codegen"
LAST = "lm_head.bias"


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "run", FAMILY, parameters(FAMILY))


def loaded(tensors):
    """The tensors in memory, so that their file can be written anew."""
    return {name: from_array(np.array(tensor.array())) for name, tensor in tensors.items()}


class HuggingFace:
    """A model directory of ours."""

    last = LAST

    def __init__(self, run, root):
        convert(run, "hf", root / "in")
        self.path, self.file = root / "in", root / "in" / "model.safetensors"

    def change(self, edit):
        directory = ModelDirectory(self.path)
        tensors = loaded(directory.tensors)
        edit(tensors)
        write_safetensors(self.file, tensors, {"format": "pt"})


class OldHuggingFace(HuggingFace):
    """A model directory with a PyTorch pickle."""

    def __init__(self, run, root):
        super().__init__(run, root)
        directory = ModelDirectory(self.path)
        state = {name: torch.from_numpy(np.array(tensor.array())) for name, tensor in directory.tensors.items()}
        self.file.unlink()
        self.file = self.path / "pytorch_model.bin"
        torch.save(state, self.file)

    def change(self, edit):
        tensors = loaded(read_torch(self.file))
        edit(tensors)
        write_torch(self.file, tensors)


class Megatron:
    """One nested file."""

    last = f"module -> {LAST}"

    def __init__(self, run, root):
        convert(run, "megatron", root / "in.pt")
        self.path = self.file = root / "in.pt"

    def change(self, edit):
        tree = read_torch(self.file)
        tree["module"] = loaded(tree["module"])
        edit(tree["module"])
        write_torch(self.file, tree)


class Ranks(Megatron):
    """A file for each of two ranks."""

    def __init__(self, run, root):
        convert(run, "megatron", root / "in", tensor_parallel=2)
        self.path, self.file = root / "in", root / "in" / "mp_rank_01_model_states.pt"


class MindSpore:
    """One `.ckpt` file."""

    last = LAST

    def __init__(self, run, root):
        convert(run, "mindspore", root / "in.ckpt")
        self.path = self.file = root / "in.ckpt"

    def change(self, edit):
        tensors = loaded(read_mindspore(self.file))
        edit(tensors)
        write_mindspore(self.file, tensors)


@pytest.fixture(params=(HuggingFace, OldHuggingFace, Megatron, Ranks, MindSpore), ids=lambda kind: kind.__name__)
def source(request, run, tmp_path):
    return request.param(run, tmp_path / "source")


@pytest.fixture
def old(tmp_path):
    """An output that is there already: what it holds must survive every error."""
    other = save_run(tmp_path / "other", FAMILY, parameters(FAMILY, seed=9))
    convert(other, "hf", tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    yield tmp_path / "out"
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def refused(source, old, message):
    """Converting to `old` fails with a message like this."""
    with pytest.raises(UserError, match=message):
        convert(open_source(source.path, FIELDS[FAMILY]), "hf", old, replace=True)


STRANGE = {  # how the tensors of a file are changed, by what is said; tests/formats/test_layout.py has each mistake
    "missing tensor {last}": lambda tensors: tensors.update(other=tensors.pop(LAST)),
    "unexpected tensor .*extra": lambda tensors: tensors.update(extra=from_array(np.ones((3, 2)))),
    r"tensor {last} has shape \[7\]": lambda tensors: tensors.update({LAST: from_array(np.ones(7))}),
}


def test_what_became_of_a_file_is_named(source, old):
    """Truncated, with a flipped bit, and with a tensor that does not belong."""
    whole = source.file.read_bytes()
    for kept in (0, 1, 100, -1):
        source.file.write_bytes(whole[:kept])
        refused(source, old, source.file.name)
    for place in (0.3, 0.6, 0.9):
        data = bytearray(whole)
        data[int(len(data) * place)] ^= 16
        source.file.write_bytes(data)
        refused(source, old, f"{source.file.name}: .*(damaged|copy it again)")
    for message, edit in STRANGE.items():
        source.file.write_bytes(whole)
        source.change(edit)
        refused(source, old, message.format(last=source.last))


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("kind", [OldHuggingFace, Megatron, Ranks])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code(run, tmp_path, old, kind, legacy):
    source, mark = kind(run, tmp_path / "source"), tmp_path / "mark"
    if legacy:
        torch.save({"a": torch.ones(2), "b": Evil(mark)}, source.file, _use_new_zipfile_serialization=False)
    else:
        with zipfile.ZipFile(source.file, "w") as archive:
            archive.writestr("m/data.pkl", pickle.dumps({"module": Evil(mark)}, protocol=2))
    refused(source, old, r"1\.6" if legacy else r"refused, because loading it would call \w+\.system")
    assert not mark.exists()


def test_another_family(run, tmp_path, old):
    source = HuggingFace(run, tmp_path / "source")
    config = json.loads((source.path / "config.json").read_text())
    (source.path / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    refused(source, old, "is GPT-2 or StarCoder by its model_type, not codegen")
    torch.save({"transformer.wpe.weight": torch.ones(2, 2)}, source.path / "gpt2.pt")
    with pytest.raises(UserError, match=r"not a checkpoint of a known family.*holds transformer\.wpe\.weight"):
        open_source(source.path / "gpt2.pt")


@pytest.mark.parametrize(
    ("to", "ranks"),
    [("hf", 1), ("megatron", 1), ("megatron", 2), ("mindspore", 1), ("mindspore", 2), ("mindformers", 1)],
)
def test_a_full_disk_leaves_the_old_output(tmp_path, run, to, ranks, capsys):
    suffix = {"megatron": ".pt", "mindspore": ".ckpt"}.get(to, "") if ranks == 1 else ""
    out = tmp_path / "place" / f"out{suffix}"
    convert(run, to, out, tensor_parallel=ranks)

    def content():
        files = sorted(path for path in out.parent.rglob("*") if path.is_file())
        return {str(file): file.read_bytes() for file in files}

    before, limits = content(), resource.getrlimit(resource.RLIMIT_FSIZE)
    said = ["mindspore", "--layout", "mindformers"] if to == "mindformers" else [to]
    words = ["--model", str(run), "--to", *said, "--output", str(out), "--tensor-parallel", str(ranks), "--replace"]
    for limit in (0, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))  # no file may grow beyond
        try:
            with pytest.raises(UserError, match=r"could not be written \(File too large\).* unchanged"):
                convert(run, to, out, tensor_parallel=ranks, replace=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert content() == before
    assert main(["convert", *words, "--dtype", "fp16"]) == 0 and content() != before
    assert "float16" in capsys.readouterr().out


def test_a_source_that_fails_on_the_way(tmp_path, run, old):
    model = open_source(run)

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
