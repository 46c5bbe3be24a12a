"""`/v1/embeddings`: what OpenAI's own client reads from it, its limits, and how its inputs are computed."""

import asyncio
import base64
import json
import struct
from functools import partial

import httpx
import openai
import pytest
from asking import answered, ask, client_of, connected, listening, raw, until
from fake_backend import FakeBackend, fake_model, key_file, tuned
from over_http import served

from ms_codegeex.extras.serving.errors import ApiError
from ms_codegeex.extras.serving.responding import AnswerPlan
from ms_codegeex.extras.serving.routes.embeddings import response_parts
from ms_codegeex.generation.sampling import SamplingSettings

UNIT = pytest.approx([0.6, 0.8, 0.0])  # the fake backend's (3, 4, 0) times the number of ids, of length 1


@pytest.fixture(scope="module")
def server():
    with served(slots=3) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with client_of(server) as client:
        yield client


def test_openais_client_asks_for_base64_and_decodes_it(client):
    found = client.embeddings.create(model="fake", input="def add(a, b):", user="me")
    assert [each.embedding for each in found.data] == [UNIT] and found.object == "list" and found.model == "fake"
    assert found.model_extra["pooling"] == "mean of the last hidden states, of length 1"
    assert found.usage.prompt_tokens == found.usage.total_tokens > 3


def test_more_inputs_than_slots_are_computed_in_turn(server, client):
    """Seven with three slots; other requests wait behind three at most."""
    before = server.backend.counters.answers
    texts = [f"x = {number}" for number in range(7)]
    found = client.embeddings.create(model="fake", input=texts, encoding_format="float")
    assert [(each.index, each.embedding) for each in found.data] == [(number, UNIT) for number in range(7)]
    assert server.backend.counters.answers - before == 7
    assert [server.backend.model.tokenizer.decode(answer.ids) for answer in server.backend.asked[-7:]] == texts
    assert found.usage.prompt_tokens == sum(len(answer.ids) for answer in server.backend.asked[-7:])


def test_numbers_and_base64_are_the_same_vector():
    found = [
        ask("POST", "/v1/embeddings", json={"input": "x", "encoding_format": each}) for each in ("float", "base64")
    ]
    numbers, text = (response.json()["data"][0]["embedding"] for response in found)
    assert struct.pack("<3f", *numbers) == base64.b64decode(text) and numbers == UNIT
    assert ask("POST", "/v1/embeddings", json={"input": "x"}).json() == found[0].json()


def test_ids_and_lists_of_ids(client):
    ids = FakeBackend().model.tokenizer.encode("x = 1")
    one, two = (client.embeddings.create(model="fake", input=given) for given in (ids, [ids, ids[:1]]))
    assert one.usage.prompt_tokens == len(ids) and two.usage.prompt_tokens == len(ids) + 1 and len(two.data) == 2


def test_a_size_that_was_not_asked_for_before_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="dimensions: not supported"):
        client.embeddings.create(model="fake", input="x", dimensions=2)


def test_the_limits_of_a_key_count_inputs(tmp_path):
    keys = key_file(tmp_path / "keys", "me 0123456789abcdef requests-per-minute=5 concurrent=2\n")
    headers = {"Authorization": "Bearer 0123456789abcdef"}
    for count, status in ((5, 200), (6, 400)):  # two at once; six are never allowed
        make = partial(FakeBackend, api_key_file=keys, slots=4)
        response, backend = answered("/v1/embeddings", {"input": ["x"] * count}, make, headers=headers)
        assert response.status_code == status and len(backend.asked) == count * (status == 200)


async def test_a_request_without_room_at_its_start_is_refused_and_not_counted(tmp_path):
    keys = key_file(tmp_path / "keys", "me 0123456789abcdef requests-per-minute=45 concurrent=2\n")
    backend = FakeBackend(api_key_file=keys, slots=4)
    async with connected(backend) as client:
        client.headers["Authorization"] = "Bearer 0123456789abcdef"
        backend.paused = True
        other = asyncio.ensure_future(client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}))
        await until(lambda: backend.active)
        refused = await client.post("/v1/embeddings", json={"input": ["x"] * 40})
        backend.paused = False
        await other
        taken = await client.post("/v1/embeddings", json={"input": ["x"] * 40})
    message = (
        "Rate limit reached: at most 2 answers of this key at once; 1 are in progress, and 2 more are asked for. "
        "Please try again in 1s."
    )
    assert refused.status_code == 429 and refused.json()["error"]["message"] == message
    assert taken.status_code == 200 and len(taken.json()["data"]) == 40


class CrowdedBackend(FakeBackend):
    """Has no room three times after the first four answers, as if other requests had come."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.refused: list[int] = []  # the numbers of answers

    def check_room(self, caller, count=1):
        if len(self.asked) == 4 and self.idle and len(self.refused) < 3:
            self.refused.append(count)
            raise ApiError(429, "no room", retry_after=0.001)
        return super().check_room(caller, count)


def test_later_inputs_wait_for_room():
    texts = [f"x = {number}" for number in range(12)]
    response, backend = answered("/v1/embeddings", {"input": texts}, lambda: CrowdedBackend(slots=4))
    assert response.status_code == 200 and [each["embedding"] for each in response.json()["data"]] == [UNIT] * 12
    assert backend.refused == [4, 2, 1]
    assert [backend.model.tokenizer.decode(answer.ids) for answer in backend.asked] == texts


async def test_the_deadline_is_that_of_all_inputs():
    backend = FakeBackend(deadline=0.3, slots=1, step_seconds=0.1)
    async with connected(backend) as client:
        response = await client.post("/v1/embeddings", json={"input": ["x"] * 30})
        idle, count = backend.idle, len(backend.asked)
    assert response.status_code == 503 and response.json()["error"]["code"] == "deadline_exceeded"
    assert idle and count < 30 and response.headers["Retry-After"] == "5"


def test_an_answer_is_sent_a_vector_at_a_time(server):
    """2,048 of 5,120 numbers are 236 MB as a whole."""
    plan = AnswerPlan(fake_model(), [[1], [2, 3], [4]], SamplingSettings(1))
    head, *vectors, end = response_parts(plan, [struct.pack("<3f", 3, 4, 0)] * 3, base64=False)
    assert [json.loads(each.removeprefix(", "))["embedding"] for each in vectors] == [UNIT] * 3
    assert json.loads(head + "".join(vectors) + end)["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    response = httpx.post(f"{server.url}/v1/embeddings", json={"input": "x"})
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert response.headers["Content-Type"] == "application/json"


async def test_a_client_that_leaves_stops_the_rest():
    backend = FakeBackend(slots=3)
    async with listening(backend) as address:
        backend.paused = True
        _, writer = await asyncio.open_connection(*address)
        writer.write(raw({"input": ["x"] * 9}).replace(b"/v1/completions", b"/v1/embeddings"))
        await until(lambda: backend.active == 3)
        writer.close()
        await until(lambda: backend.idle)
    assert backend.counters.cancelled == len(backend.asked) == 3  # as many as there are slots


def test_a_base_model_and_an_unknown_one():
    assert ask("POST", "/v1/embeddings", tuned, json={"input": "x"}).status_code == 200
    response = ask("POST", "/v1/embeddings", json={"input": "x", "model": "gpt"})
    assert response.status_code == 404 and response.json()["error"]["param"] == "model"
