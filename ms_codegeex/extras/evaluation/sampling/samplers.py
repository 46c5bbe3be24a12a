"""Model samplers: our own engine, or one or several servers with OpenAI's completions API.

Each is a `task.Complete`: the same prompt, settings and seed give the same text (a server only promises it).
"""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ms_codegeex.base.errors import PromptTooLong, RunFailure, UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.base.reading import given_text
from ms_codegeex.extras.evaluation.local_model import LocalModel
from ms_codegeex.extras.evaluation.recipe import Recipe
from ms_codegeex.extras.evaluation.task import SampledAnswer, TextSource
from ms_codegeex.extras.shared import server_answers
from ms_codegeex.extras.shared.server_answers import BrokenAnswer, OtherAnswer
from ms_codegeex.generation.sampling import Drawing, SamplingSettings, unusual
from ms_codegeex.generation.stopping import Ending, Rule, until

RETRIES = 6  # the client waits 0.5 s, 1 s, 2 s, up to 8 s between them
OPENAIS = ("temperature", "top_p")  # arguments of its client
TIMEOUT = 600.0  # seconds of silence after which a server is given up
# words that say that a prompt is too long: in any error of a server, and in a refused request (the last two: TGI's)
NO_ROOM = re.compile(r"context[ _]?(length|size|window)|maximum (context|model length)")
TOO_LONG = ("too long", "exceeds", "`inputs` tokens", "`inputs` must have less")
REFUSED, AGAIN = (400, 413, 422), (408, 409, 425, 429)  # statuses
BROKEN = ("abort", "error")  # reasons for the end of an answer that is not whole
PLACE = "{prompt}"
T = TypeVar("T")
TEMPLATE = f"""Complete the code below. Answer with one code block: the complete function, with the imports and helper
functions that it needs, and nothing else. No tests, no examples, no main function.

```
{PLACE}
```"""


class UnreachableServer(UserError):
    """A server that does not answer at all."""

    def __init__(self, reason: str):
        super().__init__(f"--url: {reason}; is the server up?")
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
        self.timeout, self.template = timeout, template
        self.url, self.recipe, self.concurrency = server_answers.address(url), recipe, concurrency
        self.client = server_answers.client_of(self.url, key, RETRIES, timeout)
        ours = {name: value for name, value in unusual(recipe).items() if name not in OPENAIS}
        self.fields = {**ours, **(fields or {})}
        remedy = "addresses mostly end in /v1, or give --url-model"
        self.model = model or self._asked(lambda: self._choice(remedy))["id"]
        self.identity: dict[str, Any] = {"url": self.url, "model": self.model}
        self.identity |= {"fields": self.fields} if self.fields else {}
        self.identity |= {"chat": template} if template is not None else {}

    def _choice(self, remedy: str) -> Mapping[str, Any]:
        """The entry of the server's model. A server that is not there is not asked again, for which one would wait."""
        import openai

        choice = partial(server_answers.chosen_model, url=self.url, name=None, flag="--url-model", remedy=remedy)
        try:
            return choice(self.client.with_options(max_retries=0))
        except openai.APIStatusError:  # it may be loading
            return choice(self.client)

    def _asked(self, request: Callable[[], T]) -> T:
        """The answer to a request. What the user can fix is a `UserError`; anything else is a `FailedServer`,
        after which the same command continues."""
        import openai

        try:
            return request()
        except openai.APITimeoutError:
            raise FailedServer(f"{self.url} is silent for {self.timeout:g} s (--url-timeout)") from None
        except openai.APIConnectionError as error:
            reason = f"{self.url} cannot be reached ({error.__cause__ or error})"
            raise UnreachableServer(reason) from None
        except openai.APIError as error:
            raise self._refusal(error, getattr(error, "status_code", None)) from None

    def _refusal(self, error: Any, status: int | None) -> UserError | FailedServer:
        """What a server's error means; those in the middle of a stream have no status."""
        reason, said = server_answers.reason(error), f"{error} {error.body}".lower()
        if NO_ROOM.search(said) or (status in REFUSED and any(words in said for words in TOO_LONG)):
            return PromptTooLong(f"prompt: {self.url} says {reason}")
        if status == 401:
            return UserError(f"--api-key-file: {self.url} refuses the key ({reason})")
        if status == 403:
            return UserError(f"--url: {self.url} forbids it ({reason})")
        if status in (404, 405):
            lacks = f"no such model or no {self._route} ({reason})"
            return UserError(f"--url: {self.url} has {lacks}; addresses mostly end in /v1")
        if status is None or status not in range(400, 500) or status in AGAIN:
            return FailedServer(f"{self.url}: {reason}")
        advice = "leave out --chat" if error.code == "not_a_chat_model" else "give --url-field NAME=VALUE or NAME=null"
        return UserError(f"--url: {self.url} refuses the request ({reason}); {advice}")

    @property
    def _route(self) -> str:
        return "completions" if self.template is None else "chat/completions"

    def __call__(
        self, prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None
    ) -> SampledAnswer:
        """Continue a prompt; `PromptTooLong` if the server says so. A chat model's reply is read to its end, and the
        recipe's and the task's ends are those of the code in it."""

        def request() -> SampledAnswer:
            if self.template is None:
                return self._streamed(prompt, seed, ending(self.recipe, stop), max_new_tokens)
            reply = self._streamed(chat_message(self.template, prompt), seed, Ending(), max_new_tokens)
            return SampledAnswer(reply.text, reply.finish, is_reply=True)

        reason = ""
        for _ in range(1 + RETRIES):
            try:
                return self._asked(request)
            except OtherAnswer as error:
                raise FailedServer(f"{self.url} {error}", f"expected OpenAI's /v1/{self._route}, streamed") from None
            except BrokenAnswer as error:  # in mid-answer, where the client does not retry
                reason = str(error)
        raise FailedServer(f"{self.url} {reason}")

    def _streamed(self, prompt: str, seed: int, end: Ending, max_new_tokens: int | None) -> SampledAnswer:
        recipe, maximum = self.recipe, max_new_tokens or self.recipe.max_new_tokens
        text, finish, part = "", None, None
        asked = [{"role": "user", "content": prompt}]
        body = {
            **({"prompt": prompt} if self.template is None else {"messages": asked}),
            "model": self.model,
            "max_tokens": min(maximum, recipe.max_length or maximum),
            "temperature": recipe.temperature,
            "top_p": recipe.top_p if recipe.temperature else 1.0,
            "seed": seed,
            "stream": True,
            **self.fields,
        }
        with closing(server_answers.answer(self.client, self._route, body)) as parts:
            for part in parts:
                text += end.feed(part.text)
                if end.ended:
                    return SampledAnswer(text, "stop")
                finish = part.finish or finish
        if finish is None:
            raise BrokenAnswer("breaks off its answers" if part else "sends answers without choices")
        if finish in BROKEN:
            raise BrokenAnswer(f"ends answers with {finish!r}")
        return SampledAnswer(text + end.rest(), "length" if finish == "length" else "eos")


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
    names = sorted({server.model for server in servers})
    if len(names) > 1:
        raise UserError(f"--url: servers have the models {', '.join(names)}; give those of one, or --url-model NAME")
    return ManyServers(servers)


