"""Answers in a form that the request gives: fields, errors, and answers of a real engine with random weights."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import httpx
import jsonschema
import pytest
from asking import answered, ask, client_of, connected
from fake_backend import tuned
from over_http import served as served_here
from pydantic import BaseModel
from served import served
from small_benchmarks import write_model
from test_engine_program import Counting, begin

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving.engine_program import EngineLoop
from ms_codegeex.extras.serving.responding import requested_form

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "kind": {"enum": ["a", "bb"]}},
    "required": ["name", "kind"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True}}
LARGE = {"enum": ["x" * 20_000]}
QUESTION = [{"role": "user", "content": "x"}]
CHAT, COMPLETIONS, NATIVE = "/v1/chat/completions", "/v1/completions", "/infill"
START = {CHAT: {"messages": QUESTION}, COMPLETIONS: {"prompt": "x"}, NATIVE: {"prompt": "x"}}


def settings_of(path, **fields):
    """The settings that the engine gets."""
    response, backend = answered(path, {**START[path], **fields}, tuned)
    assert response.status_code == 200, response.text
    return backend.asked[0].settings


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_response_format_gives_the_engine_a_schema(path):
    pytest.importorskip("llguidance")
    for value in (NAMED, *({"type": kind, "schema": SCHEMA} for kind in ("json_object", "json_schema"))):
        assert json.loads(settings_of(path, response_format=value).json_schema) == SCHEMA
    assert json.loads(settings_of(path, response_format={"type": "json_object"}).json_schema) == {"type": "object"}
    bare = {"type": "json_schema", "json_schema": {"name": "x"}}
    assert json.loads(settings_of(path, response_format=bare).json_schema) == {"type": "object"}


def test_plain_text_has_no_form():
    for value in ({"type": "text"}, None):
        assert not settings_of(CHAT, response_format=value).formed
    assert not settings_of(NATIVE, grammar="", json_schema=None).formed


def test_the_fields_of_llama_cpp():
    pytest.importorskip("llguidance")
    assert settings_of(NATIVE, grammar='root ::= "x"').grammar == 'root ::= "x"'
    assert json.loads(settings_of(NATIVE, json_schema=SCHEMA).json_schema) == SCHEMA
    assert json.loads(settings_of(NATIVE, json_schema={}).json_schema) == {}


WRONG = [
    {"type": "xml"},
    {"type": "json_object", "schema": []},
    {"type": "json_schema"},
    {"type": "json_schema", "json_schema": []},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": "{}"}},
    {"type": "json_schema", "json_schema": {"name": "x", "more": 1}},
]


@pytest.mark.parametrize("value", WRONG)
def test_a_malformed_response_format_is_a_400(value):
    error = ask("POST", COMPLETIONS, json={"prompt": "x", "response_format": value})
    assert error.status_code == 400 and error.json()["error"]["param"] == "response_format"
    assert "expected a type" in error.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"response_format": {**NAMED, "json_schema": {"schema": {"type": "x"}}}}, "response_format"),
        (NATIVE, {"json_schema": {"type": "x"}}, "json_schema"),
        (NATIVE, {"grammar": "root = x"}, "grammar"),
        (NATIVE, {"grammar": 'root ::= "x"', "json_schema": {}}, "grammar"),
        (COMPLETIONS, {"response_format": {"type": "json_object", "schema": LARGE}}, "response_format"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_schema_or_grammar_is_a_400_in_one_line(path, fields, param, stream):
    pytest.importorskip("llguidance")
    response = ask("POST", path, tuned, json={**START[path], **fields, "stream": stream})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param) and len(error["message"].splitlines()) == 1


@pytest.fixture
def usual_recursion() -> Iterator[None]:
    """Python's own limit, as in a server; MindSpore, which other tests import, raises it tenfold."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize("field", ["json_schema", "response_format"])
def test_a_schema_that_is_nested_too_deep_is_an_error_of_its_field(usual_recursion, field):
    schema = {}
    for _ in range(100_000):  # more than any Python can write
        schema = {"not": schema}
    value = schema if field == "json_schema" else {"type": "json_schema", "json_schema": {"schema": schema}}
    with pytest.raises(UserError, match=f"^{field}: nested too deep"):
        requested_form(SimpleNamespace(form_field=field, **{field: value}))


DEEP = {NATIVE: '"json_schema": %s', CHAT: '"response_format": {"type": "json_schema", "json_schema": {"schema": %s}}'}


@pytest.mark.parametrize("path", DEEP)
async def test_the_deepest_body_that_can_be_read_is_no_mistake_of_the_server(usual_recursion, path):
    """Just below Python's limit, which is searched for, a schema can be read and not be written."""
    async with connected(tuned()) as client:

        async def answer(depth):
            schema = '{"not": ' * depth + "{}" + "}" * depth
            content = f"{json.dumps(START[path])[:-1]}, {DEEP[path] % schema}}}"
            return await client.post(path, content=content, headers={"Content-Type": "application/json"})

        read, refused = 1, 1500  # bodies so short that they are read and checked in one thread
        while refused - read > 1:
            middle = (read + refused) // 2
            if "parsing the body" in (await answer(middle)).text:
                refused = middle
            else:
                read = middle
        found = [await answer(depth) for depth in range(read - 12, read + 2)]
    assert {response.status_code for response in found} == {400}


def test_without_the_library_a_400_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    for path, fields in ((CHAT, {"response_format": NAMED}), (NATIVE, {"grammar": 'root ::= "x"'})):
        response = ask("POST", path, tuned, json={**START[path], **fields})
        assert response.status_code == 400 and "`pip install llguidance`" in response.json()["error"]["message"]
    assert ask("POST", CHAT, tuned, json=START[CHAT]).status_code == 200


