"""Fields that this server does not have: refused by their names, or known to change nothing."""

import re
from collections import defaultdict

import openai
import pytest
from all_routes import BODIES, routes
from asking import answered, ask, ask_all, client_of, events
from fake_backend import TEXT, tuned
from over_http import served

from ms_codegeex.extras.serving import foreign_fields, schemas
from ms_codegeex.extras.serving.routes.llama_cpp import InfillRequest, TemplateRequest
from ms_codegeex.extras.serving.routes.responses import ResponsesRequest
from ms_codegeex.extras.serving.schemas import Body, ChatRequest, CompletionRequest, Sampling
from ms_codegeex.generation.sampling import request_fields

SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
FORMS = {  # fields for the form of an answer and for tools, which these routes have
    "/v1/completions": {"response_format"},
    "/v1/chat/completions": {"response_format", "tools", "tool_choice"},
    "/v1/responses": {"tools", "tool_choice"},
    "/infill": {"grammar", "json_schema"},
}
REFUSED = {  # what real clients ask for and this server does not have
    "response_format": SCHEMA,
    "grammar": 'root ::= "x"',
    "json_schema": {"type": "object"},
    "guided_json": {"type": "object"},
    "guided_regex": "x+",
    "structured_outputs": {"regex": "x+"},
    "min_tokens": 5,
    "top_a": 0.05,
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "mirostat": 2,
    "dry_multiplier": 0.8,
    "ignore_eos": True,
    "stop_token_ids": [5],
    "reasoning_effort": "high",
    "use_beam_search": True,
    "n_probs": 3,
    "modalities": ["text", "audio"],
    "nothing_known": 1,
    "\ud800": 1,
    "x" * 10_000: 1,
}


KINDS = {  # where they are not those of all tasks
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/responses": ResponsesRequest,
    "/infill": InfillRequest,
    "/apply-template": TemplateRequest,
}


def within(value):
    """The value itself, or a number of those that it stands for."""
    match value:
        case {"above": limit}:
            return limit + 0.1
        case {"below": limit}:
            return limit - 0.1
        case {"of": known}:
            return {name: "auto" if given == "any" else given for name, given in known.items()}
    return value


def test_every_route_that_takes_a_body_is_tested():
    assert {path for method, path in routes() if method == "POST"} == BODIES.keys()


def test_no_field_is_both_ours_and_foreign():
    ours = {each.name for each in request_fields()}
    assert "min_p" in ours and not ours & {*foreign_fields.fields_of("generation"), *REFUSED}


@pytest.mark.parametrize("path", BODIES)
def test_a_field_that_would_change_the_answer_is_a_400_that_names_it(path):
    refused = {name: value for name, value in REFUSED.items() if name not in FORMS.get(path, ())}
    responses = ask_all(path, [{**BODIES[path], name: value} for name, value in refused.items()], tuned)
    for name, response in zip(refused, responses, strict=True):
        assert response.status_code == 400, (name, response.text)
        error, shown = response.json()["error"], name[:64].encode("utf-8", "replace").decode()
        assert (error["type"], error["param"]) == ("invalid_request_error", shown)
        assert error["message"].startswith(f"{shown}: not supported; ") and len(error["message"]) < 300


@pytest.mark.parametrize("path", BODIES)
def test_null_stands_for_a_fields_absence(path):
    assert ask_all(path, [{**BODIES[path], **dict.fromkeys(REFUSED, None)}], tuned)[0].status_code == 200


@pytest.mark.parametrize("path", [path for path in BODIES if not re.search("tokenize|embeddings", path)])
def test_fields_that_change_nothing_change_nothing(path):
    kind = KINDS.get(path, Sampling)
    names = schemas.names_of(kind)
    table = {name: each for name, each in foreign_fields.fields_of(kind.foreign).items() if name not in names}
    together, fields = defaultdict(dict), [{}, {name: "anything" for name, each in table.items() if each.reason}]
    for name, each in table.items():
        for place, value in enumerate(each.values):  # in one request with others', unless it depends on other fields
            together[place, name if each.unused else ""][name] = within(value)
        if each.unused:
            off = {other: within(values[-1]) for other, values in each.unused.items()}
            fields += [{name: 5, **off}] if off.keys() <= {*names, *table} else []
    fields += together.values()
    assert sum(map(len, fields)) > 200
    plain, *responses = ask_all(path, [{**BODIES[path], **each} for each in fields], tuned)
    for each, response in zip(fields[1:], responses, strict=True):
        assert response.status_code == 200, (each, response.text)
        texts = [body.json().get("choices", body.json().get("content")) for body in (plain, response)]
        assert texts[0] == texts[1]


