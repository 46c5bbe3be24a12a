"""Situations in which an error of `extras/shared`, `extras/terminal` or `extras/serving` says what to do."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
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
from remedies_read import SERVE_MODEL, now
from remedies_shapes import AGAIN, Call, Said, Situation, each, failing, lines, of_each, put, tried
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


def of_a_name(at: Path) -> Iterator[Call]:
    with served() as server:
        line = f"complete x --url {server.url} --name"
        said = yield failing(f"{line} other")
        yield failing(f"{line} {said.rpartition(' ')[2]}")


def of_an_address(at: Path) -> Iterator[Call]:
    with served() as server:
        yield lambda: RemoteModel(server.url.removeprefix("http://"))
        yield lambda: RemoteModel(f"{server.url}/v1")


def of_another_server(answer: Any) -> Situation:
    """One that fails, which names no remedy, and one that answers."""

    def situation(at: Path) -> Iterator[Call]:
        for said, seconds in ((answer, 0.1), (("y", "stop"), 60)):
            with pytest.MonkeyPatch.context() as patched, Server(lambda body, said=said: said) as server:
                patched.setattr(terminal_server, "SILENCE_SECONDS", seconds)
                yield lambda: [*RemoteModel(server.url).complete(SamplingSettings(1), {"prompt": "x"})]

    return situation


def of_no_list_of_models(at: Path) -> Iterator[Call]:
    with Server(lambda body: ("y", "stop"), models=b"{}") as odd, Server(lambda body: ("y", "stop")) as right:
        yield lambda: RemoteModel(odd.url)
        yield lambda: RemoteModel(odd.url, name="small")
        yield lambda: RemoteModel(right.url)


def of_no_server(at: Path) -> Iterator[Call]:
    with served() as server:
        for where in ("--url http://127.0.0.1:9", "--model model", f"--url {server.url}"):
            yield failing(f"complete {where} x --max-new-tokens 1")


def in_memory(content: bytes | None) -> None:
    memory = fsspec.filesystem("memory")
    memory.rm_file("/remedies/a.json") if content is None else memory.pipe_file("/remedies/a.json", content)


def remote_json(url: str) -> Callable[[Path], object]:
    return lambda at: remote.read_json(RemotePath(url.format(at=at)))


def of_an_error_of_a_url(at: Path) -> Iterator[Call]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(remote, "PAUSES", ())  # in place of half a minute
        for name in ("x" * 300, "x"):
            yield partial(remote_json(f"local://{{at}}/{name}"), at)


SHARED: dict[str, Situation | tuple[Situation, ...] | str] = {
    "expected three slashes, as in file:///data/sources": tried(
        lambda at: list_files(parse_location(f"file://host{at}")), lambda at: parse_location(f"file://{at}").stat()
    ),
    "give a path, or a URL of a known scheme, such as {}": tried(
        lambda at: list_files(parse_location("foo://x/y")), lambda at: parse_location(f"{at}").stat()
    ),
    "give an existing bucket, directory or file": tried(
        lambda at: list_files(RemotePath("memory://remedies/here")),
        (lambda at: fsspec.filesystem("memory").pipe_file("/remedies/here/a", b"x"), AGAIN),
    ),
    "{} of remote": tried(remote_json("local://{at}"), ({"a.json": {}}, remote_json("local://{at}/a.json"))),
    "check its content, and delete it or add --replace": tried(
        (lambda at: in_memory(b"{"), remote_json("memory://remedies/a.json")), (lambda at: in_memory(None), AGAIN)
    ),
    "check the address and the credentials, then run the same command again (what is finished is kept)": (
        of_an_error_of_a_url
    ),
    "is a variable empty?": each(parse_location, "s3:///", "s3://bucket/"),
    "expected http(s)://HOST[:PORT]/v1": of_an_address,
    "{} of server_answers": of_no_list_of_models,
    "{} has {}": of_a_name,
}
SHARED_UNTRIED = {
    "pip install 'ms-codegeex[{}]'": "needs an index",
    "install it": "needs an index",
    "cannot be opened ({})": "names no remedy; of a library of a scheme",
}

# --- the terminal ---


def said_in_chat(wrong: str, right: str, language: str | None = None) -> Situation:
    """Entries of a conversation with a base model, of which the first is refused; SAID: what the message means."""

    def situation(at: Path) -> Iterator[Call]:
        chat = Chat(TerminalModel(Path("model"), threads=1), SamplingSettings(1), language)
        said = yield partial(chat.enter, wrong)
        yield partial(chat.enter, right.replace("SAID", (re.findall("mean '(.*?)'", said) or [""])[0]))

    return situation


def without_input(*lines: str) -> Situation:
    """Commands without a standard input, of which the first is refused."""

    def situation(at: Path) -> Iterator[Call]:
        put(at, {"file": "x = 1"})
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "stdin", None)
            for line in lines:
                yield failing(line.format(at=at))

    return situation


LOCAL = "complete --model model --max-new-tokens 1"
TERMINAL: dict[str, Situation | tuple[Situation, ...] | str] = {
    "did you mean '{}'?": (said_in_chat("/set temperatur 1", "/set SAID 1"), said_in_chat("/hlp", "SAID")),
    "known here: {}": (said_in_chat("/set qqqq 1", "/set seed 1"), said_in_chat("/qqqq", "/help")),
    "type the beginning of a program, or give --language": said_in_chat("", "x"),
    "{} takes a number, not {}": said_in_chat("/set seed x", "/set seed 1"),
    "open it, or use `ms-codegeex complete`": without_input("chat --model model", f"{LOCAL} x"),
    "leave out one of them": tried(f"{LOCAL} x --file run.yaml", f"{LOCAL} x", f"{LOCAL} --file run.yaml --cut-prompt"),
    "give it in this encoding": tried(f"{LOCAL} \udce9", f"{LOCAL} é"),
    "give one, --file FILE, or pipe it in": without_input(LOCAL, f"{LOCAL} x", f"{LOCAL} --file {{at}}/file"),
    "name it with --language": tried(f"{LOCAL} x --stop-at block", f"{LOCAL} x --stop-at block --language go"),
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
    return tried(
        *(lambda at, each=each: asked(path, each, **model) for each in (wrong, *({**wrong, **r} for r in right)))
    )


def keys(text: str, mode: int = 0o600) -> Callable[[Path], None]:
    """Reads a file of keys."""

    def read(at: Path) -> None:
        put(at, {"keys": text})
        (at / "keys").chmod(mode)
        read_keys(at / "keys")

    return read


def keyed(*texts: str) -> Situation:
    return tried(*map(keys, texts))


def examples(*lines: str) -> Situation:
    """Files of examples for the demo, of which the first is refused."""
    return tried(*(({"x": line}, lambda at: load_examples(at / "x")) for line in lines))


def with_adapter(adapter: str, **options: Any) -> Callable[[Path], object]:
    return lambda at: open_models(ServeSettings(model=Path("model"), adapter=((adapter, at / "tuned"),), **options))


def read_private(path: Path) -> None:
    if path.exists():
        path.chmod(0o600)
    read_keys(path)


def in_shell(at: Path, line: str) -> str:
    return subprocess.run(
        ["bash", "-c", line], input="a key", text=True, check=True, cwd=at, stdout=subprocess.PIPE
    ).stdout


def deep_form(levels: int) -> object:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return requested_form(SimpleNamespace(form_field="json_schema", json_schema=schema))


def of_a_port(at: Path) -> Iterator[Call]:
    with bound("127.0.0.1", 0) as listening:
        yield lambda: bound("127.0.0.1", listening.getsockname()[1])
        yield lambda: bound("127.0.0.1", 0).close()


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


SERVING: dict[str, Situation | tuple[Situation, ...] | str] = {
    "{} of serve": (
        tried("serve --model model --share", "serve --model model"),
        tried("serve --model model --fastllm", "serve --model model", "serve --model model --bits 8"),
        tried("serve --model model --half", "serve --model model --cache-bits 16", "serve --model model"),
        tried("serve --model model --workers 4", "serve --model model --max-concurrency 4"),
    ),
    "give each another name": lines("serve --model model @", "--adapter a=x a=y", "--adapter a=x", ""),
    "add --demo": now(f"{SERVE_MODEL} --example-path x"),
    "add --access-log FILE": now(f"{SERVE_MODEL} --log-prompts", 1, {"FILE": "{at}/o.log"}),
    "give --api-key-file FILE, or --host 127.0.0.1": now(f"{SERVE_MODEL} --host 0.0.0.0", 2, {"FILE": "{at}/o.keys"}),
    "give a name and a directory, for example sql=runs/sql": lines("serve --model @", "model --adapter x", "model"),
    "give one such as 2GB, 512MiB or 0": lines("serve --model model --prefix-memory @", "x", "2GB", "512MiB", "0"),
    "choose another, or give --name": tried(
        (
            lambda at: save_adapters(at / "tuned", "codegen", Path("model").absolute(), targets=("query",)),
            with_adapter("model"),
        ),
        with_adapter("other"),
        with_adapter("model", name="other"),
    ),
    "choose another": of_a_port,
    "name origins, or give keys": each(Origins, (["*"], False), (["https://code.example.com"], False), (["*"], True)),
    f"give one such as {EXAMPLES}": each(Origins, (["example"], False), (re.split(", | or ", EXAMPLES), False)),
    "give another file, or -": of_each(
        lambda at, name: AccessLog(name.format(at=at)), "{at}/nothing/log", "{at}/log", "-"
    ),
    "expected one object in each line": examples("{", EXAMPLE),
    "expected one with `code` and `language`": examples("[]", EXAMPLE),
    "expected `code` and `language`": examples('{"code": "x"}', EXAMPLE),
    "see `sha256sum`": tried(
        keys("me sha256:x"), Said("`(.*)`", lambda at, line: keys(f"me sha256:{in_shell(at, line).split()[0]}")(at))
    ),
    "make one with `openssl rand -hex 32`": tried(
        keys("me short"), Said("`(.*)`", lambda at, line: keys(f"me {in_shell(at, line).split()[0]}")(at))
    ),
    "write one into it, one in a line": keyed("# none", f"# none\n{KEY}"),
    "write a key into it, one in a line": of_a_file(None, f"{KEY}".encode(), read_private),
    "give a text file": of_a_file(b"\xff", KEY.encode(), read_private),
    "remove one of the lines": (keyed(f"a {KEY}\nb {KEY}", f"a {KEY}"), keyed(f"a {KEY}\na {KEY}1", f"a {KEY}")),
    "run `chmod 600` on it": tried(
        keys(f"me {KEY}", 0o644),
        (Said("`(.*)`", lambda at, line: in_shell(at, f"{line} keys")), lambda at: read_keys(at / "keys")),
    ),
    "expected a name, a key and limits such as concurrent=4": keyed(f"a b {KEY}", f"a {KEY} concurrent=4"),
    "choose another one": keyed(f"a/b {KEY}", f"a-b {KEY}"),
    "for example {}=60": keyed(f"a {KEY} weight=x", f"a {KEY} weight=60"),
    "give one of {}": (
        examples(EXAMPLE.replace("}", ', "task": "x"}'), EXAMPLE.replace("}", ', "task": "translate"}')),
        requested(
            TALK,
            *({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": name}}} for name in "gf"),
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
        *(
            requested(COMPLETE, {"prompt": "x " * 300, **more}, {"prompt": "x"}, {"truncate_prompt": True})
            for more in ({}, {"suffix": "y"})
        ),
        requested(TALK, {"messages": [said("x " * 99)] * 5}, {"messages": [said("x")]}),
        requested(EMBED, {"input": "x " * 300}, {"input": ["x " * 150, "x " * 150]}),
        requested("/v1/code/explain", {"code": "x = 1\n" * 999}, {"code": "x = 1"}, context=512),
    ),
    "give some code": tuple(
        requested(f"/v1/code/{name}", {"code": " "}, {"code": "x"}, context=512) for name in ("explain", "translate")
    ),
    "give {} at most": (
        requested(COMPLETE, {"stop": [str(n) for n in range(65)]}, {"stop": ["x"] * 64}),
        requested("/tokenize", {"content": "x" * (1 << 20)}, {"content": "x"}),
        requested(TALK, *({"tools": [tool(name=f"f{n}") for n in range(count)]} for count in (129, 128))),
    ),
    "give a schema of fewer levels": each(deep_form, 100_000, 1),
    'expected a type "text", "json_object", or "json_schema" with json_schema, an object of schema, {}': requested(
        TALK,
        *({"response_format": {"type": name}} for name in ("x", "text", "json_object")),
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
        requested(TALK, *({"messages": [said([each])]} for each in (part, {"type": "text", "text": "x"})))
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
        TALK, *({"tools": [tool(parameters={"type": kind})]} for kind in ("string", "object"))
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
