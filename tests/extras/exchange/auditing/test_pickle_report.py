"""What `inspect FILE` says of pickles, compared with what Python's own unpickler looks up."""

import argparse
import collections
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from conftest import command_here
from hostile_pickles import RAW, Call, archive
from own_environment import own_environment, run_in

from ms_codegeex.extras.exchange.auditing.pickle_report import scan
from ms_codegeex.formats.mindspore_checkpoint import write_mindspore
from ms_codegeex.formats.safetensors_file import write_safetensors
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.formats.torch_zip import write_torch


class Recorder(pickle.Unpickler):
    """The real machine, which finds nothing and remembers what it was asked for."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.asked = []

    def find_class(self, module, name):
        self.asked.append((module, name))
        return lambda *arguments: None


def zipped(path, **records):
    return archive(path, None, [(name.replace("_", "."), data) for name, data in records.items()])


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
            ["computed by the pickle.unknown"],
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


MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
CALL = b"cposix\ngetpid\n)R"  # harmless; another function would run as well
FRAME = b"\x80\x04\x95" + (20_000).to_bytes(8, "little") + b"N." + b"N." * 9999  # the reader goes on after all of it
FILLER = b"N" * 70_000 + b"."
RUN_BEHIND = {  # what `pickle.load`, called again and again, runs
    "another beginning": MAGIC + b"N0" + CALL + b".",
    "a number in another base": MAGIC + b"\x80\x02I0x10\n0" + CALL + b".",
    "not the beginning of a pickle": b"N0" + CALL + b".",
    "a number before a NUL": MAGIC + b"I1\0x\n0" + CALL + b".",
    "a long number in another base": b"L0x10L\n0" + CALL + b".",
    "only names in other pickles": MAGIC + b"ccollections\nOrderedDict\n." + b"N0" + CALL + b".",
    "a persistent id": MAGIC + b"N." + b"N0N." + b"N0" + CALL + b".",
    "the fifth": MAGIC + b"N." * 3 + b"K\x010" + CALL + b".",
    "the sixth of others": b"N." * 5 + b"N0" + CALL + b".",
    "no end": b"N0" + CALL,
    "nothing in the memo": b"N0" + CALL + b"h\x07.",
    "a protocol on the way": b"N0\x80\x05\x80\x00" + CALL + b".",
    "a frame": b"N0\x95\x02\0\0\0\0\0\0\0N0" + CALL + b".",
    "a frame beyond the end": FRAME + CALL + b".",
    "a frame that ends in an argument": b"\x80\x04\x95\x05\0\0\0\0\0\0\0N0X\x01\0"
    + b"\x01\0\0\0a0"
    + CALL
    + b"."
    + FILLER,
    "marks": b"((10(0N0" + CALL + b".",
    "a text of another encoding": b"S'\xc3\xa9'\n0" + CALL + b".",
    "an empty line": b"V\n0" + CALL + b".",
    "a list and texts of bytes": b"](C\x01aC\x01be0\x8e" + bytes(8) + b"0" + CALL + b".",
}
LOAD = """
import io, json, pickle, sys
asked = {}
def hook(event, arguments):
    if event == "pickle.find_class" and arguments[0] == "posix":
        asked[name] = True
sys.addaudithook(hook)
for name, data in json.load(sys.stdin).items():
    stream = io.BytesIO(bytes.fromhex(data))
    try:
        while True:
            unpickler = pickle.Unpickler(stream, encoding="utf-8")  # as PyTorch does
            unpickler.persistent_load = str
            unpickler.load()
    except Exception:
        pass
