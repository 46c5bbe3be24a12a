"""`POST /v1/responses`, OpenAI's newer API for conversations. Nothing is stored: each request has the whole one."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
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
    CalledFunction,
    ChatLength,
    ChatMessage,
    ContentPart,
    Conversing,
    Function,
    Listed,
    Offered,
    Role,
    Text,
    ToolCall,
)
from ms_codegeex.extras.serving.tools import CallReader

LOGPROBS = "message.output_text.logprobs"  # a value in `include`
STORED = "answers are not stored; send the whole conversation in input"
NEEDED = {  # required fields of an item of the conversation, by its type
    "message": ("role", "content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
}


class InputItem(Body):
    """A message of the conversation, a call of a function, or what it returned."""

    foreign = "input_item"
    type: Literal["message", "function_call", "function_call_output"] | None = None
    role: Role | None = None
    content: Text | Listed[ContentPart | Text] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: Text | None = None
    output: Text | Listed[ContentPart] | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_others(cls, value: Any) -> Any:
        if isinstance(value, dict):
            kind = str(value.get("type") or "message")[:SHOWN]
            if kind not in NEEDED:
                remedy = STORED if kind == "item_reference" else f"send {', '.join(NEEDED)}"
                raise PydanticCustomError("item", f"an item of type {kind!r} is not supported; {remedy}")
            for name in NEEDED[kind]:
                if value.get(name) is None:
                    raise PydanticCustomError("item", f"an item of type {kind!r} has no {name}; send it")
        return value


class FlatTool(Function):
    """A tool of type function, with the function's fields next to the type."""

    type: Literal["function"]


class AnswerForm(Body):
    """The form of the answer."""

    foreign = "text_options"
    format: dict[str, Any] | None = Field(None, description='{"type": "text"}, "json_object" or "json_schema"')


class ResponsesRequest(Conversing):
    """The body of `POST /v1/responses`."""

    foreign, form_field = "responses", "text"
    n: Literal[1] | None = None
    input: Text | Listed[InputItem] = Field(description="the user's text, or the messages of the conversation")
    instructions: Text | None = Field(None, description="a system message in front of the others")
    max_output_tokens: ChatLength | None = Field(
        None,
        validation_alias=AliasChoices("max_output_tokens", "max_tokens"),
        description="most new tokens (default 512; -1: as many as fit)",
    )
    text: AnswerForm | None = None
    include: Listed[str] | None = Field(None, description=f"{LOGPROBS}: report each token's log-probability")
    tools: Listed[Offered[FlatTool]] | None = Field(
        None, description="functions that the answer may call; others are left out"
    )

    @property
    def max_tokens(self) -> int | None:
        return self.max_output_tokens

    @property
    def response_format(self) -> dict[str, Any] | None:
        """The form of the answer, converted to the format of a chat request."""
        form = self.text.format if self.text else None
        if form and form.get("type") == "json_schema" and "json_schema" not in form:
            return {"type": "json_schema", "json_schema": {name: form[name] for name in form if name != "type"}}
        return form


