"""Answers from a server with OpenAI's API. Fields that only `serve` has are sent to no other server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.printing import print_once
from ms_codegeex.extras.shared import server_answers
from ms_codegeex.extras.shared.server_answers import AnswerPart
from ms_codegeex.generation.sampling import SamplingSettings, unusual
from ms_codegeex.generation.text_options import TOO_LONG

if TYPE_CHECKING:
    import openai

SILENCE_SECONDS = 600.0  # the longest wait for a piece of an answer
VERSION = re.compile(r"/v\d+\w*(/|$)")  # an address with a version is complete
OPENAIS = frozenset(  # the fields that OpenAI's API has too
    {"prompt", "suffix", "messages", "max_tokens", "n", "stop", "seed"}
    | {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
)
RETRIES = 2  # only before an answer has begun, after the pause that the server asks for
FLAGS = {"truncate_prompt": "--cut-prompt"}  # options whose name is not the field's


class RemoteModel:
    """A model of the server at `url`: the one called `name`, or for None the only one that is not an adapter. Raises
    `UserError` if there is none. `extended`: the server is `serve`, which has additional fields. Any other server is
    asked for a chat, and if `name` is given, it need not list its models."""

    def __init__(self, url: str, key: str | None = None, name: str | None = None):
        self.url = server_answers.address(url)
        base = self.url if VERSION.search(self.url) else f"{self.url}/v1"
        self._client = server_answers.client_of(base, key, RETRIES, SILENCE_SECONDS)
        with self._errors():
            remedy = "give a server with OpenAI's API, and --name if it does not list its models"
            try:
                found = server_answers.chosen_model(self._client, self.url, name, "--name", remedy)
            except server_answers.NoModelList:
                if name is None:
                    raise
                found = {"id": name}
        self.extended = found.get("owned_by") == "ms-codegeex"
        self.name, self.chat = found["id"], bool(found.get("chat")) or not self.extended

    def complete(self, settings: SamplingSettings, request: Mapping[str, Any]) -> Iterator[AnswerPart]:
        """Continue the `prompt` of a request. Fields that are None are omitted."""
        return self._stream("completions", request, settings)

    def converse(self, settings: SamplingSettings, messages: Sequence[tuple[str, str]]) -> Iterator[AnswerPart]:
        body = {"messages": [{"role": role, "content": content} for role, content in messages]}
        return self._stream("chat/completions", body, settings)

    def _stream(self, path: str, body: Mapping[str, Any], settings: SamplingSettings) -> Iterator[AnswerPart]:
        sent = {"max_tokens": settings.max_new_tokens, "seed": settings.seed, **unusual(settings), **body}
        sent |= {"n": settings.n if settings.n > 1 else None, "stop": [*settings.stop] or None}
        ours = [name for name, value in sent.items() if value is not None and name not in OPENAIS]
        if ours and not self.extended:
            flags = ", ".join(FLAGS.get(name, f"--{name.replace('_', '-')}") for name in ours)
            print_once(f"{self.url} is not a server of ms-codegeex and does not know {flags}: left out")
            sent = {name: value for name, value in sent.items() if name not in ours}
        with self._errors():
            yield from server_answers.answer(self._client, path, {"model": self.name, "stream": True, **sent})

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the client's errors into a `UserError` if the user can fix the cause, otherwise into a `RunFailure`."""
        import openai

        try:
            yield
        except openai.APITimeoutError:
            raise RunFailure(f"{self.url} was silent for {SILENCE_SECONDS:g} s") from None
        except openai.APIConnectionError as error:
            remedy = "start a server with `ms-codegeex serve --model DIR`, or give --model DIR"
            raise UserError(f"--url: {self.url} cannot be reached ({error.__cause__ or error}); {remedy}") from None
        except openai.APIStatusError as error:
            flag = "--api-key-file: " if error.status_code == 401 else ""
            kind = UserError if error.status_code < 500 and error.status_code != 429 else RunFailure
            raise kind(f"{flag}{self.url}: {_reason(error)}") from None
        except openai.APIError as error:
            raise RunFailure(f"{self.url}: the answer broke off ({server_answers.reason(error)})") from None
        except server_answers.BrokenAnswer as error:
            raise RunFailure(f"{self.url} {error}") from None


def _reason(error: openai.APIStatusError) -> str:
    message, remedy = server_answers.reason(error), TOO_LONG.get(error.param or "")
    return f"{message.partition(';')[0]}; {remedy}" if remedy and error.code == "context_length_exceeded" else message
