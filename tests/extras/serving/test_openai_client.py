"""OpenAI's own client against the server: what it reads from answers, and which exception it makes of an error."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from asking import client_of
from fake_backend import TEXT, FakeBackend, key_file
from over_http import served

KEY = "0123456789abcdef"
PROMPT = "def add(first, second):\n"
TOKENS = len(FakeBackend().model.tokenizer.encode(TEXT))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    text = f"me {KEY}\nslow fedcba9876543210 requests-per-minute=1\n"
    keys = key_file(tmp_path_factory.mktemp("keys") / "keys", text)
    with served(api_key_file=keys, max_queue=2, max_body=20_000, deadline=20.0) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    with client_of(server, api_key=KEY, timeout=30) as client:
        yield client


def test_models(client):
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "ms-codegeex")
    assert model.model_extra["infill"] == "prefix-only" and client.models.retrieve("fake").id == "fake"


def test_a_completion(client):
    found = client.completions.create(model="fake", prompt=PROMPT, max_tokens=200, temperature=0)
    (choice,) = found.choices
    assert (found.object, found.model, choice.text, choice.finish_reason) == ("text_completion", "fake", TEXT, "stop")
    assert found.id.startswith("cmpl-") and (choice.index, choice.logprobs) == (0, None)
    assert found.usage.completion_tokens == TOKENS
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_several_answers_to_several_prompts(client):
    found = client.completions.create(model="fake", prompt=[PROMPT, "x"], n=2, best_of=2, max_tokens=3, seed=1)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in found.choices} == {"length"} and found.usage.completion_tokens == 12


def test_log_probabilities(client):
    found = client.completions.create(model="fake", prompt=PROMPT, max_tokens=4, logprobs=2)
    reported = found.choices[0].logprobs
    assert reported.token_logprobs == [-1 / 8, -2 / 8, -3 / 8, -4 / 8]
    assert TEXT.startswith("".join(reported.tokens)) and len(reported.tokens) == 4
    assert [len(top) for top in reported.top_logprobs] == [2] * 4 and reported.text_offset[0] == 0
    for place, token in zip(reported.text_offset, reported.tokens, strict=True):
        assert found.choices[0].text[place:].startswith(token)


def test_a_stream_with_its_usage(client):
    stream = client.completions.create(
        model="fake", prompt=PROMPT, max_tokens=200, stream=True, n=2, stream_options={"include_usage": True}
    )
    texts, ends, usages = ["", ""], [[], []], []
    for event in stream:
        for choice in event.choices:
            texts[choice.index] += choice.text
            ends[choice.index].append(choice.finish_reason)
        usages.append(event.usage)
    assert all(one == [None] * (len(one) - 1) + ["stop"] for one in ends) and not event.choices
    assert texts == [TEXT, TEXT] and usages[-1].completion_tokens == 2 * TOKENS and not any(usages[:-1])


def test_a_stream_that_is_left_frees_its_slot(server, client):
    server.backend.step_seconds = 0.01
    with client.completions.create(model="fake", prompt=PROMPT, stream=True) as stream:
        next(iter(stream))
    while not server.backend.idle:
        httpx.get(f"{server.url}/health")
    server.backend.step_seconds = 0.0
    assert server.backend.counters.cancelled >= 1


def test_asynchronous_requests_at_once(server):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
            whole = [client.completions.create(model="fake", prompt=PROMPT, max_tokens=200) for _ in range(3)]
            texts = [(await one).choices[0].text for one in asyncio.as_completed(whole)]
            stream = await client.completions.create(model="fake", prompt=PROMPT, max_tokens=200, stream=True)
            return texts, "".join([event.choices[0].text async for event in stream])

    texts, streamed = asyncio.run(ask())
    assert texts == [TEXT] * 3 and streamed == TEXT


def test_our_own_fields_pass_through_extra_body(client):
    found = client.completions.create(
        model="fake", prompt="def f():\n", max_tokens=200, extra_body={"language": "Python", "stop_at": "block"}
    )
    assert found.choices[0].text == TEXT[: TEXT.index("def other")] and found.choices[0].finish_reason == "stop"
    found = client.completions.create(
        model="fake", prompt="f(", suffix="\n\n\ndef other():\n    pass\n", max_tokens=200
    )
    assert found.model_extra["infill"] == "prefix-only" and found.choices[0].text == TEXT[: TEXT.index("\n\n\ndef")]


@pytest.mark.parametrize(
    ("param", "value", "kind"), [("temperature", -1, openai.BadRequestError), ("model", "gpt", openai.NotFoundError)]
)
def test_errors_name_the_parameter(client, param, value, kind):
    with pytest.raises(kind) as caught:
        client.completions.create(**{"model": "fake", "prompt": PROMPT, param: value})
    assert caught.value.param == param and caught.value.type == "invalid_request_error" and caught.value.request_id


def test_a_wrong_key_is_an_authentication_error(server):
    with client_of(server, api_key=KEY[:-1]) as client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_a_key_over_its_limit_is_a_rate_limit_error(server):
    with client_of(server, api_key="fedcba9876543210") as client:
        client.completions.create(model="fake", prompt=PROMPT, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="fake", prompt=PROMPT, max_tokens=1)
    assert int(caught.value.response.headers["retry-after"]) > 30


def test_a_server_that_is_not_ready_is_an_internal_server_error(server, client):
    server.backend.engine_ready = False
    try:
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model="fake", prompt=PROMPT)
    finally:
        server.backend.engine_ready = True
    assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"]


def test_a_full_queue_is_a_rate_limit_error(server, client):
    server.backend.paused = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.completions.create, model="fake", prompt=PROMPT, n=4, max_tokens=1)
        try:
            while server.backend.queued + server.backend.active < 4:
                httpx.get(f"{server.url}/health")
            with pytest.raises(openai.RateLimitError):
                client.completions.create(model="fake", prompt=PROMPT)
        finally:
            server.backend.paused = False
        assert len(first.result().choices) == 4
