"""Signatures of models with a key, compared with OpenSSF's own command."""

import base64
import json
import shutil
import subprocess
import sys

import pytest
from conftest import command_here
from declared import requirements
from own_environment import own_environment, run_in, started
from small_models import parameters, save_run

from ms_codegeex.formats.convert import convert

MAKE_KEYS = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization import PrivateFormat, PublicFormat

made = {"key": ec.generate_private_key(ec.SECP256R1()), "other": ec.generate_private_key(ec.SECP384R1())}
made |= {"curve": ec.generate_private_key(ec.SECP256K1()), "rsa": rsa.generate_private_key(65537, 2048)}
for name, key in made.items():
    for how, encryption in (("", NoEncryption()), ("-locked", BestAvailableEncryption(b"x"))):
        data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        Path(sys.argv[1], f"{name}{how}.pem").write_bytes(data)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    Path(sys.argv[1], f"{name}.pub").write_bytes(public)
"""
# Commands of ours in one process, since each start takes a second: a list of words a line, its results a line.
IN_TURN = """
import contextlib, io, json, sys
from ms_codegeex import cli

for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(json.loads(line))
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, and a model directory of it."""
    root = tmp_path_factory.mktemp("made")
    save_run(root / "run", "codegeex", parameters("codegeex"))
    convert(root / "run", "hf", root / "hf", progress=False)
    return root


@pytest.mark.parametrize(
    "words",
    [
        ("checkpoint", "sign", "hf", "--private-key", "k"),
        ("checkpoint", "verify", "hf", "--public-key", "k"),
        ("serve", "--model", "hf", "--public-key", "k", "--port", "0"),
    ],
)
def test_without_the_package(made, monkeypatch, words):
    monkeypatch.chdir(made)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    done = command_here(*words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not (made / "hf/model.sig").exists()
    assert f"{words[3] if words[0] == 'checkpoint' else '--public-key'}: model-signing is not installed" in done.stderr
    assert done.stderr.endswith("run `pip install 'ms-codegeex[signing]'`\n")


def test_a_signature_that_nobody_checked_is_mentioned(made, tmp_path):
    model = shutil.copytree(made / "hf", tmp_path / "hf")
    (model / "model.sig").write_text("{}")
    done = command_here("checkpoint", "verify", model)
    assert done.returncode == 0 and done.stdout.endswith("; model.sig not checked: --public-key does\n")
    assert json.loads(command_here("checkpoint", "verify", model, "--json").stdout)["signature"] == "not checked"
    done = command_here("checkpoint", "verify", made / "run", "--public-key", "k")
    assert done.returncode == 2 and "run: has no provenance.json" in done.stderr


# --- with the package ---


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with an environment `venv` that has the extra, and with keys."""
    place = tmp_path_factory.mktemp("signing")
    python = own_environment(place / "venv", *map(str, requirements("signing").values()))
    assert run_in(python, "-c", MAKE_KEYS, place).returncode == 0
    yield place
    shutil.rmtree(place / "venv")


@pytest.fixture(scope="module")
def ours(place):
    """Runs a command of ours there."""
    with started(place / "venv/bin/python", "-c", IN_TURN) as process:

        def run(*words):
            process.stdin.write(json.dumps([str(word) for word in words]) + "\n")
            process.stdin.flush()
            return subprocess.CompletedProcess(words, *json.loads(process.stdout.readline()))

        yield run


def changed_byte(model):
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def changed_with_its_statement(model):
    """Another model, whose hashes fit."""
    convert(model, "hf", model.parent / "new", progress=False, dtype="fp16")
    for path in (model.parent / "new").iterdir():
        shutil.copy(path, model / path.name)
    assert command_here("checkpoint", "verify", model).returncode == 0


def changed_content(model):
    """Another statement under the same signature."""
    bundle = json.loads((model / "model.sig").read_text())
    content = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"hf"', b'"fh"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(content).decode()
    (model / "model.sig").write_text(json.dumps(bundle))


