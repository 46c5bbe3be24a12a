"""`/infill`, `/tokenize`, `/detokenize` in llama.cpp's shape, and `suffix` of `/v1/completions`; bodies as
llama.vscode and llama.cpp's own tests send them."""

import asyncio

import pytest
from asking import answered, ask, events
from fake_backend import FakeBackend, cached_tokenizer, fake_model
from tokenizer_files import write_qwen2

from ms_codegeex.data.infilling.sentinels import Sentinels, sentinels
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.answering import TimeLimit
from ms_codegeex.extras.serving.model import step_of
from ms_codegeex.extras.serving.routes import tokens

PREFIX, LINE, SUFFIX = "#include <cstdio>\n\nint main() {\n", "    int n_threads = ", "\n}\n"
TYPED = "count();\n    return 0;\n}\n\nint other() {\n"
LLAMA_VSCODE = {  # a completion while typing
    "input_prefix": PREFIX,
    "input_suffix": SUFFIX,
    "input_extra": [{"text": "int count();\n", "time": 1, "filename": "count.h"}],
    "prompt": LINE,
    "n_predict": 64,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "n_indent": 4,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}
WARMING = {  # what it sends to fill the cache
    **LLAMA_VSCODE,
    "n_predict": 0,
    "samplers": [],
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}


def infill(body, text=TYPED, **model):
    return answered("/infill", body, lambda: FakeBackend(text=text, model=fake_model(**model)))


def test_a_recorded_request_of_llama_vscode():
    response, backend = infill(LLAMA_VSCODE)
    body = response.json()
    assert response.status_code == 200 and body["content"] == "count();\n    return 0;"
    (asked,) = backend.asked
    prompt = "int count();\n\n" + PREFIX + LINE
    assert backend.model.tokenizer.decode(asked.ids) == body["prompt"] == prompt
    assert (asked.settings.top_k, asked.settings.top_p, asked.settings.max_new_tokens) == (40, 0.99, 64)
    assert body["infill"] == "prefix-only" and body["stop"] is True and body["truncated"] is False
    assert body["tokens_evaluated"] == len(asked.ids) < body["tokens_cached"] and body["tokens_predicted"] > 3
    timings = {"prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"}
    assert all(body["timings"][name] > 0 for name in timings) and body["timings"]["prompt_n"] == len(asked.ids)
    assert (body["generation_settings"]["n_predict"], body["generation_settings"]["top_k"]) == (64, 40)
    assert body["has_new_line"] is True


def test_a_recorded_request_to_a_model_with_marks_for_files(tmp_path):
    """The prompt is that of the model's authors, by transformers' tokenizer; the answer ends at any mark."""
    transformers = pytest.importorskip("transformers")
    tokenizer = load_tokenizer(write_qwen2(tmp_path / "model"))
    model = fake_model(tokenizer=tokenizer, allowed=722, sentinels=sentinels(tokenizer.infilling), context=512)
    backend = FakeBackend(model=model)
    backend.script = tokenizer.encode_prompt("count();\n<|file_sep|>other.py")
    response, backend = answered("/infill", LLAMA_VSCODE, lambda: backend)
    asked = (
        f"<|repo_name|>myproject\n<|file_sep|>count.h\nint count();\n<|file_sep|>filename\n"
        f"<|fim_prefix|>{PREFIX}{LINE}<|fim_suffix|>{SUFFIX}<|fim_middle|>"
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert backend.asked[0].ids == theirs(asked).input_ids
    assert response.json()["content"] == "count();\n" and response.json()["infill"] == "trained"


def test_warming_computes_the_prompt_and_says_nothing():
    response, backend = infill({**WARMING, "response_fields": None})
    body = response.json()
    assert (response.status_code, body["content"], body["tokens_predicted"]) == (200, "", 0)
    assert backend.asked[0].prompt_only and body["generation_settings"]["n_predict"] == 0
    assert infill(WARMING)[0].json() == {}  # it asks for none of the fields


def test_the_bodies_of_llama_cpps_tests():
    body = {"input_prefix": PREFIX, "prompt": "    int n_threads = llama_", "input_suffix": "}\n"}
    extra = {"filename": "llama.h", "text": "LLAMA_API int32_t llama_n_threads();\n"}
    assert infill(body)[0].json()["content"] and infill({**body, "input_extra": [extra]})[0].status_code == 200
    twice = infill({**body, "n_predict": 5, "max_tokens": 6})[0]
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "max_tokens")


