"""`/v1/completions` in OpenAI's shape, without an engine."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from asking import answered, ask, connected, events, running
from fake_backend import TEXT, FakeBackend, cached_tokenizer, fake_model

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving import backend as backends
from ms_codegeex.extras.serving.model import step_of
from ms_codegeex.generation.sampling import SamplingSettings

PATH, PROMPT = "/v1/completions", "def add(first, second):\n"


def post(body, make=FakeBackend):
    return ask("POST", PATH, make, json={"prompt": PROMPT, **body})


def test_a_stop_text_that_ends_an_answer_frees_its_slot():
    (answer,) = given({"stop": "second"})
    assert answer._backend.dropped == [answer]
    (answer,) = given({})
    assert not answer._backend.dropped


TRIMMED = {
    "stop": ({"stop": "cond"}, "    return first + se"),
    "stop between characters": ({"stop": "和"}, "    return first + second  # "),
    "block": ({"stop_at": "block", "language": "Python"}, TEXT[: TEXT.index("def other")]),
    "suffix": ({"suffix": " + second  # 和\n\n\ndef other():\n    pass\n", "max_tokens": 100}, "    return first"),
    "suffix within a token": ({"suffix": ":\n    pass\n"}, TEXT[: TEXT.index(":\n    pass")]),
}


@pytest.mark.parametrize("case", TRIMMED)
def test_tokens_of_log_probabilities_end_where_the_text_does(case):
    fields, text = TRIMMED[case]
    (choice,) = post({**fields, "logprobs": 1}).json()["choices"]
    shown = "".join(choice["logprobs"]["tokens"]).replace("bytes:", "")
    assert shown == text.replace(" 和", r"\x20\xe5\x92\x8c")
    assert (choice["text"], choice["finish_reason"]) == (text, "stop")
    pieces = [event["choices"][0] for event in events(post({**fields, "logprobs": 1, "stream": True}))]
    assert "".join(piece["text"] for piece in pieces) == text
    for name, values in choice["logprobs"].items():
        assert [value for piece in pieces for value in piece["logprobs"][name]] == values, name


def test_prompts_may_be_ids():
    texts = ["x = 1", "def f():"]
    ids = [cached_tokenizer().encode(text) for text in texts]
    for prompts in (texts, ids):
        assert [answer.ids for answer in given({"prompt": prompts})] == ids
    assert given({"prompt": ids[1]})[0].ids == ids[1]


@pytest.mark.parametrize("prompt", ["", None])
def test_without_a_prompt_a_document_begins(prompt):
    response, backend = answered(PATH, {"prompt": prompt})
    assert response.status_code == 200 and response.json()["usage"]["prompt_tokens"] == 1
    assert backend.asked[0].ids == [backend.model.tokenizer.eos_id]


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers_or_cut():
    prompt = "x = 1\n" * 300
    error = post({"prompt": prompt}).json()["error"]
    assert error["code"] == "context_length_exceeded" and "256" in error["message"]
    assert any(int(word) > 256 for word in error["message"].split() if word.isdigit())
    body = post({"prompt": prompt, "truncate_prompt": True, "max_tokens": 10}).json()
    assert 246 - step_of(246) < body["usage"]["prompt_tokens"] <= 246


BROKEN = {  # bodies as shells and old clients send them: the kind, what the error says
    b"{'prompt': 'x'}": ("application/json", "the body is not JSON"),
    b'["x"]': ("application/json", "the body is not a JSON object"),
    '{"prompt": "\xe9"}'.encode("latin-1"): ("application/json", "the body is not UTF-8 text; send"),
    b"\x1f\x8b\x08": ("application/json", "the body is not UTF-8 text but gzip; send"),
    b'{"prompt": "x"}': ("text/plain", "send Content-Type: application/json"),
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_body_that_cannot_be_read_is_told_what_is_right(content):
    kind, words = BROKEN[content]
    headers = {"Content-Type": kind} | ({"Content-Encoding": "gzip"} if "gzip" in words else {})
    response = ask("POST", PATH, content=content, headers=headers)
    assert response.status_code == 400 and words in response.json()["error"]["message"]


def test_another_model_is_unknown():
    response = post({"model": "gpt"})
    assert response.status_code == 404 and response.json()["error"]["code"] == "model_not_found"


def test_the_list_of_models():
    (model,) = ask("GET", "/v1/models").json()["data"]
    assert (model["context_length"], model["chat"]) == (256, False) and "Python" in model["languages"]
    (listed,) = ask("GET", "/v1/models/").json()["data"]
    assert {**listed, "created": 0} == {**model, "created": 0}
    assert ask("GET", "/nothing").json()["error"]["type"] == "invalid_request_error"


def given(body):
    """The answers that the engine is asked for."""
    response, backend = answered(PATH, {"prompt": PROMPT, **body}, partial(FakeBackend, slots=8))
    assert response.status_code == 200
    return backend.asked


def test_settings_reach_the_engine_under_their_names():
    same = {"temperature": 0.5, "top_p": 0.75, "top_k": 7, "repetition_penalty": 1.25}
    same |= {"presence_penalty": 1.0, "frequency_penalty": 0.5}
    other = {"max_tokens": 9.0, "seed": -2, "n": 2, "logit_bias": {"5": -100, "6": 2.5}, "logprobs": 3, "stop": "end"}
    first, second = given({**same, **other})
    bias = {5: -100.0, 6: 2.5}
    wanted = SamplingSettings(9, **same, seed=2**64 - 2, logit_bias=bias, log_probabilities=3, stop=("end",))
    assert first.settings == wanted and second.settings == replace(wanted, seed=2**64 - 1)
    assert 0 < given({"top_p": 0})[0].settings.top_p < 1e-6  # the likeliest token, as OpenAI's API has it


def test_defaults_are_openais_and_a_seed_is_drawn_for_each_request():
    one, two = (given({"temperature": None, "n": None})[0].settings for _ in range(2))
    assert (one.temperature, one.top_p, one.top_k, one.max_new_tokens) == (1.0, 1.0, 0, 128)
    assert one.seed != two.seed and one == replace(two, seed=one.seed)


def test_the_same_prompt_with_the_same_seed_is_said_once(capsys, monkeypatch):
    """Without the prompt. Not for other seeds, greedy answers, drawn seeds and long afterwards; memory is bounded."""
    clock = [0.0]
    monkeypatch.setattr(backends, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def said(*requests):
        draws = backends.Draws()
        for ids, values in requests:
            draws.note(ids, SamplingSettings(1, **{"temperature": 0.8, "seed": 3, **values}))
            clock[0] += 1
        assert len(draws._times) <= backends.REMEMBERED
        return capsys.readouterr().err

    same = ([5, 6], {})
    (line,) = said(same, same, same).splitlines()
    assert "same seed (3) and temperature 0.8: its answers are equal" in line and "[5, 6]" not in line
    for other in (([5, 6], {"seed": 4}), ([5], {}), ([5, 6], {"temperature": 0.2})):
        assert said(same, other) == ""
    assert said(*2 * [([5, 6], {"temperature": 0.0})]) == ""
    assert said(same, *(([number], {}) for number in range(61)), same) == ""
    assert said(*(([number], {}) for number in range(2 * backends.REMEMBERED))) == ""


def test_equal_requests_are_noticed_and_others_are_not(capsys):
    async def sent(**values):
        async with connected(FakeBackend()) as client:
            for _ in range(2):
                await client.post(PATH, json={"prompt": "def secret():", "max_tokens": 2, "temperature": 1, **values})
        return capsys.readouterr().err

    assert running(sent()) == running(sent(seed=-1)) == running(sent(n=2)) == running(sent(seed=1, max_tokens=0)) == ""
    line = running(sent(seed=1))
    assert line.count("came again") == 1 and "secret" not in line


def test_a_language_adds_its_tag_line_to_text_and_to_ids():
    decode = fake_model().tokenizer.decode
    assert decode(given({"language": "c++"})[0].ids) == "// language: C++\ndef add(first, second):\n"
    ids = fake_model().tokenizer.encode("x = 1")
    assert decode(given({"language": "Python", "prompt": ids})[0].ids) == "# language: Python\nx = 1"


def test_a_model_says_which_tag_lines_it_has_seen():
    tags = {"codegeex": "# language: Python\n", "// {language}": "// Python\n", "none": "", None: ""}
    for known, line in tags.items():
        model = fake_model(family="codegen", **({"tags": known} if known else {}))
        assert model.tagged("x", "python") == f"{line}x"
    with pytest.raises(UserError, match="language: "):
        model.tagged("x = 1", "Klingon")


def test_a_block_ends_where_its_language_says():
    body = post({"prompt": "# language: Python\ndef f():\n", "stop_at": "block"}).json()
    assert body["choices"][0]["text"] == TEXT[: TEXT.index("def other")]
    assert post({"stop_at": "block"}).json()["error"]["param"] == "stop_at"


@pytest.mark.parametrize(
    ("language", "prompt", "text", "rest"),
    [
        ("Python", "def f():\n", '    s = """\nSELECT {\n"""\n    return s\n', "\nprint(f())"),
        ("JavaScript", "function f() {\n", "  return `}${g('}')}`; // }\n}", "\nf();"),
    ],
)
def test_a_block_does_not_end_in_a_string_streamed_or_not(language, prompt, text, rest):
    body = {"prompt": prompt, "language": language, "stop_at": "block"}
    make = partial(FakeBackend, text=text + rest)
    whole = post(body, make).json()["choices"][0]["text"]
    found = events(post({**body, "stream": True}, make))
    assert whole == "".join(event["choices"][0]["text"] for event in found) == text + "\n" * (language == "Python")


def test_a_bias_has_the_forms_of_llama_cpp_too():
    ids = cached_tokenizer().encode("return x")
    for bias in (
        {"5": False, "return x": -1},
        [[5, False], ["return x", -1]],
        [["return x", -2], ["return x", 1], [5, -1e5]],
    ):
        (answer,) = given({"logit_bias": bias})
        assert answer.settings.logit_bias == {5: -1e5, **dict.fromkeys(ids, -1.0)}
    assert given({"logit_bias": []})[0].settings.logit_bias == {}


def test_other_names_and_off_values_of_our_fields():
    body = {"n_predict": -1, "repeat_penalty": 1.5, "random_seed": 3, "top_k": -1, "stop": ["", "x"], "logprobs": False}
    (answer,) = given({**body, "max_tokens": None, "response_format": {}})
    settings = answer.settings
    assert (settings.repetition_penalty, settings.seed, settings.top_k, settings.stop) == (1.5, 3, 0, ("x",))
    assert settings.max_new_tokens >= 256 - len(answer.ids) and settings.log_probabilities == 0
    assert given({"seed": -1})[0].settings.seed != given({"seed": -1})[0].settings.seed
    error = post({"max_tokens": 5, "n_predict": 6}).json()["error"]
    assert error["param"] == "n_predict" and "max_tokens" in error["message"]


def test_no_tokens_echo_the_prompt():
    body = post({"max_tokens": 0, "echo": True}).json()
    assert body["choices"] == [{"text": PROMPT, "index": 0, "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["completion_tokens"] == 0


def test_an_answer_as_long_as_the_context_leaves_no_room_for_a_prompt():
    for maximum in (256, 400, 10**300):
        body = {"prompt": "x", "max_tokens": maximum, "truncate_prompt": True}
        error = ask("POST", "/v1/completions", json=body).json()["error"]
        assert error["param"] == "max_tokens" and "256" in error["message"]
    body = {"prompt": "x = 1\n" * 300, "max_tokens": 255, "truncate_prompt": True}
    assert ask("POST", "/v1/completions", json=body).status_code == 200
