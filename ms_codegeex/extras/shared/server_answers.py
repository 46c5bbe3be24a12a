"""Answers of servers with OpenAI's API, as other programs write them: lists of models, and events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ms_codegeex.base.errors import UserError

if TYPE_CHECKING:
    import openai


MAX_NAMES = 50  # models that a message lists
NO_ROUTE = (404, 405, 501)  # HTTP statuses of a server without this route


class AnswerPart(NamedTuple):
    """The next part of answer `index`. In the last one, `finish` is why it ends, according to the server or the
    engine."""

    index: int
    text: str
    finish: str | None = None


def address(url: str) -> str:
    return url.rstrip("/").removesuffix("/completions").removesuffix("/chat")


def client_of(base: str, key: str | None, retries: int, timeout: float) -> openai.OpenAI:
    """Return a client for the server at `base`. Raises `UserError` if that is not an address."""
    import httpx
    import openai

    try:
        if not base.startswith(("http://", "https://")):
            raise httpx.InvalidURL("without http:// or https://")
        return openai.OpenAI(base_url=base, api_key=key or "none", max_retries=retries, timeout=timeout)
    except httpx.InvalidURL as error:
        expected = "expected http(s)://HOST[:PORT]/v1"
        raise UserError(f"--url: {base[:200]} is not the address of a server ({error}); {expected}") from None


class NoModelList(UserError):
    """The server sends no list of models."""


def chosen_model(client: openai.OpenAI, url: str, name: str | None, flag: str, remedy: str) -> Mapping[str, Any]:
    """Return the entry of the model called `name`; for None, of the only one that is no adapter (without `parent`).
    Raises `NoModelList` (with `remedy`) if the server at `url` sends no list, `UserError` if `flag` must name
    another."""
    import openai

    try:
        answer: Any = client.get("/models", cast_to=object)
        known = {each["id"].strip(): each for each in answer["data"]}
        bases = [each for each, model in known.items() if model.get("parent") is None]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise NoModelList(f"--url: {client.base_url}models is not a list of models; {remedy}") from None
    except openai.APIStatusError as error:
        if error.status_code not in NO_ROUTE:
            raise
        raise NoModelList(f"--url: {url} has no list of models; {remedy}") from None
    if name is None and len(bases) == 1:
        (name,) = bases
    if name not in known:
        shown = [*known][:MAX_NAMES] + ([f"{len(known) - MAX_NAMES} more"] if len(known) > MAX_NAMES else [])
        raise UserError(f"{flag}: {name or 'missing'}; {url} has {', '.join(shown) or 'no models'}")
    return {**known[name], "id": name}


class BrokenAnswer(Exception):
    """A server sent no answer, or only a part. The message continues a line that begins with its address."""


class OtherAnswer(BrokenAnswer):
    """The server does not stream, and asking again does not help."""


def answer(client: openai.OpenAI, route: str, body: Mapping[str, Any]) -> Iterator[AnswerPart]:
    """Yield the parts of an answer as they come; those of `chat/completions` come from messages. Fields of `body` that
    are None are omitted. Raises the client's own errors, and `BrokenAnswer` if the server does not finish it."""
    import httpx

    sent = {name: value for name, value in body.items() if value is not None}
    with client.post(f"/{route}", cast_to=object, body=sent, stream=True, stream_cls=_events()) as stream:
        kind = stream.response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("text/event-stream", ""):
            beginning = " ".join(stream.response.read()[:300].decode("utf-8", "replace").split())[:80]
            what = "all at once, as JSON," if kind == "application/json" else f"with {kind[:60]}"
            raise OtherAnswer(f"answers {what} instead of a stream of events ({beginning!r})")
        try:
            for event in stream:
                yield from choices(event, route.startswith("chat/"))
        except UnicodeDecodeError as error:
            raise BrokenAnswer(f"sends an event that is not UTF-8 ({error.reason})") from None
        except ValueError as error:
            raise BrokenAnswer(f"sends an event that is not JSON ({error})") from None
        except httpx.TimeoutException:
            raise BrokenAnswer(f"is silent for {client.timeout:g} s in the middle of its answers") from None
        except httpx.TransportError:
            raise BrokenAnswer("breaks off its answers") from None


def reason(error: openai.APIError) -> str:
    """Return the server's own message in one short line."""
    body: Any = error.body
    words = body.get("message") if isinstance(body, Mapping) else body if isinstance(body, str) else None
    return " ".join(str(words or error).split())[:300]


@cache
def _events() -> type[openai.Stream[Any]]:
    import openai

    class AnswerEvents(openai.Stream[Any]):
        """Skips events without data, which some servers send to keep a connection open."""

        def _iter_events(self) -> Iterator[Any]:
            return (event for event in super()._iter_events() if event.data.strip())

    return AnswerEvents


def choices(event: Any, chat: bool) -> list[AnswerPart]:
    """Return the answer parts in an event. `BrokenAnswer` if it does not belong to a completion, or to a `chat`."""
    try:
        found = event.get("choices", None if "usage" in event else ...)
        return [_choice(each, chat) for each in (found or ())]
    except (TypeError, AttributeError, KeyError):
        shown = json.dumps(event, ensure_ascii=False)[:200]
        raise BrokenAnswer(f"sends an event that does not belong to a completion ({shown!r})") from None


def _choice(choice: Any, chat: bool) -> AnswerPart:
    if (mine := "delta" if chat else "text") not in choice and {"delta", "text", "message"} & choice.keys():
        raise KeyError(mine)
    text = (choice.get("delta") or {}).get("content") if chat else choice.get("text")
    if isinstance(text, list):  # a list of parts; a model's reasoning is not part of the answer
        text = "".join(part["text"] for part in text if part["type"] == "text")
    finish = choice.get("finish_reason")
    if not isinstance(text, str | None) or not isinstance(finish, str | None):
        raise TypeError
    return AnswerPart(choice.get("index") or 0, text or "", finish or None)
