"""What `inspect FILE` says of files with and without pickles."""

import argparse
import json
import pickle
import shlex
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import command_here
from hostile_pickles import RAW, Call, archive
from own_environment import own_environment, run_in

from ms_codegeex.extras.exchange.auditing.pickle_report import ARRAYS, SCANNER, describe
from ms_codegeex.formats.mindspore_checkpoint import write_mindspore
from ms_codegeex.formats.safetensors_file import write_safetensors
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.formats.torch_zip import write_torch

WEIGHTS = {"w": from_array(np.zeros(3, np.float32))}


@pytest.mark.parametrize("name", RAW)
def test_what_is_refused_is_named_and_nothing_runs(tmp_path, monkeypatch, name):
    """By name, unless the reader stops at an operation before."""
    monkeypatch.chdir(tmp_path)
    archive(tmp_path / "a.pt", RAW[name])
    found = describe(tmp_path / "a.pt")
    assert not found["readable"] and not (tmp_path / "this_ran").exists()
    named = bool(found["refused"]) and all(each.endswith(".system") for each in found["refused"])
    assert named or found["reason"].split("(")[1].startswith(("ValueError: the operation", "ValueError: a name"))


def test_all_refused_names_are_listed_with_a_scanner_for_more(tmp_path):
    data = b"\x80\x04]\x94(cos\nsystem\nX\x02\x00\x00\x00id\x85Rcbuiltins\neval\n)R\x8c\x04\x1b[2J\x8c\x05a\nb:c\x93e."
    archive(tmp_path / "a.pt", data)
    done = command_here("inspect", tmp_path / "a.pt")
    first, *names, last = done.stdout.splitlines()
    assert done.returncode == 1 and "refused, because loading it would call os.system" in first
    found = [name.partition(": refused")[0].strip() for name in names]
    assert found == ["os.system", "builtins.eval", "\\x1b[2J.a\\nb:c"]
    assert last == f"what other programs would run of it: {SCANNER} {tmp_path / 'a.pt'}"
    assert json.loads(command_here("inspect", tmp_path / "a.pt", "--json").stdout)["refused"][:1] == ["os.system"]


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.ckpt", b"\x0a\xff\x7f", "MindSpore checkpoint: DAMAGED: "),
        ("a.npy", b"\x93NUMPY\x01", "numpy array: DAMAGED: "),
        ("a.safetensors", b"\x10\0\0\0\0\0\0\0{", "safetensors file: DAMAGED: "),
        ("strategy.ckpt", b"\x08\x01\x12\x05", "strategy file of MindSpore: DAMAGED: "),
    ],
)
def test_a_file_that_is_cut_short_is_named_and_damaged(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    done = command_here("inspect", tmp_path / name)
    assert done.returncode == 1 and done.stdout.startswith(said)


def test_what_our_reader_takes(tmp_path):
    write_torch(tmp_path / "a.pt", {"module": WEIGHTS})
    write_mindspore(tmp_path / "a.ckpt", WEIGHTS)
    write_safetensors(tmp_path / "a.safetensors", WEIGHTS)
    said = [command_here("inspect", tmp_path / f"a.{suffix}") for suffix in ("pt", "ckpt", "safetensors")]
    assert [done.returncode for done in said] == [0, 0, 0]
    assert "our reader takes it and runs nothing\n" in said[0].stdout
    assert all(done.stdout.endswith("our reader takes it; it holds no pickle\n") for done in said[1:])
    np.save(tmp_path / "a.npy", np.zeros(3))
    np.savez(tmp_path / "a.npz", a=np.zeros(3), b=np.zeros(2))
    assert (describe(tmp_path / "a.npy")["kind"], describe(tmp_path / "a.npz")["kind"]) == ("numpy array", ARRAYS)
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(a=1)}, tmp_path / "b.pt")
    assert describe(tmp_path / "b.pt")["readable"]


def test_other_files_are_not_taken(tmp_path):
    """Also those that PyTorch would load: a tar archive, a pickle alone, its old format."""
    path = tmp_path / "w.bin"
    with tarfile.open(tmp_path / "tar", "w"):
        pass
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as zipped:
        zipped.writestr("x/data/0", b"cposix\ngetpid\n)R.")
    files = [(tmp_path / name).read_bytes() for name in ("tar", "a.npz", "b.zip")]
    for data in (b"", b"text", bytes(600), pickle.dumps(Call()), pickle.dumps({}), *files, files[-1][:-30]):
        path.write_bytes(data)
        done = command_here("inspect", path)
        assert done.returncode == 1 and done.stdout.splitlines()[-1].endswith(f"{SCANNER} {path}"), data[:9]


@pytest.mark.slow
def test_the_scanner_that_is_named(tmp_path):
    """picklescan, released: the words of its command, and that it looks at all records."""
    python = own_environment(tmp_path / "venv", "picklescan==1.0.5")
    write_torch(tmp_path / "a.pt", {"module": WEIGHTS})
    archive(tmp_path / "b.pt", pickle.dumps({}), [("hook.bin", pickle.dumps(Call()))])
    program, *words = shlex.split(SCANNER.partition("&& ")[2])
    found = [run_in(python, "-m", f"{program}.cli", *words, tmp_path / name).returncode for name in ("a.pt", "b.pt")]
    assert found == [0, 1] and describe(tmp_path / "b.pt")["readable"]
