"""No answer has half a character, wherever `max_tokens` cuts it and wherever its prompt was cut. The expected texts are
made from the text's UTF-8 bytes, without a tokenizer's decoding."""

import json
from functools import partial

import pytest
from all_routes import BODIES
from asking import answered, ask, ask_all, events
from fake_backend import FakeBackend, cached_tokenizer, fake_model, tuned
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_files import write_chatglm

from ms_codegeex.data.conversations import ChatTemplate
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.answering import AnswerText
from ms_codegeex.extras.serving.logprobs import SentTokens, token_bytes
from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings

CHARACTERS = st.one_of(
    st.sampled_from("aé和你好😀🏳\u200d\u0301 \n\t"), st.characters(min_codepoint=0x80, exclude_categories=["Cs"])
)
TEXTS = st.text(CHARACTERS, min_size=1, max_size=12).filter(lambda text: "\u2581" not in text and "\ufffd" not in text)
REPLACEMENT = "\ufffd"
CHAT = ChatTemplate("User: {content}<|endoftext|>", "Assistant: {content}<|endoftext|>")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return {
        "byte-level": cached_tokenizer(),
        "byte fallback": load_tokenizer(write_chatglm(tmp_path_factory.mktemp("codegeex2"))),
    }


def sizes(tokenizer, ids):
    """The number of bytes of the text of the first 0, 1, 2, … ids."""
    found = [0]
    for number in ids:
        found.append(found[-1] + len(tokenizer.token_bytes(number)))
    if tokenizer.name == "codegeex2":  # the space that its first token adds belongs to no text
        found[1:] = [size - 1 for size in found[1:]]
    return found


def until(text, size):
    """The characters that are complete within the first `size` bytes."""
    return text.encode()[:size].decode("utf-8", "ignore")


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
@settings(max_examples=300)
@given(text=TEXTS, data=st.data())
def test_an_answer_ends_and_begins_with_whole_characters(tokenizers, kind, text, data):
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    begin = data.draw(st.integers(0, len(ids)), "end of the prompt")
    end = data.draw(st.integers(begin, len(ids)), "end of the answer")
    places = sizes(tokenizer, ids)
    expected = until(text, places[end])[len(until(text, places[begin])) :]
    prompt, new = [*tokenizer.prefix, *ids[:begin]], ids[begin:end]
    assert "".join(tokenizer.continuation(prompt, new)) == expected

    taken = data.draw(st.sets(st.integers(0, len(new))), "tokens after which the client reads")
    answer, sent, pieces, reported = AnswerText(tokenizer, prompt, SamplingSettings()), SentTokens(), [], []
    for place, number in enumerate(new):
        answer.feed(ChosenToken(number, 0.0))
        if place in taken:
            pieces.append(answer.take())
            reported += sent.feed(pieces[-1])
    answer.end("length")
    pieces.append(answer.take())
    reported += sent.feed(pieces[-1])
    assert "".join(piece.text for piece in pieces) == expected
    assert [token.chosen.token for token in reported] == new
    data = b"".join(token_bytes(tokenizer, token.chosen.token, token.maximum) for token in reported)
    assert data == b"".join(map(tokenizer.token_bytes, new))


@pytest.mark.parametrize("stop", ["好", " ", "\n"])
@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
def test_with_a_stop_text_that_does_not_come_either(tokenizers, kind, stop):
    tokenizer, text = tokenizers[kind], "x和é😀"
    ids = tokenizer.encode(text)
    for count, size in enumerate(sizes(tokenizer, ids)):
        answer = AnswerText(tokenizer, tokenizer.prefix, SamplingSettings(stop=(stop,)))
        for number in ids[:count]:
            answer.feed(ChosenToken(number, 0.0))
        answer.end("length")
        assert answer.take().text == until(text, size)


ANSWER = "# 和😀é\n"
ROUTES = {
    "/v1/completions": ({"prompt": "x", "logprobs": 1}, lambda choice: choice["text"]),
    "/v1/chat/completions": (
        {"messages": [{"role": "user", "content": "x"}], "logprobs": True},
        lambda choice: choice.get("message", choice.get("delta", {})).get("content", ""),
    ),
    "/v1/code/explain": ({"code": "x = 1", "language": "Python"}, lambda choice: choice["text"]),
}


@pytest.mark.parametrize("path", ROUTES)
def test_no_route_gives_half_a_character(path):
    body, content = ROUTES[path]
    tokenizer = cached_tokenizer()
    ids = tokenizer.encode(ANSWER)
    assert len(ids) > len(ANSWER)  # characters of several tokens

    make = partial(tuned, text=ANSWER)
    for count in range(1, len(ids) + 1):
        wanted = {**body, "max_tokens": count}
        answer = ask("POST", path, make, json=wanted).json()
        text = content(answer["choices"][0])
        pieces = [event["choices"][0] for event in events(ask("POST", path, make, json={**wanted, "stream": True}))]
        assert REPLACEMENT not in text and "".join(map(content, pieces)) == text
        assert answer["usage"]["completion_tokens"] == count
        if path.startswith("/v1/code"):
            continue
        size = sum(len(tokenizer.token_bytes(number)) for number in ids[:count])
        assert text == until(ANSWER, size)
        reported = answer["choices"][0]["logprobs"]
        assert len(reported.get("content") or reported["tokens"]) == count
        if "content" in reported:
            assert bytes(byte for token in reported["content"] for byte in token["bytes"]) == ANSWER.encode()[:size]


def test_infill_gives_no_half_character():
    ids = cached_tokenizer().encode(ANSWER)
    for count in range(1, len(ids) + 1):
        body = {"input_prefix": "x = 1  ", "input_suffix": "", "n_predict": count}
        text = ask("POST", "/infill", partial(FakeBackend, text=ANSWER), json=body).json()["content"]
        assert REPLACEMENT not in text and ANSWER.startswith(text)


