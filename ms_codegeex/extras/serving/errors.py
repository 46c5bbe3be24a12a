"""Error responses in the format of OpenAI's API: `{"error": {"message", "type", "param", "code"}}` with a status."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ms_codegeex.base.errors import PromptTooLong, UserError
from ms_codegeex.extras.serving.schemas import UNSUPPORTED

TOO_LONG = "context_length_exceeded"  # OpenAI's error code
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error"}
MAX_MESSAGE_CHARACTERS = 2000
HALF = "string_unicode"  # pydantic's error type for half of a surrogate pair
NO_FIELD, WRONG_TYPE, WRONG_VALUE = "missing_required_parameter", "invalid_type", "invalid_value"  # OpenAI's codes
OTHER_APIS = {  # pattern of paths: what the client probably wants, and the route to use
    "/v1/messages(/.*)?": ("this is Anthropic's API", "/v1/chat/completions"),
    "/v1/complete": ("this is Anthropic's older API", "/v1/completions"),
    "/api/chat": ("this is Ollama's API", "/v1/chat/completions"),
    "/api/generate": ("this is Ollama's API", "/v1/completions"),
    "/api/embed(dings)?": ("this is Ollama's API", "/v1/embeddings"),
    "/api/(tags|show|ps|version)": ("this is Ollama's API", "/v1/models"),
    "/(generate|generate_stream|invocations)": ("this is TGI's API", "/v1/completions"),
    "/v1(beta)?/models/[^/]+:.*": ("this is Gemini's API", "/v1/chat/completions"),
    "/model/[^/]+/(invoke|converse).*": ("this is Bedrock's API", "/v1/chat/completions"),
    "/v[12]/chat": ("this is Cohere's API", "/v1/chat/completions"),
    "/v1/edits": ("this is an older API of OpenAI", "/v1/chat/completions"),
    "/completion": ("this is llama.cpp's API", "/v1/completions"),
    "/embedding": ("this is llama.cpp's API", "/v1/embeddings"),
    "/v1/(responses|conversations|assistants|threads)(/.*)?": (
        "answers are not stored: send the whole conversation each time",
        "/v1/responses",
    ),
}
RENAMED = {"max_new_tokens": "max_tokens", "log_probabilities": "logprobs"}  # setting: field of requests


@dataclass(eq=False)
class ApiError(Exception):
    """An error response. `retry_after` is in seconds."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None

    def body(self) -> dict[str, Any]:
        long = len(self.message) > MAX_MESSAGE_CHARACTERS  # messages may quote a client's input
        message = f"{self.message[:MAX_MESSAGE_CHARACTERS]} …" if long else self.message
        kind = KINDS.get(min(self.status, 500), "invalid_request_error")
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}
        headers |= {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        return JSONResponse(self.body(), self.status, headers)


def busy(maximum: int) -> ApiError:
    """Return the error for a full queue (429)."""
    message = f"the queue is full: {maximum} answers wait; try again later"
    return ApiError(429, message, code="queue_full", retry_after=1)


def unavailable(message: str, code: str, retry_after: float = 1) -> ApiError:
    """Return the error for a server that temporarily cannot answer (503)."""
    return ApiError(503, message, code=code, retry_after=retry_after)


def late(seconds: float) -> ApiError:
    """Return the error for a request that is not answered within `--deadline` (503)."""
    return unavailable(f"the request took longer than the server's limit of {seconds:g} s", "deadline_exceeded", 5)


def failed() -> ApiError:
    return ApiError(500, "the server failed; its log says why")


def of_user_error(error: UserError) -> ApiError:
    """Return the error for a client's mistake (400). If the message starts with a field's name and a colon, as those of
    `SamplingSettings` do, the field becomes `param`."""
    name, _, rest = str(error).partition(":")
    long = isinstance(error, PromptTooLong)
    if not name.isidentifier():
        return ApiError(400, str(error), code=TOO_LONG if long else None)
    name = RENAMED.get(name, name)
    if long:  # some clients look for OpenAI's words at the start of the message
        return ApiError(400, rest.strip(), param=name, code=TOO_LONG)
    return ApiError(400, f"{name}:{rest}", param=name, code=WRONG_VALUE)


def _place(error: Mapping[str, Any], body: Any) -> list[str]:
    """Return where in a body an error is, for example `messages`, `[1]`, `.role`. pydantic's location also contains
    members of unions, which are omitted."""
    place = list[str]()
    for part in error.get("loc", ()):
        if isinstance(part, int) and isinstance(body, list):
            place, body = [*place, f"[{part}]"], body[part]
        elif isinstance(body, dict) and (part in body or (error.get("type") == "missing" and part == error["loc"][-1])):
            place, body = [*place, f".{part}" if place else str(part)], body.get(part)
    return place


def of_validation(errors: list[Mapping[str, Any]], body: Any = None) -> ApiError:
    """Return the error for a body that does not match the route's schema, from the errors that pydantic reports."""
    # pydantic reports errors for every member of a union: choose the most specific
    deepest = max(errors, key=lambda error: len(_place(error, body)))
    telling = (error for kind in (UNSUPPORTED, HALF) for error in errors if error.get("type") == kind)
    first = next(telling, deepest)
    if first.get("type") == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first.get('ctx', {}).get('error', 'cannot be read')}")
    location = [part for part in first.get("loc", ()) if part not in ("body", "query")]
    message, place, kind = first.get("msg", "is wrong"), "".join(_place(first, body)), str(first.get("type"))
    code = NO_FIELD if kind == "missing" else WRONG_TYPE if kind.endswith("_type") else WRONG_VALUE
    if kind == UNSUPPORTED:
        field, code = first["ctx"]["field"], "unknown_parameter"
        location, message = (location, f"{field} is {message}") if location else ([field], message)
    elif kind == HALF:
        message = "it has half of a surrogate pair, which is no character; leave it out"
    if not location:
        return ApiError(400, "the body is not a JSON object; send one")
    param = str(location[0])
    return ApiError(400, f"{place or param or repr(param)}: {message}", param=param, code=code)


