"""`complete` as users run it: in pipes, on a terminal, against a server and with a model in its own process."""

import contextlib
import io
import json
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import httpx
import openai
import pytest
from conftest import ROOT, command_here
from fake_backend import TEXT, fake_model, key_file
from openai_server import Server
from over_http import served
from pseudo_terminal import Terminal

from ms_codegeex import cli
from ms_codegeex.extras.shared.server_answers import AnswerPart

HOSTILE = "a\x1b[31mb\x1b]0;owned\x07\u202ec\r\n"


@pytest.fixture(scope="module")
def serving():
    with served(model=fake_model(context=1024)) as serving:
        yield serving


@pytest.fixture
def server(serving):
    yield serving
    serving.backend.asked.clear()
    serving.backend.texts.clear()


def complete(server, *words):
    return command_here("complete", "--url", server.url, *words)


def test_in_a_pipe_it_is_the_bare_answer(server):
    server.backend.texts = [HOSTILE + "end"]
    line = f"printf 'def f():' | {sys.executable} -m ms_codegeex.cli complete --url {server.url} --language go | cat"
    done = subprocess.run(["bash", "-c", line], capture_output=True, cwd=ROOT)
    assert done.stdout.decode() == HOSTILE + "end" and done.stderr == b""
    assert server.backend.prompt() == "// language: Go\ndef f():"


def test_files_settings_and_the_rest_behind_the_gap(server, tmp_path):
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text("def add(first, second):\n")
    after.write_text("\n\ndef other():\n    pass\n")
    words = ["--file", before, "--suffix-file", after, "--greedy", "--top-p", 1, "--seed", 5, "--max-new-tokens", 99]
    result = complete(server, *words, "--presence-penalty", 0.5, "--repetition-penalty", 1.5, "--top-k", 7)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == TEXT[: TEXT.index("\n\n\ndef")]
    settings = server.backend.asked[-1].settings
    assert (settings.temperature, settings.top_p, settings.seed, settings.max_new_tokens) == (0, 1, 5, 99)
    assert (settings.presence_penalty, settings.repetition_penalty, settings.top_k) == (0.5, 1.5, 7)


def test_the_text_in_front_is_the_bytes_that_came(server, tmp_path):
    file, given = tmp_path / "dos.py", b"\xef\xbb\xbfdef f():\r\n    # \xc3\xa9\r\n    "
    file.write_bytes(given)
    for words in (["--file", file], ["--n", 2, "--file", file]):
        server.backend.texts = ["pass\r\n"] * 2
        command = [sys.executable, "-m", "ms_codegeex.cli", "complete", "--url", server.url, "--echo", *map(str, words)]
        done = subprocess.run(command, capture_output=True, cwd=ROOT)
        assert done.stdout.count(given + b"pass\r\n") == len(words) // 2 and done.returncode == 0
    assert server.backend.prompt() == "def f():\n    # \u00e9\n    "


def test_a_server_of_others_gets_openais_fields_only_and_the_rest_is_said():
    with Server(lambda body: ("x", "stop")) as other:
        plain = command_here("complete", "--url", other.url, "--suffix-file", __file__, "--top-p", 0.5, "x = ")
        assert (plain.returncode, plain.stdout, plain.stderr) == (0, "x", "")
        words = ["--language", "Python", "--stop-at", "block", "--cut-prompt", "--top-k", 5, "--n", 2, "--stop", "y"]
        result = command_here("complete", "--url", other.url, *words, "x = ")
        flags = "--top-k, --language, --cut-prompt, --stop-at: left out"
        assert result.returncode == 0 and flags in result.stderr and result.stderr.count("\n") == 1
    known = {"model", "stream", "prompt", "max_tokens", "seed", "temperature", "top_p"}
    assert {*other.requests[0]} == known | {"suffix"} and {*other.requests[1]} == known | {"n", "stop"}