TAMPERED = {
    "Hash mismatch for 'model.safetensors'": changed_byte,
    "Hash mismatch for 'provenance.json'": changed_with_its_statement,
    "Missing files in model 'hf': merges.txt": lambda model: (model / "merges.txt").unlink(),
    "Extra files found in model 'hf': added.bin": lambda model: (model / "added.bin").write_bytes(b"x"),
    "InvalidSignature": changed_content,
    "KeyError: 'verificationMaterial'": lambda model: (model / "model.sig").write_text("{}"),
    "hf/model.sig: not readable as JSON": lambda model: (model / "model.sig").write_text("{"),
    "has no model.sig": lambda model: (model / "model.sig").unlink(),
    "hf: has no provenance.json": lambda model: (model / "provenance.json").unlink(),
}


@pytest.mark.slow
def test_signatures(made, place, ours, tmp_path):
    """Each side verifies what the other signs; both refuse what was changed; what is wrong is one line."""
    model = shutil.copytree(made / "hf", tmp_path / "hf")
    signature = model / "model.sig"
    theirs, given = (place / "venv/bin/python", "-m", "model_signing"), ("key", model, "--signature", signature)

    def verified_by_them():
        return run_in(*theirs, "verify", *given, "--public_key", place / "key.pub").returncode == 0

    def verified(key="key.pub"):
        return ours("checkpoint", "verify", model, "--public-key", place / key)

    def refused(done, *texts):
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
        assert all(text in done.stderr for text in texts), done.stderr

    refused(verified(), "hf: has no model.sig")
    assert run_in(*theirs, "sign", *given, "--private_key", place / "key.pem").returncode == 0
    assert verified().returncode == 0 and f"; signed, by {place / 'key.pub'}\n" in verified().stdout
    done = ours("checkpoint", "sign", model, "--private-key", place / "key.pem", "--json")
    assert json.loads(done.stdout) == {"path": str(model), "signature": str(signature)}
    assert verified_by_them() and verified().returncode == 0
    assert sorted(path.name for path in model.iterdir()) == sorted(
        ["model.sig", *(path.name for path in (made / "hf").iterdir())]
    )

    refused(verified("other.pub"), "hf: is not what model.sig and the key say (Key mismatch")
    for name in ("key.pem", "rsa.pub", "curve.pub", "none.pub"):
        refused(verified(name), f"--public-key {place / name}: cannot be used", "expected a public key in PEM")
    for name in ("key.pub", "rsa.pem", "curve.pem", "none.pem", "key-locked.pem"):
        done = ours("checkpoint", "sign", model, "--private-key", place / name)
        refused(done, f"--private-key {place / name}: cannot be used", "expected a private key in PEM, not encrypted")
    done = ours("checkpoint", "sign", made / "run", "--private-key", place / "key.pem")
    refused(done, "run: has no provenance.json, so there is nothing to sign")

    serve = ("serve", "--port", "0", "--model", model, "--public-key")
    refused(ours(*serve, place / "other.pub"), "hf: is not what model.sig and the key say (Key mismatch")
    refused(ours(*serve, place / "key.pub", "--adapter", f"x={made / 'run'}"), "run: has no model.sig")

    shutil.copytree(model, tmp_path / "signed")
    for text, tamper in TAMPERED.items():
        tamper(model)
        refused(verified(), text)
        assert not verified_by_them()
        if text.startswith("Hash mismatch for 'model"):
            done = ours("checkpoint", "sign", model, "--private-key", place / "key.pem")
            refused(done, "model.safetensors: is changed, by provenance.json")
        shutil.rmtree(model)
        shutil.copytree(tmp_path / "signed", model)
    assert verified().returncode == 0

    def signed():
        return ours("checkpoint", "sign", model, "--private-key", place / "key.pem")

    (model / ".hidden.safetensors").write_bytes(b"x")
    refused(signed(), ".hidden.safetensors: is extra, by provenance.json")
    (model / ".hidden.safetensors").unlink()
    (tmp_path / "own").write_text("mine")
    signature.unlink()
    signature.symlink_to(tmp_path / "own")
    refused(signed(), "because it is a symlink")
    assert (tmp_path / "own").read_text() == "mine"