def test_an_echoed_prompt_and_its_answer_share_a_character():
    ids = cached_tokenizer().encode(ANSWER)
    for count in range(1, len(ids)):
        assert completed(ids[count:], prompt=ids[:count], echo=True, logprobs=1) == ANSWER


BROKEN = [47249]  # the first bytes of 😀


def completed(script, **body):
    make = partial(FakeBackend, script=script)
    return ask("POST", "/v1/completions", make, json=body).json()["choices"][0]["text"]


def test_a_character_that_something_else_follows_is_left_out():
    ids = cached_tokenizer().encode("x = 1")
    assert cached_tokenizer().token_bytes(BROKEN[0]) == "😀".encode()[:3]
    assert completed([*BROKEN, *ids], prompt="a") == "x = 1"
    assert completed(ids, prompt=BROKEN) == "x = 1"
    assert completed(ids, prompt=BROKEN, echo=True) == "x = 1"


@pytest.mark.parametrize("shift", range(4))
def test_a_truncated_prompt_begins_with_a_whole_character(shift):
    prompt = "a" * shift + "你好😀" * 200
    body = {"prompt": prompt, "echo": True, "truncate_prompt": True, "max_tokens": 1}
    text = ask("POST", "/v1/completions", json=body).json()["choices"][0]["text"]
    assert REPLACEMENT not in text and text[:20] in prompt
    text = ask("POST", "/infill", json={"input_prefix": prompt, "input_suffix": "", "n_predict": 1}).json()["prompt"]
    assert REPLACEMENT not in text


SMILE = "\ud83d\ude00"
HALVES = {  # as an editor cuts a text in UTF-16: how it is read
    "\ude00x = 1": "x = 1",
    "x = 1\ud83d": "x = 1",
    "\ude00x\ud83d": "x",
    "x\ud83dy\ude00z": f"x{REPLACEMENT}y{REPLACEMENT}z",
    "\ude00\ude00x": f"{REPLACEMENT}x",
    f"x{SMILE}": "x\U0001f600",
    f"{SMILE}x": "\U0001f600x",
    "x\ud83d\ud83d": f"x{REPLACEMENT}",
}
FIELDS = {  # of a request, with a text
    "/v1/completions": lambda text: {"prompt": text, "suffix": text},
    "/infill": lambda text: {"input_prefix": text, "input_suffix": text, "input_extra": [{"text": text}]},
    "/v1/chat/completions": lambda text: {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
    "/v1/responses": lambda text: {"input": text, "instructions": text},
    "/v1/embeddings": lambda text: {"input": [text]},
    "/v1/code/fix": lambda text: {"code": text, "language": "Python"},
}


@pytest.mark.parametrize("path", FIELDS)
def test_half_of_a_surrogate_pair_is_left_out_at_an_edge_and_replaced_inside(path):
    for text, read in HALVES.items():
        found = []
        for given_text in (text, read):
            data = json.dumps(FIELDS[path](given_text))
            response, backend = answered(path, None, tuned, content=data, headers={"Content-Type": "application/json"})
            assert response.status_code == 200, response.text
            found.append([answer.ids for answer in backend.asked])
        assert found[0] == found[1] != [[]], text


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *(("/v1/completions", fields) for fields in ({"stop": "\ud83d"}, {"model": "\ud83d"}, {"language": "\ud83d"})),
        *(("/v1/completions", fields) for fields in ({"stop": ["a\ud800b"]}, {"logit_bias": {"\ud83d": 1}})),
        ("/tokenize", {"content": "a\ud800b"}),
    ],
)
def test_half_of_a_surrogate_pair_elsewhere_is_an_error_that_says_so(path, fields):
    (response,) = ask_all(path, [{**BODIES[path], **fields}])
    error = response.json()["error"]
    assert response.status_code in (400, 404) and "surrogate" in error["message"] and "file" not in error["message"]
    assert error["param"] in (*fields, None)


def test_names_of_special_tokens_in_a_users_text_are_text():
    name, ids = "<|endoftext|>", cached_tokenizer().encode("a<|endoftext|>b")
    end = cached_tokenizer().eos_id
    for special in (False, True):
        make = lambda: FakeBackend(model=fake_model(chat=CHAT, special_tokens=special))  # noqa: E731, B023
        _, backend = answered("/v1/completions", {"prompt": f"a{name}b"}, make)
        assert (backend.asked[0].ids == ids) is not special and (end in backend.asked[0].ids) is special
        _, backend = answered("/v1/completions", {"prompt": f"a{name}b", "suffix": "x"}, make)
        assert (end in backend.asked[0].ids) is special
        _, backend = answered("/v1/chat/completions", {"messages": [{"role": "user", "content": f"a{name}b"}]}, make)
        assert backend.asked[0].ids.count(end) == 1 + special  # the template's own is one
        assert special or cached_tokenizer().decode(backend.asked[0].ids) == f"User: a{name}b{name}Assistant: "
        found = ask("POST", "/tokenize", make, json={"content": name}).json()["tokens"]
        assert (found == [end]) is special


def test_bytes_that_are_no_text_are_shown_alike_in_both_apis():
    make = partial(tuned, script=[*BROKEN, *cached_tokenizer().encode("x")])
    body = {"messages": [{"role": "user", "content": "x"}], "logprobs": True}
    tokens = ask("POST", "/v1/chat/completions", make, json=body).json()["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in tokens] == [r"bytes:\xf0\x9f\x98", "x"]
    assert tokens[0]["bytes"] == list("😀".encode()[:3])
