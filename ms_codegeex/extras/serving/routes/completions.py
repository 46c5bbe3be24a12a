"""`POST /v1/completions`, and `POST /v1/chat/completions` for models whose description has a chat format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ms_codegeex.base.errors import UserError, located
from ms_codegeex.data.conversations import STATE_CHAT, ChatFormat
from ms_codegeex.extras.serving import responding, schemas
from ms_codegeex.extras.serving.answering import Piece
from ms_codegeex.extras.serving.backend import Backend, StreamedAnswer
from ms_codegeex.extras.serving.errors import ApiError
from ms_codegeex.extras.serving.infilling import infill_filter, infill_prompt, suffix_ids
from ms_codegeex.extras.serving.logprobs import Entry, Report, SentTokens, chat_log_probabilities
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.tools import CallReader, ToolUse, as_mapping, as_text, tool_use
from ms_codegeex.generation.stopping import Rule

MAX_TOKENS, MAX_CHAT_TOKENS = 128, 512
MAX_PROMPTS = 128
ROLES = {"developer": "system"}  # OpenAI's newer name for the same role
TEXT_PARTS = ("text", "input_text", "output_text")  # the last two occur in /v1/responses


def completion_plan(body: schemas.CompletionRequest, backend: Backend) -> responding.AnswerPlan:
    """Check a request and return its plan. Raises `UserError` or `ApiError`, which name the field."""
    model, count = responding.chosen_model(backend, body.model), body.n or 1
    if body.best_of is not None:
        if body.best_of < count:
            raise UserError(f"best_of: {body.best_of} is less than n, {count}; give {count} or more")
        if body.stream and body.best_of > count:
            raise UserError("best_of: a streamed answer cannot be chosen among several; leave out stream or best_of")
        count = body.best_of
    maximum, filling = MAX_TOKENS if body.max_tokens is None else body.max_tokens, body.max_tokens == -1
    if filling:  # as many tokens as fit; if the prompt may be truncated, it leaves half of the context to the answer
        maximum = model.context // 2
    if body.truncate_prompt and maximum >= model.context:
        raise UserError(
            f"max_tokens: {maximum} leave no room for a prompt, the model's context is {model.context} tokens"
        )
    if body.echo and body.suffix is not None and model.sentinels is not None:
        raise UserError(
            "echo: the model reads the suffix before the answer, marked by ids without text; leave out echo"
        )
    prompts, rules, stop = [], list[Rule | None](), ()
    after = None if body.suffix is None or model.sentinels is None else suffix_ids(model, body.suffix)
    for prompt in given_prompts("" if body.prompt is None else body.prompt):
        if after is not None:
            ids, stop = _between(prompt, after, body, model, maximum)
            prompts.append(ids)
        else:
            prompts.append(_ids(prompt, body, model, maximum))
        if body.stop_at:
            text = prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt)
            rules.append(responding.block_rule(text, body.language))
    limit = model.context if filling else max(maximum, 1)
    settings = responding.sampling_settings(body, model, limit, log_probabilities=body.logprobs or 0, stop=stop)
    if body.echo and body.logprobs is not None and maximum == 1:  # lm-eval drops the last token: it must not be eos
        settings = replace(settings, logit_bias={**settings.logit_bias, model.tokenizer.eos_id: -100.0})
    return responding.AnswerPlan(
        model,
        prompts,
        settings,
        count,
        rules,
        through=None if body.suffix is None else lambda: infill_filter(model, body.suffix or ""),
        prompt_scores=bool(body.echo) and body.logprobs is not None,
        prompt_only=maximum == 0,
        max_tokens=body.max_tokens,
    )


def given_prompts(
    prompt: str | list[str] | list[int] | list[list[int]], field: str = "prompt", maximum: int = MAX_PROMPTS
) -> Sequence[Any]:
    """Return the field `prompt` as a list of texts and lists of ids. Raises `UserError` for none or too many."""
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]
    if not 1 <= len(prompt) <= maximum:
        raise UserError(f"{field}: {len(prompt)} {field}s; give 1 to {maximum}")
    return prompt


def _ids(prompt: str | list[int], body: schemas.CompletionRequest, model: ServedModel, maximum: int) -> list[int]:
    room = max(maximum, 1) if body.truncate_prompt else None
    if isinstance(prompt, str):
        return model.encode(model.tagged(prompt, body.language), room=room)
    if body.language is not None:
        prompt = [*model.tokenizer.encode_prompt(model.tagged("", body.language)), *prompt]
    return model.checked(prompt, room=room)


def _between(
    prompt: str | list[int], after: Sequence[int], body: schemas.CompletionRequest, model: ServedModel, maximum: int
) -> tuple[list[int], tuple[str, ...]]:
    prefix = model.tagged(prompt if isinstance(prompt, str) else model.tokenizer.decode(prompt), body.language)
    room, remedy = max(maximum, 1), ""
    if not body.truncate_prompt:
        room, remedy = 1, 'or send "truncate_prompt": true to drop its start and the end of the suffix'
    ids, _, end = infill_prompt(model, prefix, body.suffix or "", model.context - room, remedy, after)
    return ids, end


class CompletionResponder(responding.Responder):
    """Formats answers like OpenAI's completions."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(self, plan: responding.AnswerPlan, backend: Backend, body: schemas.CompletionRequest):
        super().__init__(plan, backend, **({} if body.suffix is None else {"infill": plan.model.infill}))
        self.kept = body.n or 1
        tokenizer = backend.model.tokenizer
        # decoded as a continuation: a character that only begins in the prompt belongs to the answer that completes it
        echoes = ["".join(tokenizer.continuation((), ids)) if body.echo else "" for ids in plan.prompts]
        self._unsent = {number: echoes[number // plan.count] for number in range(plan.size)}
        self._reports = [
            None if body.logprobs is None else Report(tokenizer, body.logprobs, len(echo))
            for echo in self._unsent.values()
        ]

    def selected(self, pieces: Sequence[Piece]) -> Sequence[int]:
        """Return the indices of the answers to send: for each prompt, the `n` with the likeliest tokens on average."""
        if self.kept == self.plan.count:
            return range(len(pieces))
        scores = [sum(each.score for each in piece.tokens) / max(len(piece.tokens), 1) for piece in pieces]
        chosen: list[int] = []
        for first in range(0, len(pieces), self.plan.count):
            group = range(first, first + self.plan.count)
            chosen += sorted(group, key=scores.__getitem__, reverse=True)[: self.kept]
        return chosen

    def choice(self, answer: StreamedAnswer, piece: Piece, number: int, index: int) -> dict[str, Any]:
        text, report, before = piece.text, self._reports[number], list[Entry]()
        if number in self._unsent:
            text = self._unsent.pop(number) + text
            if report is not None and self.plan.prompt_scores:
                before = report.prompt(answer.ids, answer.scored)
        logprobs = None if report is None else report.feed(piece, before)
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": piece.finish}


def chat_plan(body: schemas.ChatRequest, backend: Backend) -> responding.AnswerPlan:
    """Check a request and return its plan. Raises `UserError` or `ApiError`, which name the field."""
    if body.top_logprobs and not body.logprobs:
        raise UserError("top_logprobs: needs logprobs; send true for it")
    tools = [tool and tool.function for tool in body.tools or ()]
    return conversation_plan(body, backend, body.messages, tools, "messages")


def conversation_plan(
    body: Any,
    backend: Backend,
    messages: Sequence[schemas.ChatMessage],
    tools: Sequence[schemas.Function | None],
    field: str,
) -> responding.AnswerPlan:
    """Return the plan of an answer to `messages`, which the request has in `field`. Raises as `chat_plan` does."""
    model = responding.chosen_model(backend, body.model)
    use = tool_use(tools, body.tool_choice, body.parallel_tool_calls, template(model).tools_text, model.name)
    read = str if model.special_tokens else model.tokenizer.said
    text = chat_prompt(messages, model, field, read, use)
    ids = model.encode(text, field=field, remedy="leave out what is oldest", special=True)
    given = MAX_CHAT_TOKENS if body.max_tokens is None else body.max_tokens
    maximum = model.context if given < 0 else given
    stop, likeliest = template(model).stop, body.top_logprobs or 0
    settings = responding.sampling_settings(body, model, maximum, log_probabilities=likeliest, stop=stop)
    if use is not None and use.forced:
        settings = replace(settings, json_schema=use.schema, between=use.between)
    elif use is not None and use.written and settings.json_schema:  # the answer has that form, or is calls
        opening, between = use.format.opening, use.between if use.format.begin else ""
        closing = "]" if opening.endswith("[") else ""  # closes a list of calls
        settings = replace(settings, calls=(opening, use.schema, closing), between=between)
    return responding.AnswerPlan(model, [ids], settings, body.n or 1, max_tokens=body.max_tokens, use=use)


def template(model: ServedModel) -> ChatFormat:
    """Return the model's chat format. Raises `ApiError` for a base model."""
    if model.chat is None:
        raise ApiError(
            400,
            f"{model.name} is a base model, which continues text and was not tuned for chat; use /v1/completions. "
            f"If it was tuned, say how conversations are written: {STATE_CHAT}",
            param="model",
            code="not_a_chat_model",
        )
    return model.chat


def chat_prompt(
    given: Sequence[schemas.ChatMessage],
    model: ServedModel,
    field: str = "messages",
    read: Callable[[str], str] = str,
    use: ToolUse | None = None,
) -> str:
    """Return the prompt for an answer to a conversation, which the request has in `field`. `read` makes special tokens
    in its texts literal. Raises `UserError` if the conversation does not fit the chat format."""
    chat = template(model)
    if given[-1].role not in ("user", "tool"):
        raise UserError(f"{field}: the last one is not the user's; add what should be answered")
    texts = [(message, ROLES.get(message.role, message.role), text_of(message, field)) for message in given]
    if use is not None and use.written:
        written = [as_mapping(message, role, text, read) for message, role, text in texts]
        with located(field):
            return chat.prompt(written, use.written) + use.format.opening * use.forced
    names = {call.id: call.function.name for message in given for call in message.tool_calls or ()}
    said = [as_text(message, role, text, names) for message, role, text in texts]
    if use is not None and use.forced:
        said.insert(0, ("system", use.described))
    with located(field):
        return chat.prompt([(role, read(text)) for role, text in said])


def text_of(message: schemas.ChatMessage, field: str) -> str:
    """Return a message's text. Raises `UserError` for parts that are not text."""
    if isinstance(message.content, str):
        return message.content
    if message.content is None and message.role != "assistant":  # the assistant's own answers may be empty
        raise UserError(f"{field}: one of the {message.role} has no content; give its text")
    texts = [part if isinstance(part, str) else part.type in TEXT_PARTS and part.text for part in message.content or ()]
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{field}: a part is not text, all that this model reads; send parts of type text, with a text")
    return "".join(map(str, texts))


class ChatResponder(responding.Responder):
    """Formats answers like OpenAI's chats."""

    kind, event_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, plan: responding.AnswerPlan, backend: Backend, reported: bool):
        super().__init__(plan, backend)
        self._tokens = [SentTokens() for _ in range(plan.size)] if reported else None
        self._readers = [CallReader(plan.use) for _ in range(plan.size)]

    def _choice(self, piece: Piece, index: int, name: str, content: dict[str, Any]) -> dict[str, Any]:
        reported, finish = None, piece.finish
        if self._tokens is not None:
            reported = chat_log_probabilities(self.backend.model.tokenizer, self._tokens[index].feed(piece))
        if finish == "stop" and self._readers[index].count:
            finish = "tool_calls"
        return {"index": index, name: content, "logprobs": reported, "finish_reason": finish}

    def choice(self, answer: StreamedAnswer, piece: Piece, number: int, index: int) -> dict[str, Any]:
        text, calls = self._readers[number].read(answer, piece)
        message = {"content": text or None, "tool_calls": calls} if calls else {"content": text}
        return self._choice(piece, index, "message", {"role": "assistant", **message})

    def delta(self, answer: StreamedAnswer, piece: Piece, number: int) -> dict[str, Any]:
        """Return the delta for a piece of an answer. A call is sent as soon as it is complete."""
        text, calls = self._readers[number].read(answer, piece)
        first = self._readers[number].count - len(calls)
        numbered = [{"index": first + place, **call} for place, call in enumerate(calls)]
        content = {"content": text} if text else {}
        return self._choice(piece, number, "delta", {**content, **({"tool_calls": numbered} if calls else {})})

    def opening(self, number: int) -> dict[str, Any] | None:
        return self._choice(Piece(""), number, "delta", {"role": "assistant", "content": ""})


def router(backend: Backend) -> APIRouter:
    routes = responding.answering_routes(backend)

    @routes.post("/v1/completions", response_model=schemas.Completion)
    async def completions(body: schemas.CompletionRequest, request: Request) -> Response:
        """Continue a prompt."""
        plan = await responding.prepared(request, lambda: completion_plan(body, backend))
        return await responding.respond(CompletionResponder(plan, backend, body), body, request)

    @routes.post("/v1/chat/completions", response_model=schemas.ChatCompletion)
    async def chat(body: schemas.ChatRequest, request: Request) -> Response:
        """Answer in a conversation, if the model is tuned for chat."""
        plan = await responding.prepared(request, lambda: chat_plan(body, backend))
        return await responding.respond(ChatResponder(plan, backend, bool(body.logprobs)), body, request)

    return routes
