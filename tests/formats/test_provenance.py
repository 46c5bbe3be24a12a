"""`provenance.json`: what an output was made from, and whether it is still as it was written."""

import base64
import hashlib
import json
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from conftest import ROOT, command_here
from own_environment import own_environment, run_in
from small_models import parameters, save_adapters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.commands.convert import script
from ms_codegeex.formats import edits
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.provenance import check, ends, hashed, made_from, read_statement
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.quantising import write_quantised


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of CodeGeeX, a model directory of it, and a `.pt` and rank files of that."""
    root = tmp_path_factory.mktemp("made")
    save_run(root / "run", "codegeex", parameters("codegeex"))
    convert(root / "run", "hf", root / "hf", progress=False)
    convert(root / "hf", "megatron", root / "x.pt", progress=False, dtype="fp16")
    convert(root / "hf", "mindspore", root / "ranks", tensor_parallel=2, progress=False)
    return root


@pytest.fixture
def model(made, tmp_path):
    """A copy of the model directory, to be changed."""
    return shutil.copytree(made / "hf", tmp_path / "model")


def content(path):
    return json.loads(path.read_text())


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_of_an_output_has_its_hash_in_the_shape_of_model_signing(made):
    """The package `model-signing` 1.1.1 makes the same list and the same hash of all of it (docs/provenance.md)."""
    for directory in (made / "hf", made / "ranks"):
        statement = content(directory / "provenance.json")
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == "https://model_signing/signature/v1.0"
        files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "provenance.json"]
        listed = [(each["name"], each["algorithm"], each["digest"]) for each in statement["predicate"]["resources"]]
        assert listed == [(str(path.relative_to(directory)), "sha256", sha256(path)) for path in files]
        root = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, _, digest in listed)).hexdigest()
        assert statement["subject"] == [{"name": directory.name, "digest": {"sha256": root}}]


def test_inputs_and_choices_are_recorded_without_paths(made):
    ours = content(made / "hf/provenance.json")["predicate"]["ms_codegeex"]
    (given,) = ours["inputs"]
    step = made / "run/checkpoints/step-00000004"
    assert (given["role"], given["name"]) == ("model", "run/step-00000004")
    assert {file["name"]: (file["size"], file["sha256"]) for file in given["files"]} == {
        path.name: (path.stat().st_size, sha256(path)) for path in step.iterdir()
    }
    beside = content(made / "x.pt.provenance.json")["predicate"]["ms_codegeex"]
    choices = {"command": "convert", "family": "codegeex", "to": "megatron", "dtype": "fp16", "tensor_parallel": 1}
    assert beside["choices"] == choices
    (given,) = beside["inputs"]
    names = {file["name"]: file["sha256"] for file in given["files"]}
    assert names["provenance.json"] == sha256(made / "hf/provenance.json") and "modeling_codegeex.py" not in names
    for path in ("hf/provenance.json", "x.pt.provenance.json"):
        assert str(made) not in (made / path).read_text()


def test_the_same_model_gives_the_same_statement(made, tmp_path):
    convert(made / "run", "hf", tmp_path / "hf", progress=False)
    assert (tmp_path / "hf/provenance.json").read_bytes() == (made / "hf/provenance.json").read_bytes()


def test_adapters_and_their_base_are_inputs(made, tmp_path):
    save_adapters(tmp_path / "tuned", "codegeex", made / "hf")
    words = ("adapter", "merge", "--model", made / "hf", "--adapter", tmp_path / "tuned", "--output", tmp_path / "out")
    assert command_here(*words).returncode == 0
    ours = content(tmp_path / "out/provenance.json")["predicate"]["ms_codegeex"]
    assert [each["role"] for each in ours["inputs"]] == ["model", "adapter"]
    assert ours["choices"]["command"] == "adapter merge"
    convert(tmp_path / "tuned", "hf", tmp_path / "exported", progress=False)
    exported = content(tmp_path / "exported/provenance.json")["predicate"]["ms_codegeex"]
    inputs = [("model", "tuned/step-00000004"), ("base", "hf")]
    assert [(each["role"], each["name"]) for each in exported["inputs"]] == inputs


def change(model, name):
    (model / name).write_bytes((model / name).read_bytes()[:-1] + b"?")


EDITS = {"changed": change, "missing": lambda model, name: (model / name).unlink()}
EDITS["extra"] = lambda model, name: (model / name).write_text("{}")
CHANGES = [
    ("model.safetensors", "changed"),
    ("tokenizer_config.json", "changed"),
    ("merges.txt", "missing"),
    ("added_tokens_2.bin", "extra"),
    ("modeling_evil.py", "extra"),
    ("README.md", "changed"),
]


@pytest.mark.parametrize(("name", "what"), CHANGES)
def test_verify_names_what_differs(model, name, what):
    size = sum(file.stat().st_size for file in model.iterdir() if file.name != "provenance.json")
    origin = "convert of ms-codegeex 0.1.0, from model run/step-00000004"
    sound = command_here("checkpoint", "verify", model).stdout
    assert sound == f"{model}: sound, 10 files, {size:,} bytes; {origin}\n"
    EDITS[what](model, name)
    done = command_here("checkpoint", "verify", model)
    assert done.returncode == 1 and done.stdout.splitlines()[:-1] == [f"{model / name}: {what}"]
    result = json.loads(command_here("checkpoint", "verify", model, "--json").stdout)
    assert result["differences"] == [{"file": name, "what": what}] and not result["sound"]


@pytest.mark.parametrize(("name", "what"), CHANGES)
def test_a_model_that_is_used_is_compared(model, capsys, name, what):
    """A change that can affect answers is refused; any other is a warning."""
    EDITS[what](model, name)
    if name in ("modeling_evil.py", "README.md"):
        load_model(model)
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{model / name}: is {what} since provenance.json was written" in line
        assert line.startswith("warning: ") is (name != "README.md")
        if name == "README.md":  # the command that the line names records the edit
            assert command_here(*shlex.split(line.split("`")[1])[1:]).returncode == 0
            load_model(model)
            assert not capsys.readouterr().err and read_statement(model).edits == ["card"]
        return
    for words in (("generate", "--model", model, "--prompt", "x"), ("serve", "--model", model, "--port", "0")):
        done = command_here(*words)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert f"{name}: is {what}" in done.stderr or "checksum" in done.stderr or "missing" in done.stderr
    (model / "provenance.json").unlink()
    if what == "extra":
        load_model(model)


def test_only_a_thorough_check_reads_the_middle_of_a_file(tmp_path):
    """`generate` compares sizes and both ends; `verify` and `serve` all bytes."""
    (tmp_path / "m").mkdir()
    np.zeros(3 << 20, np.uint8).tofile(tmp_path / "m/w.bin")
    with hashed(()) as hashes:
        hashes.statement(tmp_path / "m", tmp_path / "m", {"command": "convert"})
    with open(tmp_path / "m/w.bin", "r+b") as stream:
        stream.seek((3 << 20) // 2)
        stream.write(b"?")
    check(tmp_path / "m")
    with pytest.raises(UserError, match=r"w\.bin: is changed, by provenance\.json; restore the files, or make"):
        check(tmp_path / "m", thorough=True)
    assert ends(tmp_path / "m/w.bin")["size"] == 3 << 20


def written(model):
    return {path.name: path.read_bytes() for path in model.rglob("*") if path.is_file()}


def test_a_description_written_by_hand_is_used(model, capsys):
    (model / "serving.json").write_text('{"chat": "plain"}')
    assert load_model(model).description.to_json()["chat"] == "plain"
    assert "serving.json: is extra since provenance.json was written; `ms-codegeex inspect" in capsys.readouterr().err


SET = {  # what is set, and what the files say then
    "a licence": (["license=apache-2.0"], {"licence": "apache-2.0"}),
    "a format of ours": (["chat=plain"], {"chat": "plain"}),
    "a template": (["chat=@t.jinja"], {"chat": {"template": "{{ messages[0].content }}"}}),
    "several": (["chat=plain", "licence=mit", "base=me/mine"], {"chat": "plain", "licence": "mit", "base": "me/mine"}),
    "a card with a licence": (["card=@card.md"], {"licence": "bsd-3-clause"}),
    "a card without one": (["licence=mit", "card=# mine"], {"licence": "mit"}),
}


@pytest.mark.parametrize("name", SET)
def test_what_a_user_sets_is_recorded(model, tmp_path, monkeypatch, name):
    """Everything agrees afterwards: files, statement, and a conversion of the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jinja").write_text("{{ messages[0].content }}")
    (tmp_path / "card.md").write_text("---\nlicense: bsd-3-clause\n---\n# mine\n")
    words, known = SET[name]
    done = command_here("inspect", model, *(word for each in words for word in ("--set", each)))
    assert done.returncode == 0 and not done.stderr and done.stdout.endswith("; recorded in provenance.json\n")
    verified = command_here("checkpoint", "verify", model)
    keys = dict.fromkeys(each.partition("=")[0].replace("license", "licence") for each in words)
    assert verified.returncode == 0 and verified.stdout.endswith(f"; set since: {', '.join(keys)}\n")
    assert load_model(model).description.to_json() == known
    assert ("# mine" in (model / "README.md").read_text()) is ("card" in keys)
    replaced = command_here("convert", "--model", "card.md", "--to", "hf", "--output", model, "--replace")
    assert replaced.returncode == 2
    convert(model, "hf", tmp_path / "again", progress=False)
    assert open_source(tmp_path / "again").description.to_json() == known


