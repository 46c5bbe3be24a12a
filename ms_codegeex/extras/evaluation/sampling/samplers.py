"""Model samplers: our own engine, or one or several servers with OpenAI's completions API.

Each is a `task.Complete`: the same prompt, settings and seed give the same text (a server only promises it).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Protocol

from ms_codegeex.base.errors import PromptTooLong, RunFailure, UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import given_text
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.task import SampledAnswer, TextSource
from ms_codegeex.generation.sampling import Drawing, SamplingSettings, unusual
from ms_codegeex.generation.stopping import Ending, Rule, until

RETRIES = 6  # the client waits 0.5 s, 1 s, 2 s, up to 8 s between them
OPENAIS = ("temperature", "top_p")  # arguments of its client
TIMEOUT = 600.0  # seconds of silence after which a server is given up
# words in a server's error message that say so
TOO_LONG = ("context length", "context size", "too long", "maximum context", "exceeds")
PLACE = "{prompt}"
TEMPLATE = f"""Complete the code below. Answer with one code block: the complete function, with the imports and helper
functions that it needs, and nothing else. No tests, no examples, no main function.

```
{PLACE}
```"""


class UnreachableServer(UserError):
    """A server that does not answer at all."""

    def __init__(self, reason: str, advice: str):
        super().__init__(f"--url: {reason}; {advice}")
        self.reason = reason


class FailedServer(RunFailure):
    """A server that fell silent, or sent something that is not an answer."""

    def __init__(self, reason: str, advice: str = "run the same command again to continue"):
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


SERVER_FAILURES = (UnreachableServer, FailedServer)
ServerFailure = UnreachableServer | FailedServer


class Sampler(TextSource, Protocol):
    """A `TextSource` with an identity and the number of calls it takes at once."""

    identity: Mapping[str, Any]
    concurrency: int


def ending(recipe: Recipe, stop: Rule | None) -> Ending:
    """Ends a text before one of the recipe's stop texts, or after what the task's rule reads: a sample has all of that,
    and the task's clean-up decides what belongs to the code."""
    return Ending(recipe.stops, stop and replace(stop, dropped=0))


class EngineSampler:
    """Our decoding engine, as many texts at a time as the model has slots. Samples of one prompt share its keys and
    values; a text does not depend on the others."""

    def __init__(self, model: LocalModel, recipe: Recipe):
        self.recipe = recipe
        self.generator, self.identity = model.open()
        self.concurrency = self.generator.slots + 1  # the next text waits for the first slot that becomes free
        self.limit = min(self.generator.seq_length, recipe.max_length or self.generator.seq_length)

    def __call__(
        self, prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None
    ) -> SampledAnswer:
        """Continue a prompt; `PromptTooLong` if it leaves no room."""
        ids = self.generator.tokenizer.encode_prompt(prompt)
        room = min(max_new_tokens or self.recipe.max_new_tokens, self.limit - len(ids))
        if room < 1:
            raise PromptTooLong(f"prompt: {len(ids)} tokens, the model and the recipe allow {self.limit} in all")
        recipe, end, new = self.recipe, ending(self.recipe, stop), 0
        drawing = {each.name: getattr(recipe, each.name) for each in fields(Drawing)}
        settings = SamplingSettings(room, seed=seed, **drawing)

        def counted() -> Iterator[int]:
            nonlocal new
            for token in self.generator.tokens(ids, settings):
                new += 1
                yield token

        text = "".join(until(self.generator.tokenizer.continuation(ids, counted(), "replace"), end))
        return SampledAnswer(text, "stop" if end.ended else "length" if new >= room else "eos")


def read_template(path: Path | None) -> str:
    """The text of a message, with `{prompt}` for the text to be continued; `TEMPLATE` without a file."""
    if path is None:
        return TEMPLATE
    text = given_text(str(path), "--chat-template")
    if PLACE not in text:
        raise UserError(f"--chat-template: {path} lacks {PLACE}; put it where the code to be completed belongs")
    return text


def chat_message(template: str, prompt: str) -> str:
    """The message to a chat model: the template with the prompt in its place."""
    return template.replace(PLACE, prompt)


