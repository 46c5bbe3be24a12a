"""`/v1/embeddings`: what OpenAI's own client reads from it, its limits, and how its inputs are computed."""

import base64
import struct

import httpx
import openai
import pytest
from asking import ask
from fake_backend import FakeBackend, fake_model, fake_settings
from over_http import served

from ms_codegeex.data.conversations import TEMPLATES

UNIT = pytest.approx([0.6, 0.8, 0.0])  # the fake backend's (3, 4, 0) times the number of ids, of length 1


@pytest.fixture(scope="module")
def server():
    with served(lambda: FakeBackend(slots=3)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
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


@pytest.mark.parametrize(
    "given", ["", [], ["x", ""], [[]], "x = 1\n" * 300, [10**9], ["x"] * 2049, {"text": "x"}, [1, "x"], [True], 1]
)  # fmt: skip
def test_a_wrong_input_is_a_400_that_names_it(given):
    response = ask("POST", "/v1/embeddings", json={"input": given})
    assert response.status_code == 400 and response.json()["error"]["param"] == "input", response.text


def test_a_size_that_was_not_asked_for_before_is_refused(client):
    with pytest.raises(openai.BadRequestError, match="dimensions: not supported"):
        client.embeddings.create(model="fake", input="x", dimensions=2)


def test_the_limits_of_a_key_count_inputs(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("me 0123456789abcdef requests-per-minute=5 concurrent=2\n")
    keys.chmod(0o600)
    backends = []

    def post(given):
        def make():
            backends.append(FakeBackend(fake_settings(api_key_file=keys), slots=4))
            return backends[-1]

        headers = {"Authorization": "Bearer 0123456789abcdef"}
        return ask("POST", "/v1/embeddings", make, json={"input": given}, headers=headers)

    assert post(["x"] * 5).status_code == 200 and len(backends[-1].asked) == 5  # two at once
    assert post(["x"] * 6).status_code == 429 and not backends[-1].asked


def test_a_client_that_leaves_stops_the_rest(server):
    server.backend.paused = True
    before = server.backend.counters.cancelled
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/embeddings", json={"input": ["x"] * 9}, timeout=0.3)
    while not server.backend.idle:
        httpx.get(f"{server.url}/health")
    server.backend.paused = False
    assert server.backend.counters.cancelled - before == 3  # as many as there are slots


def test_a_base_model_and_an_unknown_one():
    tuned = fake_model(chat=TEMPLATES["plain"])
    assert ask("POST", "/v1/embeddings", lambda: FakeBackend(model=tuned), json={"input": "x"}).status_code == 200
    response = ask("POST", "/v1/embeddings", json={"input": "x", "model": "gpt"})
    assert response.status_code == 404 and response.json()["error"]["param"] == "model"
