"""What `inspect FILE` says of pickles, compared with what Python's own unpickler looks up."""

import argparse
import collections
import io
import json
import os
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
from conftest import command_here
from own_environment import own_environment, run_in

from ms_codegeex.formats.pickle_report import lines, scan
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.formats.torch_zip import write_torch


class Call:
    """Pickled, it is a call of `os.system`."""

    def __reduce__(self):
        return os.system, ("touch this_ran",)


class Recorder(pickle.Unpickler):
    """The real machine, which finds nothing and remembers what it was asked for."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.asked = []

    def find_class(self, module, name):
        self.asked.append((module, name))
        return lambda *arguments: None


def zipped(path, **records):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            archive.writestr(f"m/{name.replace('_', '.')}", data)
    return path


RAW = {
    "protocol 0": pickle.dumps(Call(), 0),
    "protocol 1": pickle.dumps(Call(), 1),
    "protocol 2": pickle.dumps(Call(), 2),
    "protocol 4": pickle.dumps([Call(), {"a": Call()}], 4),
    "protocol 5": pickle.dumps((Call(),), 5),
    "names from the memo": b"\x80\x04\x8c\x02os\x940\x8c\x06system\x940h\x00h\x01\x93\x8c\x02id\x85R.",
    "names under others": b"\x80\x04\x8c\x02os\x8c\x06systemN0\x93\x8c\x02id\x85R.",
    "INST": b"(X\x02\x00\x00\x00idios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nX\x02\x00\x00\x00ido.",
    "a member of a member": b"\x80\x04\x8c\x07deepspe\x8c\x09os.system\x93.",
}


@pytest.mark.parametrize("name", RAW)
def test_the_names_are_those_that_python_would_look_up(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    recorder = Recorder(RAW[name])
    recorder.load()
    (tmp_path / "a.pkl").write_bytes(RAW[name])
    report = scan(tmp_path / "a.pkl")
    assert sorted(report.names.elements()) == sorted(recorder.asked) and not report.harmless
    zipped(tmp_path / "a.pt", data_pkl=RAW[name])
    assert scan(tmp_path / "a.pt").names == report.names and not (tmp_path / "this_ran").exists()


def test_a_state_dict_is_harmless_and_what_it_needs_is_explained(tmp_path):
    write_torch(tmp_path / "a.pt", {"module": {"w": from_array(np.zeros(3, np.float32))}})
    done = command_here("inspect", tmp_path / "a.pt")
    assert done.returncode == 0 and done.stdout.endswith("nothing in it can run\n")
    assert "torch._utils._rebuild_tensor_v2  1 times: rebuilds tensors and containers" in done.stdout
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(a=1)}, tmp_path / "b.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, kind in (("b.pt", "PyTorch file"), ("old.pt", "pickle")):
        report = json.loads(command_here("inspect", tmp_path / name, "--json").stdout)
        assert report["harmless"] and report["kind"] == kind and report["not_on_the_list"] == []


def test_what_is_not_on_the_list_is_named(tmp_path):
    zipped(tmp_path / "a.pt", data_pkl=pickle.dumps({"a": 1, "x": Call()}, 2))
    done = command_here("inspect", tmp_path / "a.pt")
    assert done.returncode == 1 and "posix.system  1 times: NOT ON THE LIST" in done.stdout
    assert done.stdout.endswith("do not load it elsewhere: 1 names are not on the list\n")


@pytest.mark.parametrize(
    ("data", "foreign", "damaged"),
    [
        (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R\xff\xff", ["os.system"], True),  # it runs before it fails
        (pickle.dumps({}) + pickle.dumps(Call(), 2), ["posix.system"], False),  # the second of two
        (
            b"\x80\x04cbuiltins\nstr\nX\x02\x00\x00\x00os\x85R\x8c\x06system\x93.",
            ["builtins.str", "computed by the pickle.unknown"],
            False,
        ),
        (b"\x80\x04\x8c\x12deepspeed.runtime.\x8c\x09os.system\x93.", ["deepspeed.runtime..os.system"], False),
        (b"\x80\x02\x82\x01.", ["copyreg extension.1"], False),
        (b"\x80\x02cmegatron.arguments\nf\n)R.", [], False),
        (b"\x80\x02", [], True),
    ],
)
def test_tricks(tmp_path, data, foreign, damaged):
    (tmp_path / "a.pkl").write_bytes(data)
    report = scan(tmp_path / "a.pkl")
    assert report.foreign == foreign and bool(report.damage) == damaged
    assert report.harmless == (not foreign and not damaged)


def test_other_records_and_bombs(tmp_path):
    zipped(tmp_path / "a.pt", data_pkl=pickle.dumps({}), hook_bin=pickle.dumps(Call()))
    assert scan(tmp_path / "a.pt").foreign == ["posix.system"]
    inner = zipped(tmp_path / "inner.zip", x_pkl=pickle.dumps(Call())).read_bytes()
    assert scan(zipped(tmp_path / "b.pt", data_pkl=pickle.dumps({}), x_zip=inner)).damage
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + bytes(65 << 20))
    assert "more than" in scan(tmp_path / "bomb.pt").damage[0]
    (tmp_path / "cut.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-30])
    assert not scan(tmp_path / "cut.pt").harmless
    (tmp_path / "w.ckpt").write_bytes(b"\x0a\x05hello")
    assert list(lines(scan(tmp_path / "w.ckpt").to_json()))[-1].startswith("it does not begin as a pickle")


def test_names_cannot_command_a_terminal(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04\x8c\x04\x1b[2J\x8c\x05a\nb:c\x93.")
    out = command_here("inspect", tmp_path / "a.pkl").stdout
    assert "\\x1b[2J.a\\nb:c" in out and "\x1b" not in out


# --- compared with picklescan ---

SCAN = """
import json, sys
from picklescan import scanner

