"""docs/serve.md: its commands run, its tables are complete, its job files hold together."""

import configparser
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import time
import zipfile

import httpx
import numpy as np
import pytest
import small_models
import yaml
from conftest import ROOT, command
from fake_backend import FakeBackend, fake_model, key_file
from over_http import served
from prometheus_client.parser import text_string_to_metric_families
from served import served as served_model

from ms_codegeex.cli import build_parser, parse
from ms_codegeex.data.description import FACTS
from ms_codegeex.data.infilling.sentinels import sentinels
from ms_codegeex.extras.serving.admission import Caller
from ms_codegeex.extras.serving.app import create_app
from ms_codegeex.extras.serving.keys import read_keys
from ms_codegeex.extras.serving.records import RequestRecord
from ms_codegeex.models.registry import family

PAGE = (ROOT / "docs" / "serve.md").read_text("utf-8")
URL = "http://127.0.0.1:8000"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def table(heading):
    """The first cells' code of the first table below a heading."""
    rows = re.findall(r"^\| (.*?) \|", PAGE.split(heading, 1)[1].split("\n\n#")[0], re.MULTILINE)
    return [re.findall(r"`([^`]+)`", row) for row in rows if "`" in row]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    model, adapter = fake_model(name="codegeex-13b", context=512), tmp_path_factory.mktemp("sql")
    (adapter / "adapter_config.json").write_text("{}")
    with served(demo=True, adapter=(("sql", adapter),), model=model) as server:
        yield server


def curls():
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("curl ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("line", curls())
def test_every_curl_command_works(server, line):
    if "response_format" in line:
        pytest.importorskip("llguidance")
    words = ["bash", "-c", line.replace(URL, server.url).replace("curl ", "curl --fail-with-body -sS ", 1)]
    result = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "KEY": "k"}, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    if " -N " in line:
        assert result.stdout.endswith("data: [DONE]\n\n") and '"infill":"prefix-only"' in result.stdout
    else:
        assert json.loads(result.stdout)


def test_there_is_a_curl_command_for_each_kind_of_route():
    text = " ".join(curls())
    for path in ("/v1/completions", "/infill", "/tokenize", "/detokenize", "/v1/code/translate", "/v1/models"):
        assert f"{URL}{path} " in text


def test_the_python_example(server, tmp_path, capsys):
    (block,) = blocks("python")
    (tmp_path / "example.py").write_text(block.replace(URL, server.url))
    runpy.run_path(str(tmp_path / "example.py"))
    assert capsys.readouterr().out.startswith("    return first + second")


def test_every_flag_is_described():
    (verb,) = [a for a in build_parser()._actions if a.dest == "verb"]
    shown = [action for action in verb.choices["serve"]._actions if action.help != "==SUPPRESS=="]
    options = [action for action in shown if action.dest != "help"]
    described = {word.split()[0] for cell in table("## Flags") for word in cell}
    assert described == {action.option_strings[0] for action in options}
    defaults = {action.option_strings[0]: action.default for action in options}
    assert (defaults["--deadline"], defaults["--grace"], defaults["--max-queue"]) == (600, 30, 64)


async def test_every_route_is_described():
    described = set()
    for cell in table("## Routes"):
        for word in cell:
            path = word.split()[-1]
            described.add(path if path.startswith("/") else f"/v1/code/{path}")
    backend = FakeBackend()
    assert described - {"/docs", "/openapi.json"} == set(create_app(backend.settings, backend).openapi()["paths"]) - {
        "/v1/models/{name}"
    }


def test_every_measurement_is_described(server):
    families = text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text)
    names = [family.name for family in families if not family.name.endswith("_created")]
    present = {name.removeprefix("ms_codegeex_") for name in names}
    described = {re.sub(r"\{.*\}|_total", "", word) for cell in table("`/metrics` has") for word in cell}
    assert described == present


def test_the_line_of_the_access_log_has_the_real_fields():
    (shown,) = [block for block in blocks("json") if '"request"' in block]
    real = RequestRecord("a", "b", "GET", "/", 0.0, Caller("b"), first_token=1.0).described()
    assert list(json.loads(shown)) == list(real)


def test_the_infill_setting_and_the_key_file_are_read(tmp_path):
    (shown,) = [block for block in blocks("json") if '"infill"' in block]
    assert sentinels(json.loads(shown)["infill"]).end == ("<|endoftext|>",)
    (keys,) = [block for block in blocks("text") if "sha256:" in block]
    assert [key.name for key in read_keys(key_file(tmp_path / "keys", keys))] == ["alice", "ci"]
    digest = subprocess.run(["sha256sum"], input=b"test", capture_output=True, check=True).stdout.split()[0]
    assert f"sha256:{digest.decode()}" in keys


