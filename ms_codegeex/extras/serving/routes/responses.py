"""`POST /v1/responses`, OpenAI's newer form of a conversation. Nothing is stored: each request has all of it."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving.answering import Piece
from ms_codegeex.extras.serving.backend import Backend, StreamedAnswer
from ms_codegeex.extras.serving.errors import ApiError
from ms_codegeex.extras.serving.logprobs import SentTokens, chat_log_probabilities
from ms_codegeex.extras.serving.responding import AnswerPlan, Responder, answering_routes, event, prepared, respond
from ms_codegeex.extras.serving.routes.completions import conversation_plan
from ms_codegeex.extras.serving.schemas import (
    MAX_MESSAGES,
    SHOWN,
    Body,
    ChatLength,
    ChatMessage,
    ContentPart,
    Listed,
    Role,
    Sampling,
    Text,
)

LOGPROBS = "message.output_text.logprobs"  # in `include`
STORED = "answers are not stored; send the whole conversation in input"
PLAIN = {"type": "text"}


class InputItem(Body):
    """A message of the conversation."""

    foreign = "input_item"
    type: Literal["message"] | None = None
    role: Role
    content: Text | Listed[ContentPart | Text]

    @model_validator(mode="before")
    @classmethod
    def _refuse_others(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in (None, "message"):
            remedy = STORED if kind == "item_reference" else "send messages only"
            raise PydanticCustomError("item", f"an item of type {str(kind)[:SHOWN]!r} is not supported; {remedy}")
        return value


class TextOptions(Body):
    """The form of the answer."""

    foreign = "text_options"
    format: dict[str, Any] | None = Field(None, description='{"type": "text"}, "json_object" or "json_schema"')


class ResponsesRequest(Sampling):
    """`POST /v1/responses`"""

    foreign, form_field = "responses", "text"
    n: Literal[1] | None = None
    input: Text | Listed[InputItem] = Field(description="the user's text, or the messages of the conversation")
    instructions: Text | None = Field(None, description="a system message in front of the others")
    max_output_tokens: ChatLength | None = Field(
        None,
        validation_alias=AliasChoices("max_output_tokens", "max_tokens"),
        description="most new tokens (default 512; -1: as many as fit)",
    )
    text: TextOptions | None = None
    include: Listed[str] | None = Field(None, description=f"{LOGPROBS}: report each token's log-probability")
    top_logprobs: int | None = Field(None, ge=0, le=20)

    @property
    def max_tokens(self) -> int | None:
        """The limit, as a chat request has it."""
        return self.max_output_tokens

    @property
    def response_format(self) -> dict[str, Any] | None:
        """The form as a chat request has it."""
        form = self.text.format if self.text else None
        if form and form.get("type") == "json_schema" and "json_schema" not in form:
            return {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}
        return form


class OutputText(BaseModel):
    """The text of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[dict[str, Any]]


class OutputMessage(BaseModel):
    """An answer."""

    id: str
    type: Literal["message"]
    status: str
    role: Literal["assistant"]
    content: list[OutputText]


class ResponseUsage(BaseModel):
    """Tokens of a request."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseObject(BaseModel):
    """The answer; a streamed one has it in the first events and the last."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[OutputMessage]
    usage: ResponseUsage | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, str] | None
    store: Literal[False]


