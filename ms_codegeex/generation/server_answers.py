"""What servers with OpenAI's API answer, as other programs write it: lists of models, and events of a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ms_codegeex.base.errors import UserError

if TYPE_CHECKING:
    import openai


class ChoicePart(NamedTuple):
    """What an event adds to answer `index`; the last one has the server's reason for the end."""

    index: int
    text: str
    finish: str | None


def address(url: str) -> str:
    """The address to which the routes are added, of one that may end in a route."""
    return url.rstrip("/").removesuffix("/completions").removesuffix("/chat")


def client_of(base: str, key: str | None, retries: int, timeout: float) -> openai.OpenAI:
    """A client; `UserError` if `base` is not an address."""
    import httpx
    import openai

    try:
        if not base.startswith(("http://", "https://")):
            raise httpx.InvalidURL("without http:// or https://")
        return openai.OpenAI(base_url=base, api_key=key or "none", max_retries=retries, timeout=timeout)
    except httpx.InvalidURL as error:
        expected = "expected http(s)://HOST[:PORT]/v1"
        raise UserError(f"--url: {base[:200]} is not the address of a server ({error}); {expected}") from None


def listed_models(client: openai.OpenAI, remedy: str) -> dict[str, Mapping[str, Any]]:
    """The server's models by name; adapters have a `parent`. `UserError` with this remedy: it sends no list of them."""
    try:
        answer: Any = client.get("/models", cast_to=object)
        return {each["id"].strip(): each for each in answer["data"]}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(f"--url: {client.base_url}models is not a list of models; {remedy}") from None


def bases(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of those that are not adapters."""
    return [name for name, model in models.items() if model.get("parent") is None]


def stream(client: openai.OpenAI, path: str, body: Mapping[str, Any]) -> openai.Stream[Any]:
    """The events of an answer; fields of the body that are None are left out."""
    sent = {name: value for name, value in body.items() if value is not None}
    return client.post(path, cast_to=object, body=sent, stream=True, stream_cls=_events())


def other_kind(response: Any) -> str:
    """How a response is no stream of events, in words; "" for one."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/event-stream", ""):
        return ""
    beginning = " ".join(response.read()[:300].decode("utf-8", "replace").split())[:80]
    what = "all at once, as JSON," if kind == "application/json" else f"with {kind[:60]}"
    return f"answers {what} instead of a stream of events ({beginning!r})"


def reason(error: openai.APIError) -> str:
    """The server's own message, in one short line."""
    body: Any = error.body
    words = body.get("message") if isinstance(body, Mapping) else body if isinstance(body, str) else None
    return " ".join(str(words or error).split())[:300]


@cache
def _events() -> type[openai.Stream[Any]]:
    import openai

    class AnswerEvents(openai.Stream[Any]):
        """Without those that have no data, by which some servers keep a connection open."""

        def _iter_events(self) -> Iterator[Any]:
            return (event for event in super()._iter_events() if event.data.strip())

    return AnswerEvents


def choices(event: Any, chat: bool) -> list[ChoicePart]:
    """What an event adds. ValueError: it does not belong to a completion, or to a `chat`."""
    try:
        found = event.get("choices", None if "usage" in event else ...)
        return [_choice(each, chat) for each in (found or ())]
    except (TypeError, AttributeError, KeyError):
        shown = json.dumps(event, ensure_ascii=False)[:200]
        raise ValueError(f"an event that does not belong to a completion ({shown!r})") from None


def _choice(choice: Any, chat: bool) -> ChoicePart:
    if (mine := "delta" if chat else "text") not in choice and {"delta", "text", "message"} & choice.keys():
        raise KeyError(mine)
    text = (choice.get("delta") or {}).get("content") if chat else choice.get("text")
    if isinstance(text, list):  # parts, of which a model's thoughts are none of the answer's text
        text = "".join(part["text"] for part in text if part["type"] == "text")
    finish = choice.get("finish_reason")
    if not isinstance(text, str | None) or not isinstance(finish, str | None):
        raise TypeError
    return ChoicePart(choice.get("index") or 0, text or "", finish or None)