def test_a_line_with_less_indentation_is_the_end():
    response, backend = infill(
        {**LLAMA_VSCODE, "n_indent": 8, "input_suffix": ""}, "a;\n        b;\n    c;\n        d;\n"
    )
    assert response.json()["content"] == "a;\n        b;" and response.json()["stop_type"] == "eos" and backend.idle


def test_the_engine_hears_of_the_indentation():
    for body, indent in (({"n_indent": 8}, 8), ({"n_indent": None}, 0)):
        assert infill({**LLAMA_VSCODE, **body})[1].asked[0].indent == indent


def test_time_ends_a_text_that_has_a_whole_line():
    now = [0.0]
    lasting = TimeLimit(100, lambda: now[0])
    assert lasting.feed("a") == "a"
    now[0] = 1.0
    assert lasting.feed("b\nc") == "b\nc" and not lasting.ended
    now[0] = 1.1
    assert lasting.feed("d") == "" and lasting.ended and lasting.feed("e") == lasting.rest() == ""


def test_several_answers_are_a_list():
    response, backend = infill({**LLAMA_VSCODE, "n_cmpl": 3, "seed": 4, "temperature": 0.5})
    assert [one["index"] for one in response.json()] == [0, 1, 2]
    assert [answer.settings.seed for answer in backend.asked] == [4, 5, 6]


def test_a_long_prefix_loses_its_start():
    response, backend = infill({"input_prefix": "x = 1\n" * 300 + "y = ", "n_predict": 16})
    body = response.json()
    assert body["truncated"] is True and body["prompt"].endswith("x = 1\ny = ")
    assert 240 - step_of(240) < len(backend.asked[0].ids) <= 240


def test_as_many_tokens_as_fit():
    response, backend = infill({"input_prefix": "x", "n_predict": -1}, text="y = 1\n" * 200)
    assert len(backend.asked[0].ids) + response.json()["tokens_predicted"] == 256
    assert response.json()["stop_type"] == "limit"


@pytest.mark.parametrize("wanted", [256, 10**6, 10**300])
def test_more_tokens_than_the_context_are_as_many_as_fit(wanted):
    response, backend = infill({"input_prefix": "x = 1\n" * 300, "n_predict": wanted}, text="y = 1\n" * 200)
    assert len(backend.asked[0].ids) == 128 and response.json()["tokens_predicted"] == 128
    assert infill({"input_prefix": "x = 1\n", "n_predict": wanted})[0].json()["truncated"] is False


def test_fields_of_other_samplers_are_accepted_if_they_change_nothing():
    more = {"mirostat": 0, "grammar": "", "id_slot": 3, "lora": [], "dry_base": 1.75, "typical_p": 1}
    assert infill({**LLAMA_VSCODE, **more, "seed": -1, "logit_bias": [[5, -100], [6, 1.5]]})[0].status_code == 200
    for name, value in {"mirostat": 2, "lora": [{"id": 0}], "typical_p": 0.5}.items():
        response = infill({**LLAMA_VSCODE, **more, name: value})[0]
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)


SENTINELS = Sentinels("<P>", "<S>", "<M>", ("suffix", "prefix", "middle"), ("<E>",))


def test_a_trained_model_gets_its_sentinels_and_is_not_trimmed():
    response, backend = infill(LLAMA_VSCODE, "count();\n    x;\n    }\n<E>more", sentinels=SENTINELS)
    body = response.json()
    assert body["infill"] == "trained" and body["content"] == "count();\n    x;\n    }\n"
    prompt = f"<S>{SUFFIX}<P>int count();\n\n{PREFIX}{LINE}<M>"
    assert backend.prompt() == prompt


def completion(body, text=TYPED, **model):
    whole = {"prompt": PREFIX + LINE, "stop": "\n\n", **body}
    return answered("/v1/completions", whole, lambda: FakeBackend(text=text, model=fake_model(**model)))


def test_a_suffix_is_trimmed_and_the_answer_says_how_it_was_made():
    assert completion({"suffix": SUFFIX})[0].json()["choices"][0]["text"] == "count();\n    return 0;"
    assert completion({"suffix": SUFFIX})[0].json()["infill"] == "prefix-only"
    body = completion({})[0].json()
    assert body["choices"][0]["text"] == "count();\n    return 0;\n}" and "infill" not in body


