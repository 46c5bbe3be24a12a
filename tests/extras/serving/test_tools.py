"""Tools in `/v1/chat/completions` and `/v1/responses`: what a model is asked, and what its answers are read as.
test_made_up_tools.py has calls that a real engine's grammar forces."""

import itertools
import json
import re
from dataclasses import dataclass
from functools import partial

import jsonschema
import pytest
from asking import answered, ask, client_of, events
from fake_backend import FakeBackend, fake_model
from over_http import served

from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.jinja_templates import JinjaChat, JinjaTemplate
from ms_codegeex.extras.serving.schemas import Tool
from ms_codegeex.extras.serving.tools import CallReader, tool_use
from ms_codegeex.generation.grammars import prepared

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
QUESTION = [{"role": "user", "content": "How warm is it in Paris?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "unit": {"$ref": "#/$defs/unit"}},
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["C", "F"]}},
}
LIST = {
    "type": "object",
    "properties": {"depth": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["depth"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "list_files", "parameters": LIST, "strict": True}},
    {"type": "function", "function": {"name": "stop"}},
]
FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]
PARIS = '{"name": "weather", "arguments": {"city": "Paris", "unit": "C"}}'
DEEP = '{"name": "list_files", "arguments": {"depth": 2}}'
ARGUMENTS = [{"city": "Paris", "unit": "C"}, {"depth": 2}]
FORMATS = {  # what shows the format in a template, and an answer with text and two calls, and with one
    "Hermes": ("<tool_call>", f"I look.\n<tool_call>\n{PARIS}\n</tool_call>\n<tool_call>{DEEP}</tool_call>\n"),
    "Mistral": ("[TOOL_CALLS]", f"I look.\n[TOOL_CALLS][{PARIS}, {DEEP}]"),
    "newer Mistral": (
        "[TOOL_CALLS]",
        'I look.\n[TOOL_CALLS]weather[ARGS]{"city": "Paris", "unit": "C"}[TOOL_CALLS]list_files[ARGS]{"depth": 2}',
    ),
    "CodeGeeX4": ("CodeGeeX", f"I look.\n```json\n{PARIS}\n```\n```json\n{DEEP}\n```"),
    "plain": ("tools", f"\n[{PARIS.replace('arguments', 'parameters')}, {DEEP}]\n"),
}


@dataclass(frozen=True)
class Template:
    """A chat template with a place for tools: the conversation as JSON."""

    tools_text: str
    stop: tuple[str, ...] = ()

    def prompt(self, messages, tools=()):
        return json.dumps([messages, list(tools)])


def backend_of(sign, *texts):
    model = fake_model(chat=Template(sign) if sign else TEMPLATES["plain"], context=2048)
    return partial(FakeBackend, model=model, texts=texts)


def asked_for(sign, *texts, **fields):
    """The response to a request with tools, and the backend."""
    return answered(CHAT, {"messages": QUESTION, "tools": TOOLS, **fields}, backend_of(sign, *texts))


def asked(make, path=CHAT, **fields):
    """The message of an answer and why it ended, which are the same in a stream."""
    body = {"messages": QUESTION, "tools": TOOLS, "seed": 1, "max_tokens": 1000, **fields}
    choice = ask("POST", path, make, json=body).json()["choices"][0]
    message, finish = choice["message"], choice["finish_reason"]
    pieces = [event["choices"][0] for event in events(ask("POST", path, make, json={**body, "stream": True}))]
    text = "".join(piece["delta"].get("content") or "" for piece in pieces)
    calls = [call for piece in pieces for call in piece["delta"].get("tool_calls", ())]
    assert (text, pieces[-1]["finish_reason"]) == (message["content"] or "", finish)
    assert [call.pop("index") for call in calls] == [*range(len(calls))] and calls == message.get("tool_calls", [])
    return message, finish


