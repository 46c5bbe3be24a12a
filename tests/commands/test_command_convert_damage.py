"""Damaged sources and a full disk: an error that names what is wrong, and the old output stays.

What damage a reader finds in a file, and which tensors belong to a model, is in tests/formats.
"""

import resource
import zipfile

import pytest
from small_models import FIELDS, parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import LazyTensor

pytestmark = pytest.mark.usefixtures("weights_only")
FAMILY = "codegen"


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "run", FAMILY, parameters(FAMILY))


@pytest.fixture
def old(tmp_path):
    """An output that is there already: what it holds must survive every error."""
    other = save_run(tmp_path / "other", FAMILY, parameters(FAMILY, seed=9))
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
def test_what_became_of_a_file_is_named(run, tmp_path, old, kind):
    """Truncated, and with a flipped bit."""
    name, ranks, damaged = KINDS[kind]
    convert(run, kind.partition(",")[0], tmp_path / name, tensor_parallel=ranks)
    file = tmp_path / damaged
    whole = file.read_bytes()
    for kept in (0, 1, 100, -1):
        file.write_bytes(whole[:kept])
        with pytest.raises(UserError, match=file.name):
            convert(open_source(tmp_path / name, FIELDS[FAMILY]), "hf", old, replace=True)
    for place in (0.3, 0.6, 0.9):
        data = bytearray(whole)
        data[int(len(data) * place)] ^= 16
        file.write_bytes(data)
        with pytest.raises(UserError, match=f"{file.name}: .*(damaged|copy it again)"):
            convert(open_source(tmp_path / name, FIELDS[FAMILY]), "hf", old, replace=True)


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