class ResponseObject(BaseModel):
    """The response. If it is streamed, the first events and the last contain this object."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    model: str
    output: list[dict[str, Any]] = Field(description="messages, and calls of functions")
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, str] | None
    store: Literal[False]


def responses_plan(body: ResponsesRequest, backend: Backend) -> AnswerPlan:
    """Check a request and return its plan. Raises `UserError` or `ApiError`, which name the field."""
    items = [InputItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    if not 1 <= len(items) <= MAX_MESSAGES:
        raise UserError(f"input: {len(items)} items; give 1 to {MAX_MESSAGES}")
    messages = [] if body.instructions is None else [ChatMessage(role="system", content=body.instructions)]
    for item in items:
        if item.type == "function_call_output":
            messages.append(ChatMessage(role="tool", tool_call_id=item.call_id, content=item.output))
        elif item.type == "function_call":
            function = CalledFunction(name=item.name or "", arguments=item.arguments or "")
            if not messages or messages[-1].role != "assistant":  # calls are part of the assistant's preceding message
                messages.append(ChatMessage(role="assistant"))
            calls = [*(messages[-1].tool_calls or ()), ToolCall(id=item.call_id or "", function=function)]
            messages[-1] = messages[-1].model_copy(update={"tool_calls": calls})
        elif item.role is not None:
            messages.append(ChatMessage(role=item.role, content=item.content))
    return conversation_plan(body, backend, messages, body.tools or (), "input")


class ResponsesResponder(Responder):
    """Formats answers like OpenAI's responses."""

    kind = "response"

    def __init__(self, plan: AnswerPlan, backend: Backend, body: ResponsesRequest):
        super().__init__(plan, backend)
        self._numbers, self._reader = itertools.count(), CallReader(plan.use)
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
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
            "top_logprobs": body.top_logprobs or 0,
            "tools": [tool.model_dump() for tool in body.tools or () if tool],
            "tool_choice": body.model_dump(exclude_none=True).get("tool_choice", "auto"),
            "parallel_tool_calls": body.parallel_tool_calls is not False,
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
        (answer,) = answers
        piece = await answer.whole()
        text, calls = self._reader.read(answer, piece)
        message = _message(_status(piece.finish), text, self._logprobs(piece))
        output = [*([message] if text or not calls else []), *map(_call_item, calls)]
        return self._ended(answer, piece.finish, output, len(piece.tokens))

    def _event(self, kind: str, **values: Any) -> bytes:
        numbered = {"type": kind, "sequence_number": next(self._numbers), **values}
        return f"event: {kind}\n".encode() + event(numbered)

    async def events(self, answers: Sequence[StreamedAnswer], with_usage: bool) -> AsyncGenerator[bytes, None]:
        """Yield the events of a streamed response. The last one always has the usage."""
        (answer,) = answers
        output, message, count, begun, finish = list[Any](), dict[str, Any](), 0, False, None
        async for piece in answer:
            for kind in () if begun else ("response.created", "response.in_progress"):
                yield self._event(kind, response=self._response("in_progress"))  # not earlier: the queue may be full
            begun, count, finish = True, count + len(piece.tokens), piece.finish
            (text, calls), scores = self._reader.read(answer, piece), self._logprobs(piece)
            if text or (finish and not output and not calls):
                if not message:
                    message = _message("in_progress", "", [])
                    yield self._opened(message, len(output))
                content = message["content"][0]
                content["text"], content["logprobs"] = content["text"] + text, content["logprobs"] + scores
                place = _place(message, len(output))
                yield self._event("response.output_text.delta", **place, delta=text, logprobs=scores)
            if message and (calls or finish):
                message["status"] = _status(finish)
                yield self._closed(message, len(output))
                output, message = [*output, message], {}
            for item in map(_call_item, calls):
                yield self._called(item, len(output))
                output.append(item)
        yield self._event(f"response.{_status(finish)}", response=self._ended(answer, finish, output, count))

    def _opened(self, message: Mapping[str, Any], index: int) -> bytes:
        added = self._event("response.output_item.added", output_index=index, item={**message, "content": []})
        part = message["content"][0]
        return added + self._event("response.content_part.added", **_place(message, index), part=part)

    def _closed(self, message: Mapping[str, Any], index: int) -> bytes:
        place, part = _place(message, index), message["content"][0]
        text = self._event("response.output_text.done", **place, text=part["text"], logprobs=part["logprobs"])
        done = self._event("response.content_part.done", **place, part=part)
        return text + done + self._event("response.output_item.done", output_index=index, item=message)

    def _called(self, item: Mapping[str, Any], index: int) -> bytes:
        place, said = {"item_id": item["id"], "output_index": index}, item["arguments"]
        empty = {**item, "status": "in_progress", "arguments": ""}
        added = self._event("response.output_item.added", output_index=index, item=empty)
        delta = self._event("response.function_call_arguments.delta", **place, delta=said)
        done = self._event("response.function_call_arguments.done", **place, arguments=said, name=item["name"])
        return added + delta + done + self._event("response.output_item.done", output_index=index, item=item)

    def failure(self, error: ApiError) -> bytes:
        body = error.body()["error"]
        return self._event("error", **{name: body[name] for name in ("code", "message", "param")}, error=body)


def _message(status: str, text: str, logprobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    content = {"type": "output_text", "text": text, "annotations": [], "logprobs": [*logprobs]}
    kind = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "status": status, "role": "assistant"}
    return {**kind, "content": [content]}


def _call_item(call: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": "completed", "call_id": call["id"]}
    return {**kind, **call["function"]}


def _place(message: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {"item_id": message["id"], "output_index": index, "content_index": 0}


def _status(finish: str | None) -> str:
    return "incomplete" if finish == "length" else "completed"


def router(backend: Backend) -> APIRouter:
    routes = answering_routes(backend)

    @routes.post("/v1/responses", response_model=ResponseObject)
    async def responses(body: ResponsesRequest, request: Request) -> Response:
        """Answer in a conversation, if the model is tuned for chat. Answers are not stored."""
        plan = await prepared(request, lambda: responses_plan(body, backend))
        return await respond(ResponsesResponder(plan, backend, body), body, request)

    return routes