REFUSED = {
    "no value": ("licence", "expected KEY=VALUE"),
    "no fact": ("licenc=mit", "did you mean 'licence'"),
    "what was done": ("step=3", "says what was done"),
    "no format": ("chat=plane", "chat: expected one of"),
    "no file": ("chat=@none.jinja", "none.jinja cannot be read"),
    "a template that fails": ('chat={"template": "{% for %}"}', "--set chat: the model's chat template: Expected an"),
    "two lines": ("licence=mit\rother", "expected one line of text"),
    "not of this model": ('infill={"prefix": 1, "suffix": 2, "middle": 99999}', "serving.json: infill: prefix is 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_set_changes_nothing(model, name):
    (model / "chat_template.jinja").write_text("{{ messages }}")
    before, (word, said) = written(model), REFUSED[name]
    done = command_here("inspect", model, "--set", word)
    assert done.returncode == 2 and said in done.stderr and written(model) == before


def test_an_edit_covers_no_other_change(model):
    change(model, "model.safetensors")
    before = written(model)
    done = command_here("inspect", model, "--set", "licence=mit")
    assert done.returncode == 2 and "model.safetensors: is changed" in done.stderr and written(model) == before


def test_a_run_whose_export_cannot_be_edited_stays_as_it_was(model, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(model, run / "huggingface")
    (run / "config.yaml").write_text("")
    change(run / "huggingface", "model.safetensors")
    before = written(run)
    with pytest.raises(UserError, match=r"model\.safetensors: is changed"):
        edits.apply(edits.directories(run), [("licence", "mit")], lambda place: None)
    assert written(run) == before


def test_a_source_that_changed_is_not_converted(model, tmp_path):
    for name in ("model.safetensors", "serving.json"):
        (model / "serving.json").write_text("{}")
        done = command_here("convert", "--model", model, "--to", "hf", "--output", tmp_path / name)
        assert done.returncode == 0 and "serving.json: is extra since provenance.json was written" in done.stderr
    change(model, "vocab.json")
    done = command_here("convert", "--model", model, "--to", "megatron", "--output", tmp_path / "out.pt")
    assert done.returncode == 2 and "vocab.json: is changed, by provenance.json" in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_files_beside_and_quantised_models(made, tmp_path, capsys):
    assert command_here("checkpoint", "verify", made / "x.pt").returncode == 0
    for name in ("x.pt", "x.pt.provenance.json"):
        shutil.copy(made / name, tmp_path / name)
    change(tmp_path, "x.pt")
    assert command_here("checkpoint", "verify", tmp_path / "x.pt").stdout.startswith(f"{tmp_path / 'x.pt'}: changed\n")
    write_quantised(open_source(made / "hf"), 8, 0, tmp_path / "int8")
    assert read_statement(tmp_path / "int8").origin["choices"]["command"] == "quantize"
    assert command_here("checkpoint", "verify", tmp_path / "int8").returncode == 0
    paths = ["--load-ckpt-path", str(made / "x.pt"), "--save-ckpt-path", str(tmp_path / "by script")]
    assert script("hf", "for transformers", argv=paths) == 0
    assert read_statement(tmp_path / "by script").origin["inputs"][0]["name"] == "x.pt"


def resource(**change):
    return lambda statement: statement["predicate"]["resources"][0].update(change)


HOSTILE = {
    "no list": lambda statement: statement["predicate"].update(resources={}),
    "a name elsewhere": resource(name="../run"),
    "an absolute name": resource(name="/etc/passwd"),
    "a digest of another length": resource(digest="00"),
    "a digest that is a number": resource(digest=7),
    "another algorithm": resource(algorithm="md5"),
    "a digest that is not in the sum": resource(digest="0" * 64),
    "another type": lambda statement: statement.update(_type="x"),
    "no subject": lambda statement: statement.update(subject=[]),
    "no sizes": lambda statement: statement["predicate"]["ms_codegeex"]["files"].popitem(),
}


def rewritten(model, change):
    statement = content(model / "provenance.json")
    change(statement)
    (model / "provenance.json").write_text(json.dumps(statement))


@pytest.mark.parametrize("name", HOSTILE)
def test_an_invalid_statement_is_named(model, name):
    rewritten(model, HOSTILE[name])
    with pytest.raises(UserError, match=r"provenance\.json: not a statement that ms-codegeex wrote"):
        read_statement(model)
    if name == "no list":
        for words in (("checkpoint", "verify", model), ("generate", "--model", model, "--prompt", "x")):
            done = command_here(*words)
            assert done.returncode == 2 and "provenance.json: not a statement that ms-codegeex wrote" in done.stderr


def test_hidden_weights_are_not_overlooked(model):
    for name in (".notes", ".hidden.safetensors"):
        (model / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"\.hidden\.safetensors: is extra, by provenance\.json; restore"):
        check(model)
    (model / ".hidden.safetensors").rename(model / "._hidden.safetensors")  # as macOS writes beside each file
    check(model)


@pytest.mark.parametrize("inputs", [5, "x", {"role": "model"}, [5]])
def test_inputs_that_are_not_a_list_are_ignored(model, inputs):
    rewritten(model, lambda statement: statement["predicate"]["ms_codegeex"].update(inputs=inputs))
    assert made_from(read_statement(model)) == "convert of ms-codegeex 0.1.0, from nothing recorded"


@pytest.mark.slow
def test_model_signings_own_command_signs_a_directory_with_its_statement(model, tmp_path):
    """The lines of docs/provenance.md, in an environment of their own. `checkpoint verify` mentions the signature."""
    page = (ROOT / "docs/provenance.md").read_text()
    install, *lines = re.findall(r"^\$ (.+)", page.partition("## Signatures")[2], re.MULTILINE)
    packages = [word.strip("'") for word in install.partition("#")[0].split()[2:]]
    python = own_environment(tmp_path / "venv", *packages)

    def run(line):
        words = line.replace("codegeex-small-hf", str(model)).split()
        if words[0] == "model_signing":
            return run_in(python, "-m", *words, cwd=tmp_path)
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    for line in lines:
        done = run(line)
        assert done.returncode == 0, done.stdout + done.stderr
    done = command_here("checkpoint", "verify", model)
    assert done.returncode == 0 and done.stdout.endswith("; model.sig not checked: `model_signing verify` does\n")
    assert json.loads(command_here("checkpoint", "verify", model, "--json").stdout)["signature"] == "not checked"
    bundle = content(model / "model.sig")
    signed = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))["predicate"]["resources"]
    ours = content(model / "provenance.json")["predicate"]["resources"]
    assert [each for each in signed if each["name"] != "provenance.json"] == ours
    change(model, "provenance.json")
    assert run(lines[-1]).returncode != 0