print(json.dumps(sorted(asked)))
"""


@pytest.fixture(scope="module")
def run_behind():
    """The names of those files whose call Python really makes."""
    given = json.dumps({name: data.hex() for name, data in RUN_BEHIND.items()})
    done = subprocess.run([sys.executable, "-c", LOAD], input=given, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", RUN_BEHIND)
def test_what_runs_in_python_is_not_called_harmless(tmp_path, run_behind, name):
    (tmp_path / "a.bin").write_bytes(RUN_BEHIND[name])
    assert name in run_behind and not scan(tmp_path / "a.bin").harmless
    zipped(tmp_path / "a.pt", data_pkl=pickle.dumps({}), hook=RUN_BEHIND[name])
    assert not scan(tmp_path / "a.pt").harmless


def test_the_status_of_a_hidden_call(tmp_path):
    (tmp_path / "b.bin").write_bytes(RUN_BEHIND["another beginning"])
    done = command_here("inspect", tmp_path / "b.bin")
    assert done.returncode == 1 and "posix.getpid  1 times: NOT ON THE LIST" in done.stdout


def test_a_file_is_harmless_only_if_its_format_is_known(tmp_path):
    path = tmp_path / "w.ckpt"
    for data in (b"", b"\x0a\x05hello", b"text", bytes(600), b"PK\x05\x06" + bytes(18), b"\x80\x02\x00"):
        path.write_bytes(data)
        done = command_here("inspect", path)
        assert done.returncode == 1 and "not recognised" in done.stdout
        assert done.stdout.endswith("do not load it elsewhere: what could not be read may run\n")
    write_mindspore(path, {"a": from_array(np.zeros(3, np.float32))})
    assert scan(path).harmless and scan(path).kind == "MindSpore checkpoint"
    for number in range(200, 1200):  # headers of all lengths: one that begins as a pickle does, too
        write_safetensors(path, {"a": from_array(np.zeros(3, np.float32))}, {"x": "y" * number})
        assert scan(path).harmless and scan(path).kind == "safetensors file"


def test_a_zip_archive_that_is_not_pytorchs_is_not_called_harmless(tmp_path):
    """NumPy reads pickles in its records; only PyTorch takes `data/KEY` as bytes, and only beside its data.pkl."""
    np.savez(tmp_path / "a.npz", a=np.array([os.getpid], object))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("x/data/0", b"cposix\ngetpid\n)R.")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for name, data in (("x/data.pkl", b"}."), ("x/data/0", b"c"), ("x/data/y.pkl", b"cposix\ngetpid\n)R.")):
            archive.writestr(name, data)
    for name in ("a.npz", "b.zip", "c.zip"):
        assert not scan(tmp_path / name).harmless
    assert scan(tmp_path / "b.zip").foreign
    assert "not recognised: a zip archive without PyTorch's data.pkl" in scan(tmp_path / "a.npz").damage[0]


def test_a_tar_archive_that_is_a_pickle_too(tmp_path):
    """PyTorch opens a file as a tar archive before it looks for pickles."""
    inner = tarfile.TarInfo("N.")
    header = bytearray(inner.tobuf(tarfile.USTAR_FORMAT))
    header[:7] = b"\x80\x02X" + (505).to_bytes(4, "little")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data = bytes(header) + b"."
    assert type(pickle.loads(data, encoding="latin-1")) is str
    (tmp_path / "a.tar").write_bytes(data)
    assert scan(tmp_path / "a.tar").damage == ["not recognised: a tar archive, which was not looked into"]


def test_pytorchs_old_format_ends_after_five_pickles(tmp_path):
    torch = pytest.importorskip("torch")
    for number in (40, 93, 99, 128 + 2 * 256, 1000):  # the first bytes after the pickles begin as a pickle does
        torch.save({"w": torch.zeros(number)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
        report = scan(tmp_path / "a.pt")
        assert report.harmless and len(report.pickles) == 5
    for protocol in (0, 1, 3, 4, 5):
        kinds = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": False}
        torch.save({"w": torch.zeros(40)}, tmp_path / "b.pt", **kinds)
        assert scan(tmp_path / "b.pt").harmless
    (tmp_path / "c.pt").write_bytes(MAGIC + b"N." * 3)
    assert "cut off" in scan(tmp_path / "c.pt").damage[0]


def test_records_that_only_other_readers_find(tmp_path):
    """A directory elsewhere, a name in capitals, records that overlap."""
    zipped(tmp_path / "a.pt", data_pkl=pickle.dumps({}))
    sound = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "b.pt").write_bytes(zipped(tmp_path / "evil.pt", data_pkl=RAW["INST"]).read_bytes() + sound)
    assert "different records" in scan(tmp_path / "b.pt").damage[0]
    zipped(tmp_path / "c.pt", DATA_PKL=b"\xff")
    assert scan(tmp_path / "c.pt").damage
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as changed:
        changed.writestr("m/x", bytes(200))
        changed.filelist += [changed.getinfo("m/x")] * 9
    assert "overlap" in scan(tmp_path / "a.pt").damage[0]


def test_long_names_are_cut(tmp_path):
    """The memo repeats them in every pair."""
    texts = b"".join(
        b"X" + (5000).to_bytes(4, "little") + bytes([65 + i]) * 5000 + b"q" + bytes([i]) for i in range(20)
    )
    pairs = b"".join(b"h" + bytes([i]) + b"h" + bytes([j]) + b"\x93" for i in range(20) for j in range(20))
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + texts + pairs + b".")
    report = scan(tmp_path / "a.pkl")
    assert len(report.foreign) == 400 and max(map(len, report.foreign)) < 500


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


CALLS = {
    "system": Call(os.system, "id"),
    "exec": Call(exec, "1"),
    "eval": Call(eval, "1"),
    "open": Call(open, "f", "w"),
    "popen": Call(subprocess.Popen, "id"),
    "getattr": Call(getattr, "", "join"),
    "loads": Call(pickle.loads, b"N."),
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