def test_a_server_of_others_need_not_list_its_models(monkeypatch):
    def answer(request):
        if request.url.path == "/v1/models":
            return httpx.Response(404, json={"detail": "Not Found"})
        return httpx.Response(200, headers={"content-type": STREAM}, content=ADDED.replace(b"null", b'"stop"'))

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(openai, "OpenAI", partial(openai.OpenAI, http_client=client))
    result = command_here("complete", "--url", "http://h", "--name", "qwen", "x")
    assert (result.returncode, result.stdout) == (0, "ab")
    result = command_here("complete", "--url", "http://h", "x")
    assert (
        result.returncode == 2
        and "http://h has no list of models; give a server with OpenAI's API, and --name" in result.stderr
    )


def test_several_answers_and_json(server):
    server.backend.texts = ["1\n", "2"] * 2
    result = complete(server, "--n", 2, "--echo", "x = ")
    assert sorted(result.stdout.split("--- ")) == ["", "1 of 2 ---\nx = 1\n", "2 of 2 ---\nx = 2\n"]
    found = json.loads(complete(server, "--n", 2, "--json", "x = ").stdout)
    assert found["model"] == "fake" and found["prompt"] == "x = "
    assert sorted(answer["text"] for answer in found["answers"]) == ["1\n", "2"]
    assert {answer["finish"] for answer in found["answers"]} == {"stop"}
    assert {answer.settings.seed for answer in server.backend.asked} == {0, 1}


def test_a_stop_text_and_the_end_of_a_block(server):
    assert complete(server, "--stop", "  # ", "x").stdout == "    return first + second"
    result = complete(server, "--stop-at", "block", "--language", "Python", "def add(first, second):\n")
    assert result.stdout == TEXT[: TEXT.index("def other")]