def test_a_suffix_is_trimmed_while_streaming():
    found = events(completion({"suffix": SUFFIX, "stream": True, "n": 2})[0])
    texts = ["", ""]
    for part in found:
        texts[part["choices"][0]["index"]] += part["choices"][0]["text"]
        assert part["infill"] == "prefix-only"
    assert texts == ["count();\n    return 0;"] * 2 and len(found) > 6


def test_a_suffix_for_a_trained_model():
    response, backend = completion({"suffix": SUFFIX}, "1;\n}<E>", sentinels=SENTINELS)
    assert response.json()["infill"] == "trained" and response.json()["choices"][0]["text"] == "1;\n}"
    assert backend.prompt() == f"<S>{SUFFIX}<P>{PREFIX}{LINE}<M>"
    (model,) = ask("GET", "/v1/models", lambda: FakeBackend(model=fake_model(sentinels=SENTINELS))).json()["data"]
    assert model["infill"] == "trained"


def test_a_prompt_between_marks_is_not_echoed():
    response, _ = completion({"suffix": SUFFIX, "echo": True}, sentinels=SENTINELS)
    assert response.status_code == 400 and response.json()["error"]["param"] == "echo"
    assert completion({"suffix": SUFFIX, "echo": True})[0].status_code == 200


def test_the_suffix_of_many_prompts_is_encoded_once(monkeypatch):
    tokenizer, encoded = cached_tokenizer(), []
    real = tokenizer.encode_inside
    monkeypatch.setattr(tokenizer, "encode_inside", lambda text: encoded.append(text) or real(text))
    response, backend = completion({"prompt": ["a", "b", "c"], "suffix": SUFFIX}, sentinels=SENTINELS)
    assert response.status_code == 200 and len(backend.asked) == 3 and encoded == [SUFFIX]


def test_a_suffix_that_does_not_fit_is_refused_or_cut():
    long = {"suffix": "x = 1\n" * 300}
    response, _ = completion(long, sentinels=SENTINELS)
    assert response.status_code == 400 and "256" in response.json()["error"]["message"]
    response, backend = completion({**long, "truncate_prompt": True, "max_tokens": 8}, sentinels=SENTINELS)
    assert response.status_code == 200 and 248 - step_of(248) < len(backend.asked[0].ids) <= 248


def test_tokens_of_a_text_and_back():
    text = "What is 媽 and 🤗?\n\n    x"
    ids = ask("POST", "/tokenize", json={"content": text}).json()["tokens"]
    assert ids == FakeBackend().model.tokenizer.encode(text)
    assert ask("POST", "/detokenize", json={"tokens": ids}).json() == {"content": text, "prompt": text}
    assert ask("POST", "/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"] == ids
    assert ask("GET", "/tokenizer_info").json()["eos_token"] == "<|endoftext|>"
    pieces = ask("POST", "/tokenize", json={"content": text, "with_pieces": True}).json()["tokens"]
    joined = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert joined.decode() == text and [piece["id"] for piece in pieces] == ids


def test_long_texts_are_encoded_and_written_in_a_thread(monkeypatch):
    loops, response = [], tokens._response
    monkeypatch.setattr(tokens, "_response", lambda *of: loops.append(asyncio._get_running_loop()) or response(*of))
    found = ask("POST", "/tokenize", json={"content": "x", "with_pieces": True}).json()
    assert found["tokens"][0]["piece"] == "x" and (found["count"], found["max_model_len"]) == (1, 256)
    assert loops == [None]


def test_names_of_special_tokens_stand_for_them_if_the_client_says_so():
    special = {"content": "<|endoftext|>", "add_special": True}
    assert ask("POST", "/tokenize", json={**special, "parse_special": True}).json()["tokens"] == [50256]
    assert len(ask("POST", "/tokenize", json=special).json()["tokens"]) > 3


def test_sentinels_that_are_no_tokens_are_left_out_of_the_reported_prompt():
    """Those of runs with CodeGen's, CodeGeeX2's and own tokenizers are rows of the table after the last token."""
    first = FakeBackend().model.tokenizer.vocab_size
    marks = Sentinels(first, first + 1, first + 2, order=("suffix", "prefix", "middle"))
    response, backend = infill({"input_prefix": "x = ", "input_suffix": "\ny = 2\n"}, text="1", sentinels=marks)
    assert response.status_code == 200, response.text
    assert response.json()["prompt"] == "\ny = 2\nx = " and backend.asked[0].ids[0] == first + 1
