"""`inspect`, `monitor` and `generate` on untrusted files: no control sequence gets through, no damage ends in a
traceback."""

import json
import shutil
import sys
from unittest.mock import create_autospec

import numpy as np
import pytest
from conftest import command_here
from small_models import parameters, save_run
from terminal_stream import Stream, is_harmless
from written_run import write_run

from ms_codegeex.formats.checkpoint import manifest_digest
from ms_codegeex.formats.model_directory import write_model_directory
from ms_codegeex.formats.sources import open_source
from ms_codegeex.formats.tensors import from_array
from ms_codegeex.generation.quantising import write_quantised

TITLE, RED, REVERSED = "\x1b]0;owned\x07", "\x9b31m", "\u202egpj.exe"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("model") / "run", "codegeex", parameters("codegeex"))


@pytest.fixture
def written(dataset, tmp_path):
    """A run with a log."""
    return write_run(tmp_path / "written", dataset).path


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def checked(status, *words):
    """The output of a command, without a control sequence."""
    done = command_here(*words)
    assert done.returncode == status, done.stderr
    assert is_harmless(done.stdout) and is_harmless(done.stderr)
    assert status == 0 or done.stderr.count("\n") == 1
    return done.stdout if status == 0 else done.stderr


def test_names_of_a_model_cannot_command_a_terminal(tmp_path):
    config = {"model_type": "codegeex", RED: TITLE, "two": "lines\nparameters: 0", "nested": {REVERSED: [TITLE]}}
    tensors = {f"{TITLE}weight": from_array(np.zeros(2, np.float32)), "b\nparameters: 0": from_array(np.zeros(3))}
    write_model_directory(tmp_path / "m", config, tensors)
    out = checked(0, "inspect", tmp_path / "m")
    assert "\\x1b]0;owned\\x07weight  float32  [2]" in out and [
        line for line in out.splitlines() if line.startswith("parameters:")
    ] == ["parameters: 5 (2 float32, 3 float64)"]
    described = json.loads(checked(0, "inspect", tmp_path / "m", "--json"))
    assert described["config"] == config and {tensor["name"] for tensor in described["tensors"]} == tensors.keys()


def test_names_of_a_run_and_of_a_checkpoint_cannot_either(written, run, tmp_path):
    (written / f"notes\nsound {TITLE}{REVERSED}").write_text("x")
    out = checked(0, "inspect", written)
    assert "notes\\nsound \\x1b]0;owned\\x07\\u202egpj.exe: 1 bytes" in out
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    manifest = next(copy.rglob("manifest.json"))
    content = json.loads(manifest.read_text())
    content["config"]["model"]["preset"] = TITLE
    content["tensors"][f"{RED}x"] = content["tensors"].pop(next(iter(content["tensors"])))
    manifest.write_text(json.dumps(content | {"sha256": manifest_digest(content)}))
    assert "\\x9b31mx" in checked(0, "inspect", manifest.parent)
    checked(2, "convert", "--model", copy, "--to", "hf", "--output", tmp_path / "out")


def test_events_and_states_of_a_run_cannot_either(written):
    event = {"event": f"end{TITLE}", "time": 1_800_000_200, "message": RED, REVERSED: "x"}
    with open(written / "events.jsonl", "a") as stream:
        stream.write(
            json.dumps(event) + "\n" + json.dumps({"event": "end", "time": 1_800_000_201, "reason": RED}) + "\n"
        )
    assert "\\x1b]0;owned\\x07" in checked(0, "monitor", written, "--once")
    checked(0, "monitor", written, "--json")


def test_an_answer_cannot_command_a_terminal_and_is_exact_in_a_pipe(run, monkeypatch):
    """The generator is a stand-in; tests/generation/test_engine.py has the real one."""
    from ms_codegeex.generation import engine

    generator = create_autospec(engine.Generator)
    generator.return_value.encode.return_value = [1]
    generator.return_value.speculated.return_value = {}
    monkeypatch.setattr(engine, "Generator", generator)
    from ms_codegeex.cli import main

    for terminal, expected in ((False, f"a = 1{TITLE}\r\n{RED}\n"), (True, "a = 1\\x1b]0;owned\\x07\\r\n\\x9b31m\n")):
        generator.return_value.stream.return_value = iter(["1\x1b", "]0;owned\x07\r\n", RED])
        monkeypatch.setattr(sys, "stdout", stream := Stream(terminal))
        assert main(["generate", "--model", str(run), "--prompt", "a = "]) == 0
        assert stream.getvalue() == expected


# --- damage ---