@pytest.mark.parametrize("kind", FORMATS)
def test_a_models_calls_are_read_in_its_own_format(kind):
    sign, text = FORMATS[kind]
    message, finish = asked(backend_of(sign, text))
    functions = [call["function"] for call in message["tool_calls"]]
    assert [json.loads(each["arguments"]) for each in functions] == ARGUMENTS and finish == "tool_calls"
    assert [each["name"] for each in functions] == ["weather", "list_files"]
    assert (message["content"] or "").strip() == ("" if kind == "plain" else "I look.")
    assert len({call["id"] for call in message["tool_calls"]}) == 2
    message, _ = asked(backend_of(sign, text), parallel_tool_calls=False)
    assert len(message["tool_calls"]) == 1


SIGNS = ["<tool_call>", "CodeGeeX", "[TOOL_CALLS]", "tools"]
NO_CALLS = ["no call", "<tool_", "a <tool_call> b", "```json\n[1]\n```", '{"a": 1}', "[1", " "]
NO_NAMES = ['"unknown"', '["weather"]', "{}", "null"]
MISNAMED = {"weather": "nothing", "list_files": "nothing", "depth": "x"}
TEXTS = [
    *itertools.product(SIGNS, NO_CALLS),
    *(("<tool_call>", f'<tool_call>{{"name": {name}, "arguments": {{}}}}</tool_call>') for name in NO_NAMES),
    *(
        (sign, text.replace(DEEP, PARIS).replace(*wrong))
        for kind, (sign, text) in FORMATS.items()
        for wrong in (("weather", "weather?"), ('"Paris"', "Paris"))
        if kind != "newer Mistral"
    ),
    ("[TOOL_CALLS]", re.sub("|".join(MISNAMED), lambda found: MISNAMED[found[0]], FORMATS["newer Mistral"][1])),
]


@pytest.mark.parametrize(("sign", "text"), TEXTS)
def test_what_is_no_call_of_a_known_function_stays_text(sign, text):
    assert asked(backend_of(sign, text)) == ({"role": "assistant", "content": text}, "stop")