if sys.argv[1:] == ["list"]:
    known = scanner._unsafe_globals.items()
    print(json.dumps({module: [names] if type(names) is str else sorted(names) for module, names in known}))
else:
    print(json.dumps({path: scanner.scan_file_path(path).issues_count for path in map(str.strip, sys.stdin)}))
"""


class Run:
    """Pickled, it is a call of any function."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


CALLS = {
    "system": Run(os.system, ("id",)),
    "exec": Run(exec, ("1",)),
    "eval": Run(eval, ("1",)),
    "open": Run(open, ("f", "w")),
    "popen": Run(subprocess.Popen, ("id",)),
    "getattr": Run(getattr, ("", "join")),
    "loads": Run(pickle.loads, (b"N.",)),
}


def dangerous_files(directory, torch):
    """Every call in every protocol and every format that PyTorch has written."""
    for name, call in CALLS.items():
        for protocol in range(6):
            state = {"state_dict": collections.OrderedDict(step=1), "x": [call]}
            (directory / f"{name}-{protocol}.pkl").write_bytes(pickle.dumps(state, protocol))
            (directory / f"{name}-{protocol}.bin").write_bytes(pickle.dumps(call, protocol))
        for suffix in ("pt", "ckpt"):
            torch.save({"w": torch.ones(2), "x": call}, directory / f"{name}.{suffix}")
        torch.save({"w": call}, directory / f"{name}-old.pth", _use_new_zipfile_serialization=False)
        zipped(directory / f"{name}-hidden.pt", data_pkl=pickle.dumps({}), hook_bin=pickle.dumps(call, 4))
    for name, data in RAW.items():
        (directory / f"{name}.pkl").write_bytes(data)
        zipped(directory / f"{name}.pt", data_pkl=data)


def harmless_files(directory, torch):
    """State dicts, and what else a checkpoint holds."""
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    state = collections.OrderedDict((f"w.{number}", torch.ones(3, dtype=kind)) for number, kind in enumerate(kinds))
    for name, value in {
        "state": state,
        "whole": {"module": state, "iteration": 4, "lr": 1e-4, "betas": (0.9, 0.95), "name": "x", "none": None},
        "shared": {"a": state["w.0"], "b": state["w.0"][1:]},
    }.items():
        for suffix in ("pt", "ckpt", "bin"):
            torch.save(value, directory / f"{name}.{suffix}")
        torch.save(value, directory / f"{name}-old.pth", _use_new_zipfile_serialization=False)
    write_torch(directory / "ours.pt", {"module": {"w": from_array(np.zeros(3, np.float32))}})
    for protocol in range(6):
        plain = {"numbers": [1, 2.5, 1 << 70, True], "text": "x", "nested": {"a": (None, {})}}
        (directory / f"plain-{protocol}.pkl").write_bytes(pickle.dumps(plain, protocol))


@pytest.mark.slow
def test_what_picklescan_calls_dangerous_is_dangerous(tmp_path):
    torch = pytest.importorskip("torch")
    python = own_environment(tmp_path / "venv", "picklescan==1.0.5")
    places = [tmp_path / name for name in ("dangerous", "harmless", "names")]
    for place in places:
        place.mkdir()
    dangerous_files(places[0], torch)
    harmless_files(places[1], torch)
    listed = json.loads(run_in(python, "-c", SCAN, "list").stdout)
    for module, names in listed.items():  # all that it knows; a module without names: all of the module
        for name in names if names != ["*"] else ["f"]:
            data = f"\x80\x02c{module}\n{name}\n.".encode("latin-1")
            (places[2] / f"{module} {name}.pkl").write_bytes(data)
    files = [path for place in places for path in sorted(place.iterdir())]
    found = json.loads(run_in(python, "-c", SCAN, given="\n".join(map(str, files))).stdout)
    theirs = {path for path in files if found[str(path)]}
    ours = {path for path in files if not scan(path).harmless}
    assert ours == {path for path in files if path.parent != places[1]} and theirs < ours
    missed = {path.stem.partition("-")[0] for path in ours - theirs}
    assert missed == {"open", "a member of a member"}  # io.open is only suspicious to it