BAD_LINES = {  # any that is believed changes what is shown
    "not UTF-8": b'{"step": 11, "loss": "\xff"}',
    "deep": b'{"step": 11, "x": ' + b"[" * 100_000,
    "digits": b'{"step": ' + b"1" * 5001 + b"}",
    "step as text": b'{"step": "11", "loss": 1.0}',
    "step as a fraction": b'{"step": 11.5, "loss": 1.0}',
    "loss as text": b'{"step": 11, "loss": "low"}',
    "loss as a list": b'{"step": 11, "loss": [1]}',
    "not finite": b'{"step": 11, "loss": NaN}',
    "flag as text": b'{"step": 11, "loss": 1.0, "compiling": "no"}',
    "a list": b"[1]",
    "long": b'{"step": 11, "x": "' + b"a" * (3 << 20) + b'"}',
    "no JSON": b"Traceback (most recent call last):",
    "event without a time": b'{"event": "end", "reason": "finished"}',
    "time as text": b'{"event": "end", "reason": "finished", "time": "now"}',
    "time beyond the calendar": b'{"event": "end", "reason": "finished", "time": 1e300}',
    "event as a number": b'{"event": 5, "time": 1}',
    "fault without samples": b'{"event": "fault", "time": 1, "samples": [], "kind": "x", "policy": "y"}',
}


@pytest.mark.parametrize("name", ["log.jsonl", "events.jsonl"])
def test_damaged_lines_of_a_log_are_skipped(written, name, tmp_path):
    before = [checked(0, "inspect", written, "--json"), checked(0, "monitor", written, "--json")]
    content = (written / name).read_bytes()
    lines = b"".join(line + b"\n" for line in BAD_LINES.values())
    (written / name).write_bytes(lines + content + lines + lines)
    after = [checked(0, "inspect", written, "--json"), checked(0, "monitor", written, "--json")]
    for one, other in zip(before, after, strict=True):
        assert {**json.loads(one), "artefacts": None} == {**json.loads(other), "artefacts": None}
    checked(0, "monitor", written, "--once")
    checked(0, "monitor", written, "--report", tmp_path / "report.html")


def test_a_line_with_a_step_alone_is_enough(written):
    (written / "log.jsonl").write_text('{"step": 3}\n')
    assert json.loads(checked(0, "inspect", written, "--json"))["step"] == 3
    checked(0, "monitor", written, "--once")


def test_links_of_a_run_are_not_measured(written):
    (written / "everything").symlink_to("/")
    (written / "loop").symlink_to("loop")
    (written / "device").symlink_to("/dev/zero")
    (written / "curve.png").symlink_to("log.jsonl")
    (written / "logs" / "deep").symlink_to("/proc")
    out = checked(0, "inspect", written)
    assert all(f"{name}: a link\n" in out for name in ("everything", "loop", "device"))
    assert f"curve.png: {(written / 'log.jsonl').stat().st_size:,} bytes\n" in out
    assert json.loads(checked(0, "inspect", written, "--json"))["artefacts"]["everything"] is None


@pytest.fixture(scope="module")
def quantised(run, tmp_path_factory):
    """The model in 4 bits."""
    directory = tmp_path_factory.mktemp("quantised") / "q"
    write_quantised(open_source(run), 4, 32, directory)
    return directory


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"group": 0}, "group: 0 is not known; choose one of 32, 64, 128"),
        ({"group": True}, "expected bits 8 or 4"),
        ({"bits": 4.0}, "expected bits 8 or 4"),
        ({"bits": 8}, "not int8"),
        ({"sizes": []}, "expected bits 8 or 4"),
        ({"family": {"a": TITLE}}, "model.family: "),
    ],
)
def test_a_damaged_description_of_a_quantised_model_is_named(quantised, tmp_path, values, message):
    shutil.copytree(quantised, tmp_path / "q")
    changed(tmp_path / "q/quantised.json", **values)
    assert message in checked(2, "inspect", tmp_path / "q")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "manifest.json", "quantised.json"])
def test_damaged_json_is_named(tmp_path, name):
    """What is damage: tests/base/test_json_reading.py."""
    (tmp_path / name).write_text('{"a": "\\ud800"}')
    words = ["inspect", tmp_path]
    if name == "tokenizer_config.json":
        words = ["prepare", "--input", tmp_path, "--tokenizer", tmp_path, "--output", tmp_path / "out"]
    else:
        (tmp_path / "model.safetensors").write_bytes(b"")
    assert f"{name}: not readable as JSON (" in checked(2, *words)
