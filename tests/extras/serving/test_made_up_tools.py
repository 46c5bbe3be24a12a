"""Requests with tools, made up from the API's description, to a server with a real engine: no server error; calls that
had to be made are valid for the functions' schemas; the same answers alone and in company, streamed and whole.

    PYTHONPATH=.:tests:tests/extras/serving python tests/extras/serving/test_made_up_tools.py 2000
"""

import json
import random
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jsonschema
import pytest
from served import served
from small_benchmarks import write_model

CASES = 60  # by default
PATH = "/v1/chat/completions"
LEFT_OUT = {"messages", "tools", "tool_choice", "response_format", "stream", "stream_options", "stop", "model", "user"}
WORDS = ("city", "unit", "days", "note", "path", "id")


def field(draw, schema):
    """A value of a field, by its schema in the description; numbers are small."""
    schema = draw.choice([each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"])
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
    high = min(schema.get("maximum", schema.get("exclusiveMaximum", 2)), low + 2)
    match schema.get("type"):
        case "boolean":
            return draw.random() < 0.5
        case "integer":
            return draw.randint(max(low, 1), max(high, 1))
        case "number":
            return round(draw.uniform(low, high), 2)
    return None


def argument(draw, depth=0):
    """A schema of an argument whose values come to an end."""
    kinds = ["text", "choice", "integer", "boolean", "date", "pattern", "constant", "null"]
    match draw.choice([*kinds, *(["list", "object", "either", "shared"] if depth < 2 else [])]):
        case "text":
            return {"type": "string", "maxLength": draw.randint(0, 9), "description": "a text"}
        case "choice":
            return {"enum": draw.sample(["C", "F", 1, None, '"x"', "é"], draw.randint(1, 4))}
        case "integer":
            return {"type": "integer", "minimum": -draw.randint(0, 9), "maximum": draw.randint(0, 99)}
        case "date":
            return {"type": "string", "format": "date"}
        case "pattern":
            return {"type": "string", "pattern": draw.choice(["^[a-z]{1,4}$", "^(on|off)$", "^v[0-9]\\.[0-9]$"])}
        case "constant":
            return {"const": draw.choice(["on", 3, True])}
        case "list":
            few = draw.randint(0, 2)
            return {"type": "array", "items": argument(draw, depth + 1), "minItems": few, "maxItems": few + 1}
        case "object":
            return parameters(draw, depth + 1)
        case "either":
            return {"anyOf": [argument(draw, depth + 1), {"type": "null"}]}
        case "shared":
            return {"$ref": "#/$defs/unit"}
        case kind:
            return {"type": kind}


def parameters(draw, depth=0):
    """A schema of a function's arguments."""
    names = draw.sample(WORDS, draw.randint(0, 3))
    properties = {name: argument(draw, depth) for name in names}
    required = [name for name in names if draw.random() < 0.7]
    closed = {"additionalProperties": False} if depth or draw.random() < 0.5 else {}
    return {"type": "object", "properties": properties, "required": required, **closed}


def made_up(draw, described):
    """A request: a conversation, tools, and some of the fields of the description."""
    names = draw.sample(["weather", "list_files", "a.b/c", "stop"], draw.randint(1, 3))
    tools = []
    for name in names:
        function = {"name": name, "parameters": {**parameters(draw), "$defs": {"unit": {"enum": ["C", "F"]}}}}
        if draw.random() < 0.2:
            del function["parameters"]
        tools.append({"type": "function", "function": function})
    body = {"messages": [{"role": "user", "content": f"Question {draw.random()}"}], "tools": tools}
    named = {"type": "function", "function": {"name": names[0]}}
    body["tool_choice"] = draw.choice(["required", "required", named, "auto", "none"])
    for name in draw.sample(sorted(described.keys() - LEFT_OUT), 4):
        if (value := field(draw, described[name])) is not None:
            body[name] = value
    if "top_logprobs" in body:
        body["logprobs"] = True
    return {**body, "max_tokens": draw.choice([12, 200, 200]), "seed": draw.randrange(1 << 30)}


def whole(response):
    """Message, log-probabilities and reason of each answer of a response, streamed or not."""
    if response.status_code != 200 or not response.headers["content-type"].startswith("text/event-stream"):
        return response.status_code, response.json().get("choices", response.json())
    found = {}
    for line in response.text.split("\n\n"):
        for choice in json.loads(line[6:])["choices"] if line and line != "data: [DONE]" else ():
            one = found.setdefault(
                choice["index"], {"index": choice["index"], "message": {"role": "assistant", "content": ""}}
            )
            message, delta = one["message"], choice["delta"]
            message["content"] = (message["content"] or "") + (delta.get("content") or "")
            calls = [{name: call[name] for name in call if name != "index"} for call in delta.get("tool_calls") or ()]
            if calls:
                message["tool_calls"] = message.get("tool_calls", []) + calls
            if choice.get("logprobs"):
                one.setdefault("logprobs", {"content": [], "refusal": None})["content"] += choice["logprobs"]["content"]
            one["finish_reason"] = choice["finish_reason"]
            one |= {"max_tokens": choice["max_tokens"]} if "max_tokens" in choice else {}
    for one in found.values():
        one.setdefault("logprobs", None)
        if "tool_calls" in one["message"] and not one["message"]["content"]:
            one["message"]["content"] = None
    return 200, [found[number] for number in sorted(found)]


def checked(body, choices):
    """How many answers of a request that had to call are complete; their calls are valid."""
    schemas = {
        tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in body["tools"]
    }
    finished = [choice for choice in choices if choice["finish_reason"] == "tool_calls"]
    for choice in finished:
        calls = choice["message"]["tool_calls"]
        assert len(calls) == 1 or body.get("parallel_tool_calls"), body
        for call in calls:
            function = call["function"]
            jsonschema.validate(json.loads(function["arguments"]), schemas[function["name"]])
            assert body["tool_choice"] in ("required", {"type": "function", "function": {"name": function["name"]}})
    return len(finished)


def check(directory, cases):
    """Ask, compare, and return the number of answers by what they are."""
    model = write_model(directory)
    (model / "provenance.json").unlink()
    (model / "serving.json").write_text('{"chat": "plain"}')
    config = json.loads((model / "config.json").read_text())
    draw, counts = random.Random(7), Counter()
    with served(model, directory / "log", "--max-concurrency", 8, "--name", "tiny") as server:
        client = httpx.Client(base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=16))

        def ask(body, **more):
            return whole(client.post(PATH, json={**body, **more}))

        with client, ThreadPoolExecutor(8) as pool:
            api = client.get("/openapi.json").json()
            described = api["components"]["schemas"]["ChatRequest"]["properties"]
            bodies = [made_up(draw, described) for _ in range(cases)]
            together = list(pool.map(ask, bodies))
            streamed = list(pool.map(lambda body: ask(body, stream=True), reversed(bodies)))[::-1]
            alone = [ask(body, stream=bool(number % 2)) for number, body in enumerate(bodies)]
    assert "Traceback" not in (directory / "log").read_text() and config
    for body, (status, found), *others in zip(bodies, together, streamed, alone, strict=True):
        assert status in (200, 400), (body, found)
        assert others == [(status, found)] * 2, body
        counts[status] += 1
        forced = body["tool_choice"] not in ("auto", "none")
        if status == 200 and forced:
            complete = checked(body, found)
            counts["complete"] += complete
            counts["cut off"] += len(found) - complete
    return counts


@pytest.mark.slow
def test_made_up_requests_with_tools(tmp_path):
    pytest.importorskip("llguidance")
    counts = check(tmp_path, CASES)
    assert counts[200] > CASES // 2 and counts["complete"] > counts["cut off"], counts


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(dict(check(Path(directory), int(sys.argv[1]))))
