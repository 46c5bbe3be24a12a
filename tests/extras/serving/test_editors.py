"""Request bodies of editors, as their public sources make them, against our routes; answers are read as they read them.

Sources, all on GitHub:

- Continue: `continuedev/continue`, core/llm/openaiTypeConverters.ts (`toCompleteBody`), core/autocomplete/templating/
  (`getStopTokens.ts`, `AutocompleteTemplate.ts`), packages/openai-adapters/src/apis/OpenAI.ts (`completionStream`)
- Tabby: `TabbyML/tabby`, crates/http-api-bindings/src/completion/openai.rs (`CompletionRequest`)
- llama.vscode: `ggml-org/llama.vscode`, src/llama-server.ts (`createRequestPayload`, `LlamaResponse`) and
  src/extra-context.ts
- llama.vim: `ggml-org/llama.vim`, autoload/llama.vim (`llama#fim`, `s:ring_update`, `s:fim_render`)
- minuet: `milanglacier/minuet-ai.nvim`, lua/minuet/backends/common.lua (`complete_openai_fim_base`),
  lua/minuet/utils.lua (`stream_decode`), lua/minuet/config.lua
- Zed: `zed-industries/zed`, crates/edit_prediction/src/open_ai_compatible.rs and fim.rs, `RawCompletionRequest` and
  `RawCompletionResponse`
- the extension in editors/vscode: src/logic/completer.js (`requested`), src/answers.js
"""

import json

import pytest
from asking import ask, events
from fake_backend import TEXT, FakeBackend, fake_model

from ms_codegeex.data.conversations import TEMPLATES

PREFIX = "def add(first, second):\n"
SUFFIX = "\n\nprint(add(1, 2))\n"
CODE = TEXT.rstrip()


def post(path, body, headers=None):
    response = ask("POST", path, FakeBackend, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response


def text_of(found):
    """The text of a stream of completions."""
    return "".join(event["choices"][0]["text"] for event in found)


def test_continue_with_our_template():
    """`promptTemplates.autocomplete: "{{{prefix}}}"`; undefined options are not in the JSON."""
    body = {
        "prompt": f"\n{PREFIX}",
        "model": "fake",
        "max_tokens": 64,
        "temperature": 0.2,
        "stream": True,
        "stop": ["/src/", "#- coding: utf-8", "```"],
    }
    headers = {"Authorization": "Bearer none", "api-key": "none", "x-api-key": "none"}
    assert text_of(events(post("/v1/completions", body, headers))) == TEXT


def test_continue_with_its_template_for_names_with_codegeex():
    """Of CodeGeeX4: these models were not trained with it, but the request is a right one."""
    body = {
        "prompt": "<|user|>\n###PATH:a.py\n###LANGUAGE:Python\n###MODE:BLOCK\n"
        f"<|code_suffix|>{SUFFIX}<|code_prefix|>{PREFIX}<|code_middle|><|assistant|>\n",
        "model": "fake",
        "max_tokens": 64,
        "stream": True,
        "stop": [
            *("<|user|>", "<|code_suffix|>", "<|code_prefix|>", "<|code_middle|>", "<|assistant|>", "<|endoftext|>"),
            *("/src/", "#- coding: utf-8", "```"),
        ],
    }
    assert text_of(events(post("/v1/completions", body))) == TEXT


@pytest.mark.parametrize("suffix", [SUFFIX, "", None])
def test_tabby(suffix):
    """`kind = "openai/completion"`: it stops reading at the first event with a finish_reason, and crashes at an event
    that is not a completion."""
    body = {
        "model": "fake",
        "prompt": PREFIX,
        "suffix": suffix,
        "max_tokens": 64,
        "temperature": 0.1,
        "stream": True,
        "presence_penalty": 0.0,
    }
    found = events(post("/v1/completions", body))
    assert [event["choices"][0]["finish_reason"] for event in found[:-1]] == [None] * (len(found) - 1)
    assert found[-1]["choices"][0]["finish_reason"] == "stop"
    assert text_of(found).rstrip() == CODE


def llama_chunks():
    """Pieces of other files; llama.vim's time is Vim's `reltime()`, llama.vscode's is milliseconds."""
    return [
        {"text": "import sys\n\n\n", "time": [1763755200, 123456], "filename": "other.py"},
        {"text": "x = 1\n", "time": 1763755200123, "filename": "/srv/third.py"},
    ]


def test_llama_vscode_keeps_the_indentation_that_it_names():
    """What else it sends is in `test_infill_route.py`."""
    body = {"input_prefix": "def f():\n", "input_suffix": "", "prompt": "    a = 1", "n_predict": 128, "n_indent": 4}
    assert (
        post("/infill", {**body, "input_extra": [], "stream": False}).json()["content"].rstrip()
        == "    return first + second  # 和"
    )


LLAMA_VIM_FIELDS = [
    "content",
    *(f"timings/prompt_{name}" for name in ("n", "ms", "per_token_ms", "per_second")),
    *(f"timings/predicted_{name}" for name in ("n", "ms", "per_token_ms", "per_second")),
    "truncated",
    "tokens_cached",
]


LLAMA_VSCODE_CHAT = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}


def test_llama_vscode_asks_a_model_for_conversations_one_question():
    """`createChatRequestPayload`."""
    body = {**LLAMA_VSCODE_CHAT, "stream": False, "temperature": 0.8}
    response = ask("POST", "/v1/chat/completions", conversing, json=body)
    assert response.json()["choices"][0]["message"]["content"] == TEXT


