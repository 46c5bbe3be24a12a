"""The routes of llama.cpp's server that editors use: `POST /infill` (sent by llama.vscode and llama.vim),
`POST /apply-template`, `GET /props` and `/slots`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, Field
from starlette.responses import Response

import ms_codegeex
from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving import responding
from ms_codegeex.extras.serving.answering import IndentStop, Piece, TextFilter, TimeLimit
from ms_codegeex.extras.serving.backend import Backend, StreamedAnswer
from ms_codegeex.extras.serving.errors import unavailable
from ms_codegeex.extras.serving.infilling import infill_filter, infill_prompt
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.routes.completions import chat_prompt
from ms_codegeex.extras.serving.schemas import (
    MAX_MESSAGES,
    Biases,
    Body,
    ChatMessage,
    Listed,
    Sampling,
    SamplingFields,
    Stops,
    Text,
)
from ms_codegeex.generation.sampling import SamplingSettings, request_fields

ANY_SEED = 2**32 - 1  # -1 as an unsigned 32-bit number, llama.cpp's type of a seed
LLAMA_CPP = {"repetition_penalty": "repeat_penalty"}  # field of `SamplingSettings`: llama.cpp's name
MAX_INFILL_TOKENS, MAX_FILES = 128, 1024


class ExtraFile(Body):
    """Another file as context."""

    foreign = "extra_file"
    text: Text
    filename: str | None = None


class InfillRequest(SamplingFields):
    """The body of `POST /infill`."""

    foreign = "llama_cpp"
    input_prefix: Text | None = None
    input_suffix: Text | None = None
    input_extra: Listed[ExtraFile] | None = Field(None, max_length=MAX_FILES)
    prompt: Text | None = Field(None, description="the text between the prefix and the gap: the current line")
    temperature: float | None = Field(None, description="default 0: always the likeliest token")
    model: str | None = Field(None, description="the name of an adapter or of the model")
    n_predict: int | None = Field(
        None,
        ge=-1,
        validation_alias=AliasChoices("n_predict", "max_tokens", "max_completion_tokens"),
        description="0: only read the prompt; -1: as many as fit (default 128)",
    )
    n_indent: int | None = Field(None, ge=0, description="end before a line with less white space in front")
    n_cmpl: int | None = Field(
        None, ge=1, le=16, validation_alias=AliasChoices("n_cmpl", "n"), description="number of answers (default 1)"
    )
    logit_bias: Biases = None
    grammar: str | None = Field(None, description="a grammar that the answer follows, in GBNF")
    json_schema: dict[str, Any] | None = Field(None, description="a JSON schema that the answer follows")
    seed: int | None = Field(None, description="-1: a different one each time")
    stop: Stops = None
    stream: bool | None = None
    return_tokens: bool | None = None
    response_fields: Listed[str] | None = Field(
        None, max_length=64, description="return only these fields, by names or paths such as timings/prompt_n"
    )
    t_max_predict_ms: int | None = Field(
        None, ge=-1, lt=1 << 63, description="end after this time, once there is a complete line"
    )


class Timings(BaseModel):
    """Durations and speeds for the computed tokens of the prompt and for the answer. `cache_n` is the number of the
    prompt's tokens that were in a cache already."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class NativeAnswer(BaseModel):
    """The response, and the last event of a streamed one."""

    index: int
    content: str
    tokens: list[int]
    stop: Literal[True] = True
    id_slot: int = -1
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    generation_settings: dict[str, Any]
    prompt: str
    has_new_line: bool
    truncated: bool
    stop_type: Literal["eos", "limit", "word"]
    stopping_word: str = ""
    timings: Timings
    infill: str | None = None


def sampling(body: InfillRequest, model: ServedModel, max_tokens: int, stop: Sequence[str]) -> SamplingSettings:
    """Convert llama.cpp's fields to sampling settings. Raises `UserError`, naming the field, for invalid values."""
    given: dict[str, float | None] = {"temperature": max(body.temperature or 0.0, 0.0)}
    if body.seed is not None and (body.seed < 0 or body.seed == ANY_SEED):
        given["seed"] = None
    try:
        return responding.sampling_settings(body.model_copy(update=given), model, max_tokens, stop=stop)
    except UserError as error:
        raise UserError(str(error).replace("repetition_penalty:", "repeat_penalty:", 1)) from None


