import socket
import sys
import types

import pytest
from openai_server import Server

from ms_codegeex.base.errors import PromptTooLong, RunFailure, UserError
from ms_codegeex.evaluation.local_model import LocalModel
from ms_codegeex.evaluation.recipe import Recipe
from ms_codegeex.evaluation.sampling import samplers
from ms_codegeex.evaluation.sampling.samplers import EngineSampler, ServerSampler
from ms_codegeex.evaluation.task import SampledAnswer

RECIPE = Recipe("humaneval", temperature=0.5, top_p=0.9, max_new_tokens=20)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(samplers, "RETRIES", 2)


def test_what_a_server_is_asked_and_what_it_answers():
    with Server(lambda body: (f"{body['prompt']} {body['seed']}", "stop")) as server:
        sampler = ServerSampler(server.url + "/completions/", RECIPE, key="secret")
        assert sampler("a", seed=7) == SampledAnswer("a 7", "eos")
        assert sampler("b", seed=8, max_new_tokens=3).text == "b 8"
        assert sampler.identity == {"url": server.url, "model": "small"}
        first, second = server.requests
        assert server.authorizations == {"Bearer secret"}
    reported = {"model": "small", "prompt": "a", "seed": 7, "temperature": 0.5, "top_p": 0.9, "max_tokens": 20}
    assert {**first, **reported} == first and "top_k" not in first and "stop" not in first
    assert second["max_tokens"] == 3


def test_fields_of_the_recipe_and_of_the_user():
    recipe = Recipe("humaneval", top_p=0.9, top_k=5, max_new_tokens=2000, max_length=1024)
    with Server(lambda body: ("x", "length")) as server:
        assert ServerSampler(server.url, recipe, "m")("p", seed=0).finish == "length"
        ServerSampler(server.url, recipe, "m", fields={"top_k": -1, "min_p": 0.1})("p", seed=0)
        first, second = server.requests
    assert (first["temperature"], first["top_p"], first["top_k"], first["max_tokens"]) == (0, 1.0, 5, 1024)
    assert (second["top_k"], second["min_p"]) == (-1, 0.1)


def test_the_tasks_rule_ends_a_text_in_the_middle_of_a_chunk():
    recipe = Recipe("humaneval", stops=("STOP",))
    with Server(lambda body: (body["prompt"], "length")) as server:
        sampler = ServerSampler(server.url, recipe, "m")
        assert sampler("ab}cdefgh", seed=0, stop=lambda text: "}" in text) == SampledAnswer("ab}", "stop")
        assert sampler("abcdSTOPefgh", seed=0, stop=lambda text: "e" in text) == SampledAnswer("abcd", "stop")
        assert sampler("abc", seed=0, stop=lambda text: "e" in text) == SampledAnswer("abc", "length")


def test_failures_pass_and_are_tried_again():
    failures = [(503, "busy"), (429, "slow down")]
    with Server(lambda body: failures.pop() if failures else ("fine", "stop")) as server:
        assert ServerSampler(server.url, RECIPE, "m")("p", seed=0).text == "fine"
        assert len(server.requests) == 3


def test_an_answer_that_breaks_off_is_asked_for_again():
    reasons = [None, None]
    with Server(lambda body: ("whole", reasons.pop() if reasons else "stop")) as server:
        assert ServerSampler(server.url, RECIPE, "m")("p", seed=0).text == "whole"
        assert len(server.requests) == 3
    with Server(lambda body: ("half", None)) as server, pytest.raises(RunFailure, match="breaks off"):
        ServerSampler(server.url, RECIPE, "m")("p", seed=0)


