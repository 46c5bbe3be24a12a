"""A Qwen2 made here, from this machine's Python files to the programs that ask a server: each command as its user types
it, and the requests of llama.vscode and opencode as they were recorded."""

import json
import logging
import shutil
import urllib.request
from pathlib import Path

import pytest
from conftest import command
from served import served
from small_benchmarks import humaneval
from test_infill_route import LLAMA_VSCODE, WARMING

from ms_codegeex.data.jinja_templates import JinjaChat, chatml

QUICK = (
    *("devices=1", "training.global_batch=4", "training.evaluate_every=0", "training.evaluate_samples=4"),
    *("logging.plots=false", "training.schedule.learning_rate=1e-2", "training.schedule.end_learning_rate=1e-3"),
)
SMALL = ("model.hidden_size=64", "model.num_layers=2", "model.intermediate_size=128", "data.seq_length=128")
BASE = (
    *("data.tokenizer_size=512", "data.infill.rate=0.5", "data.infill.mode=psm", "training.steps=20"),
    "model.max_position_embeddings=2048",
)
TUNED = ("training.steps=240", "training.patience=0")
PARAMETERS = {"type": "object", "properties": {"pattern": {"type": "string"}}, "required": ["pattern"]}
PARAMETERS["additionalProperties"] = False
GLOB = {"type": "function", "function": {"name": "glob", "description": "Find files", "parameters": PARAMETERS}}
CALL = {"name": "glob", "arguments": {"pattern": "*.py"}}
FOUND, SAID = "a.py\nb.py", "Two: a.py, b.py."
OPENCODE = {  # but for the temperature, without which the answer is drawn
    **{"model": "own", "max_tokens": 32000, "temperature": 0},
    **{"stream": True, "stream_options": {"include_usage": True}},
}
WITH_TOOLS = {**OPENCODE, "tools": [GLOB], "tool_choice": "auto"}
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer none"}


def question(number):
    return [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": f'"Which files has package {number}?"'},
    ]


def conversation(number):
    """What the agent says with its tool, in texts as data sets of calls have them."""
    chat = JinjaChat(chatml(), {})
    asked, without = (chat.prompt(question(number), tools) for tools in ([GLOB], []))
    chat.close()
    ending = without.partition("You are an agent.")[2]
    system = asked.removesuffix(ending).partition("system\n")[2]
    call = f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"
    result = f"<tool_response>\n{FOUND}\n</tool_response>"
    (_, user) = question(number)
    said = [("assistant", call), ("user", result), ("assistant", SAID)]
    return [{"role": "system", "content": system}, user, *({"role": role, "content": text} for role, text in said)]


def succeed(*words):
    return command(*words, status=0).stdout


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), HEADERS)
    return urllib.request.urlopen(request, timeout=300).read().decode()


def streamed(url, body):
    """The deltas of a stream put together, and why it ended."""
    *lines, last = [line for line in post(f"{url}/v1/chat/completions", body).split("\n\n") if line]
    found = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert last == "data: [DONE]" and found.pop()["usage"]["completion_tokens"] > 0
    choices = [event["choices"][0] for event in found]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", [])]
    assert [call.pop("index") for call in calls] == [*range(len(calls))]
    return "".join(choice["delta"].get("content") or "" for choice in choices), calls, choices[-1]["finish_reason"]


@pytest.mark.slow
@pytest.mark.strict_sandbox
def test_from_files_to_clients(tmp_path):
    transformers = pytest.importorskip("transformers")
    for package in (json, logging, urllib):
        shutil.copytree(Path(package.__file__).parent, tmp_path / "src" / package.__name__)
    base, tuned, small = tmp_path / "base", tmp_path / "tuned", tmp_path / "int8"
    train = ("train", "--config", "qwen2_tiny", "--corpus", tmp_path / "src")
    succeed(*train, f"output={base}", *BASE, *SMALL, *QUICK)
    rows = [json.dumps({"messages": conversation(number)}) for number in range(40)]
    (tmp_path / "chats.jsonl").write_text("\n".join(rows))
    tune = ("finetune", "--model", base, "--data", tmp_path / "chats.jsonl", "--config", "finetune_full")
    succeed(*tune, f"output={tuned}", *TUNED, *QUICK)
    succeed("quantize", "--model", tuned, "--bits", 8, "--output", small)

    with served(small, tmp_path / "serve.log", "--name", "own") as server:
        answer = json.loads(post(f"{server.url}/infill", LLAMA_VSCODE))
        assert post(f"{server.url}/infill", WARMING) == "{}"
        title = streamed(server.url, {**OPENCODE, "messages": question(41)})
        calling = streamed(server.url, {**WITH_TOOLS, "messages": question(41)})
        assert calling[::2] == ("", "tool_calls"), calling
        called = {"role": "assistant", "content": "", "tool_calls": calling[1]}
        told = {"role": "tool", "tool_call_id": calling[1][0]["id"], "content": FOUND}
        after = streamed(server.url, {**WITH_TOOLS, "messages": [*question(41), called, told]})
    text = (
        "<|repo_name|>myproject\n<|file_sep|>count.h\nint count();\n<|file_sep|>filename\n"
        f"<|fim_prefix|>{LLAMA_VSCODE['input_prefix']}{LLAMA_VSCODE['prompt']}"
        f"<|fim_suffix|>{LLAMA_VSCODE['input_suffix']}<|fim_middle|>"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(small, local_files_only=True)
    assert (answer["infill"], answer["prompt"]) == ("trained", text)
    assert answer["tokens_evaluated"] == len(tokenizer(text).input_ids) and answer["content"]
    assert title[1] == [] and title[2] in ("stop", "length")
    (function,) = [call["function"] for call in calling[1]]
    assert {**function, "arguments": json.loads(function["arguments"])} == CALL
    assert after[0].startswith(SAID[:4]) and after[1] == []

    gaps = ("evaluate", "infilling", "--model", small, "--data", tmp_path / "src", "--limit", 2)
    report = json.loads(succeed(*gaps, "--output", tmp_path / "gaps", "--json"))
    assert report["infill"] == "trained"
    judged = ("evaluate", "humaneval", "--model", small, "--data", humaneval(tmp_path), "--max-new-tokens", 16)
    report = json.loads(succeed(*judged, "--output", tmp_path / "humaneval", "--json"))
    assert report["samples"]["judged"] == 2
