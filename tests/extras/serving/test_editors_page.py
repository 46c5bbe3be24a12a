"""Editors in docs/clients.md: its examples can be read, its routes and settings exist."""

import json
import re

import pytest
import yaml
from asking import running
from conftest import ROOT
from fake_backend import FakeBackend

from ms_codegeex.extras.serving.app import create_app
from ms_codegeex.extras.serving.schemas import CompletionRequest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PAGE = ROOT / "docs" / "clients.md"
TEXT = PAGE.read_text(encoding="utf-8").partition("\n## Editors\n")[2]
EXAMPLES = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
READERS = {"json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads}
BASE = "http://127.0.0.1:8000"


def examples(kind):
    return [text for name, text in EXAMPLES if name == kind]


@pytest.fixture(scope="module")
def routes():
    async def paths():
        backend = FakeBackend()
        return set(create_app(backend.settings, backend).openapi()["paths"])

    return running(paths())


def test_every_example_is_of_a_known_kind_and_can_be_read():
    assert {name for name, _ in EXAMPLES} == {"bash", "lua", "vim", *READERS}
    for name, text in EXAMPLES:
        if name in READERS:
            assert isinstance(READERS[name](text), dict)
        else:
            assert all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}"))


def test_every_address_is_one_of_the_server(routes):
    """Clients append a path to a base address."""
    found = re.findall(rf"{re.escape(BASE)}([\w/.]*)", TEXT)
    assert len(found) >= 8
    behind = {"/v1": "/completions", "": "/infill"}
    assert {path + behind.get(path, "") for path in found} <= routes


def test_every_route_that_the_text_names_exists(routes):
    named = set(re.findall(r"`(/[\w/]+)`", TEXT)) - {"/src/"}
    assert {"/v1/completions", "/infill", "/v1/chat/completions"} <= named <= routes


def test_every_setting_of_our_extension_exists():
    manifest = json.loads((ROOT / "editors" / "vscode" / "package.json").read_text(encoding="utf-8"))
    named = set(re.findall(r'"(msCodegeex\.\w+)"', TEXT))
    assert named and named <= manifest["contributes"]["configuration"]["properties"].keys()


def test_every_field_that_minuet_adds_is_one_of_ours():
    (text,) = examples("lua")
    fields = re.findall(r"(\w+) = ", re.search(r"optional = \{(.*?)\}", text)[1])
    assert "truncate_prompt" in fields and set(fields) <= CompletionRequest.model_fields.keys()


def test_every_picture_and_page_exists():
    for name in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert name.startswith("https://") or (PAGE.parent / name).exists(), name
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        headings = re.findall(r"^#+ (.*)$", TEXT, re.M)
        assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