class ManyServers:
    """At most `concurrency` requests to each server are in progress at a time. A server that fails gets no more, and
    the others take over its requests; if none is left, the last one's error is raised."""

    def __init__(self, servers: Sequence[ServerSampler]):
        self._servers, self._lost, self._lock = servers, dict[int, ServerFailure](), threading.Lock()
        self.concurrency = sum(server.concurrency for server in servers)
        self._free: queue.PriorityQueue[tuple[int, int]] = queue.PriorityQueue()  # turns of servers, for each request
        for number, server in enumerate(servers):
            for turn in range(server.concurrency):
                self._free.put((turn, number))
        urls = ", ".join(str(server.url) for server in servers)
        self.identity: Mapping[str, Any] = {**servers[0].identity, "url": urls}

    def __call__(
        self, prompt: str, *, seed: int, stop: Rule | None = None, max_new_tokens: int | None = None
    ) -> SampledAnswer:
        """Continue a prompt on one of the servers; `PromptTooLong` if it says so."""
        while True:
            turn, number = self._free.get()
            try:
                if number not in self._lost:
                    return self._servers[number](prompt, seed=seed, stop=stop, max_new_tokens=max_new_tokens)
            except SERVER_FAILURES as error:
                self._lose(number, error)
            finally:
                if number not in self._lost or self._all_lost:
                    self._free.put((turn, number))
            if self._all_lost:
                raise [*self._lost.values()][-1]

    @property
    def _all_lost(self) -> bool:
        return len(self._lost) == len(self._servers)

    def _lose(self, number: int, error: ServerFailure) -> None:
        """Report a server's first failure, unless it was the last server, whose error ends the evaluation."""
        with self._lock:
            if self._lost.setdefault(number, error) is error and not self._all_lost:
                _warn(self._servers[number].url, error)


def _warn(url: str, error: ServerFailure) -> None:
    print_error(f"warning: {error.reason}; the other servers do the work of {url}")
