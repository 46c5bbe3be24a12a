"""`/v1/code/...` over HTTP, without an engine."""

import asyncio
from functools import partial

import pytest
from asking import answered, ask, connected, events
from fake_backend import FakeBackend, fake_model

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.serving.routes import tasks

CODE = "def area(r):\n    a = r * r\n    return 3 * a\n"
KINDS = {"explain": "explanation", "comment": "comments", "document": "documentation", "translate": "translation"}
KINDS |= {"fix": "fix", "sql": "sql"}
ANSWERS = {  # what the model writes, and what the client gets
    "explain": (" It squares.\n# Then more.\n\nx", "It squares.\nThen more."),
    "comment": (
        "\n    # square\n    a = r * r\n    # three times\n    return 3 * a\n\nmore",
        "def area(r):\n    # square\n    a = r * r\n    # three times\n    return 3 * a",
    ),
    "document": (
        "\n    The area.\n    '''\n    a =",
        "def area(r):\n    '''\n    The area.\n    '''\n    a = r * r\n    return 3 * a",
    ),
    "fix": ("def area(r):\n    return r\n\n# This code has a mistake\n", "def area(r):\n    return r"),
    "sql": ("SELECT 1;\n\n-- x", "SELECT 1;"),
    "translate": ("int area(int r);\n\nGo:\nfunc", "int area(int r);\n"),
}


def task(name, answer=None, **body):
    languages = {"source_language": "py", "target_language": "C++"} if name == "translate" else {"language": "Python"}
    make = partial(FakeBackend, text=answer or ANSWERS[name][0])
    return answered(f"/v1/code/{name}", {"code": CODE, **languages, **body}, make)


@pytest.mark.parametrize("name", KINDS)
def test_an_answer_ends_where_the_tasks_text_ends(name):
    response, backend = task(name)
    body = response.json()
    assert response.status_code == 200 and body["object"] == f"code.{KINDS[name]}" and body["model"] == "fake"
    assert body["choices"] == [{"index": 0, "text": ANSWERS[name][1], "finish_reason": "stop"}]
    (asked,) = backend.asked
    assert asked.settings.temperature == 0 and body["usage"]["prompt_tokens"] == len(asked.ids)
    assert backend.idle and body["usage"]["completion_tokens"] < len(backend.model.tokenizer.encode(ANSWERS[name][0]))


@pytest.mark.parametrize("name", KINDS)
def test_streamed_pieces_are_the_same_answers(name):
    response, _ = task(name, stream=True, n=2, locale="en", stream_options={"include_usage": True})
    texts, ends = ["", ""], []
    *parts, last = events(response)
    for part in parts:
        assert part["object"] == f"code.{KINDS[name]}" and part["usage"] is None
        (choice,) = part["choices"]
        texts[choice["index"]] += choice["text"]
        ends += [choice["finish_reason"]] * bool(choice["finish_reason"])
    assert texts == [ANSWERS[name][1]] * 2 and ends == ["stop"] * 2 and last["usage"]["completion_tokens"] > 2


def test_settings_reach_the_engine():
    _, backend = task("fix", n=2, seed=5, temperature=0.5, top_p=0.9, top_k=7, max_tokens=9, stop="XYZ")
    first, second = (answer.settings for answer in backend.asked)
    assert (first.temperature, first.top_p, first.top_k, first.max_new_tokens) == (0.5, 0.9, 7, 9)
    assert "XYZ" in first.stop and (first.seed, second.seed) == (5, 6)


def test_an_answer_that_is_cut_off_is_still_put_together():
    response, _ = task("document", "\n    The area is so and so.\n", max_tokens=4)
    (choice,) = response.json()["choices"]
    assert choice["finish_reason"] == "length" and choice["text"].startswith("def area(r):\n    '''")
    assert choice["text"].endswith("'''\n    a = r * r\n    return 3 * a")


@pytest.mark.parametrize("name", KINDS)
def test_the_prompt_of_long_code_is_made_in_a_thread(name, monkeypatch):
    loops = []

    def made(*given):
        loops.append(asyncio._get_running_loop())
        raise UserError("code: seen")

    monkeypatch.setattr(tasks, "translation", made)
    monkeypatch.setattr(tasks, "TASKS", {name: (kind, made) for name, (kind, _) in tasks.TASKS.items()})
    response, _ = task(name, code="x = 1\n" * 4000)
    assert response.json()["error"]["message"] == "code: seen" and loops == [None]


@pytest.mark.parametrize("name", KINDS)
def test_code_that_cannot_fit_is_refused_unread(name, monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", {name: (kind, None) for name, (kind, _) in tasks.TASKS.items()})
    response, _ = task(name, code="@\n" * 100_000)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == "code" and "256" in error["message"]


async def test_the_slot_of_an_explanation_is_free_as_soon_as_it_ends():
    backend = FakeBackend(text=" One line.\n\n" + "x = 1\n" * 100)
    async with connected(backend) as client:
        body = (await client.post("/v1/code/explain", json={"code": CODE, "language": "Python"})).json()
    await asyncio.sleep(0)
    text = body["choices"][0]["text"]
    assert text == "One line." and backend.counters.completion_tokens < 12 and backend.idle


def test_unknown_tasks_and_models():
    assert ask("POST", "/v1/code/sing", json={"code": "x", "language": "C"}).status_code == 404
    for path, near in (
        ("/completions", "/v1/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/infill", "/infill"),
        ("/v1/completions/", "/v1/completions"),
    ):
        message = ask("POST", path, json={}).json()["error"]["message"]
        assert message == f"POST {path}: not found; did you mean {near}?"
    assert ask("GET", "/v1/code/fix").status_code == 405
    assert task("fix", model="gpt")[0].json()["error"]["code"] == "model_not_found"


def test_codegen_gets_no_tag_lines():
    tokenizer = load_tokenizer("codegen-multi")
    model = fake_model(family="codegen", tokenizer=tokenizer, allowed=tokenizer.vocab_size, context=1024)
    _, backend = answered("/v1/code/explain", {"code": CODE, "language": "Python"}, partial(FakeBackend, model=model))
    assert "language:" not in tokenizer.decode(backend.asked[0].ids)
