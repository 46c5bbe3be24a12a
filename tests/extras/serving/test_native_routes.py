"""`/infill`, `/apply-template`, `/slots` and `/props` in llama.cpp's shape: bodies and answers as its server's
documentation has them (tools/server/README.md of ggml-org/llama.cpp)."""

import asyncio
import json

from asking import answered, ask, connected, running, until
from fake_backend import TEXT, FakeBackend, fake_model, tuned

TOKENS = len(FakeBackend().model.tokenizer.encode(TEXT))


def complete(body, **model):
    return answered("/infill", body, lambda: FakeBackend(model=fake_model(**model)))


def test_the_example_of_the_documentation():
    prompt = "Building a website can be done in 10 simple steps:"
    response, backend = complete({"prompt": prompt, "n_predict": 128})
    body = response.json()
    assert response.status_code == 200 and (body["content"], body["stop"], body["stop_type"]) == (TEXT, True, "eos")
    assert body["prompt"] == prompt and body["model"] == "fake" and body["tokens_predicted"] == TOKENS
    assert body["generation_settings"]["n_predict"] == 128 and body["generation_settings"]["n_ctx"] == 256
    assert body["tokens"] == [] and body["truncated"] is False
    assert body["timings"]["prompt_n"] + body["timings"]["cache_n"] == body["tokens_evaluated"]
    assert backend.asked[0].settings.temperature == 0.0 and backend.asked[0].settings.max_new_tokens == 128


def test_an_answer_has_all_that_llama_cpps_server_gives():
    """Recorded from its server in xllamacpp 2026.10.11549, with our GGUF of a CodeGen."""
    names = "content generation_settings has_new_line id_slot index infill model prompt stop stop_type stopping_word "
    names += "timings tokens tokens_cached tokens_evaluated tokens_predicted truncated"
    times = "cache_n prompt_n prompt_ms prompt_per_token_ms prompt_per_second predicted_n predicted_ms "
    times += "predicted_per_token_ms predicted_per_second"
    body = complete({"prompt": "def f", "n_predict": 3})[0].json()
    assert set(body) == {*names.split()} and set(body["timings"]) == {*times.split()}
    slot, props = ask("GET", "/slots").json()[0], ask("GET", "/props").json()
    assert {"id", "n_ctx", "speculative", "is_processing"} <= set(slot)
    recorded = "default_generation_settings total_slots model_alias model_path modalities chat_template build_info "
    assert {*recorded.split(), "chat_template_caps", "is_sleeping"} <= set(props)


def test_stop_texts_are_named():
    body = complete({"prompt": "x", "stop": ["\n\n", "first +"]})[0].json()
    assert (body["content"], body["stop_type"], body["stopping_word"]) == ("    return ", "word", "first +")
    body = complete({"prompt": "x", "n_predict": 2})[0].json()
    assert (body["stop_type"], body["stopping_word"], body["tokens_predicted"]) == ("limit", "", 2)


def test_a_streamed_answer():
    response, _ = complete({"prompt": "x", "stream": True, "return_tokens": True, "stop": ["other"], "n_cmpl": 2})
    found = [json.loads(part.removeprefix("data: ")) for part in response.text.split("\n\n") if part]
    for index in range(2):
        *parts, last = [each for each in found if each["index"] == index]
        assert "".join(part["content"] for part in parts) == TEXT[: TEXT.index("other")]
        assert not any(part["stop"] for part in parts) and all("tokens" in part for part in parts)
        assert last["stop"] is True and last["content"] == "" and last["stopping_word"] == "other"
        assert last["timings"]["predicted_n"] > 3


def test_the_template_of_a_conversation():
    talk = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]
    response = ask("POST", "/apply-template", tuned, json={"messages": talk})
    text = "System:\nBe short.\n\nUser:\nWhy?\n\nAssistant:\n"
    assert response.json() == {"prompt": text}
    response = ask("POST", "/apply-template", json={"messages": talk})
    assert response.status_code == 400 and response.json()["error"]["code"] == "not_a_chat_model"


async def test_the_answer_to_a_templates_prompt_is_that_to_the_conversation():
    talk = {"messages": [{"role": "user", "content": "Why?"}]}
    backend = tuned("codegeex2")
    async with connected(backend) as client:
        prompt = (await client.post("/apply-template", json=talk)).json()["prompt"]
        await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})
        await client.post("/v1/chat/completions", json=talk)
    first, second = backend.asked
    assert first.ids == second.ids


def test_slots_show_how_far_answers_are_and_nothing_of_them():
    async def asked():
        backend = FakeBackend(slots=2)
        async with connected(backend) as client:
            idle = (await client.get("/slots")).json()
            backend.paused = True
            work = [asyncio.ensure_future(client.post("/infill", json={"prompt": "secret"})) for _ in range(2)]
            await until(lambda: backend.active == 2)
            busy = await client.get("/slots")
            full = await client.get("/slots", params={"fail_on_no_slot": 1})
            backend.paused = False
            await asyncio.gather(*work)
            return idle, busy, full

    idle, busy, full = running(asked())
    assert idle == [{"id": number, "n_ctx": 256, "speculative": False, "is_processing": False} for number in (0, 1)]
    assert [slot["is_processing"] for slot in busy.json()] == [True, True] and "secret" not in busy.text
    assert busy.json()[0]["next_token"]["n_decoded"] == 0 and busy.json()[0]["next_token"]["has_next_token"] is True
    assert full.status_code == 503 and full.json()["error"]["code"] == "no_slot"
    assert ask("GET", "/slots", params={"fail_on_no_slot": 1}).status_code == 200
    wrong = ask("GET", "/slots", params={"fail_on_no_slot": "perhaps"})
    assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "fail_on_no_slot"


def test_properties_say_what_llama_cpps_clients_read():
    props = ask("GET", "/props").json()
    defaults = props["default_generation_settings"]
    assert defaults["n_ctx"] == 256 and props["total_slots"] == 2 and defaults["params"]["repeat_penalty"] == 1.0
    assert props["model_alias"] == "fake" and props["build_info"].startswith("ms-codegeex ")
    _, backend = complete({"prompt": "x"})
    asked = backend.asked[0].settings
    assert [defaults["params"][name] for name in ("temperature", "top_p", "top_k", "min_p")] == [
        asked.temperature, asked.top_p, asked.top_k, asked.min_p
    ]  # fmt: skip
    assert defaults["params"]["n_predict"] == asked.max_new_tokens
