"""Clients as their users install them today, from the registries, in environments of their own: the class of error that
a user sees for each kind of mistake, and tools. `clients.yaml` says what was tried, for a table in docs/clients.md."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from fake_backend import FakeBackend, fake_model, key_file
from over_http import served as served_here
from own_environment import VARIABLES, own_environment, run_in
from recited_model import save_calling
from served import served
from test_tools import Template

HERE, PAGE = Path(__file__).parent, ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- tests/extras/serving/clients.yaml -->", "<!-- end -->"
KEYS = ("0123456789abcdef", "fedcba9876543210")
PERSON = {"name": "Ada", "age": 3}
SEEN = {  # by the package: the class of error that a user sees
    "openai": ["BadRequestError", "RateLimitError", "AuthenticationError", "NotFoundError", "BadRequestError"],
    "litellm": [
        "ContextWindowExceededError",
        "RateLimitError",
        "AuthenticationError",
        "NotFoundError",
        "BadRequestError",
    ],
    "langchain-openai": [
        *("OpenAIContextOverflowError", "OpenAIRateLimitError", "OpenAIAuthenticationError"),
        *("OpenAIModelNotFoundError", "OpenAIInvalidRequestError"),
    ],
    "langchain": [],
    "instructor": [],
    "openai-agents": [],
    "haystack-ai": [],
}
OPENCODE = """{"model": "own/fake", "provider": {"own": {"npm": "@ai-sdk/openai-compatible", "name": "own",
"options": {"baseURL": "ADDRESS", "apiKey": "KEY"}, "models": {"fake": {"name": "fake"}}}}}"""
CONTINUE = """{"name": "own", "version": "0.0.1", "schema": "v1", "models": [{"name": "fake", "provider": "openai",
"model": "fake", "apiBase": "ADDRESS", "apiKey": "KEY", "roles": ["chat"], "capabilities": ["tool_use"]}]}"""
LLM = """[{"model_id": "fake", "model_name": "fake", "api_base": "ADDRESS", "supports_tools": true}]"""
PERSONS = 'def person(name: str, age: int):\n    """Take note."""\n    return f"{name} is noted"\n'
AIDER = ["--model", "openai/fake", "--no-git", "--yes-always", "--no-check-update", "--message", "x"]
CODEX = """model = "fake"
model_provider = "own"
[model_providers.own]
name = "own"
base_url = "ADDRESS"
env_key = "OWN_KEY"
wire_api = "responses"
"""
PI = """{"providers": {"own": {"baseUrl": "ADDRESS", "api": "openai-completions", "apiKey": "KEY",
"models": [{"id": "fake"}]}}}"""
LLMS = ["-m", "fake", "--functions", PERSONS, "x", "--td"]
COMMANDS = {  # settings of each, its words, the call that the model makes, and what its user sees beside the answer
    "llm": ({"extra-openai-models.yaml": LLM}, LLMS, ("person", PERSON), ["Ada is noted"]),
    "aider": ({}, AIDER, ("none", {}), []),
    "opencode": ({"opencode.json": OPENCODE}, ["run", "x"], ("glob", {"pattern": "."}), ["Glob"]),
    "cn": ({"cn.yaml": CONTINUE}, ["--config", "cn.yaml", "-p", "x"], ("List", {"dirpath": "."}), []),
    "codex": (
        {"home/.codex/config.toml": CODEX},
        ["exec", "--skip-git-repo-check", "x"],
        ("exec_command", {"cmd": "echo hi"}),
        ["hi"],
    ),
    "qwen": ({}, ["-y", "-p", "x"], ("list_directory", {"path": "/"}), []),
    "pi": (
        {"home/.pi/agent/models.json": PI},
        ["--provider", "own", "--model", "fake", "-p", "x"],
        ("bash", {"command": "echo hi"}),
        [],
    ),
}
PROGRAMS = {"llm": "llm", "aider": "aider-chat"}  # the package of each
OPENAIS = ("llm", "aider", "qwen")  # which read variables of OpenAI's; with a key there, opencode would ask that server
STATUSES = {"too long": (400, False), "rate limit": (429, True), "key": (401, False), "model": (404, False)}
PACKAGES = {
    "opencode": "opencode-ai",
    "cn": "@continuedev/cli",
    "codex": "@openai/codex",
    "qwen": "@qwen-code/qwen-code",
    "pi": "@mariozechner/pi-coding-agent",
}
LIBRARIES = ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@continuedev/openai-adapters", "zod")


class Calling(FakeBackend):
    """Calls a tool, and answers in text once there is a result."""

    def _begin(self, answer):
        said = self.model.tokenizer.decode(answer.ids)
        messages, tools = json.loads(said.removesuffix("<tool_call>\n"))
        if answer.settings.json_schema:
            schema = json.loads(answer.settings.json_schema)
            self.texts = [json.dumps({"name": schema["properties"]["name"]["const"], "arguments": PERSON})]
        elif tools and messages[-1]["role"] != "tool":
            call = json.dumps({"name": tools[0]["function"]["name"], "arguments": PERSON})
            self.texts = [f"<tool_call>\n{call}\n</tool_call>"]
        else:
            self.texts = ["done"]
        super()._begin(answer)


@pytest.fixture
def server(tmp_path):
    keys = key_file(tmp_path / "keys", f"me {KEYS[0]}\nslow {KEYS[1]} requests-per-minute=1\n")
    model = fake_model(chat=Template("<tool_call>"), context=4096)
    with served_here(Calling, api_key_file=keys, model=model) as it:
        yield it


@pytest.mark.newest
def test_users_of_pythons_clients_see_the_right_class_of_error_and_tools(server, tmp_path):
    python = own_environment(tmp_path / "clients", *SEEN)
    done = run_in(python, HERE / "clients_in_python.py", f"{server.url}/v1", *KEYS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, (version, mistakes, tools) in found.items():
        assert [*mistakes.values()] == SEEN[name], (name, version, mistakes)
        assert tools == PERSON, (name, version)


def installed(place, *packages):
    """A folder with the newest of npm's packages, or the test is skipped."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
    if subprocess.run(words, cwd=place, env=VARIABLES).returncode:
        pytest.skip("npm cannot fetch the clients")