def test_a_model_without_a_place_for_tools_answers_in_text_and_says_so(capsys):
    for path, body in ((CHAT, {"messages": QUESTION, "tools": TOOLS}), (RESPONSES, {"input": "x", "tools": FLAT})):
        response, backend = answered(path, body, backend_of("", PARIS))
        assert response.headers["x-unused-fields"] == "tools" and PARIS in response.text.replace('\\"', '"')
        plain, other = answered(path, {**body, "tools": []}, backend_of("", PARIS))
        assert backend.asked[0].ids == other.asked[0].ids and "x-unused-fields" not in plain.headers
    assert capsys.readouterr().err.count("its chat template has no place for tools") <= 1  # once in a process
    response, _ = asked_for("", PARIS, tool_choice="none")
    assert "x-unused-fields" not in response.headers


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
@pytest.mark.parametrize("sign", ["", "<tool_call>"])
def test_an_answer_that_has_to_call_follows_the_functions_schema(choice, sign):
    pytest.importorskip("llguidance")
    message, finish = asked(backend_of(sign, PARIS), tool_choice=choice)
    assert (message["content"], finish) == (None, "tool_calls")
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == ARGUMENTS[0]
    response, backend = asked_for(sign, PARIS, tool_choice=choice)
    assert "x-unused-fields" not in response.headers
    schema = json.loads(backend.asked[0].settings.json_schema)
    jsonschema.validate(json.loads(PARIS), schema)
    for wrong in (PARIS.replace('"C"', '"K"'), PARIS.replace("Paris", "P" * 9), '{"name": "x", "arguments": {}}', "{}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(wrong), schema)
    other = jsonschema.Draft202012Validator(schema).is_valid(json.loads(DEEP))
    assert other is (choice == "required")
    prompt = backend.prompt()
    assert prompt.endswith("<tool_call>\n" if sign else "Assistant:\n") and '"weather"' in prompt


@pytest.mark.parametrize("sign", ["", "<tool_call>", "[TOOL_CALLS]", "CodeGeeX"])
def test_several_forced_calls_if_they_are_asked_for(sign):
    """Each is complete before the next one begins; the last may be cut off."""
    library = pytest.importorskip("llguidance")
    between = tool_use([Tool.model_validate(tool).function for tool in TOOLS], "required", True, sign, "m").between
    several = between.join([PARIS, DEEP, PARIS])
    for text, count in ((several, 3), (several[:-3], 3), (PARIS, 1)):
        message, finish = asked(backend_of(sign, text), tool_choice="required", parallel_tool_calls=True)
        arguments = [call["function"]["arguments"] for call in message["tool_calls"]]
        assert (len(arguments), finish, message["content"]) == (count, "tool_calls", None)
        assert [json.loads(each) for each in arguments[:2]] == ARGUMENTS[:count]
    _, backend = asked_for(sign, PARIS, tool_choice="required", parallel_tool_calls=True)
    matcher, tokens = library.LLMatcher, library.LLTokenizer("byte")
    many = [between.join([PARIS] * count) for count in (8, 9)]
    for text, allowed in ((several, True), (many[0], True), (many[1], False), (f"{PARIS} {DEEP}", False)):
        one = matcher(tokens, prepared(backend.asked[0].settings))
        ids = tokens.tokenize_str(text)
        assert (one.validate_tokens(ids) == len(ids)) is allowed
    for fields in ({}, {"parallel_tool_calls": False}):
        _, backend = asked_for(sign, PARIS, tool_choice="required", **fields)
        assert not backend.asked[0].settings.between


def follows(settings, text):
    """Whether a text is a whole answer in the form of these settings."""
    library = pytest.importorskip("llguidance")
    tokens = library.LLTokenizer("byte")
    ids, one = tokens.tokenize_str(text), library.LLMatcher(tokens, prepared(settings))
    return one.validate_tokens(ids) == len(ids) and one.consume_tokens(ids) and one.is_accepting()


@pytest.mark.parametrize("sign", ["<tool_call>", "[TOOL_CALLS]", "CodeGeeX", "tools"])
def test_a_form_of_the_answer_beside_tools_is_that_of_its_text(sign):
    """As agents with a type of their answer send it: first calls, then an answer of that form."""
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": LIST}}}
    opening, between = {
        "<tool_call>": ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n"),
        "[TOOL_CALLS]": ("[TOOL_CALLS][", ", "),
        "CodeGeeX": ("```json\n", "\n```\n```json\n"),
        "tools": ("", None),
    }[sign]
    closing = "]" * opening.endswith("[")
    one, answer = f"{opening}{PARIS}{closing}", '{"depth": 2}'
    two = f"{opening}{PARIS}{between}{DEEP}{closing}"
    for text, count in ((one, 1), (answer, 0), *([(two, 2)] if between else [])):
        response, backend = asked_for(sign, text, **form)
        choice = response.json()["choices"][0]
        assert len(choice["message"].get("tool_calls", ())) == count and (count or choice["message"]["content"] == text)
        assert follows(backend.asked[0].settings, text) and not follows(backend.asked[0].settings, "I look.")
    form |= {"parallel_tool_calls": False}
    _, backend = asked_for(sign, answer, **form)
    assert follows(backend.asked[0].settings, one) and not follows(backend.asked[0].settings, two)
    _, backend = asked_for(sign, PARIS, tool_choice="required", **form)
    assert follows(backend.asked[0].settings, PARIS) and not follows(backend.asked[0].settings, answer)
    tool = {"name": "weather", "parameters": {"not": {}}}  # which a grammar cannot follow
    _, backend = asked_for(sign, answer, tools=[{"type": "function", "function": tool}], **form)
    assert follows(backend.asked[0].settings, one) and not follows(backend.asked[0].settings, one.replace("wea", "a"))


def test_a_forced_call_has_no_argument_that_the_function_does_not_name():
    pytest.importorskip("llguidance")
    _, backend = asked_for("", PARIS, tool_choice="required")
    valid = jsonschema.Draft202012Validator(json.loads(backend.asked[0].settings.json_schema)).is_valid
    assert valid(json.loads(DEEP)) and valid({"name": "stop", "arguments": {}})
    for name, arguments in (("stop", {"a": 1}), ("list_files", {"depth": 2, "a": 1})):
        assert not valid({"name": name, "arguments": arguments})


def test_a_call_that_max_tokens_cuts_is_given_as_far_as_it_goes():
    pytest.importorskip("llguidance")
    message, finish = asked(backend_of("", PARIS), tool_choice="required", max_tokens=12)
    (call,) = message["tool_calls"]
    assert finish == "length" and PARIS.startswith('{"name": "weather", "arguments": ' + call["function"]["arguments"])


CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TALK = [
    *QUESTION,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "21 degrees"},
]