def responses_plan(body: ResponsesRequest, backend: Backend) -> AnswerPlan:
    """Check a request. `UserError` and `ApiError` name the field."""
    items = [InputItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    if not 1 <= len(items) <= MAX_MESSAGES:
        raise UserError(f"input: {len(items)} messages; give 1 to {MAX_MESSAGES}")
    system = [] if body.instructions is None else [ChatMessage(role="system", content=body.instructions)]
    messages = [*system, *(ChatMessage(role=each.role, content=each.content) for each in items)]
    return conversation_plan(body, backend, messages, "input", body.top_logprobs or 0)


class ResponsesResponder(Responder):
    """Answers in the format of OpenAI's responses."""

    kind = "response"

    def __init__(self, plan: AnswerPlan, backend: Backend, body: ResponsesRequest):
        super().__init__(plan, backend)
        self._message, self._numbers = f"msg_{uuid.uuid4().hex}", itertools.count()
        self._tokens = SentTokens() if LOGPROBS in (body.include or ()) or body.top_logprobs else None
        settings = plan.settings
        self._known = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": plan.model.name,
            "instructions": body.instructions,
            "max_output_tokens": self.limit(0).get("max_tokens", body.max_tokens),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "text": {"format": (body.text and body.text.format) or PLAIN},
            "top_logprobs": body.top_logprobs or 0,
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "truncation": "disabled",
            "store": False,
            "user": body.user,
            "metadata": {},
        }

    def _logprobs(self, piece: Piece) -> list[dict[str, Any]]:
        if self._tokens is None:
            return []
        return chat_log_probabilities(self.backend.model.tokenizer, self._tokens.feed(piece))["content"]

    def _output(self, status: str, text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        content = {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
        return {
            "id": self._message,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [content],
        }

    def _response(self, status: str, output: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
        why = {"reason": "max_output_tokens"} if status == "incomplete" else None
        empty = {"usage": None, "error": None, "incomplete_details": why}
        return {**self._known, "status": status, "output": [*output], **empty, **more}

    def _ended(self, answer: StreamedAnswer, finish: str | None, output: Sequence[Any], count: int) -> dict[str, Any]:
        read = len(answer.ids)
        usage = {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": answer.reused},
            "output_tokens": count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + count,
        }
        return self._response(_status(finish), output, usage=usage)

    async def whole(self, answers: Sequence[StreamedAnswer]) -> dict[str, Any]:
        """The response that is not streamed."""
        (answer,) = answers
        piece = await answer.whole()
        output = self._output(_status(piece.finish), piece.text, self._logprobs(piece))
        return self._ended(answer, piece.finish, [output], len(piece.tokens))

    def _event(self, kind: str, **values: Any) -> bytes:
        numbered = {"type": kind, "sequence_number": next(self._numbers), **values}
        return f"event: {kind}\n".encode() + event(numbered)

    async def events(self, answers: Sequence[StreamedAnswer], with_usage: bool) -> AsyncGenerator[bytes, None]:
        """The events of a streamed response; the usage is always in the last."""
        (answer,) = answers
        text, finish, count, logprobs = "", None, 0, list[dict[str, Any]]()
        place = {"item_id": self._message, "output_index": 0, "content_index": 0}
        opened = False
        async for piece in answer:
            if not opened:  # not before: an error in the queue has a status of its own
                opened = True
                for kind in ("response.created", "response.in_progress"):
                    yield self._event(kind, response=self._response("in_progress"))
                begun = self._output("in_progress", "", [])
                (part,) = begun["content"]
                yield self._event("response.output_item.added", output_index=0, item={**begun, "content": []})
                yield self._event("response.content_part.added", **place, part=part)
            text, count, finish, scores = (
                text + piece.text,
                count + len(piece.tokens),
                piece.finish,
                self._logprobs(piece),
            )
            logprobs += scores
            if piece.text or scores:
                yield self._event("response.output_text.delta", **place, delta=piece.text, logprobs=scores)
        output = self._output(_status(finish), text, logprobs)
        yield self._event("response.output_text.done", **place, text=text, logprobs=logprobs)
        yield self._event("response.content_part.done", **place, part=output["content"][0])
        yield self._event("response.output_item.done", output_index=0, item=output)
        yield self._event(f"response.{_status(finish)}", response=self._ended(answer, finish, [output], count))

    def failure(self, error: ApiError) -> bytes:
        """The last event of a stream that failed."""
        body = error.body()["error"]
        return self._event("error", **{name: body[name] for name in ("code", "message", "param")}, error=body)


def _status(finish: str | None) -> str:
    return "incomplete" if finish == "length" else "completed"


def router(backend: Backend) -> APIRouter:
    """The route."""
    routes = answering_routes(backend)

    @routes.post("/v1/responses", response_model=ResponseObject)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer in a conversation, if the model is tuned for that. Answers are not stored."""
        plan = await prepared(request, lambda: responses_plan(body, backend))
        return await respond(ResponsesResponder(plan, backend, body), body, request)

    return routes