@pytest.mark.newest
def test_users_of_javascripts_clients_see_the_right_status_and_tools(server, tmp_path):
    installed(tmp_path, *LIBRARIES)
    script = Path(shutil.copy(HERE / "clients_in_javascript.mjs", tmp_path))
    done = subprocess.run(["node", script, f"{server.url}/v1", *KEYS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("responses", "chat", "compatible"):
        assert found[name].pop("tools") == [PERSON, "done"], (name, found["version"])
        assert {kind: tuple(values[1:]) for kind, values in found[name].items()} == STATUSES, (name, found["version"])
    assert found["continue"]["tools"] == PERSON


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The programs of clients, each in an environment of its own."""
    place = tmp_path_factory.mktemp("commands")
    found = {name: own_environment(place / name, package).parent / name for name, package in PROGRAMS.items()}
    installed(place, *PACKAGES.values())
    subprocess.run(["node", "node_modules/opencode-ai/postinstall.mjs"], cwd=place, env=VARIABLES, check=True)
    return found | {name: place / "node_modules" / ".bin" / name for name in PACKAGES}


@pytest.mark.newest
@pytest.mark.parametrize("client", COMMANDS)
def test_commands_of_clients_call_tools_as_they_come(client, commands, tmp_path):
    files, words, call, seen = COMMANDS[client]
    model = save_calling(tmp_path / "model", *call)
    with served(model, tmp_path / "log", "--name", "fake") as server:
        url = f"{server.url}/v1"
        for name, text in {**files, "home/file": ""}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text.replace("ADDRESS", url).replace('"KEY"', '"none"'))
        own = {"HOME": tmp_path / "home", "PWD": tmp_path, "LLM_USER_PATH": tmp_path, "OWN_KEY": "none"}
        if client in OPENAIS:
            own |= dict.fromkeys(("OPENAI_API_BASE", "OPENAI_BASE_URL"), url)
            own |= {"OPENAI_API_KEY": "none", "OPENAI_MODEL": "fake"}
        done = subprocess.run(
            [commands[client], *words], cwd=tmp_path, env={**VARIABLES, **own, "OPENCODE_DISABLE_AUTOUPDATE": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0 and all(each in done.stdout for each in ["done", *seen]), done.stdout


def table():
    """The lines of the table in docs/clients.md."""
    rows = yaml.safe_load((HERE / "clients.yaml").read_text())
    lines = [f"| {row['client']} | {row['version']} | {row['tried']} | {row['settings']} |" for row in rows]
    return "\n".join(["| client | version | tried | what to set |", "| --- | --- | --- | --- |", *lines])


def with_table(page):
    before, rest = page.split(f"{BEGIN}\n")
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


def test_the_page_has_the_table_of_clients():
    page = PAGE.read_text("utf-8")
    assert page == with_table(page), f"run {sys.executable} {__file__}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
