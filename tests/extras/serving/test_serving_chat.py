"""`/v1/chat/completions` of a model that is tuned for chat; the published prompt."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
from asking import answered, ask, events
from fake_backend import TEXT, tuned

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES, ChatTemplate
from ms_codegeex.data.description import read_description
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.model import described_model
from ms_codegeex.models.registry import family

PATH = "/v1/chat/completions"
QUESTION = [{"role": "user", "content": "你好"}]
TALK = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": [{"type": "text", "text": "two"}]},
]


codegeex2 = partial(tuned, "codegeex2")


def test_the_published_prompt_of_codegeex2():
    template = TEMPLATES["codegeex2"]
    for system in ([], [("system", "")]):
        assert template.prompt([*system, ("user", "你好")]) == "[Round 1]\n\n问：你好\n\n答："  # noqa: RUF001
    messages = [("user", "a"), ("assistant", "b"), ("user", "c")]
    assert template.prompt(messages) == "[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：c\n\n答："  # noqa: RUF001


def test_a_template_does_not_read_placeholders_in_messages():
    template = ChatTemplate("<{round}|{content}>", "[{content}]")
    assert template.prompt([("user", "{round}{content}")]) == "<1|{round}{content}>["


def test_an_answer_and_its_stream():
    response, backend = answered(PATH, {"messages": TALK}, codegeex2)
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": TEXT}
    assert backend.prompt() == "[Round 1]\n\n问：one\n\n答：1\n\n[Round 2]\n\n问：two\n\n答："  # noqa: RUF001
    options = {"stream": True, "stream_options": {"include_usage": True}, "n": 2}
    found = events(ask("POST", PATH, codegeex2, json={"messages": TALK, **options}))
    assert {event["object"] for event in found} == {"chat.completion.chunk"}
    for index in range(2):
        mine = [event["choices"][0] for event in found[:-1] if event["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""} and mine[-1]["finish_reason"] == "stop"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == TEXT
    assert found[-1]["usage"]["completion_tokens"] == 2 * body["usage"]["completion_tokens"]


def test_log_probabilities_have_the_tokens_bytes():
    body = ask("POST", PATH, codegeex2, json={"messages": QUESTION, "logprobs": True, "top_logprobs": 2}).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == TEXT
    assert content[0]["logprob"] == -0.125 and len(content[0]["top_logprobs"]) == 2


def test_log_probabilities_end_with_the_text_before_a_stop():
    for stop in ("second", "cond", "和", "\n"):
        wanted = {"messages": QUESTION, "logprobs": True, "stop": stop}
        (choice,) = ask("POST", PATH, codegeex2, json=wanted).json()["choices"]
        pieces = events(ask("POST", PATH, codegeex2, json={**wanted, "stream": True}))
        streamed = [token for one in pieces for token in one["choices"][0]["logprobs"]["content"]]
        assert streamed == choice["logprobs"]["content"]
        found = b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"]).decode()
        assert found == choice["message"]["content"] == TEXT[: TEXT.index(stop)]


def test_a_conversation_that_is_too_long_is_an_error_with_a_remedy_that_chat_has():
    for text in ("x = 1\n" * 300, "x = 1\n" * 30_000):
        response = ask("POST", PATH, codegeex2, json={"messages": [{"role": "user", "content": text}]})
        error = response.json()["error"]
        assert response.status_code == 400 and error["param"] == "messages"
        assert "leave out" in error["message"] and "truncate_prompt" not in error["message"]


def test_a_base_model_refuses_chat_and_names_completions():
    response = ask("POST", PATH, json={"messages": QUESTION})
    assert response.status_code == 400 and "/v1/completions" in response.json()["error"]["message"]
    assert not ask("GET", "/v1/models").json()["data"][0]["chat"]


def test_a_directory_says_what_its_model_was_tuned_for(tmp_path):
    config = SimpleNamespace(max_position_embeddings=8, vocab_size=52224)
    parts = {"family": family("codegeex"), "tokenizer": load_tokenizer("codegeex"), "config": config, "sentinels": None}

    def opened():
        return SimpleNamespace(**parts, description=read_description(tmp_path))

    assert described_model(opened(), tmp_path).chat is None
    own = {"user": "U {content}\n", "assistant": "A {content}\n", "stop": ["\nU "]}
    for chat, template in (*TEMPLATES.items(), (own, ChatTemplate(**{**own, "stop": ("\nU ",)}))):
        (tmp_path / "serving.json").write_text(json.dumps({"chat": chat}))
        assert described_model(opened(), tmp_path).chat == template
    for wrong in ({"chat": "gpt"}, {"chat": {"user": "{content}"}}, {"chat": {**own, "user": "U"}}, {"talk": 1}, []):
        (tmp_path / "serving.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=r"serving\.json"):
            opened()