def test_a_neutral_value_is_told_from_similar_ones():
    thoughts = [{"effort": "low", "summary": "auto"}, {"effort": "any"}, {"budget": 5}, "none"]
    known = [("ignore_eos", 1), ("min_tokens", True), ("min_tokens", "0"), ("tools", [0]), ("tfs_z", True)]
    for name, value in (*known, *(("reasoning", each) for each in thoughts)):
        response = ask("POST", "/v1/completions", json={"prompt": "x", name: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    assert ask("POST", "/v1/completions", json={"prompt": "x", "min_tokens": 0.0}).status_code == 200


@pytest.mark.parametrize(
    ("path", "name", "remedy"),
    [
        ("/v1/completions", "max_token", "did you mean max_tokens?"),
        ("/v1/completions", "max_completion_tokens", "did you mean max_tokens?"),
        ("/v1/chat/completions", "temprature", "did you mean temperature?"),
        ("/infill", "n_predicts", "did you mean n_predict?"),
        ("/v1/chat/completions", "prompt", "send messages"),
        ("/v1/embeddings", "content", "send input"),
        ("/tokenize", "messages", "send content"),
        ("/v1/completions", "messages", "send them to /v1/chat/completions"),
        ("/v1/completions", "grammar", "send it to /infill"),
        ("/v1/code/fix", "json_schema", "send it in response_format to /v1/completions or /v1/chat/completions"),
        ("/infill", "n_probs", "send logprobs to /v1/completions"),
    ],
)
def test_a_field_from_elsewhere_is_told_what_is_right_here(path, name, remedy):
    body = {} if remedy.startswith("send ") else BODIES[path]  # with what is needed, it is only left out
    error = ask("POST", path, tuned, json={**body, name: 1}).json()["error"]
    assert error["message"] == f"{name}: not supported; {remedy}" and error["param"] == name


MESSAGES = [
    ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "function_call"),
    ({"role": "user", "content": [{"type": "text", "text": "x", "image_url": {}}]}, "image_url"),
    ({"role": "user", "content": "x", "more": 1}, "more"),
    ({"role": "tool", "content": "x", "more": "1"}, "more"),
]


@pytest.mark.parametrize(("message", "name"), MESSAGES)
def test_a_field_within_a_message_is_named_too(message, name):
    body, place = {"messages": [{"role": "user", "content": "x"}, message]}, "messages[1]"
    place += ".content[0]" * (name == "image_url")
    error = ask("POST", "/v1/chat/completions", tuned, json=body).json()["error"]
    assert error["param"] == "messages" and error["message"].startswith(f"{place}: {name} is not supported")


def test_messages_as_clients_keep_them():
    """Of OpenAI's own client (`message.model_dump()`), litellm and LangChain: fields without a value come back."""
    empty = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}
    part = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    body = {
        "messages": [
            {"role": "user", "content": [part], "name": "me"},
            {"role": "assistant", "content": "y", **empty, "reasoning_content": None},
            {"role": "assistant", "content": "y", "tool_calls": []},
            {"role": "user", "content": "z"},
        ]
    }
    assert ask("POST", "/v1/chat/completions", tuned, json=body).status_code == 200


