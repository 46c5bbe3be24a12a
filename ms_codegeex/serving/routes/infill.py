"""`POST /infill`, in llama.cpp's format, as llama.vscode and llama.vim send it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from ms_codegeex.base.errors import UserError
from ms_codegeex.generation.sampling import SamplingSettings, request_fields
from ms_codegeex.serving import foreign_fields
from ms_codegeex.serving.answering import Indented, Lasting, Piece, TextFilter
from ms_codegeex.serving.backend import Backend, StreamedAnswer
from ms_codegeex.serving.infilling import infill_filter, infill_prompt, joined_files
from ms_codegeex.serving.model import ServedModel
from ms_codegeex.serving.responding import (
    AnswerPlan,
    Responder,
    chosen_model,
    event,
    merged,
    prepared,
    respond,
    sampling_settings,
)
from ms_codegeex.serving.schemas import Body, Few, Listed, Sampling, SamplingFields

MAX_TOKENS = 128
MAX_FILES = 1024
LLAMA_CPP = {"repetition_penalty": "repeat_penalty"}  # our name: llama.cpp's


class ExtraFile(Body):
    """Another file that may help."""

    without_effect = foreign_fields.EXTRA_FILE
    text: str
    filename: str | None = None


class InfillRequest(SamplingFields):
    """`POST /infill`"""

    without_effect = foreign_fields.INFILL
    neutral = foreign_fields.NEUTRAL
    model: str | None = Field(None, description="the name of an adapter or of the model")
    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: Listed[ExtraFile] | None = Field(None, max_length=MAX_FILES)
    prompt: str | None = Field(None, description="the text between the prefix and the gap: the current line")
    n_predict: int | None = Field(None, ge=-1, description="0: only read the prompt; -1: as many as fit (default 128)")
    n_indent: int | None = Field(None, ge=0, description="end before a line with less white space in front")
    n_cmpl: int | None = Field(None, ge=1, le=16, description="number of answers (default 1)")
    temperature: float | None = Field(None, description="default 0: always the likeliest token")
    repeat_penalty: float | None = Field(None, description="llama.cpp's name of repetition_penalty")
    logit_bias: Annotated[Listed[Listed[float | int]] | dict[str, float] | None, Few] = None
    seed: int | None = Field(None, description="-1: a different one each time")
    stop: Listed[str] | None = None
    stream: bool | None = None
    return_tokens: bool | None = None
    response_fields: Listed[str] | None = Field(
        None, max_length=64, description="return only these fields, by names or paths such as timings/prompt_n"
    )
    t_max_predict_ms: int | None = Field(
        None, ge=-1, lt=1 << 63, description="end after this time, once there is a complete line"
    )


class Timings(BaseModel):
    """Durations and speeds."""

    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float


class InfillAnswer(BaseModel):
    """The answer, and the last event of a streamed one."""

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
    infill: str


def sampling(body: InfillRequest, model: ServedModel, max_tokens: int, stop: Sequence[str]) -> SamplingSettings:
    """Sampling settings from llama.cpp's fields."""
    bias = body.logit_bias
    if isinstance(bias, list):
        if any(len(pair) != 2 or not isinstance(pair[0], int) for pair in bias):
            raise UserError("logit_bias: expected pairs of a token's id and a number")
        bias = {str(number): value for number, value in bias}
    given = {"logit_bias": bias, "temperature": body.temperature or 0.0}
    if body.repeat_penalty is not None:
        given["repetition_penalty"] = body.repeat_penalty
    if body.seed is not None and body.seed < 0:
        given["seed"] = None
    try:
        return sampling_settings(body.model_copy(update=given), model, max_tokens, stop=stop)
    except UserError as error:
        raise UserError(str(error).replace("repetition_penalty:", "repeat_penalty:", 1)) from None