@pytest.mark.parametrize(
    "words,message",
    [
        (["--temperature", "-1", "x"], "temperature: -1.0 is out of range"),
        (["--language", "Pyton", "x"], "did you mean Python"),
        (["--file", "nothing.py"], "--file: nothing.py cannot be read"),
        (["--file", "-", "x"], "leave out one of them"),
        (["--n", "10001", "x"], "--n: 10001 is out of range; give 1 to 10000"),
        (["--url", "http://127.0.0.1:abc", "x"], "127.0.0.1:abc/v1 is not the address of a server (Invalid"),
        (["--url", "http://[::1", "x"], "--url: http://[::1/v1 is not the address of a server (Invalid"),
        (["--name", "other", "x"], "--name: other; {url} has fake"),
        (["word " * 2000], "length is 1024 tokens. However, your prompt resulted in 200"),
        (["word " * 2000], "reduce the length of the prompt; shorten it, or give --cut-prompt to drop its start"),
        (["--special-tokens", "x"], "--special-tokens: is for a model in this process"),
        (["--greedy", "--temperature", "0.2", "x"], "--temperature: not with --greedy"),
    ],
)
def test_mistakes_are_one_line_and_2(server, words, message):
    result = complete(server, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert message.format(url=server.url) in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words, message", [(["--file", "-"], "--file: - cannot be read"), (["x\udcff"], "TEXT: not UTF-8")]
)
def test_text_that_is_not_utf_8_is_a_mistake(server, monkeypatch, words, message):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\xff"), "utf-8", "surrogateescape"))
    result = complete(server, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_text_is_missing_if_standard_input_is_closed(server, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)  # as Python makes it of `<&-`
    result = complete(server, "--json")
    assert result.returncode == 2 and "there is no text to continue" in result.stderr


@pytest.mark.parametrize("count", [1, 2])
def test_characters_that_the_output_cannot_encode_are_spelled_out(server, count):
    server.backend.texts, written = ["\u00fc \u4ee3"] * count, io.TextIOWrapper(io.BytesIO(), "ascii")
    with contextlib.redirect_stdout(written):
        assert cli.main(["complete", "--url", server.url, "--n", str(count), "--echo", "\u00e9 = "]) == 0
    assert written.buffer.getvalue().count("\u00e9 = ".encode() + b"\\xfc \\u4ee3") == count  # its own text as it came


def test_answers_that_nobody_asked_for_are_left_out(monkeypatch):
    parts = [AnswerPart(number, str(number), "stop") for number in (1, 7)]
    model = SimpleNamespace(name="fake", complete=lambda settings, request: (part for part in parts))
    monkeypatch.setattr("ms_codegeex.extras.terminal.commands.complete.open_model", lambda arguments, *_: model)
    found = json.loads(command_here("complete", "--n", 2, "--json", "x").stdout)
    assert found["answers"] == [{"text": "", "finish": None}, {"text": "1", "finish": "stop"}]


def test_no_server_names_both_ways_to_get_one(monkeypatch):
    monkeypatch.setattr("ms_codegeex.extras.terminal.server.RETRIES", 0)  # each comes after a pause
    result = command_here("complete", "--url", "http://127.0.0.1:9", "x")
    assert result.returncode == 2
    assert "ms-codegeex serve --model DIR" in result.stderr and "--model DIR" in result.stderr


def test_keys_are_read_from_a_file(tmp_path):
    keys, key = key_file(tmp_path / "keys", "me correct-horse-battery\n"), tmp_path / "key"
    with served(api_key_file=keys) as server:
        refused = complete(server, "x")
        assert refused.returncode == 2 and "--api-key-file" in refused.stderr
        key.write_text("correct-horse-battery\n")
        assert complete(server, "--api-key-file", key, "x").stdout == TEXT
        key.write_text("two words\n")
        assert "holds no key" in complete(server, "--api-key-file", key, "x").stderr


def test_a_server_that_fails_is_status_1(server, monkeypatch):
    server.backend.draining = True
    monkeypatch.setattr("ms_codegeex.extras.terminal.server.RETRIES", 0)
    result = complete(server, "x")
    server.backend.draining = False
    assert result.returncode == 1 and "shutting down" in result.stderr


OURS = b'{"data": [{"id": "small"}]}'
STREAM = "text/event-stream"
ADDED = b'data: {"choices": [{"text": "ab", "finish_reason": null}]}\n\n'


@pytest.mark.parametrize(
    "models, kind, events, code, words",
    [
        (OURS, STREAM, b"data: {oops\n\n", 1, "http://h/v4 sends an event that is not JSON ("),
        (OURS, STREAM, b"data: \xff\n\n", 1, "http://h/v4 sends an event that is not UTF-8"),
        (OURS, STREAM, b'data: {"error": "died"}\n\n', 1, "the answer broke off (died)"),
        (OURS, STREAM, b'data: {"object": "error", "message": "died"}\n\n', 1, "died"),
        (OURS, "text/html", b"<html>Welcome</html>", 1, "with text/html instead of a stream of events ('<html>Welcome"),
        (OURS, STREAM, ADDED + b'data: {"usage": {}}\n\ndata: {"choices": null, "usage": {}}\n\n', 0, "ab"),
        (b"[]", STREAM, ADDED, 2, "http://h/v4/models is not a list of models"),
        (b"<html>", STREAM, ADDED, 2, "http://h/v4/models is not a list of models"),
    ],
)
def test_servers_of_others(monkeypatch, models, kind, events, code, words):
    def answer(request):
        known = {"/v4/models": ("application/json", models), "/v4/completions": (kind, events)}
        kind_here, content = known[request.url.path]
        return httpx.Response(200, headers={"content-type": kind_here}, content=content)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(openai, "OpenAI", partial(openai.OpenAI, http_client=client))
    result = command_here("complete", "--url", "http://h/v4/chat/completions", "x")
    assert result.returncode == code and words in result.stdout + result.stderr


def test_on_a_terminal_control_characters_have_no_effect(server, tmp_path):
    server.backend.texts = [f"return 1  # why\n{HOSTILE}\tlast = 'x'"]
    words = ["complete", "--url", server.url, "--language", "Python", "--echo", "def f(): "]
    with contextlib.closing(Terminal(*words, home=tmp_path)) as terminal:
        assert terminal.end() == 0
    shown = "def f(): return 1  # why\na\\x1b[31mb\\x1b]0;owned\\x07\\u202ec\\r\n        last = 'x'\n"
    assert terminal.shown.replace("\r\n", "\n").expandtabs() == shown


def test_a_reader_who_has_gone_is_no_failure(server):
    """As with `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "ms_codegeex.cli", "complete", "--url", server.url, "x"]
    with open(writing, "wb") as stream:
        done = subprocess.run(words, stdout=stream, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