def _paths(routes: Sequence[Any]) -> Iterator[str]:
    for each in routes:
        inner = getattr(each, "original_router", None)  # FastAPI's reference to an included router
        yield from [each.path] if inner is None else _paths(inner.routes)


def _remedy(path: str, known: Sequence[str]) -> str:
    bare = re.sub("^(/v1)+(?=/v1/)|/$", "", path)
    for pattern, (what, route) in OTHER_APIS.items():
        if re.fullmatch(pattern, bare) and bare not in known:
            return f"; {what}; use {route}"
    ends = [each for each in known if each.startswith("/v1/") and bare.endswith(each.removeprefix("/v1"))]
    near = [max(ends, key=len)] if ends else difflib.get_close_matches(bare, known, 1, 0.8)
    return next((f"; did you mean {each}?" for each in near if each != path), "")


def install(app: FastAPI) -> None:
    """Make `app` answer all errors in this format."""

    @app.exception_handler(ApiError)
    @app.exception_handler(UserError)
    async def own(_: Request, error: ApiError | UserError) -> JSONResponse:
        return (error if isinstance(error, ApiError) else of_user_error(error)).response()

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> JSONResponse:
        kind = request.headers.get("content-type", "nothing")
        if isinstance(error.body, bytes) and "json" not in kind:
            return ApiError(400, f"the body is declared as {kind}; send Content-Type: application/json").response()
        return of_validation(list(error.errors()), error.body).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message, path = error.detail, request.url.path
        if error.status_code in (404, 405):
            message = f"{request.method} {path}: {message.lower()}{_remedy(path, list(_paths(app.routes)))}"
        elif isinstance(error.__cause__, UnicodeDecodeError):
            kind = request.headers.get("content-encoding")
            message = f"the body is not UTF-8 text{f' but {kind}' if kind else ''}; send it as JSON in UTF-8"
        response = ApiError(error.status_code, message).response()
        response.headers.update(error.headers or {})
        return response