class ServerSampler:
    """A server's `/v1/completions`, read as a stream, so that an answer that has ended costs no more tokens."""

    def __init__(
        self,
        url: str,
        recipe: Recipe,
        model: str | None = None,
        key: str | None = None,
        fields: Mapping[str, Any] | None = None,
        concurrency: int = 4,
        timeout: float = TIMEOUT,
        template: str | None = None,
    ):
        """`template`: of a chat model's message; the server's `/v1/chat/completions` is asked with it."""
        import httpx
        import openai

        self.timeout, self.template = timeout, template
        address = url.rstrip("/").removesuffix("/completions").removesuffix("/chat")
        self.url, self.recipe, self.concurrency = address, recipe, concurrency
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"--url: {url} is not the address of a server; expected http(s)://HOST[:PORT]/v1")
        try:
            self.client = openai.OpenAI(base_url=self.url, api_key=key or "none", max_retries=RETRIES, timeout=timeout)
        except httpx.InvalidURL as error:
            expected = "expected http(s)://HOST[:PORT]/v1"
            raise UserError(f"--url: {url[:200]} is not the address of a server ({error}); {expected}") from None
        ours = {name: value for name, value in unusual(recipe).items() if name not in OPENAIS}
        self.fields = {**ours, **(fields or {})}
        self.model = model or self._only_model()
        self.identity: dict[str, Any] = {"url": self.url, "model": self.model}
        self.identity |= {"fields": self.fields} if self.fields else {}
        self.identity |= {"chat": template} if template is not None else {}

    def _only_model(self) -> str:
        try:
            found = self._asked(lambda: self.client.models.list().data)
            known = {str.strip(model.id): getattr(model, "parent", None) for model in found}
        except (ValueError, TypeError, AttributeError):
            remedy = "addresses mostly end in /v1, or give --url-model"
            raise UserError(f"--url: {self.url}/models is not a list of models; {remedy}") from None
        bases = [name for name, parent in known.items() if parent is None]  # the others are adapters
        if len(bases) != 1:
            raise UserError(f"--url-model: missing; {self.url} has {', '.join(known) or 'no models'}")
        return bases[0]

    def _asked(self, request: Any) -> Any:
        """The answer to a request. What the user can fix is a `UserError`; anything else is a `FailedServer`,
        after which the same command continues."""
        import openai

        try:
            return request()
        except openai.AuthenticationError as error:
            raise UserError(f"--api-key-file: {self.url} refuses the key ({_reason(error)})") from None
        except openai.PermissionDeniedError as error:
            raise UserError(f"--url: {self.url} forbids it ({_reason(error)})") from None
        except openai.NotFoundError as error:
            lacks = f"no such model or no {self._route} ({_reason(error)})"
            raise UserError(f"--url: {self.url} has {lacks}; addresses mostly end in /v1") from None
        except openai.APITimeoutError:
            raise FailedServer(f"{self.url} is silent for {self.timeout:g} s (--url-timeout)") from None
        except openai.APIConnectionError as error:
            reason = f"{self.url} cannot be reached ({error.__cause__ or error})"
            raise UnreachableServer(reason, "is the server up?") from None
        except openai.BadRequestError as error:
            no_chat = getattr(error, "code", None) == "not_a_chat_model"
            advice = "leave out --chat" if no_chat else "see --url-field"
            raise UserError(f"--url: {self.url} refuses the request ({_reason(error)}); {advice}") from None
        except openai.APIError as error:
            raise FailedServer(f"{self.url}: {_reason(error)}") from None

    @property
    def _route(self) -> str:
        return "completions" if self.template is None else "chat/completions"

    def __call__(
        self, prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None
    ) -> SampledAnswer:
        """Continue a prompt; `PromptTooLong` if the server says so. A chat model's reply is read to its end, and the
        recipe's and the task's ends are those of the code in it."""
        import openai

        def request() -> SampledAnswer:
            try:
                if self.template is None:
                    return self._streamed(prompt, seed, ending(self.recipe, stop), max_new_tokens)
                reply = self._streamed(chat_message(self.template, prompt), seed, Ending(), max_new_tokens)
                return SampledAnswer(reply.text, reply.finish, is_reply=True)
            except openai.BadRequestError as error:
                if any(words in str(error).lower() for words in TOO_LONG):
                    raise PromptTooLong(f"prompt: {self.url} says {_reason(error)}") from None
                raise

        reason = ""
        for _ in range(1 + RETRIES):
            try:
                return self._asked(request)
            except _InvalidAnswer as error:  # in mid-answer, where the client does not retry
                reason = str(error)
        raise FailedServer(f"{self.url} {reason}")

    def _streamed(self, prompt: str, seed: int, end: Ending, max_new_tokens: int | None) -> SampledAnswer:
        """One answer; `_InvalidAnswer` if it is invalid or breaks off, that is, ends without a finish reason."""
        recipe = self.recipe
        maximum = max_new_tokens or recipe.max_new_tokens
        text, finish, seen = "", None, False
        create: Any = self.client.completions.create
        given: dict[str, Any] = {"prompt": prompt}
        if self.template is not None:
            create, given = self.client.chat.completions.create, {"messages": [{"role": "user", "content": prompt}]}
        with create(
            **given,
            model=self.model,
            max_tokens=min(maximum, recipe.max_length or maximum),
            temperature=recipe.temperature,
            top_p=recipe.top_p if recipe.temperature else 1.0,
            seed=seed,
            stream=True,
            extra_body=self.fields or None,
        ) as stream:
            self._check_kind(stream.response)
            for choice in self._choices(stream):
                piece, seen = _text(choice, self.template is not None) or "", True
                text += end.feed(piece)
                if end.ended:
                    return SampledAnswer(text, "stop")
                finish = choice.finish_reason or finish
        if finish is None:
            raise _InvalidAnswer("breaks off its answers" if seen else "sends answers without choices")
        return SampledAnswer(text + end.rest(), "length" if finish == "length" else "eos")

    def _check_kind(self, response: Any) -> None:
        """A response that is not a stream of events is a `FailedServer` that says what it is."""
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/event-stream", ""):
            return
        beginning = " ".join(response.read()[:300].decode("utf-8", "replace").split())[:80]
        what = "all at once, as JSON," if kind == "application/json" else f"with {kind[:60]}"
        reason = f"{self.url} answers {what} instead of a stream of events ({beginning!r})"
        raise FailedServer(reason, f"expected OpenAI's /v1/{self._route} with stream: true")

    def _choices(self, stream: Any) -> Iterator[Any]:
        """The choices of all events."""
        import httpx

        try:
            for chunk in stream:
                choices, chat = getattr(chunk, "choices", None), self.template is not None
                if not isinstance(choices, list) or not all(_is_choice(each, chat) for each in choices):
                    raise _InvalidAnswer(f"sends an event that does not belong to a completion ({str(chunk)[:80]!r})")
                yield from choices
        except UnicodeDecodeError as error:
            raise _InvalidAnswer(f"sends an event that is not UTF-8 ({error.reason})") from None
        except ValueError as error:
            raise _InvalidAnswer(f"sends an event that is not JSON ({error})") from None
        except httpx.TimeoutException:
            raise _InvalidAnswer(f"is silent for {self.timeout:g} s in the middle of its answers") from None
        except httpx.TransportError:
            raise _InvalidAnswer("breaks off its answers") from None