def selected(answer: dict[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """The fields at these paths, such as `timings/prompt_n`, by their full paths. Missing fields are left out."""
    fields = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            fields[path] = value
    return fields


class InfillResponder(Responder):
    """Puts the answers of one request into llama.cpp's format."""

    def __init__(self, body: InfillRequest, backend: Backend):
        self.body = body
        # with one model, llama.cpp's server takes any name
        self.model = chosen_model(backend, body.model if len(backend.models) > 1 else None)
        self.began = time.monotonic()
        prefix, suffix = (body.input_prefix or "") + (body.prompt or ""), body.input_suffix or ""
        prefix = joined_files([one.text for one in body.input_extra or ()], prefix)
        context, wanted = self.model.context, MAX_TOKENS if body.n_predict is None else body.n_predict
        filling = not 0 <= wanted < context  # as many as fit, and half of the context for the prompt
        room = max(1, context // 2 if filling else context - max(wanted, 1))
        self.ids, self.truncated, end = infill_prompt(self.model, prefix, suffix, room)
        maximum = context - len(self.ids) if filling else min(max(wanted, 1), context - len(self.ids))
        settings = sampling(body, self.model, maximum, end)

        def through() -> TextFilter:
            filters: list[TextFilter] = []
            if body.t_max_predict_ms is not None and body.t_max_predict_ms > 0:
                filters.append(Lasting(body.t_max_predict_ms))
            if body.n_indent:
                filters.append(Indented(body.n_indent))
            return infill_filter(self.model, suffix, *filters)

        super().__init__(
            AnswerPlan(
                self.model,
                [self.ids],
                settings,
                body.n_cmpl or 1,
                through=through,
                prompt_only=wanted == 0,
                indent=body.n_indent or 0,
            ),
            backend,
        )

    async def whole(self, answers: Sequence[StreamedAnswer]) -> Any:
        """The answer, or a list of several."""
        results = []
        for number, answer in enumerate(answers):
            one = self.answer(number, [await answer.whole()], answer).model_dump()
            results.append(selected(one, self.body.response_fields) if self.body.response_fields else one)
        return results if len(results) > 1 else results[0]

    async def events(self, answers: Sequence[StreamedAnswer], with_usage: bool) -> AsyncGenerator[bytes, None]:
        """The events of a streamed response."""
        pieces: list[list[Piece]] = [[] for _ in answers]
        async for number, piece in merged(answers):
            pieces[number].append(piece)
            if piece.text:
                ids = [chosen.token for chosen in piece.tokens]
                yield event({"index": number, "content": piece.text, "tokens": ids, "stop": False})
            if piece.finish:
                last = self.answer(number, pieces[number], answers[number]).model_dump()
                yield event({**last, "content": "", "tokens": []})

    def answer(self, number: int, pieces: Sequence[Piece], answer: StreamedAnswer) -> InfillAnswer:
        """One answer that has ended."""
        settings, text = answer.settings, "".join(piece.text for piece in pieces)
        tokens = [chosen.token for piece in pieces for chosen in piece.tokens]
        return InfillAnswer(
            index=number,
            content=text,
            tokens=tokens if self.body.return_tokens else [],
            model=self.model.name,
            tokens_predicted=len(tokens),
            tokens_evaluated=len(self.ids),
            tokens_cached=len(self.ids) + len(tokens),
            generation_settings={
                "n_predict": 0 if self.plan.prompt_only else settings.max_new_tokens,
                **{LLAMA_CPP.get(each.name, each.name): getattr(settings, each.name) for each in request_fields()},
                "seed": settings.seed,
                "stop": list(settings.stop),
                "n_ctx": self.model.context,
                "stream": bool(self.body.stream),
            },
            prompt=self.model.tokenizer.decode(self.ids),
            has_new_line="\n" in text,
            truncated=self.truncated,
            stop_type="limit" if pieces[-1].finish == "length" else "eos",
            timings=self._timings(answer, len(tokens)),
            infill=self.model.infill,
        )

    def _timings(self, answer: StreamedAnswer, count: int) -> Timings:
        now = time.monotonic()
        first = answer.first_token_at or now
        timings: dict[str, float] = {}
        for name, number, seconds in (("prompt", len(self.ids), first - self.began), ("predicted", count, now - first)):
            seconds = max(seconds, 1e-6)
            timings |= {f"{name}_n": number, f"{name}_ms": 1000 * seconds, f"{name}_per_second": number / seconds}
            timings[f"{name}_per_token_ms"] = 1000 * seconds / max(number, 1)
        return Timings(**timings)


def router(backend: Backend) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["infill"])

    @routes.post("/infill", response_model=InfillAnswer | list[InfillAnswer] | dict[str, Any])
    async def infill(body: InfillRequest, request: Request) -> Response:
        """The text between a prefix and a suffix; a list if several were requested."""
        responder = await prepared(request, lambda: InfillResponder(body, backend))
        return await respond(responder, Sampling(stream=body.stream), request)

    return routes