class Answer(BaseModel):
    """As a user of OpenAI's client declares it."""

    text: str


def test_openais_helper_for_structured_outputs():
    pytest.importorskip("llguidance")

    with served_here(partial(tuned, texts=['{"text": "y"}'])) as server, client_of(server) as client:
        found = client.chat.completions.parse(model="fake", messages=QUESTION, response_format=Answer)
    assert found.choices[0].message.parsed == Answer(text="y")


def compiling(*futures):
    """A loop that keeps what it would send; its grammars are compiled when the test says so."""
    generator, left = Counting(lambda number: None), iter(futures)
    generator.grammars = SimpleNamespace(constraint=None)
    loop = EngineLoop(None, generator)
    loop.sent, loop._send = [], lambda value: loop.sent.append(value)
    loop._compiler = SimpleNamespace(submit=lambda work, settings: next(left))
    return loop


def test_others_go_on_while_a_grammar_is_compiled():
    compiled = Future()
    loop = compiling(compiled)
    loop._begin(*begin(1, [5], grammar="x")[1:])
    loop._begin(*begin(2, [7], max_new_tokens=3)[1:])
    for _ in range(3):
        loop._begin_formed()
        loop.scheduler.step()
        loop._report()
    found = [token[0] for news, *_ in loop.sent for one, tokens, *_ in news for token in tokens if one == 2]
    assert found == [8, 9, 10] and 1 not in loop.requests and 1 in loop.forming
    compiled.set_exception(UserError("grammar: bad"))
    loop._begin_formed()
    assert loop.sent[-1][0] == [[1, [], "error", 0, "grammar: bad", 400]] and not loop.forming


def test_a_request_gets_its_constraint_and_one_that_left_does_not_begin():
    first = Future()
    loop = compiling(first, Future())
    loop._begin(*begin(1, [5], grammar="x")[1:])
    loop._begin(*begin(2, [7], grammar="x")[1:])
    loop._cancel(2)
    first.set_result("a constraint")
    loop._begin_formed()
    assert loop.requests[1].constraint == "a constraint" and loop.requests[1].ids == [5]
    assert loop.requests.keys() == {1} and not loop.forming


@pytest.fixture(scope="module", params=[(), ("--speculate", "ngram")], ids=["plain", "speculating"])
def server(request, tmp_path_factory):
    """A real engine with random weights and a chat format."""
    pytest.importorskip("llguidance")
    model = write_model(tmp_path_factory.mktemp("formed"))
    (model / "provenance.json").unlink()  # it would name the next file as one too many
    (model / "serving.json").write_text('{"chat": "codegeex2"}')
    log = tmp_path_factory.mktemp("log") / "log"
    with served(model, log, "--max-concurrency", 8, "--name", "tiny", *request.param) as found:
        yield found
    assert "Traceback" not in found.log.read_text()


@pytest.mark.slow
def test_eight_streams_are_valid_and_equal_to_answers_alone(server):
    def answer(seed, stream):
        body = {"messages": QUESTION, "response_format": NAMED, "max_tokens": 100, "seed": seed, "stream": stream}
        if not stream:
            return httpx.post(f"{server.url}{CHAT}", json=body, timeout=300).json()["choices"][0]["message"]["content"]
        with httpx.stream("POST", f"{server.url}{CHAT}", json=body, timeout=300) as response:
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        pieces = [json.loads(line)["choices"][0] for line in lines[:-1]]
        assert pieces[-1]["finish_reason"] == "stop"
        return "".join(piece["delta"].get("content", "") for piece in pieces)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda seed: answer(seed, True), range(8)))
    for seed, text in enumerate(found):
        jsonschema.validate(json.loads(text), SCHEMA)
        assert seed % 3 or answer(seed, False) == text  # with cached prompts
    assert len(set(found)) > 4


@pytest.mark.slow
def test_openais_client_and_llama_cpps_route(server):
    with client_of(server, timeout=300) as client:
        found = client.chat.completions.create(
            model="tiny", messages=QUESTION, max_tokens=200, seed=3, response_format=NAMED, n=2
        )
    for choice in found.choices:
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
    native = {"prompt": "x", "n_predict": 60, "seed": 1, "temperature": 1.0}
    grammar = 'root ::= "(" [0-9]{2,5} ("," [0-9]{2,5}){2} ")"'
    answer = httpx.post(f"{server.url}{NATIVE}", json={**native, "grammar": grammar}, timeout=300).json()
    assert answer["stop_type"] == "eos" and len(answer["content"].split(",")) == 3 and answer["content"].endswith(")")
    answer = httpx.post(f"{server.url}{NATIVE}", json={**native, "json_schema": SCHEMA}, timeout=300).json()
    jsonschema.validate(json.loads(answer["content"]), SCHEMA)
    plain = httpx.post(f"{server.url}{NATIVE}", json=native, timeout=300).json()
    assert not plain["content"].startswith(("(", "{"))


@pytest.mark.slow
def test_a_grammar_that_is_too_complex_later_is_a_400_and_the_next_one_is_answered(server):
    properties = {f"p{number}": {"type": "integer"} for number in range(450)}
    schema = {"type": "object", "properties": properties}
    body = {"prompt": "x", "n_predict": 20, "json_schema": schema}
    response = httpx.post(f"{server.url}{NATIVE}", json=body, timeout=300)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        assert "cannot be followed further" in response.json()["error"]["message"]
    assert httpx.post(f"{server.url}{NATIVE}", json={"prompt": "x", "n_predict": 2}, timeout=300).status_code == 200