def open_servers(urls: Sequence[str], make: Callable[[str], ServerSampler]) -> Sampler:
    """A sampler for one server, or for several of the same model. `make` opens one. `UserError`: an address occurs
    twice, no server can be reached, or they have different models."""
    if len(urls) == 1:
        return make(urls[0])
    if len(set(urls)) < len(urls):
        raise UserError(f"--url: {next(url for url in urls if urls.count(url) > 1)} occurs twice; give each once")
    servers, failures = [], dict[str, ServerFailure]()
    for url in urls:
        try:
            servers.append(make(url))
        except SERVER_FAILURES as error:
            failures[url] = error
    if not servers:
        raise failures[urls[-1]]
    for url, failure in failures.items():
        _warn(url, failure)
    names = {server.model for server in servers}
    if len(names) > 1:
        raise UserError(f"--url: the servers have different models ({', '.join(sorted(names))}); see --url-model")
    return ManyServers(servers)


class ManyServers:
    """At most `concurrency` requests to each server are in progress at a time. A server that fails gets no more, and
    the others take over its requests; if none is left, the last one's error is raised."""

    def __init__(self, servers: Sequence[ServerSampler]):
        self._under_way = dict.fromkeys(range(len(servers)), 0)  # a server that failed is taken out
        self._servers, self._changed = servers, threading.Condition()
        self._failure: ServerFailure | None = None
        self.concurrency = sum(server.concurrency for server in servers)
        urls = ", ".join(str(server.url) for server in servers)
        self.identity: Mapping[str, Any] = {**servers[0].identity, "url": urls}

    def __call__(
        self, prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None
    ) -> SampledAnswer:
        """Continue a prompt on one of the servers; `PromptTooLong` if it says so."""
        while True:
            number = self._take()
            try:
                return self._servers[number](prompt, seed=seed, stop=stop, max_new_tokens=max_new_tokens)
            except SERVER_FAILURES as error:
                self._lose(number, error)
            finally:
                self._give_back(number)

    def _take(self) -> int:
        """The number of a server that has room, once there is one. If all are lost, the last one's error."""

        def free() -> list[int]:
            return [number for number, busy in self._under_way.items() if busy < self._servers[number].concurrency]

        with self._changed:
            self._changed.wait_for(lambda: free() or not self._under_way)
            if not self._under_way:
                assert self._failure is not None
                raise self._failure
            number = min(free(), key=self._under_way.__getitem__)
            self._under_way[number] += 1
            return number

    def _give_back(self, number: int) -> None:
        with self._changed:
            if number in self._under_way:
                self._under_way[number] -= 1
            self._changed.notify()

    def _lose(self, number: int, error: ServerFailure) -> None:
        """Remove a server, and report this unless it was the last one, whose error ends the evaluation."""
        with self._changed:
            if self._under_way.pop(number, None) is None:
                return
            self._failure, left = error, bool(self._under_way)
            self._changed.notify_all()
        if left:
            _warn(self._servers[number].url, error)


def _warn(url: str, error: ServerFailure) -> None:
    print_error(f"warning: {error.reason}; the other servers do the work of {url}")


class _InvalidAnswer(Exception):
    """The server sent something other than an answer."""


def _text(choice: Any, chat: bool) -> Any:
    return getattr(getattr(choice, "delta", None) if chat else choice, "content" if chat else "text", ...)


def _is_choice(choice: Any, chat: bool) -> bool:
    text, finish = _text(choice, chat), getattr(choice, "finish_reason", None)
    return (text is None or isinstance(text, str)) and (finish is None or isinstance(finish, str))


def _reason(error: Any) -> str:
    """The server's own message, in one short line."""
    body = getattr(error, "body", None)
    words = body.get("message") if isinstance(body, Mapping) else None
    return " ".join(str(words or error).split())[:300]