def test_calls_and_results_are_part_of_the_prompt():
    _, backend = asked_for("<tool_call>", "warm", messages=TALK)
    messages, tools = json.loads(backend.prompt())
    assert messages[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Paris"}}
    assert messages[2] == {"role": "tool", "content": "21 degrees", "tool_call_id": "call_1"}
    assert [tool["function"]["name"] for tool in tools] == ["weather", "list_files", "stop"]
    for body in ({"messages": TALK}, {"messages": TALK, "tools": TOOLS}):
        _, backend = answered(CHAT, body, backend_of("", "warm"))
        prompt = backend.prompt()
        assert 'Assistant:\n{"name": "weather", "arguments": {"city": "Paris"}}' in prompt
        assert "User:\nweather returned:\n21 degrees" in prompt


HERMES = """\
{%- if tools %}System: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}Write calls as <tool_call>JSON</tool_call>.<|endoftext|>
{% endif %}
{%- for message in messages %}
{{- message.role }}: {{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>{% endfor %}<|endoftext|>
{% endfor %}
{%- if add_generation_prompt %}assistant: {% endif %}"""


def test_a_template_in_jinja_writes_tools_calls_and_results():
    """What users say stays text in it, and its own names of special tokens are those tokens."""
    chat = JinjaChat(JinjaTemplate((("default", HERMES),)), {})
    make = partial(FakeBackend, model=fake_model(chat=chat, context=2048), texts=[FORMATS["Hermes"][1]])
    talk = [*TALK[:2], TALK[2] | {"content": "21 <|endoftext|> degrees"}]
    response, backend = answered(CHAT, {"messages": talk, "tools": TOOLS, "max_tokens": 900}, make)
    ids, tokenizer = backend.asked[0].ids, backend.model.tokenizer
    assert len(response.json()["choices"][0]["message"]["tool_calls"]) == 2
    prompt = tokenizer.decode(ids).replace("degrees<|", "degrees\0<|")
    head, question, call, result, rest = prompt.split("<|endoftext|>\n")
    assert [json.loads(line) for line in head.removeprefix("System: ").splitlines()[:3]] == TOOLS
    assert question == f"user: {QUESTION[0]['content']}"
    assert call == 'assistant: <tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert (result, rest) == ("tool: 21 <|endoftext|> degrees\0", "assistant: ")
    assert ids.count(tokenizer.eos_id) == 4
    chat.close()


def test_the_same_conversation_as_items_is_the_same_prompt():
    items = [
        {"role": "user", "content": QUESTION[0]["content"]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", **CALL["function"]},
        {"type": "function_call_output", "call_id": "call_1", "output": "21 degrees"},
    ]
    _, one = asked_for("<tool_call>", "warm", messages=TALK)
    _, other = answered(RESPONSES, {"input": items, "tools": FLAT}, backend_of("<tool_call>", "warm"))
    assert one.asked[0].ids == other.asked[0].ids


CODEX = {  # what the Codex CLI sends with default settings; texts are shorter
    "model": "fake",
    "stream": True,
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a2",
    "client_metadata": {"session_id": "01a2", "x-codex-installation-id": "5de0"},
    "tools": [
        {"type": "namespace", "name": "multi_agent_v1", "description": "x", "tools": [{**FLAT[2], "name": "spawn"}]},
        *FLAT,
        {"type": "web_search", "external_web_access": False},
    ],
    "input": [
        {"type": "message", "id": "m1", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"type": "message", "id": "m2", "role": "user", "content": [{"type": "input_text", "text": "How warm?"}]},
        {
            "type": "function_call",
            "status": "completed",
            "id": "f1",
            "call_id": "c1",
            "name": "stop",
            "arguments": "{}",
        },
        {"type": "function_call_output", "id": "f2", "call_id": "c1", "output": "Process exited with code 0"},
    ],
}


def test_tools_of_other_types_are_left_out_and_the_answer_says_so():
    response, backend = answered(RESPONSES, CODEX, backend_of("<tool_call>", f"<tool_call>\n{PARIS}\n</tool_call>"))
    assert response.headers["x-unused-fields"] == "tools"
    done = json.loads(response.text.split("data: ")[-1])["response"]
    assert [item["type"] for item in done["output"]] == ["function_call"]
    assert [tool["name"] for tool in done["tools"]] == [tool["name"] for tool in FLAT]
    messages, tools = json.loads(backend.prompt())
    assert tools == TOOLS and [each["role"] for each in messages] == ["system", "user", "assistant", "tool"]


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_an_answer_without_any_function_is_text(choice):
    tools = [{"type": "custom", "custom": {"name": "patch"}}, {"type": "web_search_preview"}]
    response, _ = asked_for("<tool_call>", "warm", tools=tools, tool_choice=choice)
    assert response.json()["choices"][0]["message"] == {"role": "assistant", "content": "warm"}
    assert ("x-unused-fields" in response.headers) == (choice == "auto")


WRONG = [
    ({"tools": TOOLS[:1] * 2}, "tools", "same name"),
    ({"tools": [{"type": 1}]}, "tools", "function"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice", "type function"),
    ({"tool_choice": {"type": "web_search"}}, "tool_choice", "function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools", "pattern"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]}, "tools", "object"),
    ({"tools": [], "tool_choice": "required"}, "tool_choice", "no tools"),
    ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "weather"),
    ({"tool_choice": "sometimes"}, "tool_choice", "none"),
    ({"functions": [{"name": "f"}]}, "functions", "not supported"),
]
SCHEMAS = [
    ({"not": {}}, "not"),
    ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
    ({"properties": {"a": {"type": "string", "minLength": 5, "maxLength": 2}}, "required": ["a"]}, "unsatisfiable"),
    ({"properties": {"a": {"$ref": "#/$defs/none"}}, "required": ["a"]}, ""),
    ({"$ref": "#"}, "$ref"),
    ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "$ref"),
    ({"properties": {"a": {"anyOf": [{"$ref": "#/properties/a"}]}}, "required": ["a"]}, "$ref"),
    ({"properties": {"a": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}}, "required": ["a"]}, "$ref"),
    ({"properties": {"a": {"$ref": "https://example.com/a.json"}}, "required": ["a"]}, "$ref"),
    ({"properties": {"a": {"type": "integer", "minimum": 10**40}}, "required": ["a"]}, "minimum"),
    ({"properties": {"a": {"type": "number", "multipleOf": 0}}, "required": ["a"]}, "multipleOf"),
    ({"properties": {"a": {"minItems": 5, "maxItems": 2, "type": "array"}}, "required": ["a"]}, "required"),
    ({"properties": {"a": {"enum": []}}, "required": ["a"]}, "required"),
    ({"properties": {}, "required": [{}]}, "required"),
    ({"properties": {"a": {"type": "text"}}, "required": ["a"]}, "type"),
]
FINE = [  # recursive, but with an end
    {"properties": {"a": {"$ref": "#"}}},
    {"properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]},
    {"properties": {"a": {"type": "array", "items": {"$ref": "#"}}}, "required": ["a"]},
]


@pytest.mark.parametrize(("fields", "param", "words"), WRONG)
def test_wrong_tools_are_a_400_that_names_the_field(fields, param, words):
    response, backend = asked_for("", **fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param) and words in error["message"] and not backend.asked


def calling(parameters, choice="required"):
    """Fields of a request with a function of these parameters."""
    return {"tools": [{"type": "function", "function": {"name": "f", "parameters": parameters}}], "tool_choice": choice}


@pytest.mark.parametrize(("parameters", "keyword"), SCHEMAS)
def test_a_schema_that_cannot_be_followed_is_a_400_that_names_the_keyword(parameters, keyword):
    pytest.importorskip("llguidance")
    for stream in (False, True):
        response, backend = asked_for("", **calling(parameters), stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "tools") and keyword in error["message"]
        assert not backend.asked


@pytest.mark.parametrize("parameters", FINE)
def test_a_recursive_schema_whose_values_end_can_be_followed(parameters):
    pytest.importorskip("llguidance")
    assert asked_for("", '{"name": "f", "arguments": {}}', **calling(parameters))[0].status_code == 200


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_schema_that_is_nested_too_deep_is_a_400(choice):
    nested = {"type": "object"}
    for _ in range(150):
        nested = {"properties": {"a": nested}}
    response, _ = asked_for("<tool_call>", **calling(nested, choice))
    assert response.status_code == 400 and "nested" in response.json()["error"]["message"]


def test_a_schema_may_call_itself():
    pytest.importorskip("llguidance")
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}
    _, backend = asked_for("", "{}", **calling(tree))
    schema = json.loads(backend.asked[0].settings.json_schema)
    jsonschema.validate({"name": "f", "arguments": {"next": {"next": {}}}}, schema)
    assert not jsonschema.Draft202012Validator(schema).is_valid({"name": "f", "arguments": {"next": {"other": 1}}})


