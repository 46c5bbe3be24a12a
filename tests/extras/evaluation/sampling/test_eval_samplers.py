"""Samplers: what they ask and give. A server that answers something else, or nothing, is one line that says what it
was, and no finished row is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import types

import pytest
from openai_server import Server

from ms_codegeex.base.errors import PromptTooLong, RunFailure, UserError
from ms_codegeex.extras.evaluation import progress
from ms_codegeex.extras.evaluation.jsonl import read_rows
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.sampling import samplers
from ms_codegeex.extras.evaluation.sampling.samplers import EngineSampler, ServerSampler
from ms_codegeex.extras.evaluation.stop_rules import unindented, words
from ms_codegeex.extras.evaluation.task import SampledAnswer
from ms_codegeex.generation import stopping

RECIPE = Recipe("humaneval", temperature=0.5, top_p=0.9, max_new_tokens=20)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(samplers, "RETRIES", 1)


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
        ServerSampler(server.url, recipe, "m", fields={"top_k": -1, "min_p": 0.1, "seed": None})("p", seed=0)
        first, second = server.requests
    assert (first["temperature"], first["top_p"], first["top_k"], first["max_tokens"]) == (0, 1.0, 5, 1024)
    assert (second["top_k"], second["min_p"]) == (-1, 0.1) and "seed" in first and "seed" not in second


def test_the_tasks_rule_ends_a_text_in_the_middle_of_a_chunk():
    recipe = Recipe("humaneval", stops=("STOP",))
    with Server(lambda body: (body["prompt"], "length")) as server:
        sampler = ServerSampler(server.url, recipe, "m")
        assert sampler("ab}cdefgh", seed=0, stop=words(["}"])) == SampledAnswer("ab}", "stop")
        assert sampler("abcdSTOPefgh", seed=0, stop=words(["e"])) == SampledAnswer("abcd", "stop")
        assert sampler("abcSTO", seed=0, stop=words(["e"])) == SampledAnswer("abcSTO", "length")
        assert sampler(" a\nbc", seed=0, stop=unindented) == SampledAnswer(" a\nb", "stop")  # all that the rule read


STREAM = "text/event-stream"


def sent(value) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def event(text="x", finish=None) -> bytes:
    return sent({"id": "1", "choices": [{"text": text, "index": 0, "finish_reason": finish}]})


def chat(*choices) -> tuple[bytes, str]:
    return b"".join(sent({"choices": [choice]}) for choice in choices), STREAM


END = {"delta": {}, "finish_reason": "stop"}
USAGE = b"".join(sent({**choices, "usage": {}}) for choices in ({"choices": []}, {"choices": None}, {}))
QUIET = b": processing\n\ndata:\n\ndata: \r\n\r\nevent: ping\n\n"  # what keeps a connection open
PARTS = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    "answers, text",
    [
        ([(QUIET + event("a") + USAGE + QUIET + event("b", "stop") + b"data: [DONE]\n\n", STREAM)], "ab"),
        ([(event("a") + event(None, "stop"), STREAM)], "a"),
        ([chat({"delta": {"content": "a"}}, {"content_filter_results": {}}, {"delta": None}, END)], "a"),
        ([chat({"delta": {"content": None, "reasoning_content": "so"}}, {"delta": {"content": PARTS}}, END)], "ab"),
        # the first one is not accepted: it is asked for again
        ([(event("whole", "stop"), STREAM), (b"data: {oops\n\n", STREAM)], "whole"),
        ([("whole", "stop"), ("half", None)], "whole"),
        ([("whole", "stop"), ("half", "abort"), ("half", "error")], "whole"),
        ([("fine", "stop"), (503, "busy")], "fine"),
        ([("fine", "stop"), (429, "slow down")], "fine"),
    ],
)
def test_answers_that_are_read_in_the_end(monkeypatch, answers, text):
    monkeypatch.setattr(samplers, "RETRIES", len(answers) - 1)
    left, template = [*answers], "{prompt}" if b"delta" in bytes(str(answers), "utf-8") else None
    with Server(lambda body: left.pop()) as server:
        answer = ServerSampler(server.url, RECIPE, "m", template=template)("p", seed=0)
        assert answer == SampledAnswer(text, "eos", template is not None)
        assert len(server.requests) == len(answers)


WHOLE = json.dumps({"choices": [{"text": "x", "index": 0, "finish_reason": "stop"}]}).encode()
FOREIGN = "sends an event that does not belong to a completion"
REFUSALS = [
    ((401, "bad key"), UserError, "--api-key-file: .* refuses the key .*bad key"),
    ((403, "not you"), UserError, "forbids it .*not you"),
    ((404, "no model m"), UserError, "no such model or no completions .*no model m"),
    ((400, "unknown field top_k"), UserError, "refuses the request .*top_k.*--url-field"),
    ((400, "maximum context length is 16 tokens, you requested 40"), PromptTooLong, "you requested 40"),
    ((400, "prompt (5000) is longer than the maximum model length of 2048"), PromptTooLong, "prompt .5000. is longer"),
    ((422, "`inputs` must have less than 1024 tokens. Given: 1500"), PromptTooLong, "Given: 1500"),
    ((sent({"error": {"message": "exceeds the available context size"}}), STREAM), PromptTooLong, "context size"),
    ((422, "seed: extra inputs are not permitted"), UserError, "refuses the request .seed: extra"),
    ((402, "no credits"), UserError, "refuses the request .no credits"),
    ((405, "no such method"), UserError, "no such method.*mostly end in /v1"),
    ((500, "it\nburns"), RunFailure, "it burns.*run the same command again"),
    ((event() + b"data: {oops\n\n", STREAM), RunFailure, "sends an event that is not JSON"),
    ((event() + b"data: \xff\xfe\n\n", STREAM), RunFailure, "sends an event that is not UTF-8"),
    ((b"data: [1, 2]\n\n", STREAM), RunFailure, FOREIGN),
    ((b'data: {"choices": 3}\n\n', STREAM), RunFailure, FOREIGN),
    ((sent({"object": "error", "message": "died"}), STREAM), RunFailure, f"{FOREIGN}.*died"),
    (chat({"delta": {"content": "a"}}, END), RunFailure, FOREIGN),  # where no chat was asked for
    ((b'data: {"choices": [{"text": 7, "index": 0}]}\n\n', STREAM), RunFailure, FOREIGN),
    ((b'data: {"choices": []}\n\ndata: [DONE]\n\n', STREAM), RunFailure, "sends answers without choices"),
    ((event() + event(), STREAM), RunFailure, "breaks off its answers"),
    ((WHOLE, "application/json"), RunFailure, r"answers all at once, as JSON, instead of a stream of events \('\{"),
    ((b"<html>Welcome</html>", "text/html"), RunFailure, "answers with text/html instead of .*<html>Welcome"),
    ((event() + b'data: {"error": {"message": "out of\\nluck"}}\n\n', STREAM), RunFailure, "out of luck"),
    ((sent({"error": "out of luck"}), STREAM), RunFailure, "out of luck"),
    (None, RunFailure, r"is silent for 0\.5 s \(--url-timeout\)"),
]


@pytest.mark.parametrize("answer, kind, words", REFUSALS)
def test_what_is_no_answer_is_said_in_a_line(answer, kind, words):
    with Server(lambda body: answer) as server, pytest.raises(kind, match=words) as caught:
        ServerSampler(server.url, RECIPE, "m", timeout=0.5 if answer is None else 60)("p", seed=0)
    assert "\n" not in str(caught.value) and server.url in str(caught.value)
    if kind is RunFailure:
        assert str(caught.value).startswith(f"{caught.value.reason}; ") and "; " not in caught.value.reason


@pytest.mark.parametrize("models", [b"<html></html>", b"[]", b'{"data": 3}', b'{"data": [{}]}'])
def test_a_list_of_models_that_is_none(models):
    with Server(lambda body: None, models) as server, pytest.raises(UserError, match="not a list of models"):
        ServerSampler(server.url, RECIPE)


def test_a_model_beside_its_adapters_is_the_one_that_is_asked():
    """As vLLM and `serve` list them."""
    listed = [{"id": "ours", "object": "model", "parent": "base"}, {"id": "base", "object": "model", "parent": None}]
    with Server(lambda body: None, json.dumps({"object": "list", "data": listed}).encode()) as server:
        assert ServerSampler(server.url, RECIPE).model == "base"


MANY = (*"ab", *map(str, range(58)))


@pytest.mark.parametrize(
    "url, words",
    [
        ("http://127.0.0.1:{free}/v1", "cannot be reached"),
        ("localhost:8000", "not the address of a server"),
        ("http://127.0.0.1:abc/v1", r"^--url: \S+ is not the address of a server \(Invalid port"),
        ("{two}", r"--url-model: missing; .* has a, b, 0, .*, 47, 10 more$"),
    ],
)
def test_servers_that_are_not_there_and_models_that_must_be_chosen(monkeypatch, url, words):
    asked_again = lambda *_, **__: pytest.fail("asked again, after a pause")  # noqa: E731
    monkeypatch.setattr("openai._base_client.SyncAPIClient._sleep_for_retry", asked_again)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        Server(lambda body: ("", "stop"), models=MANY) as two,
        pytest.raises(UserError, match=words),
    ):
        ServerSampler(url.format(free=port, two=two.url), RECIPE)


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
    assert sampler("p", seed=7, stop=words(["b"])) == SampledAnswer("ab", "stop")
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


def test_a_long_answer_is_read_once():
    def never(text):
        raise AssertionError("reads everything again")

    rule = stopping.Rule(never, lambda: lambda piece: None)
    data = b"".join(event("x" * 16) for _ in range(200)) + event("", "stop")
    with Server(lambda body: (data, STREAM)) as server:
        assert ServerSampler(server.url, RECIPE, "m")("p", seed=0, stop=rule).text == "x" * 3200


def test_one_failure_loses_nothing_that_others_have_finished():
    """Three wait until the fourth has failed, and their results are kept. No other work begins."""
    failing, started = [], threading.Barrier(4)

    def work(number):
        if number < 4:
            if number == 2:
                failing.append(threading.current_thread())
            started.wait()
        if number == 2:
            raise RunFailure("the server burns")
        failing[0].join()
        return 10 * number

    found = []
    with pytest.raises(RunFailure, match="burns"):
        for pair in progress.in_parallel(range(1000), work, 4, "samples", False):
            found.append(pair)
    assert set(found) == {(0, 0), (1, 10), (3, 30)}


PROBLEM = {"task_id": "a/0", "prompt": "def f():\n", "test": "def check(f): pass\n", "entry_point": "f"}


@pytest.mark.slow
def test_a_hanging_server_does_not_keep_anybody_from_leaving(tmp_path):
    """SIGTERM while some samples exist and all connections hang: the process ends, and the samples are kept."""
    data, output, hanging = tmp_path / "he.jsonl", tmp_path / "out", threading.Event()
    data.write_text("".join(json.dumps({**PROBLEM, "task_id": f"a/{number}"}) + "\n" for number in range(6)))
    left, lock = [2], threading.Lock()

    def answer(body):
        with lock:
            left[0] -= 1
            if left[0] >= 0:
                return "    pass\n", "stop"
        hanging.set()

    with Server(answer) as server:
        words = ["evaluate", "humaneval", "--data", data, "--output", output, "--url", server.url, "--url-model", "m"]
        command = [sys.executable, "-m", "ms_codegeex.cli", *map(str, words), "--generate-only"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert hanging.wait(120), process.communicate()
        samples, deadline = output / "samples.jsonl", time.monotonic() + 120  # the two rows may still be on their way
        while not samples.exists() or samples.read_bytes().count(b"\n") < 2:
            assert time.monotonic() < deadline, "the rows were not written"
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)  # ten minutes before there was an end to waiting
        assert process.returncode == 128 + signal.SIGTERM
    assert len(read_rows(output / "samples.jsonl")) == 2
