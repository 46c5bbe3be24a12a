"""`/v1/responses`: OpenAI's own client reads its answers and events; what it says instead of other APIs' routes."""

import json

import httpx
import openai
import pytest
from asking import answered, ask, client_of, until
from fake_backend import TEXT, FakeBackend, fake_model, tuned
from over_http import served

from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.generation.sampling import ChosenToken

PATH = "/v1/responses"
PART = {"type": "output_text", "text": "1", "annotations": [], "logprobs": []}
TALK = [
    {"role": "developer", "content": "be brief"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
    {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [PART]},
    {"role": "user", "content": "two"},
]
ORDER = [
    *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
    *("response.output_text.delta", "response.output_text.done", "response.content_part.done"),
    "response.output_item.done",
]


@pytest.fixture(scope="module")
def client():
    with served(tuned) as server, client_of(server) as client:
        yield client


def test_a_conversation_is_the_prompt_of_the_same_chat():
    response, backend = answered(PATH, {"input": TALK, "instructions": "in French", "store": False}, tuned)
    assert response.status_code == 200 and response.json()["store"] is False
    chat = [{"role": "system", "content": "in French"}, *TALK]
    chat[3] = {"role": "assistant", "content": "1"}
    bare = [{name: value for name, value in each.items() if name != "type"} for each in chat]
    _, other = answered("/v1/chat/completions", {"messages": bare}, tuned)
    assert backend.asked[0].ids == other.asked[0].ids


def test_openais_client_reads_an_answer(client):
    found = client.responses.create(model="fake", input="x", top_logprobs=2, max_output_tokens=30)
    assert (found.output_text, found.status, found.error, found.store) == (TEXT, "completed", None, False)
    content = found.output[0].content[0]
    assert b"".join(bytes(token.bytes) for token in content.logprobs).decode() == TEXT
    assert {len(token.top_logprobs) for token in content.logprobs} == {2}
    usage = found.usage
    assert usage.output_tokens == len(content.logprobs) == usage.total_tokens - usage.input_tokens
    short = client.responses.create(model="fake", input="x", max_output_tokens=3)
    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert short.output[0].status == "incomplete" and TEXT.startswith(short.output_text)


@pytest.mark.parametrize(("length", "last"), [(30, "response.completed"), (3, "response.incomplete")])
def test_events_come_in_openais_order(client, length, last):
    found = list(client.responses.create(model="fake", input="x", stream=True, max_output_tokens=length))
    kinds = [event.type for event in found]
    assert list(dict.fromkeys(kinds)) == [*ORDER, last] and kinds.count(ORDER[4]) > 2
    assert [event.sequence_number for event in found] == list(range(len(found)))
    deltas = "".join(event.delta for event in found if event.type == ORDER[4])
    assert deltas == found[-1].response.output_text == found[-4].text
    assert len({event.item_id for event in found if hasattr(event, "item_id")} | {found[2].item.id}) == 1
    with client.responses.stream(model="fake", input="x", max_output_tokens=length) as stream:  # it accumulates events
        assert [event.type for event in stream][-1] == last


def test_a_form_in_the_way_of_responses(client):
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    _, backend = answered(PATH, {"input": "x", "text": form}, tuned)
    assert json.loads(backend.asked[0].settings.json_schema) == schema
    form["format"]["schema"] = {"type": 5}
    with pytest.raises(openai.BadRequestError, match="text"):
        client.responses.create(model="fake", input="x", text=form)


class Lost(FakeBackend):
    """Loses its engine before the second token, once the first has been sent."""

    async def _play(self, answer):
        self.feed(answer.number, [ChosenToken(5, -1.0, ())], None)
        await until(lambda: not answer.news)
        self.feed_error(answer.number, "lost")


def test_a_stream_that_fails_ends_with_an_error():
    make = lambda: Lost(model=fake_model(chat=TEMPLATES["plain"]))  # noqa: E731
    with served(make) as server, client_of(server) as client:
        with pytest.raises(openai.APIError, match="lost"):
            list(client.responses.create(model="fake", input="x", stream=True))
        response = httpx.post(f"{server.url}{PATH}", json={"input": "x", "stream": True})
    *_, last = response.text.strip().split("\n\n")
    kind, data = last.split("\n")
    values = json.loads(data.removeprefix("data: "))
    assert (kind, values["type"], values["code"], values["param"]) == ("event: error", "error", "engine_error", None)


def test_what_is_not_stored_cannot_be_named():
    for fields, name in (
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
    ):
        error = ask("POST", PATH, tuned, json={"input": "x", **fields}).json()["error"]
        assert error["param"] == name and "answers are not stored" in error["message"]
    assert "/v1/responses" in ask("GET", f"{PATH}/resp_1").json()["error"]["message"]
    assert "/v1/completions" in ask("POST", PATH, json={"input": "x"}).json()["error"]["message"]  # a base model


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("/v1/messages", "/v1/chat/completions"),
        ("/v1/messages/count_tokens", "/v1/chat/completions"),
        ("/api/chat", "/v1/chat/completions"),
        ("/api/generate", "/v1/completions"),
        ("/api/embed", "/v1/embeddings"),
        ("/openai/deployments/model/completions", "/v1/completions"),
        ("/openai/deployments/model/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/model/embeddings", "/v1/embeddings"),
        ("/v1/engines/model/completions", "/v1/completions"),
        ("/v1beta/models/model:generateContent", "/v1/chat/completions"),
        ("/v1/fim/completions", "/v1/completions"),
        ("/openai/responses", "/v1/responses"),
        ("/v1/threads/x/runs", "/v1/responses"),
    ],
)
def test_a_route_of_another_api_names_the_one_to_use(path, instead):
    response = ask("POST", path, json={"model": "fake"})
    error = response.json()["error"]
    assert response.status_code == 404 and error["message"].rstrip("?").endswith(f" {instead}"), error