def test_openais_client_reads_calls_of_both_routes():
    pytest.importorskip("llguidance")
    make = backend_of("<tool_call>", *[FORMATS["Hermes"][1]] * 4)
    with served(make) as server, client_of(server) as client:
        known = {"model": "fake", "seed": 1, "max_tokens": 900}
        chat = client.chat.completions.create(messages=QUESTION, tools=TOOLS, **known)
        assert [json.loads(call.function.arguments) for call in chat.choices[0].message.tool_calls] == ARGUMENTS
        with client.chat.completions.stream(messages=QUESTION, tools=TOOLS, **known) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.tool_calls[1].function.arguments == '{"depth": 2}'
        answer = client.responses.create(model="fake", input="x", tools=FLAT, max_output_tokens=900)
        assert [item.type for item in answer.output] == ["message", "function_call", "function_call"]
        assert [json.loads(item.arguments) for item in answer.output[1:]] == ARGUMENTS
        found = list(client.responses.create(model="fake", input="x", tools=FLAT, max_output_tokens=900, stream=True))
    kinds = [event.type.removeprefix("response.") for event in found]
    order = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert kinds[-9:] == [*order, *order, "completed"] and kinds[-10] == "output_item.done"
    assert [item.type for item in found[-1].response.output] == ["message", "function_call", "function_call"]
    assert {event.output_index for event in found if event.type.endswith("arguments.done")} == {1, 2}


def test_the_reader_gives_all_text_wherever_pieces_end():
    tools = [Tool.model_validate(each).function for each in TOOLS]
    for kind, (sign, text) in FORMATS.items():
        use = tool_use(tools, None, None, sign, "fake")
        for size in (1, 2, 3, 7, len(text)):
            reader, said, calls = CallReader(use), "", []
            for place in range(0, len(text), size):
                more, found = reader.feed(text[place : place + size], place + size >= len(text))
                said, calls = said + more, calls + found
            assert [json.loads(call.arguments) for call in calls] == ARGUMENTS, (kind, size)
            assert said.strip() == ("" if kind == "plain" else "I look.")


def test_arguments_that_our_reader_refuses_end_where_they_end():
    """A number of 5,000 digits, as a grammar allows; the brace of the call is none of the arguments'."""
    use = tool_use([Tool.model_validate(tool).function for tool in TOOLS], "required", None, "", "m")
    arguments = '{"city": "}\\"]", "days": [%s, {}]}' % ("1" * 5000)
    _, (call,) = CallReader(use).feed(f'{{"name": "weather", "arguments": {arguments}}}', True)
    assert call.arguments == arguments