def test_the_fields_of_a_model_are_those_of_the_record():
    assert [name for row in table("### What is known of a model") for name in row] == [*FACTS, "format"]


def test_the_deployment_holds_together():
    deployment, service = yaml.safe_load_all(blocks("yaml")[0])
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments = parse(container["command"][1:])
    assert arguments.host == "0.0.0.0" and str(arguments.api_key_file).startswith("/keys/")
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pause + arguments.grace < pod["terminationGracePeriodSeconds"]
    assert container["readinessProbe"]["httpGet"]["path"] == container["startupProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    (port,) = container["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["containerPort"] == arguments.port
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]


def test_the_unit_starts_a_command_that_exists():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read_string(blocks("ini")[0])
    arguments = parse(shlex.split(unit["Service"]["ExecStart"])[1:])
    assert float(unit["Service"]["TimeoutStopSec"]) > arguments.grace and "HUP" in unit["Service"]["ExecReload"]


def three_commands():
    return blocks("bash")[0].splitlines()


def test_there_are_three_commands():
    convert, extension, serve = three_commands()
    assert convert.startswith("ms-codegeex convert") and extension.startswith("(cd editors/vscode")
    assert serve == f"ms-codegeex serve --model {shlex.split(convert)[-1]}"


@pytest.mark.slow
def test_the_first_and_the_third_command_serve_weights(tmp_path):
    """Weights in the release's file, of a smaller model; what the extension asks for; then SIGHUP."""
    sizes = {"vocab_size": 52224, "max_position_embeddings": 128, "eos_token_id": 50256}
    convert, _, serve = three_commands()
    words = shlex.split(convert)[1:]
    shapes = family("codegeex").config.build_config(None, small_models.FIELDS["codegeex"] | sizes).parameter_shapes()
    draw = np.random.default_rng(1)
    arrays = {name: 0.1 * draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    run = small_models.save_run(tmp_path / "run", "codegeex", arrays, **sizes)
    weights = words[words.index("--model") + 1]
    made = command("convert", "--model", run, "--to", "megatron", "--output", weights, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    made = command(*words, "--set", "num_heads=4", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    keys, log = key_file(tmp_path / "keys", "me 0123456789abcdef\n"), tmp_path / "access.jsonl"
    options = ("--api-key-file", keys, "--access-log", log)
    with served_model(tmp_path / shlex.split(serve)[-1], tmp_path / "log", *options) as server:
        client = httpx.Client(base_url=server.url, headers={"X-API-Key": "0123456789abcdef"}, timeout=120)
        body = {"prompt": "def add(a, b):\n", "suffix": "\n", "language": "Python", "max_tokens": 8}
        found = client.post("/v1/completions", json=body).json()
        assert found["model"] == "codegeex-13b" and found["infill"] == "prefix-only" and found["choices"][0]["text"]
        log.rename(tmp_path / "old.jsonl")
        keys.write_text("you fedcba9876543210\n")
        server.process.send_signal(signal.SIGHUP)
        while client.get("/v1/models").status_code == 200:
            time.sleep(0.01)
        assert client.get("/v1/models", headers={"X-API-Key": "fedcba9876543210"}).status_code == 200
        assert server.end() == 0
    # a line is written after its response, so the last one is sure to be there when the server has ended
    (first, *_) = [json.loads(line) for line in (tmp_path / "old.jsonl").read_text().splitlines()]
    assert (first["key"], first["completion_tokens"]) == ("me", 8) and '"you"' in log.read_text()


@pytest.mark.slow
def test_the_second_command_packages_the_extension_and_installs_it(tmp_path):
    """In a copy of the checkout's folder; `code` is a stand-in that looks at what it gets."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    ignored = shutil.ignore_patterns("node_modules", "*.vsix", "out")
    shutil.copytree(ROOT / "editors" / "vscode", tmp_path / "editors" / "vscode", ignore=ignored)
    (tmp_path / "bin").mkdir()
    code = tmp_path / "bin" / "code"
    code.write_text('#!/bin/bash\n[[ $1 == --install-extension ]] && cp "$2" "$CODE_GOT"\n')
    code.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CODE_GOT": str(tmp_path / "got")}
    result = subprocess.run(
        ["bash", "-c", three_commands()[1]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    if result.returncode and "network" in result.stderr:
        pytest.skip("npm cannot fetch the extension's tools")
    assert result.returncode == 0, result.stdout + result.stderr
    with zipfile.ZipFile(tmp_path / "got") as package:
        assert json.loads(package.read("extension/package.json"))["name"] == "ms-codegeex"