@pytest.mark.parametrize(
    "status, message, kind, words",
    [
        (401, "bad key", UserError, "--api-key-file: .* refuses the key .*bad key"),
        (403, "not you", UserError, "forbids it .*not you"),
        (404, "no model m", UserError, "no such model or no completions .*no model m"),
        (400, "unknown field top_k", UserError, "refuses the request .*top_k.*--url-field"),
        (500, "it\nburns", RunFailure, "it burns.*run the same command again"),
    ],
)
def test_refusals_are_reported_in_a_line(status, message, kind, words):
    with Server(lambda body: (status, message)) as server, pytest.raises(kind, match=words) as caught:
        ServerSampler(server.url, RECIPE, "m")("p", seed=0)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_is_too_long_is_an_error_of_its_own():
    message = "This model's maximum context length is 16 tokens. However, you requested 40 tokens."
    with Server(lambda body: (400, message)) as server, pytest.raises(PromptTooLong, match="requested 40 tokens"):
        ServerSampler(server.url, RECIPE, "m")("p", seed=0)


def test_servers_that_are_not_there_and_models_that_must_be_chosen(monkeypatch):
    monkeypatch.setattr(samplers, "RETRIES", 0)  # each comes after a pause
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match="cannot be reached"):
        ServerSampler(url, RECIPE)
    with pytest.raises(UserError, match="not the address of a server"):
        ServerSampler("localhost:8000", RECIPE)
    for malformed in ("http://127.0.0.1:abc/v1", "http://[::1"):
        with pytest.raises(UserError, match=r"^--url: \S+ is not the address of a server \(Invalid port"):
            ServerSampler(malformed, RECIPE)
    with (
        Server(lambda body: ("", "stop"), models=("a", "b")) as server,
        pytest.raises(UserError, match=r"--url-model: missing; .* has a, b"),
    ):
        ServerSampler(server.url, RECIPE)


class Speller:
    """A model of 12 tokens that writes `abcde`, one letter per token, and ends."""

    seq_length = 12

    def __init__(self, path, slots, **_):
        self.path, self.tokenizer, self.asked, self.slots = path, self, [], slots or 16

    def encode_prompt(self, prompt):
        return list(prompt)

    def continuation(self, before, ids, broken="ignore"):
        return map(str, ids)

    def tokens(self, ids, settings):
        self.asked.append(settings)
        yield from "abcde"[: settings.max_new_tokens]


@pytest.fixture
def speller(monkeypatch, tmp_path):
    module = types.ModuleType("ms_codegeex.generation.engine")
    module.Generator = Speller
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(LocalModel, "resolved", lambda self: self)
    return lambda slots=None, **recipe: EngineSampler(LocalModel(tmp_path, slots=slots), Recipe("humaneval", **recipe))


def test_the_engine_ends_by_itself_by_the_rule_or_by_length(speller):
    sampler = speller(temperature=0.5, top_k=3, top_p=0.9, max_new_tokens=4)
    assert sampler("p", seed=7) == SampledAnswer("abcd", "length")
    assert sampler("p", seed=7, max_new_tokens=9) == SampledAnswer("abcde", "eos")
    assert sampler("p", seed=7, stop=lambda text: "b" in text) == SampledAnswer("ab", "stop")
    settings = sampler.generator.asked[0]
    assert (settings.temperature, settings.top_k, settings.top_p, settings.seed) == (0.5, 3, 0.9, 7)
    assert speller(stops=("cd",))("p", seed=0) == SampledAnswer("ab", "stop")


def test_a_text_more_than_there_are_slots_is_asked_for(speller):
    assert (speller().concurrency, speller(3).concurrency) == (17, 4)


def test_the_engines_context_is_that_of_the_model_or_the_recipe(speller):
    assert speller()("p" * 10, seed=0) == SampledAnswer("ab", "length")
    assert speller(max_length=5)("ppp", seed=0) == SampledAnswer("ab", "length")
    for recipe, prompt in (({}, "p" * 12), ({"max_length": 5}, "p" * 5)):
        with pytest.raises(PromptTooLong, match="tokens, the model and the recipe allow"):
            speller(**recipe)(prompt, seed=0)
