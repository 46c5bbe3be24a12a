"""`POST /v1/embeddings`: the mean of a text's last hidden states, normalised to length 1.

The models were trained to continue code, not to compare it. These vectors find similar texts to some degree; a model
trained for search is better at that.
"""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response, StreamingResponse

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving import responding
from ms_codegeex.extras.serving.backend import Backend
from ms_codegeex.extras.serving.errors import ApiError, late
from ms_codegeex.extras.serving.guards import record_of
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.routes.completions import given_prompts
from ms_codegeex.extras.serving.schemas import Body, Ids, Listed, Text
from ms_codegeex.generation.sampling import SamplingSettings

MAX_INPUTS = 2048  # OpenAI's limit
POOLING = "mean of the last hidden states, of length 1"
SHORTEN = "send it in parts"


class EmbeddingRequest(Body):
    """The body of `POST /v1/embeddings`."""

    input: Text | Listed[Text] | Ids | Listed[Ids] = Field(description="text, ids, or a list of either")
    model: str | None = Field(None, description="the name in /v1/models; may be left out")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: little-endian FP32 numbers (default float)"
    )
    user: str | None = None


class EmbeddingObject(BaseModel):
    """The vector of an input."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    """The response. `pooling` says how the vectors are computed."""

    object: Literal["list"]
    data: list[EmbeddingObject]
    model: str
    pooling: str
    usage: dict[Literal["prompt_tokens", "total_tokens"], int]


def embedding_plan(body: EmbeddingRequest, backend: Backend) -> responding.AnswerPlan:
    """Check a request and return its plan. Raises `UserError` or `ApiError`, which name the field."""
    model = responding.chosen_model(backend, body.model)
    prompts = [_ids(each, model) for each in given_prompts(body.input, "input", MAX_INPUTS)]
    settings = SamplingSettings(1, temperature=0.0, adapter=model.adapter)
    return responding.AnswerPlan(model, prompts, settings, prompt_only=True, with_mean=True)


def _ids(given: str | list[int], model: ServedModel) -> list[int]:
    if not given:
        raise UserError("input: a text is empty; leave it out")
    if isinstance(given, str):
        return model.encode(given, field="input", remedy=SHORTEN)
    return model.checked(given, field="input", remedy=SHORTEN)


async def means(plan: responding.AnswerPlan, backend: Backend, request: Request) -> list[bytes]:
    """Return the mean of each prompt as FP32 bytes. As many are computed at once as there are slots and the key allows.
    Raises `ApiError` if the first group has no room; later groups that get a 429 are retried in smaller ones."""
    caller, found = record_of(request.scope).caller, list[bytes]()
    most = count = min(backend.slots, caller.concurrent or backend.slots)
    backend.check_room(caller, min(count, plan.size))
    backend.count(caller, plan.size, counted=1)  # one was counted with the request
    while len(found) < plan.size:
        group = replace(plan, prompts=plan.prompts[len(found) : len(found) + count])
        try:
            with responding.begun(group, backend, request, counted=group.size) as answers:
                for answer in answers:
                    await answer.whole()
        except ApiError as error:
            if error.status != 429 or not found:
                raise
            if count == 1:
                await asyncio.sleep(error.retry_after or 1)
            count = max(1, count // 2)
        else:
            found += [answer.mean or b"" for answer in answers]
            count = min(most, 2 * count)
    return found


def response_parts(plan: responding.AnswerPlan, found: Sequence[bytes], base64: bool) -> Iterator[str]:
    """Yield the response's body in parts, one per vector, because it may have hundreds of megabytes."""
    yield '{"object": "list", "data": ['
    for index, mean in enumerate(found):
        vector = np.frombuffer(mean, "<f4")
        vector = (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype("<f4")
        value = b64encode(vector.tobytes()).decode() if base64 else vector.tolist()
        yield (", " if index else "") + json.dumps({"object": "embedding", "index": index, "embedding": value})
    tokens = sum(map(len, plan.prompts))
    rest = {"model": plan.model.name, "pooling": POOLING, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    yield f"], {json.dumps(rest)[1:]}"


def router(backend: Backend) -> APIRouter:
    routes = responding.answering_routes(backend)

    @routes.post("/v1/embeddings", response_model=Embeddings)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Return the mean of the last hidden states of each input. The models were not trained to compare texts."""
        plan = await responding.prepared(request, lambda: embedding_plan(body, backend))
        seconds = backend.settings.deadline
        try:
            working = responding.while_connected(request, lambda: means(plan, backend, request))
            found = await asyncio.wait_for(working, seconds)
        except asyncio.TimeoutError:
            raise late(seconds) from None
        parts = response_parts(plan, found, body.encoding_format == "base64")
        return StreamingResponse(parts, media_type="application/json")

    return routes
