"""The server with a real engine: answers are the bare engine's, whatever else happens."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from asking import client_of
from served import served
from small_adapters import write_adapters
from small_benchmarks import write_model

from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.slots import Part

PROMPTS = ["def add(a, b):\n", "# language: Python\nx = [", "你好", "for (int i = 0;", "def add(a, b, c):\n"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def adapters(model, tmp_path_factory):
    """By their names."""
    root = tmp_path_factory.mktemp("adapters")
    return {name: write_adapters(root / name, model, seed) for seed, name in enumerate(("sql", "tests"))}


@pytest.fixture(scope="module")
def generator(model, adapters):
    return Generator(model, threads=1, slots=4, adapters=adapters)


@pytest.fixture(scope="module")
def server(model, adapters, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    named = [f"{name}={place}" for name, place in adapters.items()]
    options = ("--max-concurrency", 4, "--max-queue", 40, "--name", "tiny", "--adapter", *named)
    with served(model, log, *options) as found:
        yield found
    assert "Traceback" not in log.read_text()


def complete(server, **body):
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(server, **body):
    """The events of a streamed completion."""
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**body, "stream": True}, timeout=300) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def expected(generator, prompt, **settings):
    """What the bare engine answers."""
    values = {"max_new_tokens": 16, "temperature": 1.0, "top_p": 1.0, **settings}
    return generator.answers(generator.encode(prompt), SamplingSettings(**values))


def test_greedy_and_sampled_answers_are_the_bare_engines(server, generator):
    cases = [(prompt, {"temperature": 0.0}) for prompt in PROMPTS]
    cases += [(prompt, {"temperature": 1.5, "top_k": 50, "top_p": 0.9, "seed": 7, "n": 2}) for prompt in PROMPTS]
    penalties = {"repetition_penalty": 1.5, "frequency_penalty": 0.7, "presence_penalty": -1}
    cases.append((PROMPTS[0], {"temperature": 0.0, **penalties}))

    def asked(case):
        prompt, settings = case
        body = {"prompt": prompt, "max_tokens": 16, **settings}
        pieces = streamed(server, **body)
        return complete(server, **body), pieces

    with ThreadPoolExecutor(len(cases)) as pool:
        found = list(pool.map(asked, cases))
    for (prompt, settings), (body, pieces) in zip(cases, found, strict=True):
        wanted = expected(generator, prompt, **settings)
        assert [choice["text"] for choice in body["choices"]] == [answer.text for answer in wanted]
        assert body["usage"]["completion_tokens"] == sum(len(answer.tokens) for answer in wanted)
        assert body["usage"]["prompt_tokens"] == len(generator.encode(prompt))
        for number, answer in enumerate(wanted):
            mine = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == number]
            assert "".join(choice["text"] for choice in mine) == answer.text
            assert mine[-1]["finish_reason"] == {"eos": "stop"}.get(answer.finish, answer.finish)
            assert [choice["finish_reason"] for choice in mine[:-1]] == [None] * (len(mine) - 1)


def test_each_adapter_gives_its_answers_while_others_run(server, adapters, generator):
    """Those of the bare engine, which generation/test_loaded_adapters.py compares with the merged models."""
    names = {"tiny": "", **{name: name for name in adapters}}
    cases = [(name, prompt) for prompt in PROMPTS[:3] for name in names]

    def asked(case):
        return complete(server, model=case[0], prompt=case[1], max_tokens=12, temperature=0)

    with ThreadPoolExecutor(len(cases)) as pool:
        found = list(pool.map(asked, cases))
    for (name, prompt), body in zip(cases, found, strict=True):
        wanted = expected(generator, prompt, max_new_tokens=12, temperature=0.0, adapter=names[name])
        assert (body["model"], body["choices"][0]["text"]) == (name, wanted[0].text)
    texts = [body["choices"][0]["text"] for body in found]
    assert all(len(set(texts[begin : begin + 3])) == 3 for begin in (0, 3, 6))


def test_only_the_engines_process_has_the_operators_and_none_has_mindspore(server):
    def mapped(process, name):
        return [each.path for each in process.memory_maps() if name in each.path]

    engine, server = server.engine(), psutil.Process(server.process.pid)
    assert mapped(engine, "kernels-") and not mapped(server, "kernels-")
    assert not mapped(engine, "mindspore") and not mapped(server, "mindspore")


def test_log_probabilities_of_an_echoed_prompt_are_the_engines(server, generator):
    prompt = PROMPTS[0]
    ids = generator.encode(prompt)
    body = complete(server, prompt=prompt, max_tokens=0, echo=True, logprobs=3)
    (choice,) = body["choices"]
    found = choice["logprobs"]
    assert choice["text"] == prompt == "".join(found["tokens"]) and choice["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
    assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
    np.testing.assert_allclose(found["token_logprobs"][1:], generator.log_probabilities(ids), atol=1e-5)
    for place in range(1, len(ids)):
        logits = generator.logits(ids[:place]).astype(np.float64)
        logits -= logits.max() + np.log(np.exp(logits - logits.max()).sum())
        scores = np.sort(logits[: generator.engine.allowed])
        np.testing.assert_allclose(sorted(found["top_logprobs"][place].values()), scores[-3:], atol=1e-5)
    starts = [prompt.index(token, place) for token, place in zip(found["tokens"], found["text_offset"], strict=True)]
    assert starts == found["text_offset"]


def test_streamed_log_probabilities_with_echo_are_those_of_the_whole(server):
    body = {"prompt": PROMPTS[:2], "max_tokens": 5, "echo": True, "logprobs": 2, "temperature": 0, "n": 2}
    whole, pieces = complete(server, **body), streamed(server, **body)
    for choice in whole["choices"]:
        mine = [piece["choices"][0] for piece in pieces if piece["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in mine) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [value for one in mine for value in one["logprobs"][name]] == values, name
        for token, begin in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True):
            assert token.startswith("bytes:") or choice["text"].startswith(token, begin)


def test_best_of_gives_the_likeliest(server, generator):
    wanted = expected(generator, PROMPTS[0], seed=3, n=6)
    wanted.sort(key=lambda answer: -np.mean([token.score for token in answer.tokens]))
    body = complete(server, prompt=PROMPTS[0], max_tokens=16, best_of=6, n=2, seed=3)
    assert [choice["text"] for choice in body["choices"]] == [answer.text for answer in wanted[:2]]
    assert body["usage"]["completion_tokens"] == sum(len(answer.tokens) for answer in wanted)


def test_a_stop_text_ends_the_answer_with_the_tokens_that_it_took(server, generator):
    text = expected(generator, PROMPTS[3], temperature=0.0)[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    wanted = expected(generator, PROMPTS[3], temperature=0.0, stop=(stop,))[0]
    body = complete(server, prompt=PROMPTS[3], max_tokens=16, temperature=0, stop=stop, logprobs=0)
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == (wanted.text, "stop")
    assert body["usage"]["completion_tokens"] == len(wanted.tokens)
    assert "".join(choice["logprobs"]["tokens"]) == wanted.text
    assert all(place < len(wanted.text) for place in choice["logprobs"]["text_offset"])


def counted(server, name):
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"ms_codegeex_{name} "))


def test_prompts_that_no_slot_holds_any_more_are_not_computed_again(server):
    """Six in turn, in four slots."""
    prompts = [f"def function_{number}(argument_{number}, other):\n" * 5 for number in range(6)]
    before = counted(server, "prefix_tokens_total")
    first, second = ([complete(server, prompt=each, max_tokens=5, temperature=0) for each in prompts] for _ in "ab")
    assert [body["choices"] for body in first] == [body["choices"] for body in second]
    tokens = sum(body["usage"]["prompt_tokens"] for body in second)
    assert tokens - 6 * 30 < counted(server, "prefix_tokens_total") - before < tokens
    assert counted(server, "prefix_hits_total") >= 6 and counted(server, "prefix_bytes") > 0


def test_a_prompt_that_was_computed_ahead_is_there(server):
    """As llama.vscode asks while one types: `n_predict: 0` computes the prompt and says nothing."""
    prefix = "class Ahead:\n    def method(self, one, two):\n        return one +"
    body = {"input_prefix": prefix, "n_predict": 0}
    ahead = httpx.post(f"{server.url}/infill", json=body, timeout=300).json()
    assert (ahead["content"], ahead["tokens_predicted"]) == ("", 0)
    reused, steps = counted(server, "reused_tokens_total"), counted(server, "steps_total")
    complete(server, prompt=prefix, max_tokens=1, temperature=0)
    assert counted(server, "reused_tokens_total") - reused == ahead["tokens_evaluated"] - 1
    assert counted(server, "steps_total") - steps == 1
    again = httpx.post(f"{server.url}/infill", json={"prompt": prefix, "n_predict": 1}, timeout=300).json()
    assert (again["timings"]["cache_n"], again["timings"]["prompt_n"]) == (ahead["tokens_evaluated"] - 1, 1)


def test_embeddings_are_the_means_of_the_engines_hidden_states(server, generator):
    """Of a text whose beginning a slot holds, beside an answer, in a list and alone."""
    texts = [*PROMPTS, "class Other:\n    pass\n" * 20]
    with client_of(server) as client:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(complete, server, prompt=PROMPTS[0], max_tokens=60, temperature=0)
            several = client.embeddings.create(model="tiny", input=texts).data
            answer.result()
        (alone,) = client.embeddings.create(model="tiny", input=texts[-1:]).data
        (other,) = client.embeddings.create(model="sql", input=texts[-1:]).data
    assert several[-1].embedding == alone.embedding != other.embedding
    for text, found in zip(texts, several, strict=True):
        ids, states = generator.encode(text), np.zeros(generator.config.hidden_size)
        generator.engine.clear(0)
        for begin in range(0, len(ids), 100):
            generator.engine.advance([Part(0, begin, ids[begin : begin + 100], states=states)])
        assert np.abs(np.array(found.embedding) - states / np.linalg.norm(states)).max() <= 1e-6


BIG = (1 << 30, (1 << 30) + 1, 1 << 63, 10**300)
SMALL = (0, -1, 1e-300, 1e-40, 5e-324, -1e308, 1e308)
BIASES = {str(number): 1e6 for number in range(400)}
EXTREMES = {
    "temperature": SMALL,
    "top_p": (*SMALL, 1.0),
    "top_k": (-1, 0, 1, *BIG),
    "presence_penalty": (*SMALL, 100, -100),
    "frequency_penalty": (*SMALL, 100, -100),
    "repetition_penalty": (*SMALL, 0.01, 100),
    "seed": (-1, *BIG),
    "n": (0, 128, *BIG),
    "best_of": (0, 128, *BIG),
    "max_tokens": (-1, 0, *BIG),
    "logprobs": (-1, 256, *BIG),
    "stop": ("", ["x"] * 65, "x" * 100_000),
    "logit_bias": (BIASES, dict(list(BIASES.items())[:300]), {"0": 1e308}, {"0": -1e6}, {str(10**8): 1.0}),
    "prompt": ([[0] * 600], [1 << 62], [-1], [10**300], ["x"] * 129, ""),
}


@pytest.mark.slow
def test_no_value_of_a_setting_ends_the_engine(server):
    before = server.engine().pid
    with httpx.Client(base_url=server.url, timeout=300) as client:
        for name, values in EXTREMES.items():
            for value in values:
                body = {"prompt": "x = ", "max_tokens": 1, "temperature": 1.0, name: value}
                response = client.post("/v1/completions", json=body)
                assert response.status_code in (200, 400), (name, value, response.text)
                if response.status_code == 400:
                    assert response.json()["error"]["param"] == {"best_of": "n"}.get(name, name) or name == "best_of"
    assert server.engine().pid == before


def test_a_very_low_temperature_is_greedy(server):
    body = {"prompt": PROMPTS[0], "max_tokens": 8, "seed": 4}
    (greedy,) = complete(server, **body, temperature=0)["choices"]
    for temperature in (1e-300, 1e-40, 1e-6):
        assert complete(server, **body, temperature=temperature)["choices"] == [greedy]