@pytest.mark.parametrize(
    "path,body,param",
    [
        ("chat/completions", {**LLAMA_VSCODE_CHAT, "tools": [{"type": "function"}], "tool_choice": "auto"}, "tools"),
        ("chat/completions", {**LLAMA_VSCODE_CHAT, "samplers": "edkypmxt", "cache_prompt": True}, "samplers"),
        ("embeddings", {"input": "x", "model": "GPT-4", "encoding_format": "float"}, "model"),
    ],
)
def test_what_docs_say_that_llama_vscode_needs_other_servers_for(path, body, param):
    """`createToolsRequestPayload`, `createChatEditRequestPayload`, `getEmbeddings`."""
    response = ask("POST", f"/v1/{path}", conversing, json=body)
    assert 400 <= response.status_code < 500 and response.json()["error"]["param"] == param


def conversing():
    """A server with a model that was tuned for conversations."""
    return FakeBackend(model=fake_model(chat=TEMPLATES["codegeex2"]))


def test_llama_vim():
    """It asks for single fields, and reads those of `timings` by their paths."""
    body = {
        "input_prefix": "import os\n\n",
        "input_suffix": f"{SUFFIX}\n",
        "input_extra": llama_chunks(),
        "prompt": "def add(first, second):",
        "n_predict": 128,
        "stop": [],
        "n_indent": 0,
        "top_k": 40,
        "top_p": 0.90,
        "stream": False,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 250,
        "response_fields": LLAMA_VIM_FIELDS,
    }
    answer = post("/infill", body).json()
    assert answer.keys() == set(LLAMA_VIM_FIELDS)
    assert answer["content"].rstrip() == CODE and answer["timings/predicted_n"] > 0
    streamed = post("/infill", {**body, "stream": True}).text.strip().split("\n\n")[-1]
    assert json.loads(streamed.removeprefix("data: ")).keys() == set(LLAMA_VIM_FIELDS)


def test_minuet():
    """Its defaults put two comments in front of the code; docs/clients.md turns them off. It reads every line as JSON,
    without `data:`, and keeps what has choices[0].text."""
    body = {
        "model": "fake",
        "stream": True,
        "prompt": f"# language: python\n# indentation: use 4 spaces for a tab\n\n{PREFIX}",
        "suffix": SUFFIX,
        "max_tokens": 56,
        "top_p": 0.9,
    }
    response = post("/v1/completions", body, {"Accept": "application/json", "Authorization": "Bearer TERM"})
    lines = [line.removeprefix("data:") for line in response.text.splitlines()]
    read = [json.loads(line) for line in lines if line.strip().startswith("{")]
    assert text_of(read).rstrip() == CODE


@pytest.mark.parametrize(
    "body",
    [
        {"model": "fake", "prompt": f"[SUFFIX]{SUFFIX}[PREFIX]{PREFIX}", "stop": ["[PREFIX]", "[SUFFIX]"]},
        {
            "model": "",
            "prompt": f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>",
            "temperature": 0.1,
            "top_p": 0.99,
            "stream": False,
        },
    ],
    ids=["zed", "llama.vscode"],
)
def test_zed_and_llama_vscode_with_openais_endpoint(body):
    """Zed's `prompt_format: codestral` puts the text before the cursor last; it parses all of these fields.
    llama.vscode's `use_openai_endpoint`, which its authors call experimental, leaves the name empty without
    `openai_client_model`."""
    answer = post("/v1/completions", {**body, "max_tokens": 64}).json()
    assert answer["id"] and answer["object"] and answer["created"] and answer["model"] == "fake"
    assert answer["choices"][0]["text"] == TEXT and answer["choices"][0]["finish_reason"] == "stop"
    assert {"prompt_tokens", "completion_tokens", "total_tokens"} <= answer["usage"].keys()


def test_our_extension_completes():
    body = {
        "language": "Python",
        "prompt": PREFIX,
        "suffix": SUFFIX,
        "max_tokens": 128,
        "temperature": 0.2,
        "top_p": 0.95,
        "truncate_prompt": True,
        "stream": True,
    }
    assert text_of(events(post("/v1/completions", body))).rstrip() == CODE
    found = events(post("/v1/completions", {**body, "n": 3, "temperature": 0.8}))
    assert {event["choices"][0]["index"] for event in found} == {0, 1, 2}


def test_our_extension_reads_how_likely_the_tokens_of_a_text_are():
    """For `minimumLogProbability` and the order of several suggestions: places count from the answer's beginning."""
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 128, "n": 2, "logprobs": 0, "stream": True}
    for number in range(2):
        choices = [event["choices"][0] for event in events(post("/v1/completions", body))]
        own = [choice for choice in choices if choice["index"] == number]
        reports = [choice["logprobs"] for choice in own]
        places = [place for report in reports for place in report["text_offset"]]
        scores = [score for report in reports for score in report["token_logprobs"]]
        text = "".join(choice["text"] for choice in own)
        assert places[0] == 0 and places == sorted(places) and places[-1] < len(text)
        assert len(scores) == len(places) and all(score <= 0 for score in scores)


@pytest.mark.parametrize("task", ["explain", "comment", "document", "fix", "translate"])
def test_our_extension_asks_about_a_selection(task):
    languages = (
        {"source_language": "Python", "target_language": "Java"} if task == "translate" else {"language": "Python"}
    )
    body = {**languages, "code": f"{PREFIX}{TEXT}", "locale": "en", "max_tokens": 64, "stream": True}
    found = events(post(f"/v1/code/{task}", body))
    assert text_of(found) and found[-1]["choices"][0]["finish_reason"]
