"""Answers from a server with OpenAI's API. The assistant tasks and some fields are extensions of `serve`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.extras.serving.terminal.asking import TOO_LONG, AnswerPart, CodeTask, Prompt
from ms_codegeex.generation.sampling import SamplingSettings, unusual

if TYPE_CHECKING:
    import openai

SILENCE_SECONDS = 600.0  # without a piece of an answer
RETRIES = 2  # before an answer has begun, after the pause that the server asks for


class RemoteModel:
    """A model of the server at `url`: the one called `name`, or without a name the only one that is not an adapter.
    `UserError` if there is none."""

    def __init__(self, url: str, key: str | None = None, name: str | None = None):
        import httpx
        import openai

        if not url.startswith(("http://", "https://")):
            raise UserError(f"--url: {url} is not the address of a server; expected http(s)://HOST[:PORT]")
        self.url = url.rstrip("/")
        base = self.url if self.url.endswith("/v1") else f"{self.url}/v1"
        try:
            self._client = openai.OpenAI(
                base_url=base, api_key=key or "none", max_retries=RETRIES, timeout=SILENCE_SECONDS
            )
        except httpx.InvalidURL as error:
            raise UserError(
                f"--url: {url[:200]} is not the address of a server ({error}); expected http(s)://HOST[:PORT]"
            ) from None
        with self._errors():
            known = {model.id: model for model in self._client.models.list().data}
        bases = [each.id for each in known.values() if getattr(each, "parent", None) is None]  # the others are adapters
        if name is None and len(bases) == 1:
            (name,) = bases
        if name not in known:
            raise UserError(f"--name: {name or 'missing'}; {self.url} has {', '.join(known) or 'no models'}")
        self.name = name
        self.chat = bool(getattr(known[self.name], "chat", False))

    def complete(self, prompt: Prompt, settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Continue a text."""
        body = {"prompt": prompt.text, "suffix": prompt.suffix, "stop_at": "block" if prompt.block else None}
        extra = {"language": prompt.language or None, "truncate_prompt": prompt.cut or None}
        return self._stream("/completions", body | extra, settings)

    def perform(self, task: CodeTask, settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Answer an assistant task."""
        languages = {"language": task.language}
        if task.name == "translate":
            languages = {"source_language": task.language, "target_language": task.target}
        return self._stream(f"/code/{task.name}", {"code": task.code, **languages}, settings)

    def converse(self, messages: Sequence[tuple[str, str]], settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Answer the last of (role, content) messages."""
        body = {"messages": [{"role": role, "content": content} for role, content in messages]}
        return self._stream("/chat/completions", body, settings)

    def _stream(self, path: str, body: dict[str, Any], settings: SamplingSettings) -> Iterator[AnswerPart]:
        import openai
        from openai.types import Completion

        sent = {"model": self.name, "stream": True, **_fields(settings), **body}
        sent = {key: value for key, value in sent.items() if value is not None}
        with self._errors():
            # `post` also serves the fields and routes of `serve` that the client does not know
            events = self._client.post(
                path, cast_to=Completion, body=sent, stream=True, stream_cls=openai.Stream[Completion]
            )
            with events:
                for event in events:
                    for choice in event.choices:
                        delta = getattr(choice, "delta", None)
                        text = choice.text if delta is None else delta.get("content")
                        yield AnswerPart(choice.index, text or "", choice.finish_reason)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate the client's errors: into a `UserError` if the user can fix the cause, else into a `RunFailure`."""
        import httpx
        import openai

        try:
            yield
        except openai.AuthenticationError as error:
            raise UserError(f"--api-key-file: {self.url}: {_reason(error)}") from None
        except openai.APITimeoutError:
            raise RunFailure(f"{self.url} was silent for {SILENCE_SECONDS:g} s") from None
        except openai.APIConnectionError as error:
            raise UserError(
                f"--url: {self.url} cannot be reached ({error.__cause__ or error}); start a server with "
                "`ms-codegeex serve --model DIR`, or give --model DIR"
            ) from None
        except openai.APIStatusError as error:
            kind = UserError if error.status_code < 500 and error.status_code != 429 else RunFailure
            raise kind(f"{self.url}: {_reason(error)}") from None
        except (
            openai.APIError,
            httpx.HTTPError,
            ValueError,
        ) as error:  # ValueError: an event is not JSON
            raise RunFailure(f"{self.url}: the answer broke off ({error})") from None


def _fields(settings: SamplingSettings) -> dict[str, Any]:
    """The fields that differ from the defaults of OpenAI's API. Other servers refuse fields that they do not know."""
    several = {"n": (settings.n, 1), "stop": (list(settings.stop), [])}
    return {
        "max_tokens": settings.max_new_tokens,
        "seed": settings.seed,
        **unusual(settings),
        **{key: value for key, (value, usual) in several.items() if value != usual},
    }


def _reason(error: openai.APIStatusError) -> str:
    """The server's own message, if there is one; for a text that is too long, with the remedy of the terminal."""
    body = error.body if isinstance(error.body, dict) else {}
    message, remedy = str(body.get("message") or error.message), TOO_LONG.get(error.param or "")
    return f"{message.partition(';')[0]}; {remedy}" if remedy and error.code == "context_length_exceeded" else message