STREAM = {"stream": True, "stream_options": {"include_usage": True}}
CLIENTS = {  # the fields that each sends with default settings
    "LangChain's ChatOpenAI": {
        **{"model": "fake", "stream": False, "temperature": 0.7, "n": 1, "max_completion_tokens": 64},
        **{"frequency_penalty": 0, "presence_penalty": 0, "logprobs": False, "seed": None, "stop": None},
    },
    "litellm": {"model": "fake", "temperature": 0.2, "max_tokens": 64, "user": "me", "metadata": {"a": "b"}},
    "Continue's chat": {
        **{**STREAM, "model": "fake", "max_tokens": 64, "temperature": 0.5, "stop": ["x1"]},
        **{"tools": [], "parallel_tool_calls": False},
    },
    "Zed's assistant": {
        **{**STREAM, "model": "fake", "max_completion_tokens": 64, "stop": [], "temperature": 1.0, "tools": []},
        "prompt_cache_key": "thread-1",
    },
    "llama.cpp's web page": {
        **{"stream": True, "reasoning_format": "auto", "temperature": 0.8, "max_tokens": -1, "dynatemp_range": 0},
        **{"dynatemp_exponent": 1, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "xtc_probability": 0},
        **{"xtc_threshold": 0.1, "typ_p": 1, "repeat_last_n": 64, "repeat_penalty": 1, "presence_penalty": 0},
        **{"frequency_penalty": 0, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2},
        **{"dry_penalty_last_n": -1, "backend_sampling": False, "timings_per_token": False},
    },
    "vLLM's defaults": {
        **dict.fromkeys(("logprobs", "use_beam_search", "add_special_tokens", "include_stop_str_in_output"), False),
        **dict.fromkeys(("ignore_eos", "echo", "return_token_offsets"), False),
        **{"include_reasoning": True, "add_generation_prompt": True, "top_logprobs": 0, "min_tokens": 0, "priority": 0},
        **{"tool_choice": "none", "length_penalty": 1.0, "stop_token_ids": [], "bad_words": []},
        **{"top_k": -1, "seed": -1},
    },
    "OpenAI's playground": {
        **{"model": "fake", "response_format": {"type": "text"}, "temperature": 1, "max_completion_tokens": 64},
        **{"top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "store": False, "service_tier": "auto"},
        "verbosity": "medium",
    },
}


@pytest.mark.parametrize("client", CLIENTS)
def test_requests_of_chat_clients(client):
    body = {**CLIENTS[client], "messages": [{"role": "user", "content": "x"}]}
    response = ask("POST", "/v1/chat/completions", tuned, json=body)
    assert response.status_code == 200, response.text
    if body.get("stream"):
        found = events(response)
        text = "".join(choice["delta"].get("content", "") for event in found for choice in event["choices"])
    else:
        text = response.json()["choices"][0]["message"]["content"]
    assert text == TEXT


def test_openais_client_with_its_typed_fields():
    known = {"model": "fake", "messages": [{"role": "user", "content": "x"}]}
    unused = {"store": True, "metadata": {"a": "b"}, "prompt_cache_key": "x", "safety_identifier": "me"}
    unused |= {"service_tier": "auto", "reasoning_effort": None, "tools": [], "response_format": {"type": "text"}}
    with served(tuned) as server, client_of(server) as client:
        found = client.chat.completions.create(**known, **unused)
        assert found.choices[0].message.content == TEXT
        with pytest.raises(openai.BadRequestError, match="functions"):
            client.chat.completions.create(**known, functions=REFUSED["functions"])


def subclasses(kind):
    return [each for child in kind.__subclasses__() for each in (child, *subclasses(child))]


def test_every_body_says_which_fields_it_takes():
    assert {CompletionRequest, ChatRequest, InfillRequest} < set(subclasses(Body))
    for body in subclasses(Body):
        schema = body.model_json_schema()
        assert schema["additionalProperties"] is False
        foreign = foreign_fields.fields_of(body.foreign)
        assert set(schema["properties"]) == {*schemas.names_of(body), *foreign}
        assert all(each.source and (each.reason or each.values or each.unused) for each in foreign.values())
    assert "user" in Sampling.model_fields


PROMPT = "x = 1\n"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/code/fix"])
def test_an_answer_says_which_max_tokens_fits(path, stream):
    """With a context of 256 tokens."""

    def asked(**fields):
        response, backend = answered(path, {**BODIES[path], **fields, "stream": stream}, tuned)
        choices = [event["choices"][0] for event in events(response)] if stream else response.json()["choices"]
        assert not any("max_tokens" in choice for choice in choices[:-1])
        return choices[-1], 256 - len(backend.asked[0].ids)

    choice, room = asked(max_tokens=10_000)
    assert choice["max_tokens"] == room
    assert "max_tokens" not in asked(max_tokens=room)[0] and "max_tokens" not in asked()[0]
    assert asked(max_tokens=room + 1)[0]["max_tokens"] == room


def test_each_prompt_has_its_own_room():
    body = {"prompt": [[5], [5] * 250], "n": 2, "max_tokens": 8}
    choices = ask("POST", "/v1/completions", json=body).json()["choices"]
    assert [choice.get("max_tokens") for choice in choices] == [None, None, 6, 6]
    assert [choice["finish_reason"] for choice in choices] == ["length"] * 4


def test_infill_reports_the_number_that_fits():
    body = {"input_prefix": PROMPT * 300, "n_predict": 10**6}
    answer = ask("POST", "/infill", json=body).json()
    assert answer["generation_settings"]["n_predict"] == 128 and answer["truncated"] is True
