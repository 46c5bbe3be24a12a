"""`POST /infill`, in llama.cpp's format, as llama.vscode and llama.vim send it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from ms_codegeex.data.infilling.sentinels import joined_files
from ms_codegeex.serving import foreign_fields
from ms_codegeex.serving.backend import Backend
from ms_codegeex.serving.infilling import infill_filter, infill_prompt
from ms_codegeex.serving.llama_cpp import NativeAnswer, NativeFields, NativeResponder, ends, sampling, served_model
from ms_codegeex.serving.responding import AnswerPlan, answering_routes, prepared, respond
from ms_codegeex.serving.schemas import Body, Listed, Sampling

MAX_TOKENS = 128
MAX_FILES = 1024


class ExtraFile(Body):
    """Another file that may help."""

    foreign = foreign_fields.EXTRA_FILE
    text: str
    filename: str | None = None


class InfillRequest(NativeFields):
    """`POST /infill`"""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: Listed[ExtraFile] | None = Field(None, max_length=MAX_FILES)
    prompt: str | None = Field(None, description="the text between the prefix and the gap: the current line")
    temperature: float | None = Field(None, description="default 0: always the likeliest token")


def infill_responder(body: InfillRequest, backend: Backend) -> NativeResponder:
    """Check a request. `UserError` and `ApiError` name the field."""
    model = served_model(body, backend)
    prefix, suffix = (body.input_prefix or "") + (body.prompt or ""), body.input_suffix or ""
    prefix = joined_files([one.text for one in body.input_extra or ()], prefix)
    context, wanted = model.context, MAX_TOKENS if body.n_predict is None else body.n_predict
    filling = not 0 <= wanted < context  # as many as fit, and half of the context for the prompt
    room = max(1, context // 2 if filling else context - max(wanted, 1))
    ids, truncated, end = infill_prompt(model, prefix, suffix, room)
    maximum = context - len(ids) if filling else min(max(wanted, 1), context - len(ids))
    plan = AnswerPlan(
        model,
        [ids],
        sampling(body, model, maximum, 0.0, end),
        body.n_cmpl or 1,
        through=lambda: infill_filter(model, suffix, *ends(body)),
        prompt_only=wanted == 0,
        indent=body.n_indent or 0,
    )
    return NativeResponder(body, plan, backend, truncated=truncated, infill=model.infill)


def router(backend: Backend) -> APIRouter:
    """The route."""
    routes = answering_routes(backend, tags=["infill"])

    @routes.post("/infill", response_model=NativeAnswer | list[NativeAnswer] | dict[str, Any])
    async def infill(body: InfillRequest, request: Request) -> Response:
        """The text between a prefix and a suffix; a list if several were requested."""
        responder = await prepared(request, lambda: infill_responder(body, backend))
        return await respond(responder, Sampling(stream=body.stream), request)

    return routes
