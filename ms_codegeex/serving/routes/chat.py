"""`POST /v1/chat/completions`, for models whose directory names a chat format (`model.py`)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ms_codegeex.base.errors import UserError
from ms_codegeex.serving.answering import Piece
from ms_codegeex.serving.backend import Backend, StreamedAnswer
from ms_codegeex.serving.errors import ApiError
from ms_codegeex.serving.logprobs import SentTokens, chat_log_probabilities
from ms_codegeex.serving.responding import AnswerPlan, Responder, chosen_model, prepared, respond, sampling_settings
from ms_codegeex.serving.schemas import ChatCompletion, ChatMessage, ChatRequest

MAX_TOKENS = 512
ROLES = {"developer": "system"}  # newer name: the part of the template that it fills


def planned(body: ChatRequest, backend: Backend) -> AnswerPlan:
    """Check a request. `UserError` and `ApiError` name the field."""
    model = chosen_model(backend, body.model)
    if model.chat is None:
        raise ApiError(
            400,
            f"{model.name} is a base model, which continues text and was not tuned for chat; use /v1/completions",
            param="model",
            code="not_a_chat_model",
        )
    if body.top_logprobs is not None and not body.logprobs:
        raise UserError("top_logprobs: needs logprobs; send true for it")
    messages = [(ROLES.get(message.role, message.role), text_of(message)) for message in body.messages]
    if messages[-1][0] != "user":
        raise UserError("messages: the last one is not the user's; add what should be answered")
    ids = model.encode(model.chat.prompt(messages), field="messages", remedy="leave out the oldest ones")
    given = body.max_completion_tokens or body.max_tokens
    return AnswerPlan(
        model,
        [ids],
        sampling_settings(
            body, model, given or MAX_TOKENS, log_probabilities=body.top_logprobs or 0, stop=model.chat.stop
        ),
        body.n or 1,
        max_tokens=given,
    )


def text_of(message: ChatMessage) -> str:
    """A message's text; parts that are no text are a `UserError`."""
    if isinstance(message.content, str):
        return message.content
    texts = []
    for part in message.content or []:
        if part.type != "text" or part.text is None:
            raise UserError("messages: a part is not text; this model reads text only")
        texts.append(part.text)
    return "".join(texts)


class ChatResponder(Responder):
    """Answers in the format of OpenAI's chats."""

    kind, event_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, plan: AnswerPlan, backend: Backend, reported: bool):
        super().__init__(plan, backend)
        self._tokens = [SentTokens() for _ in range(plan.size)] if reported else None

    def _choice(self, piece: Piece, index: int, name: str, content: dict[str, Any]) -> dict[str, Any]:
        reported = None
        if self._tokens is not None:
            reported = chat_log_probabilities(self.backend.model.tokenizer, self._tokens[index].feed(piece))
        return {"index": index, name: content, "logprobs": reported, "finish_reason": piece.finish}

    def choice(self, answer: StreamedAnswer, piece: Piece, number: int, index: int) -> dict[str, Any]:
        """A whole answer."""
        return self._choice(piece, index, "message", {"role": "assistant", "content": piece.text})

    def delta(self, answer: StreamedAnswer, piece: Piece, number: int) -> dict[str, Any]:
        """A piece of an answer."""
        return self._choice(piece, number, "delta", {"content": piece.text} if piece.text else {})

    def opening(self, number: int) -> dict[str, Any] | None:
        """The first event's choice, with the role."""
        return self._choice(Piece(""), number, "delta", {"role": "assistant", "content": ""})


def router(backend: Backend) -> APIRouter:
    """The route."""
    found = APIRouter()

    @found.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer in a conversation, if the model is tuned for that."""
        plan = await prepared(request, lambda: planned(body, backend))
        return await respond(ChatResponder(plan, backend, bool(body.logprobs)), body, request)

    return found
