"""Situations in which an error of `extras/shared`, `extras/terminal` or `extras/serving` says what to do."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from asking import ask
from fake_backend import FakeBackend, fake_model
from openai_server import Server
from over_http import served
from remedies_of_core import of_a_file
from remedies_of_corpora import command, failing
from remedies_of_data import Call, Situation, instead
from small_models import save_adapters

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.extras.serving.app import load_examples
from ms_codegeex.extras.serving.keys import read_keys
from ms_codegeex.extras.serving.model import open_models
from ms_codegeex.extras.serving.origins import EXAMPLES, Origins
from ms_codegeex.extras.serving.records import AccessLog
from ms_codegeex.extras.serving.responding import requested_form
from ms_codegeex.extras.serving.server import bound
from ms_codegeex.extras.serving.settings import ServeSettings
from ms_codegeex.extras.shared import remote
from ms_codegeex.extras.shared.remote import RemotePath, list_files, parse_location
from ms_codegeex.extras.terminal import server as terminal_server
from ms_codegeex.extras.terminal.chat import Chat
from ms_codegeex.extras.terminal.local import TerminalModel
from ms_codegeex.extras.terminal.server import RemoteModel
from ms_codegeex.generation.sampling import SamplingSettings

# --- servers and URLs ---


def at_server(*lines: str, verb: str = "complete") -> Situation:
    """Commands that ask a server, of which the first is refused."""

    def situation(at: Path) -> Iterator[Call]:
        with served() as server:
            said = yield failing(f"{verb} --url {server.url} {lines[0]}")
            for line in lines[1:]:
                yield failing(f"{verb} --url {server.url} {line.replace('SAID', said.rpartition(' ')[2])}")

    return situation


def of_an_address(at: Path) -> Iterator[Call]:
    with served() as server:
        yield lambda: RemoteModel(server.url.removeprefix("http://"))
        yield lambda: RemoteModel(f"{server.url}/v1")


def of_no_server(at: Path) -> Iterator[Call]:
    yield failing("complete --url http://127.0.0.1:9 x --max-new-tokens 1")
    yield failing("complete --model model x --max-new-tokens 1")
    with served() as server:
        yield failing(f"complete --url {server.url} x --max-new-tokens 1")


def of_another_server(answer: Any) -> Situation:
    """One that fails, which names no remedy, and one that answers."""

    def situation(at: Path) -> Iterator[Call]:
        with pytest.MonkeyPatch.context() as patched, Server(lambda body: answer) as wrong:
            patched.setattr(terminal_server, "SILENCE_SECONDS", 0.1)
            yield lambda: [*RemoteModel(wrong.url).complete(SamplingSettings(1), {"prompt": "x"})]
        with Server(lambda body: ("y", "stop")) as right:
            yield lambda: [*RemoteModel(right.url).complete(SamplingSettings(1), {"prompt": "x"})]

    return situation


def of_no_list_of_models(at: Path) -> Iterator[Call]:
    with Server(lambda body: ("y", "stop"), models=b"{}") as odd, Server(lambda body: ("y", "stop")) as right:
        yield lambda: RemoteModel(odd.url)
        yield lambda: RemoteModel(odd.url, name="small")
        yield lambda: RemoteModel(right.url)


def of_a_missing_url(at: Path) -> Iterator[Call]:
    yield lambda: list_files(RemotePath("memory://remedies/here"))
    fsspec.filesystem("memory").pipe_file("/remedies/here/a", b"x")


def of_a_spoilt_url(at: Path) -> Iterator[Call]:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/remedies/a.json", b"{")
    yield lambda: remote.read_json(RemotePath("memory://remedies/a.json"))
    memory.rm_file("/remedies/a.json")


def of_an_error_of_a_url(at: Path) -> Iterator[Call]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remote, "PAUSES", ())  # in place of half a minute
        yield lambda: remote.read_json(RemotePath(f"local://{at}/{'x' * 300}"))
        yield lambda: remote.read_json(RemotePath(f"local://{at}/x"))


def of_a_url_of_a_directory(at: Path) -> Iterator[Call]:
    yield lambda: remote.read_json(RemotePath(f"local://{at}"))
    (at / "a.json").write_text("{}")
    yield lambda: remote.read_json(RemotePath(f"local://{at}/a.json"))


SHARED: dict[str, Situation | tuple[Situation, ...] | str] = {
    "expected three slashes, as in file:///data/sources": instead(
        lambda at: list_files(parse_location(f"file://host{at}")), lambda at: parse_location(f"file://{at}").stat()
    ),
    "give a path, or a URL of a known scheme, such as {}": instead(
        lambda at: list_files(parse_location("foo://x/y")), lambda at: parse_location(f"{at}").stat()
    ),
    "give an existing bucket, directory or file": of_a_missing_url,
    "{} of remote": of_a_url_of_a_directory,
    "check its content, and delete it or add --replace": of_a_spoilt_url,
    "check the address and the credentials, then run the same command again (what is finished is kept)": (
        of_an_error_of_a_url
    ),
    "is a variable empty?": instead(lambda at: parse_location("s3:///"), lambda at: parse_location("s3://bucket/")),
    "expected http(s)://HOST[:PORT]/v1": of_an_address,
    "{} of server_answers": of_no_list_of_models,
    "{} has {}": at_server("--name other x", "--name SAID x"),
}
SHARED_UNTRIED = {
    "pip install 'ms-codegeex[{}]'": "needs an index",
    "install it": "needs an index",
    "cannot be opened ({})": "names no remedy; of a library of a scheme",
}

# --- the terminal ---


def said_in_chat(*entries: str, language: str | None = None) -> Situation:
    """Entries of a conversation with a base model, of which the first is refused."""

    def situation(at: Path) -> Iterator[Call]:
        chat = Chat(TerminalModel(Path("model"), threads=1), SamplingSettings(1), language)
        said = yield partial(chat.enter, entries[0])
        for entry in entries[1:]:
            yield partial(chat.enter, entry.replace("SAID", (re.findall("mean '(.*?)'", said) or [""])[0]))

    return situation


def without_input(*lines: str) -> Situation:
    """Commands without a standard input, of which the first is refused."""

    def situation(at: Path) -> Iterator[Call]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "stdin", None)
            (at / "file").write_text("x = 1")
            for line in lines:
                yield failing(line.replace("AT", str(at)))

    return situation


LOCAL = "complete --model model --max-new-tokens 1"
TERMINAL: dict[str, Situation | tuple[Situation, ...] | str] = {
    "did you mean '{}'?": (said_in_chat("/set temperatur 1", "/set SAID 1"), said_in_chat("/hlp", "SAID")),
    "known here: {}": (said_in_chat("/set qqqq 1", "/set seed 1"), said_in_chat("/qqqq", "/help")),
    "type the beginning of a program, or give --language": said_in_chat("", "x"),
    "{} takes a number, not {}": said_in_chat("/set seed x", "/set seed 1"),
    "open it, or use `ms-codegeex complete`": without_input("chat --model model", f"{LOCAL} x"),
    "leave out one of them": command(
        f"{LOCAL} x --file run.yaml", f"{LOCAL} x", f"{LOCAL} --file run.yaml --cut-prompt"
    ),
    "give it in this encoding": command(f"{LOCAL} \udce9", f"{LOCAL} é"),
    "give one, --file FILE, or pipe it in": without_input(LOCAL, f"{LOCAL} x", f"{LOCAL} --file AT/file"),
    "name it with --language": command(f"{LOCAL} x --stop-at block", f"{LOCAL} x --stop-at block --language go"),
    "start a server with `ms-codegeex serve --model DIR`, or give --model DIR": of_no_server,
    "{} was silent for {} s": of_another_server(None),
    "the answer broke off ({})": of_another_server((b'data: {"error": {"message": "x"}}\n\n', "text/event-stream")),
    "{} {} of server": of_another_server((b"{}", "application/json")),
}
# --- requests and what serves them ---

BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x", "max_tokens": 4},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4},
    "/v1/responses": {"input": "x", "max_output_tokens": 4},
    "/v1/embeddings": {"input": "x"},
    "/v1/code/explain": {"code": "x = 1", "language": "python", "max_tokens": 4},
    "/v1/code/translate": {"code": "x", "source_language": "python", "target_language": "go", "max_tokens": 4},
    "/infill": {"input_prefix": "x", "n_predict": 4},
    "/tokenize": {"content": "x"},
}


def asked(path: str, more: Mapping[str, Any], **model: Any) -> None:
    model = {"chat": TEMPLATES["plain"], **model}
    body = {key: value for key, value in {**BODIES[path], **more}.items() if value is not ...}
    answer = ask("POST", path, lambda: FakeBackend(model=fake_model(**model)), json=body)
    if answer.status_code != 200:
        raise UserError(answer.json()["error"]["message"])


def requested(path: str, wrong: Mapping[str, Any], *right: Mapping[str, Any], **model: Any) -> Situation:
    """Fields of a request that are refused, and others; `...`: the field is left out."""
    return instead(
        *(lambda at, each=each: asked(path, each, **model) for each in (wrong, *({**wrong, **r} for r in right)))
    )


def keyed(*texts: str, mode: int = 0o600) -> Situation:
    """Files of keys, of which the first is refused."""

    def situation(at: Path) -> Iterator[Call]:
        for text in texts:
            (at / "keys").write_text(text)
            (at / "keys").chmod(mode)
            yield lambda: read_keys(at / "keys")

    return situation


def read_private(path: Path) -> None:
    if path.exists():
        path.chmod(0o600)
    read_keys(path)


def made_key(*words: str) -> str:
    return subprocess.run(words, input="a key", capture_output=True, text=True, check=True).stdout.split()[0]


def of_a_hash(at: Path) -> Iterator[Call]:
    yield from keyed("me sha256:x", f"me sha256:{made_key('sha256sum')}")(at)


def of_a_short_key(at: Path) -> Iterator[Call]:
    said = yield from _first(keyed("me short")(at))
    made = made_key(*shlex.split(re.search("`(.*)`", said)[1]))
    yield from keyed(f"me {made}")(at)


def _first(steps: Iterator[Call]) -> Iterator[Call]:
    return (yield next(steps))


def of_a_public_key(at: Path) -> Iterator[Call]:
    steps = keyed(f"me {KEY}", mode=0o644)(at)
    said = yield from _first(steps)
    run_in_shell(f"{re.search('`(.*)`', said)[1]} {at / 'keys'}")


def run_in_shell(line: str) -> None:
    subprocess.run(["bash", "-c", line], check=True)


def of_a_base_name(at: Path) -> Iterator[Call]:
    save_adapters(at / "tuned", "codegen", Path("model").absolute(), targets=("query",))
    model = Path("model")
    yield lambda: open_models(ServeSettings(model=model, adapter=(("model", at / "tuned"),)))
    yield lambda: open_models(ServeSettings(model=model, adapter=(("other", at / "tuned"),)))
    yield lambda: open_models(ServeSettings(model=model, adapter=(("model", at / "tuned"),), name="other"))


def of_a_port(at: Path) -> Iterator[Call]:
    with bound("127.0.0.1", 0) as listening:
        yield lambda: bound("127.0.0.1", listening.getsockname()[1])
        yield lambda: bound("127.0.0.1", 0).close()


def of_a_log(at: Path) -> Iterator[Call]:
    yield lambda: AccessLog(f"{at}/nothing/log")
    yield lambda: AccessLog(f"{at}/log")
    yield lambda: AccessLog("-")


def shown(*lines: str) -> Situation:
    """Files of examples for the demo, of which the first is refused."""
    return instead(*(lambda at, line=line: ((at / "x").write_text(line), load_examples(at / "x")) for line in lines))


KEY = "0123456789abcdef"
EXAMPLE = '{"code": "x = 1", "language": "python"}'
COMPLETE, TALK, EMBED = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
DEEP: dict[str, Any] = {"type": "object"}
for _ in range(120):
    DEEP = {"type": "object", "properties": {"a": DEEP}}


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


def of_a_deep_form(at: Path) -> Iterator[Call]:
    schema: dict[str, Any] = {}
    for _ in range(100_000):  # more than any Python can write
        schema = {"not": schema}
    yield lambda: requested_form(SimpleNamespace(form_field="json_schema", json_schema=schema))
    yield lambda: requested_form(SimpleNamespace(form_field="json_schema", json_schema={"not": {}}))


SERVING: dict[str, Situation | tuple[Situation, ...] | str] = {
    # the command
    "{} of serve": (
        command("serve --model model --share", "serve --model model"),
        command("serve --model model --fastllm", "serve --model model", "serve --model model --bits 8"),
        command("serve --model model --half", "serve --model model --cache-bits 16", "serve --model model"),
        command("serve --model model --workers 4", "serve --model model --max-concurrency 4"),
    ),
    "give each another name": command(
        "serve --model model --adapter a=x a=y", "serve --model model --adapter a=x", "serve --model model"
    ),
    "add --demo": "examples without a page",
    "add --access-log FILE": "prompts without a log",
    "give --api-key-file FILE, or --host 127.0.0.1": "no keys",
    "give a name and a directory, for example sql=runs/sql": command(
        "serve --model model --adapter x", "serve --model model"
    ),
    "give one such as 2GB, 512MiB or 0": command(
        "serve --model model --prefix-memory x",
        "serve --model model --prefix-memory 2GB",
        "serve --model model --prefix-memory 512MiB",
        "serve --model model --prefix-memory 0",
    ),
    "choose another, or give --name": of_a_base_name,
    "choose another": of_a_port,
    "name origins, or give keys": instead(
        lambda at: Origins(["*"], keys=False),
        lambda at: Origins(["https://code.example.com"], keys=False),
        lambda at: Origins(["*"], keys=True),
    ),
    f"give one such as {EXAMPLES}": instead(
        lambda at: Origins(["example"], keys=False),
        lambda at: Origins(re.split(", | or ", EXAMPLES), keys=False),
    ),
    "give another file, or -": of_a_log,
    # examples and keys
    "expected one object in each line": shown("{", EXAMPLE),
    "expected one with `code` and `language`": shown("[]", EXAMPLE),
    "expected `code` and `language`": shown('{"code": "x"}', EXAMPLE),
    "see `sha256sum`": of_a_hash,
    "make one with `openssl rand -hex 32`": of_a_short_key,
    "write one into it, one in a line": keyed("# none", f"# none\n{KEY}"),
    "write a key into it, one in a line": of_a_file(None, f"{KEY}".encode(), read_private),
    "give a text file": of_a_file(b"\xff", KEY.encode(), read_private),
    "remove one of the lines": (keyed(f"a {KEY}\nb {KEY}", f"a {KEY}"), keyed(f"a {KEY}\na {KEY}1", f"a {KEY}")),
    "run `chmod 600` on it": of_a_public_key,
    "expected a name, a key and limits such as concurrent=4": keyed(f"a b {KEY}", f"a {KEY} concurrent=4"),
    "choose another one": keyed(f"a/b {KEY}", f"a-b {KEY}"),
    "for example {}=60": keyed(f"a {KEY} weight=x", f"a {KEY} weight=60"),
    # requests
    "give one of {}": (
        shown(EXAMPLE.replace("}", ', "task": "x"}'), EXAMPLE.replace("}", ', "task": "translate"}')),
        requested(
            TALK,
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
    ),
    "give some text, for example '# language: Python'": requested(
        COMPLETE, {"prompt": [[]]}, {"prompt": "# language: Python"}
    ),
    "ids are 0 to {}": (
        requested(COMPLETE, {"prompt": [60000]}, {"prompt": [0]}),
        requested(COMPLETE, {"logit_bias": {"60000": 1}}, {"logit_bias": {"0": 1}}),
    ),
    "{} of model": (
        requested(COMPLETE, {"prompt": "x " * 300}, {"prompt": "x"}, {"truncate_prompt": True}),
        requested(COMPLETE, {"prompt": "x " * 300, "suffix": "y"}, {"prompt": "x"}, {"truncate_prompt": True}),
        requested(
            TALK,
            {"messages": [said("x " * 99)] * 5},
            {"messages": [said("x")]},
        ),
        requested(EMBED, {"input": "x " * 300}, {"input": ["x " * 150, "x " * 150]}),
        requested("/v1/code/explain", {"code": "x = 1\n" * 999}, {"code": "x = 1"}, context=512),
    ),
    "give some code": (
        requested("/v1/code/explain", {"code": " "}, {"code": "x"}, context=512),
        requested("/v1/code/translate", {"code": " "}, {"code": "x"}, context=512),
    ),
    "give {} at most": (
        requested(COMPLETE, {"stop": [str(n) for n in range(65)]}, {"stop": ["x"] * 64}),
        requested("/tokenize", {"content": "x" * (1 << 20)}, {"content": "x"}),
        requested(
            TALK,
            {"tools": [tool(name=f"f{n}") for n in range(129)]},
            {"tools": [tool(name=f"f{n}") for n in range(128)]},
        ),
    ),
    "give a schema of fewer levels": of_a_deep_form,
    'expected a type "text", "json_object", or "json_schema" with json_schema, an object of schema, {}': requested(
        TALK,
        {"response_format": {"type": "x"}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "name": "x"}}},
    ),
    "name it with language": requested(COMPLETE, {"stop_at": "block"}, {"language": "python"}),
    "{} of responding": (
        requested(COMPLETE, {"stop_at": "block", "language": "SQL"}, {"language": "Python"}),
        requested(
            TALK,
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
            {"response_format": ...},
        ),
        requested("/infill", {"json_schema": {}, "grammar": 'root ::= "x"'}, {"grammar": ...}, {"json_schema": ...}),
    ),
    "give 1 to {}": (
        requested(COMPLETE, {"prompt": []}, {"prompt": ["x"]}),
        requested("/v1/responses", {"input": []}, {"input": [said("x")]}),
    ),
    "send true for it": requested(TALK, {"top_logprobs": 2}, {"logprobs": True}),
    "add what should be answered": requested(TALK, {"messages": [said("x", "assistant")]}, {"messages": [said("x")]}),
    "give its text": requested(TALK, {"messages": [said(None)]}, {"messages": [said("x")]}),
    "send parts of type text, with a text": tuple(
        requested(TALK, {"messages": [said([part])]}, {"messages": [said([{"type": "text", "text": "x"}])]})
        for part in ({"type": "image"}, {"type": "text"})
    ),
    "give {} or more": requested(COMPLETE, {"best_of": 1, "n": 2}, {"best_of": 2}),
    "leave out stream or best_of": requested(
        COMPLETE, {"best_of": 2, "stream": True}, {"stream": ...}, {"best_of": ...}
    ),
    "{} leave no room for a prompt, the model's context is {} tokens": requested(
        COMPLETE, {"truncate_prompt": True, "max_tokens": 256}, {"max_tokens": 255}
    ),
    "leave out echo": requested(
        COMPLETE, {"echo": True, "suffix": "y"}, {"echo": ...}, sentinels=Sentinels("<P>", "<S>", "<M>")
    ),
    "leave it out": requested(EMBED, {"input": ["x", ""]}, {"input": ["x"]}),
    "{} of llama_cpp": requested("/infill", {"repeat_penalty": 0}, {"repeat_penalty": 1}),
    "describe an object": requested(
        TALK, {"tools": [tool(parameters={"type": "string"})]}, {"tools": [tool(parameters={"type": "object"})]}
    ),
    "give one of fewer": requested(TALK, {"tools": [tool(parameters=DEEP)]}, {"tools": [TOOL]}),
    "send one, or leave it out": requested(TALK, {"tool_choice": "required"}, {"tools": [TOOL]}, {"tool_choice": ...}),
    "give each another one": requested(TALK, {"tools": [TOOL, TOOL]}, {"tools": [TOOL, tool(name="g")]}),
}
SERVING_UNTRIED = {
    "its messages are above": "names no remedy; of an engine that ends",
    "run `chown {}` on it": "needs another user",
}
SERVED = {
    "extras/shared": (SHARED, SHARED_UNTRIED),
    "extras/terminal": (TERMINAL, {}),
    "extras/serving": (SERVING, SERVING_UNTRIED),
}