def selected(answer: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return the fields at these paths, such as `timings/prompt_n`, by path. Missing fields are omitted."""
    fields = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            fields[path] = value
    return fields


def ends(body: InfillRequest) -> list[TextFilter]:
    limit = max(body.t_max_predict_ms or 0, 0)
    return [*([TimeLimit(limit)] if limit else []), *([IndentStop(body.n_indent)] if body.n_indent else [])]


class NativeResponder(responding.Responder):
    """Formats the answers of one request like llama.cpp's server."""

    def __init__(self, body: InfillRequest, plan: responding.AnswerPlan, backend: Backend, truncated: bool):
        super().__init__(plan, backend)
        self.body, self._truncated = body, truncated

    async def whole(self, answers: Sequence[StreamedAnswer]) -> Any:
        results = [self._answer(number, [await answer.whole()], answer) for number, answer in enumerate(answers)]
        return results if len(results) > 1 else results[0]

    async def events(self, answers: Sequence[StreamedAnswer], with_usage: bool) -> AsyncGenerator[bytes, None]:
        pieces: list[list[Piece]] = [[] for _ in answers]
        async for number, piece in responding.merged(answers):
            pieces[number].append(piece)
            if piece.text:
                ids = [chosen.token for chosen in piece.tokens]
                yield responding.event({"index": number, "content": piece.text, "tokens": ids, "stop": False})
            if piece.finish:
                yield responding.event(self._answer(number, pieces[number], answers[number], content="", tokens=[]))

    def _answer(self, number: int, pieces: Sequence[Piece], answer: StreamedAnswer, **other: Any) -> dict[str, Any]:
        settings, model, text = answer.settings, self.plan.model, "".join(piece.text for piece in pieces)
        word = answer.text.stop_text if answer.text.stop_text in (self.body.stop or ()) else ""
        tokens = [chosen.token for piece in pieces for chosen in piece.tokens]
        whole = NativeAnswer(
            index=number,
            content=text,
            tokens=tokens if self.body.return_tokens else [],
            model=model.name,
            tokens_predicted=len(tokens),
            tokens_evaluated=len(answer.ids),
            tokens_cached=len(answer.ids) + len(tokens),
            generation_settings={
                "n_predict": 0 if self.plan.prompt_only else settings.max_new_tokens,
                **{LLAMA_CPP.get(each.name, each.name): getattr(settings, each.name) for each in request_fields()},
                "seed": settings.seed,
                "stop": list(settings.stop),
                "n_ctx": model.context,
                "stream": bool(self.body.stream),
            },
            prompt=model.tokenizer.decode([each for each in answer.ids if each < model.tokenizer.vocab_size]),
            has_new_line="\n" in text,
            truncated=self._truncated,
            stop_type="limit" if pieces[-1].finish == "length" else "word" if word else "eos",
            stopping_word=word,
            timings=self._timings(answer, len(tokens)),
            infill=model.infill,
        )
        found = {**whole.model_dump(exclude_none=True), **other}
        return selected(found, self.body.response_fields) if self.body.response_fields else found

    def _timings(self, answer: StreamedAnswer, count: int) -> Timings:
        now, computed = time.monotonic(), len(answer.ids) - answer.reused
        first, timings = answer.first_token_at or now, dict[str, float]()
        for name, number, seconds in (("prompt", computed, first - answer.began), ("predicted", count, now - first)):
            seconds = max(seconds, 1e-6)
            timings |= {f"{name}_n": number, f"{name}_ms": 1000 * seconds, f"{name}_per_second": number / seconds}
            timings[f"{name}_per_token_ms"] = 1000 * seconds / max(number, 1)
        return Timings(cache_n=answer.reused, **timings)


def infill_responder(body: InfillRequest, backend: Backend) -> NativeResponder:
    """Check a request and return its responder. Raises `UserError` or `ApiError`, which name the field."""
    # like llama.cpp's server, accept any name if there is only one model
    model = responding.chosen_model(backend, body.model if len(backend.models) > 1 else None)
    prefix, suffix = (body.input_prefix or "") + (body.prompt or ""), body.input_suffix or ""
    files = [(one.filename or "", one.text) for one in body.input_extra or ()]
    context, wanted = model.context, MAX_INFILL_TOKENS if body.n_predict is None else body.n_predict
    filling = not 0 <= wanted < context  # as many tokens as fit; half of the context is for the prompt
    room = max(1, context // 2 if filling else context - max(wanted, 1))
    ids, truncated, end = infill_prompt(model, prefix, suffix, room, files=files)
    maximum = context - len(ids) if filling else min(max(wanted, 1), context - len(ids))
    plan = responding.AnswerPlan(
        model,
        [ids],
        sampling(body, model, maximum, end),
        body.n_cmpl or 1,
        through=lambda: infill_filter(model, suffix, *ends(body)),
        prompt_only=wanted == 0,
        indent=body.n_indent or 0,
    )
    return NativeResponder(body, plan, backend, truncated)


class TemplateRequest(Body):
    """The body of `POST /apply-template`."""

    foreign = "chat"
    model: str | None = None
    messages: Listed[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)


def _slot(number: int, answer: StreamedAnswer | None, backend: Backend) -> dict[str, Any]:
    # reveals no text, which may be another client's
    values = {"id": number, "n_ctx": backend.model.context, "speculative": backend.settings.speculate is not None}
    if answer is None:
        return {**values, "is_processing": False}
    count = answer.text.count
    token = {"has_next_token": not answer.ended, "n_remain": answer.settings.max_new_tokens - count, "n_decoded": count}
    return {**values, "id_task": answer.number, "is_processing": True, "next_token": token}


def router(backend: Backend) -> APIRouter:
    every, routes = responding.answering_routes(backend), APIRouter(tags=["llama.cpp"])

    @every.post("/infill", tags=["infill"], response_model=NativeAnswer | list[NativeAnswer] | dict[str, Any])
    async def infill(body: InfillRequest, request: Request) -> Response:
        """Complete the text between a prefix and a suffix; the response is a list if several answers are requested."""
        responder = await responding.prepared(request, lambda: infill_responder(body, backend))
        return await responding.respond(responder, Sampling(stream=body.stream), request)

    @routes.post("/apply-template")
    async def apply_template(body: TemplateRequest, request: Request) -> dict[str, str]:
        """Return the prompt of a conversation, for models that are tuned for chat."""
        return {"prompt": chat_prompt(body.messages, responding.chosen_model(backend, body.model))}

    @routes.get("/slots", responses={503: {"description": "no slot is free, with fail_on_no_slot=1"}})
    async def slots(fail_on_no_slot: bool = False) -> list[dict[str, Any]]:
        """List the slots and their state, in the order in which their answers began."""
        answers = [*backend.in_slots, *[None] * backend.slots][: backend.slots]
        if fail_on_no_slot and None not in answers:
            raise unavailable("no slot is free", "no_slot")
        return [_slot(number, answer, backend) for number, answer in enumerate(answers)]

    @routes.get("/props")
    async def props() -> dict[str, Any]:
        """Return properties of the server in llama.cpp's format."""
        model = backend.model
        usual = {LLAMA_CPP.get(each.name, each.name): each.option.in_requests for each in request_fields()}
        usual |= {"temperature": 0.0, "n_predict": MAX_INFILL_TOKENS, "seed": -1}
        return {
            "default_generation_settings": {
                "n_ctx": model.context,
                "speculative": backend.settings.speculate is not None,
                "params": {**usual, "stop": [], "stream": False},
            },
            "total_slots": backend.slots,
            "model_alias": model.name,
            "model_path": model.name,  # the real path is not revealed
            "chat_template": "",
            "chat_template_caps": {},
            "modalities": {"vision": False, "audio": False},
            "build_info": f"ms-codegeex {ms_codegeex.__version__}",
            "is_sleeping": False,
            "infill": model.infill,
        }

    every.include_router(routes)
    return every
