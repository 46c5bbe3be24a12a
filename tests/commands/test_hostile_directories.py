"""Hostile directories: each ends a command with one line and status 2; nothing outside the directory is read into an
output or onto the screen, and nothing hangs. What a reader refuses in a file is in the tests of that reader.

A row of `CASES` says what is done to a sound directory, what the line says, and which commands read that. Rows take
turns with the families and with their commands; the slow test tries every row with each family and each command.
"""

import json
import os
import pickle
import re
import shutil
import socket
import struct

import numpy as np
import pytest
from conftest import command_here
from hostile_pickles import Call, archive
from small_models import FAMILIES, parameters, save_adapters, save_run
from terminal_stream import is_harmless
from tokenizer_files import write_chatglm

from ms_codegeex.base import quarantine
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.sources import open_source

SECRET = "PRIVATE-KEY-b3BlbnNzaC1rZXk"
WEIGHTS, INDEX, BIN = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
BIDI = "\u202egpj.exe"


class Place:
    """A directory `model` of a family, next to what it must not lead to: `outside`."""

    def __init__(self, root, family, sound):
        self.root, self.family, self.model, self.outside = root, family, root / "model", root / "outside"
        shutil.copytree(sound / family, self.model)
        self.outside.mkdir()
        (self.outside / "secret").write_text(SECRET)
        (self.outside / "secret.json").write_text(json.dumps({"model_type": SECRET, "validation_loss": SECRET}))
        shutil.copyfile(self.model / WEIGHTS, self.outside / WEIGHTS)
        self.tokenizer = "tokenizer.model" if family == "codegeex2" else "vocab.json"

    def put(self, name, content):
        path = self.model / name
        path.unlink(missing_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)

    def json(self, name, **values):
        path = self.model / name
        self.put(name, json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))

    def vocabulary(self, size):
        self.json("config.json", vocab_size=size, padded_vocab_size=size)

    def link(self, name, target):
        (self.model / name).unlink(missing_ok=True)
        (self.model / name).symlink_to(str(target).format(self.outside))

    def hard_link(self, name, target):
        (self.model / name).unlink(missing_ok=True)
        os.link(self.outside / target, self.model / name)

    def sparse(self, name, size):
        with open(self.model / name, "wb") as stream:
            stream.truncate(size)

    def header(self, change, tail=b""):
        """The safetensors file with another header: a text, or a function of the old one."""
        data = (self.model / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        if callable(change):
            header = json.loads(data[8 : 8 + length])
            change(header)
            change = json.dumps(header)
        self.put(WEIGHTS, struct.pack("<Q", len(change.encode())) + change.encode() + data[8 + length :] + tail)

    def first(self, **values):
        """The header with other values for its first tensor."""
        self.header(lambda header: next(each for name, each in header.items() if name[0] != "_").update(values))

    def index(self, weight_map):
        (self.model / WEIGHTS).unlink()
        self.put(INDEX, json.dumps({"weight_map": weight_map}))

    def pickled(self, data):
        (self.model / WEIGHTS).unlink()
        archive(self.model / BIN, data)


def listen(place, name):
    here = os.getcwd()
    os.chdir(place.model)  # a socket's name has at most 107 bytes
    try:
        (place.model / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(name)
    finally:
        os.chdir(here)


def pipe(place, name):
    (place.model / name).unlink(missing_ok=True)
    os.mkfifo(place.model / name)


CONVERT, READ, TOKENIZE = ("convert",), ("generate", "serve", "quantize", "inspect"), ("generate", "serve", "finetune")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
OUT, BAD = "is a link to .*, outside", "its header is not safetensors"
CASES = [
    # links and files that are none
    ("config to passwd", lambda p: p.link("config.json", "/etc/passwd"), OUT, READ),
    ("config to json", lambda p: p.link("config.json", "{}/secret.json"), OUT, READ),
    ("relative link", lambda p: p.link("config.json", "../outside/secret.json"), OUT, CONVERT),
    ("weights of another", lambda p: p.link(WEIGHTS, "{}/model.safetensors"), OUT, READ),
    ("weights to passwd", lambda p: p.link(WEIGHTS, "/etc/passwd"), OUT, CONVERT),
    ("tokenizer to passwd", lambda p: p.link(p.tokenizer, "/etc/passwd"), OUT, TOKENIZE),
    ("settings to environ", lambda p: p.link("tokenizer_config.json", "/proc/self/environ"), OUT, TOKENIZE),
    ("serving to secret", lambda p: p.link("serving.json", "{}/secret.json"), OUT, ("serve",)),
    ("card to passwd", lambda p: p.link("README.md", "/etc/passwd"), OUT, CONVERT),
    ("licence to secret", lambda p: p.link("LICENSE", "{}/secret"), OUT, CONVERT),
    ("template to secret", lambda p: p.link("chat_template.jinja", "{}/secret"), OUT, CONVERT),
    ("plot to secret", lambda p: p.link("loss.png", "{}/secret"), OUT, CONVERT),
    ("chain", lambda p: (p.link("a", "{}/secret"), p.link("NOTICE", "a")), OUT, CONVERT),
    ("to a folder", lambda p: p.link("COPYING", "/"), OUT, CONVERT),
    ("device", lambda p: p.link(p.tokenizer, "/dev/zero"), OUT, TOKENIZE),
    ("to nothing", lambda p: p.link("AUTHORS", "nothing"), "is a link to nothing", CONVERT),
    ("loop", lambda p: p.link("generation_config.json", "generation_config.json"), "leads to itself", CONVERT),
    ("hard link", lambda p: p.hard_link("README.md", "secret"), "1 more name outside its directory", CONVERT),
    ("hard linked weights", lambda p: p.hard_link(WEIGHTS, WEIGHTS), "1 more name outside its directory", READ),
    ("pipe as weights", lambda p: pipe(p, WEIGHTS), "is a pipe|nothing of these is there", CONVERT),
    ("pipe as tokenizer", lambda p: pipe(p, p.tokenizer), "is a pipe", TOKENIZE),
    ("pipe as settings", lambda p: pipe(p, "tokenizer_config.json"), "is a pipe", TOKENIZE),
    ("pipe as statement", lambda p: pipe(p, "provenance.json"), "is a pipe", CONVERT),
    ("socket as card", lambda p: listen(p, "README.md"), "is a socket", CONVERT),
    ("many entries", lambda p: [p.put(f"x{number}", "") for number in range(20)], "more than 15 entries", CONVERT),
    # the index
    ("parent", lambda p: p.index({"a": "../outside/model.safetensors"}), "weight_map", READ),
    ("absolute", lambda p: p.index({"a": str(p.outside / WEIGHTS)}), "weight_map", READ),
    ("folder", lambda p: p.index({"a": "x/model.safetensors"}), "weight_map", CONVERT),
    ("NUL in a name", lambda p: p.index({"a": "model\0.safetensors"}), "weight_map", READ),
    ("break in a name", lambda p: p.index({"a": f"m\nsafe{BIDI}.safetensors"}), "weight_map", READ),
    ("code as weights", lambda p: p.index({"a": "modeling.py"}), "weight_map", CONVERT),
    ("number as weights", lambda p: p.index({"a": 7}), "weight_map", CONVERT),
    ("list of weights", lambda p: p.index(["a"]), "weight_map", CONVERT),
    ("missing shard", lambda p: p.index({"a": "b.safetensors"}), "missing, but .* lists it", READ),
    ("linked shard", lambda p: (p.index({"a": "b.bin"}), p.link("b.bin", "{}/secret")), OUT, READ),
    # the configuration
    ("no JSON", lambda p: p.put("config.json", "{"), "not readable as JSON", READ),
    ("no object", lambda p: p.put("config.json", "[]"), "not a JSON object; copy it again", READ),
    ("a terabyte", lambda p: p.sparse("config.json", 1 << 40), "a file of this kind at most", READ),
    ("another type", lambda p: p.json("config.json", model_type=f"\x1b]0;owned\x07{BIDI}\n"), "model_type is", CONVERT),
    ("list as type", lambda p: p.json("config.json", model_type=[["x"]]), "model_type is", CONVERT),
    ("a size is NaN", lambda p: p.vocabulary(float("nan")), "vocab_size", CONVERT),
    ("a size is endless", lambda p: p.vocabulary(float("inf")), "vocab_size", CONVERT),
    ("negative size", lambda p: p.vocabulary(-1), "vocab_size", CONVERT),
    ("size as text", lambda p: p.vocabulary("12; rm"), "vocab_size", CONVERT),
    ("truth as size", lambda p: p.vocabulary(True), "vocab_size|embed", CONVERT),
    ("huge size", lambda p: p.vocabulary(1 << 60), "vocab_size|shape|embed|is larger", CONVERT),
    ("many layers", lambda p: p.json("config.json", **dict.fromkeys(LAYERS, 10**9)), "layers", CONVERT),
    # weights
    ("empty", lambda p: p.put(WEIGHTS, b""), "is empty; copy it again", READ),
    ("long header", lambda p: p.put(WEIGHTS, struct.pack("<Q", 1 << 63) + b"{}"), "not a safetensors file", READ),
    ("sparse header", lambda p: p.sparse(WEIGHTS, 1 << 40), "its header is not", READ),
    ("deep header", lambda p: p.header("[" * 5000 + "]" * 5000), "nested deeper", READ),
    ("huge shape", lambda p: p.first(shape=[1 << 62, 4]), "no array can have the shape", READ),
    ("unknown dtype", lambda p: p.first(dtype="F8\nE5"), "is not supported", READ),
    ("metadata is a list", lambda p: p.header(lambda h: h.update(__metadata__=[1])), BAD, READ),
    ("trailing bytes", lambda p: p.header(lambda h: None, b"x" * 9), "its header describes", READ),
    ("cut off", lambda p: p.put(WEIGHTS, (p.model / WEIGHTS).read_bytes()[:-1]), "its header describes", READ),
    ("too many tensors", lambda p: p.header(lambda h: None), "lists more than 3 tensors", CONVERT),
    ("names", lambda p: p.header(lambda h: h.update({f"\x1b[2J{BIDI}\n": h.popitem()[1]})), "", CONVERT),
    # pickles
    ("os.system", lambda p: p.pickled(pickle.dumps({"a": Call()}, 2)), "would call posix.system", READ),
    ("a tuple of itself", lambda p: p.pickled(b"\x80\x02]q\0h\0a."), "", CONVERT),
    ("no pickle", lambda p: (p.model / WEIGHTS).rename(p.model / BIN), "", CONVERT),
    ("old pickle", lambda p: ((p.model / WEIGHTS).unlink(), p.put(BIN, pickle.dumps(Call(), 2))), "", CONVERT),
    # tokenizers
    ("a gigabyte of tokens", lambda p: p.sparse(p.tokenizer, 1 << 30), "a file of this kind at most", TOKENIZE),
    ("no tokens", lambda p: p.put(p.tokenizer, "{}"), "", TOKENIZE),
    ("class 3", lambda p: p.json("tokenizer_config.json", tokenizer_class=3), "tokenizer_class", TOKENIZE),
    ("evil class", lambda p: p.json("tokenizer_config.json", tokenizer_class="os.system"), "tokenizer_class", TOKENIZE),
    ("settings list", lambda p: p.put("tokenizer_config.json", "[]"), "expected a JSON object", TOKENIZE),
    # what a model says of itself
    ("statement list", lambda p: p.put("provenance.json", "[]"), "not a statement", (*CONVERT, "generate")),
    ("serving list", lambda p: p.put("serving.json", "[]"), "expected a JSON object", ("serve",)),
    ("infill", lambda p: p.json("serving.json", infill={"prefix": -1}), "infill", ("serve",)),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A directory of each family, as a conversion writes it, without its statement."""
    root = tmp_path_factory.mktemp("sound")
    for name in FAMILIES:
        save_run(root / f"run-{name}", name, parameters(name))
        source = open_source(root / f"run-{name}")
        convert(source, "hf", root / name, progress=False)
        (root / name / "provenance.json").unlink()
        if name == "codegeex2":
            write_chatglm(root / name)
        elif name == "codegen":
            load_tokenizer("codegen-multi").save(root / name)
    return root


def words(verb, place):
    """The command line of a verb that uses the model; an output goes to `out`."""
    model, out = place.model, place.root / "out"
    return {
        "convert": ("convert", "--model", model, "--to", "hf", "--output", out),
        "inspect": ("inspect", model),
        "generate": ("generate", "--model", model, "--prompt", "x"),
        "serve": ("serve", "--model", model, "--port", "0"),
        "quantize": ("quantize", "--model", model, "--bits", "8", "--output", out),
        "adapter merge": ("adapter", "merge", "--model", place.root / "base", "--adapter", model, "--output", out),
        "finetune": ("finetune", "--model", model, "--data", place.outside / "data.jsonl", f"output={out}"),
    }[verb]


def refused(place, expected, *verbs):
    """Each command ends with status 2 and one harmless line; it wrote nothing and shows nothing of the outside."""
    (place.outside / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    for verb in verbs:
        done = command_here(*words(verb, place))
        if verb == "inspect" and done.returncode == 0:  # shows what is there; other readers want a model
            assert is_harmless(done.stdout) and SECRET not in done.stdout and "root:" not in done.stdout
            continue
        assert done.returncode == 2, (verb, done)
        assert done.stderr.count("\n") == 1 and is_harmless(done.stderr), (verb, done.stderr)
        assert re.search(expected, done.stderr), (verb, done.stderr)
        assert SECRET not in done.stdout + done.stderr and "root:" not in done.stdout + done.stderr
        assert not (place.root / "out").exists() and not os.path.exists("this_ran")


def tried(place, monkeypatch, case, turn=None):
    """A row, with all of its commands or with the one whose turn it is."""
    name, change, expected, verbs = case
    if name == "many entries":
        monkeypatch.setattr(quarantine, "MAX_ENTRIES", 15)
    elif name == "too many tensors":
        monkeypatch.setattr("ms_codegeex.formats.safetensors_file.MAX_TENSORS", 3)
    elif name == "a tuple of itself":
        monkeypatch.setattr("ms_codegeex.formats.torch_zip.MAX_VALUES", 1000)
    change(place)
    refused(place, expected, *(verbs if turn is None else [verbs[turn % len(verbs)]]))


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number][0].replace(" ", "_"))
def test_a_hostile_directory_is_refused_in_a_line(sound, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    tried(Place(tmp_path, FAMILIES[number % len(FAMILIES)], sound), monkeypatch, CASES[number], number)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_refuses_every_hostile_directory(sound, tmp_path, monkeypatch, family):
    monkeypatch.chdir(tmp_path)
    for number, case in enumerate(CASES):
        (tmp_path / str(number)).mkdir()
        with monkeypatch.context() as patch:
            tried(Place(tmp_path / str(number), family, sound), patch, case)
        shutil.rmtree(tmp_path / str(number))


ADAPTERS = [
    ("settings to secret", lambda p: p.link("adapter_config.json", "{}/secret.json"), OUT),
    ("tensors of another", lambda p: p.link("adapter_model.safetensors", "{}/model.safetensors"), OUT),
    ("tensors hard linked", lambda p: p.hard_link("adapter_model.safetensors", WEIGHTS), "1 more name outside"),
    ("settings list", lambda p: p.put("adapter_config.json", "[]"), "expected an object"),
    ("other weights", lambda p: p.json("adapter_config.json", modules_to_save=["evil"]), "modules_to_save"),
    ("pipe", lambda p: pipe(p, "adapter_model.safetensors"), "is a pipe"),
]


@pytest.mark.parametrize("number", range(len(ADAPTERS)), ids=lambda number: ADAPTERS[number][0].replace(" ", "_"))
def test_a_hostile_adapter_is_refused_in_a_line(sound, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    family, (_, change, expected) = FAMILIES[number % len(FAMILIES)], ADAPTERS[number]
    place = Place(tmp_path, family, sound)
    model = place.model.rename(tmp_path / "base")
    save_adapters(tmp_path / "adapters", family, model)
    write_peft(open_source(tmp_path / "adapters"), place.model)
    change(place)
    refused(place, expected, "adapter merge")


def linked_checkpoint(place, run):
    step = next((run / "checkpoints").iterdir())
    shutil.copytree(step, place.outside / step.name)
    shutil.rmtree(step)
    step.symlink_to(place.outside / step.name)


def linked_rank(place, run):
    file = next(run.rglob("*.safetensors"))
    shutil.move(file, place.outside / "rank")
    file.symlink_to(place.outside / "rank")


def files_of(kind):
    def change(place, run):
        convert(run, kind, place.root / "split", tensor_parallel=2, progress=False)
        (place.root / "split/provenance.json").unlink()
        file = sorted((place.root / "split").rglob("*.pt" if kind == "megatron" else "*.ckpt"))[1]
        shutil.move(file, place.outside / "rank")
        file.symlink_to(place.outside / "rank")
        shutil.rmtree(run)
        (place.root / "split").rename(run)

    return change


def numpy_folder(run):
    shutil.rmtree(run)
    run.mkdir()
    return run / "a.npy"


def other_name(place, run):
    manifest = next(run.rglob("manifest.json"))
    manifest.write_text(manifest.read_text().replace("rank_00000", "../rank_00000"))


FOLDERS = [
    ("checkpoint elsewhere", linked_checkpoint, "outside"),
    ("rank elsewhere", linked_rank, "is a link to .*, outside|no sound checkpoint"),
    ("name elsewhere", other_name, "no sound checkpoint"),
    ("Megatron's rank elsewhere", files_of("megatron"), OUT),
    ("MindSpore's rank elsewhere", files_of("mindspore"), OUT),
    ("pickled array", lambda place, run: np.save(numpy_folder(run), np.array([Call()])), "not a sound .npy file"),
    ("array elsewhere", lambda place, run: numpy_folder(run).symlink_to(place.outside / "secret"), OUT),
]


@pytest.mark.parametrize("number", range(len(FOLDERS)), ids=lambda number: FOLDERS[number][0].replace(" ", "_"))
def test_a_hostile_folder_of_checkpoints_is_refused_in_a_line(sound, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    family = FAMILIES[number % len(FAMILIES)]
    place = Place(tmp_path, family, sound)
    shutil.copytree(sound / f"run-{family}", tmp_path / "run")
    FOLDERS[number][1](place, tmp_path / "run")
    shutil.rmtree(place.model)
    (tmp_path / "run").rename(place.model)
    refused(place, FOLDERS[number][2], "convert")


def test_a_snapshot_of_the_hubs_cache_is_read(sound, tmp_path):
    """The links that must go on working: those of a snapshot to the blobs of the same model."""
    blobs, snapshot = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/1f"
    shutil.copytree(sound / "codegeex", blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    command_here("convert", "--model", snapshot, "--to", "hf", "--output", tmp_path / "out", status=0)
    assert (tmp_path / "out" / WEIGHTS).is_file() and not any(
        file.is_symlink() for file in (tmp_path / "out").iterdir()
    )
