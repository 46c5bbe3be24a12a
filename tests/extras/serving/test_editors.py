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
from fake_backend import TEXT, FakeBackend, tuned

PREFIX = "def add(first, second):\n"
SUFFIX = "\n\nprint(add(1, 2))\n"
CODE = TEXT.rstrip()


def post(path, body, headers=None):
    response = ask("POST", path, FakeBackend, json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response


MARKS = ("user", "code_suffix", "code_prefix", "code_middle", "assistant", "endoftext")
FILES = ["/src/", "#- coding: utf-8", "```"]
STREAMED = {"model": "fake", "max_tokens": 64, "stream": True}
OURS = {
    **{"language": "Python", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 128, "temperature": 0.2, "top_p": 0.95},
    **{"truncate_prompt": True, "stream": True},
}
BODIES = {
    # `promptTemplates.autocomplete: "{{{prefix}}}"`; undefined options are not in the JSON
    "Continue with our template": {**STREAMED, "prompt": f"\n{PREFIX}", "temperature": 0.2, "stop": FILES},
    # That for names with "codegeex" is of CodeGeeX4: these models were not trained with it, but the request is right.
    "Continue with its template": {
        **STREAMED,
        "prompt": "<|user|>\n###PATH:a.py\n###LANGUAGE:Python\n###MODE:BLOCK\n"
        f"<|code_suffix|>{SUFFIX}<|code_prefix|>{PREFIX}<|code_middle|><|assistant|>\n",
        "stop": [*(f"<|{mark}|>" for mark in MARKS), *FILES],
    },
    # `kind = "openai/completion"`: it stops reading at the first event with a finish_reason.
    **{
        f"Tabby with the suffix {suffix!r}": {
            **STREAMED,
            "prompt": PREFIX,
            "suffix": suffix,
            "temperature": 0.1,
            "presence_penalty": 0.0,
        }
        for suffix in (SUFFIX, "", None)
    },
    # Its defaults put two comments in front of the code; docs/clients.md turns them off.
    "minuet": {
        **STREAMED,
        "prompt": f"# language: python\n# indentation: use 4 spaces for a tab\n\n{PREFIX}",
        "suffix": SUFFIX,
        "top_p": 0.9,
    },
    # `prompt_format: codestral` puts the text before the cursor last.
    "Zed": {"model": "fake", "prompt": f"[SUFFIX]{SUFFIX}[PREFIX]{PREFIX}", "stop": ["[PREFIX]", "[SUFFIX]"]},
    # `use_openai_endpoint`, which its authors call experimental, without `openai_client_model`.
    "llama.vscode": {
        "model": "",
        "prompt": f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>",
        **{"max_tokens": 64, "temperature": 0.1, "top_p": 0.99, "stream": False},
    },
    "our extension": OURS,
    "our extension with candidates": {**OURS, "n": 3, "temperature": 0.8},
}
HEADERS = {
    "Continue with our template": {"Authorization": "Bearer none", "api-key": "none", "x-api-key": "none"},
    "minuet": {"Accept": "application/json", "Authorization": "Bearer TERM"},
}


@pytest.mark.parametrize("editor", BODIES)
def test_a_completion(editor):
    body = BODIES[editor]
    response = post("/v1/completions", body, HEADERS.get(editor))
    found = events(response) if body.get("stream") else [response.json()]
    for event in found:
        assert event["id"] and event["object"] and event["created"] and event["model"] == "fake"
    assert body.get("stream") or {"prompt_tokens", "completion_tokens", "total_tokens"} <= found[0]["usage"].keys()
    for number in range(body.get("n", 1)):
        *begun, last = [event["choices"][0] for event in found if event["choices"][0]["index"] == number]
        assert "".join(choice["text"] for choice in (*begun, last)).rstrip() == CODE
        assert {choice["finish_reason"] for choice in begun} <= {None} and last["finish_reason"] == "stop"


LLAMA_VIM_FIELDS = [
    "content",
    *(f"timings/prompt_{name}" for name in ("n", "ms", "per_token_ms", "per_second")),
    *(f"timings/predicted_{name}" for name in ("n", "ms", "per_token_ms", "per_second")),
    "truncated",
    "tokens_cached",
]
TALK = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]}


@pytest.mark.parametrize(
    "path,body,param",
    [
        ("chat/completions", {**TALK, "tools": [{"type": "function"}], "tool_choice": "auto"}, "tools"),
        ("chat/completions", {**TALK, "samplers": "edkypmxt", "cache_prompt": True}, "samplers"),
        ("embeddings", {"input": "x", "model": "GPT-4", "encoding_format": "float"}, "model"),
    ],
)
def test_what_docs_say_that_llama_vscode_needs_other_servers_for(path, body, param):
    """`createToolsRequestPayload`, `createChatEditRequestPayload`, `getEmbeddings`."""
    response = ask("POST", f"/v1/{path}", tuned, json=body)
    assert 400 <= response.status_code < 500 and response.json()["error"]["param"] == param


def test_llama_vim():
    """It asks for single fields, and reads those of `timings` by their paths; times are of Vim's `reltime()`."""
    body = {
        "input_prefix": "import os\n\n",
        "input_suffix": f"{SUFFIX}\n",
        "input_extra": [
            {"text": "import sys\n\n\n", "time": [1763755200, 123456], "filename": "other.py"},
            {"text": "x = 1\n", "time": 1763755200123, "filename": "/srv/third.py"},
        ],
        "prompt": "def add(first, second):",
        **{"n_predict": 128, "stop": [], "n_indent": 0, "top_k": 40, "top_p": 0.90, "stream": False},
        **{"samplers": ["top_k", "top_p", "infill"], "cache_prompt": True, "response_fields": LLAMA_VIM_FIELDS},
        **{"t_max_prompt_ms": 500, "t_max_predict_ms": 250},
    }
    answer = post("/infill", body).json()
    assert answer.keys() == set(LLAMA_VIM_FIELDS)
    assert answer["content"].rstrip() == CODE and answer["timings/predicted_n"] > 0
    streamed = post("/infill", {**body, "stream": True}).text.strip().split("\n\n")[-1]
    assert json.loads(streamed.removeprefix("data: ")).keys() == set(LLAMA_VIM_FIELDS)


def test_our_extension_reads_how_likely_the_tokens_of_a_text_are():
    """For `minimumLogProbability` and the order of several suggestions: places count from the answer's beginning."""
    body = {"prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 128, "n": 2, "logprobs": 0, "stream": True}
    choices = [event["choices"][0] for event in events(post("/v1/completions", body))]
    for number in range(2):
        own = [choice for choice in choices if choice["index"] == number]
        places = [place for choice in own for place in choice["logprobs"]["text_offset"]]
        scores = [score for choice in own for score in choice["logprobs"]["token_logprobs"]]
        text = "".join(choice["text"] for choice in own)
        assert places[0] == 0 and places == sorted(places) and places[-1] < len(text)
        assert len(scores) == len(places) and all(score <= 0 for score in scores)
