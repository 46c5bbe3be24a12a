"""Adapters over HTTP: requests choose one by the name of its model."""

import json

import pytest
from asking import ask, events
from conftest import command_here
from fake_backend import FakeBackend

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving.settings import ServeSettings


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Directories of adapters, of which one is for conversations."""
    root = tmp_path_factory.mktemp("adapters")
    for name in ("sql", "talk"):
        (root / name).mkdir()
        (root / name / "adapter_config.json").write_text("{}")
    (root / "talk" / "serving.json").write_text(json.dumps({"chat": "codegeex2"}))
    return (("sql", root / "sql"), ("talk", root / "talk"))


@pytest.fixture
def backend(places):
    """What makes a backend, and the backends that it has made."""
    made = []

    def make():
        made.append(FakeBackend(adapter=places))
        return made[-1]

    make.made = made
    return make


def test_the_model_list_has_the_model_and_each_adapter(backend):
    found = ask("GET", "/v1/models", backend).json()["data"]
    assert [(each["id"], each["parent"], each["chat"]) for each in found] == [
        ("fake", None, False),
        ("sql", "fake", False),
        ("talk", "fake", True),
    ]
    assert ask("GET", "/v1/models/sql", backend).json()["parent"] == "fake"
    assert ask("GET", "/v1/models/other", backend).status_code == 404


@pytest.mark.parametrize("name,adapter", [(None, ""), ("", ""), ("fake", ""), ("sql", "sql"), ("talk", "talk")])
def test_the_engine_gets_the_adapter_and_the_answer_names_it(backend, name, adapter):
    body = {"model": name, "prompt": "x = 1", "max_tokens": 3}
    response = ask("POST", "/v1/completions", backend, json=body)
    assert response.json()["model"] == (adapter or "fake")
    streamed = events(ask("POST", "/v1/completions", backend, json={**body, "stream": True}))
    assert {event["model"] for event in streamed} == {adapter or "fake"}
    for path, body in (
        ("/v1/code/explain", {"code": "x = 1", "language": "Python"}),
        ("/v1/code/translate", {"code": "x = 1", "source_language": "Python", "target_language": "Go"}),
        ("/infill", {"input_prefix": "x = ", "input_suffix": "\n"}),
        ("/v1/embeddings", {"input": "x = 1"}),
    ):
        response = ask("POST", path, backend, json={**body, "model": name})
        assert response.status_code == 200 and response.json()["model"] == (adapter or "fake"), path
    assert [each.settings.adapter for made in backend.made for each in made.asked] == [adapter] * 6


def test_an_adapter_for_conversations_on_a_base_model(backend):
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
    found = ask("POST", "/v1/chat/completions", backend, json={**body, "model": "talk"})
    assert found.status_code == 200 and found.json()["model"] == "talk"
    assert backend.made[-1].asked[0].settings.adapter == "talk"
    for name in ("fake", "sql"):
        refused = ask("POST", "/v1/chat/completions", backend, json={**body, "model": name})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "not_a_chat_model"


def test_an_unknown_name_is_a_404_that_lists_all(backend):
    for path, body in (("/v1/completions", {"prompt": "x"}), ("/infill", {"input_prefix": "x"})):
        response = ask("POST", path, backend, json={**body, "model": "sqll"})
        assert response.status_code == 404
        assert "this server has 'fake', 'sql', 'talk'" in response.json()["error"]["message"]
    assert ask("POST", "/infill", json={"input_prefix": "x", "model": "any"}).status_code == 200  # as llama.cpp does


def test_names_are_checked(places, tmp_path):
    with pytest.raises(UserError, match="--adapter: two are named sql"):
        ServeSettings(model=tmp_path, adapter=(*places, places[0]))
    for words in (["sql"], ["=x"], ["sql="]):
        result = command_here("serve", "--model", tmp_path, "--adapter", *words)
        assert result.returncode == 2 and "is not NAME=DIR" in result.stderr
