"""llama.cpp's other routes: `POST /completion` and `/apply-template`, `GET /props` and `/slots`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

import ms_codegeex
from ms_codegeex.base.errors import UserError
from ms_codegeex.generation.sampling import request_fields
from ms_codegeex.serving import foreign_fields
from ms_codegeex.serving.answering import Filters
from ms_codegeex.serving.backend import Backend, StreamedAnswer
from ms_codegeex.serving.errors import unavailable
from ms_codegeex.serving.llama_cpp import (
    LLAMA_CPP,
    NativeAnswer,
    NativeFields,
    NativeResponder,
    ends,
    sampling,
    served_model,
)
from ms_codegeex.serving.model import ServedModel
from ms_codegeex.serving.responding import AnswerPlan, answering_routes, chosen_model, prepared, respond
from ms_codegeex.serving.routes.completions import MAX_PROMPTS, chat_prompt
from ms_codegeex.serving.schemas import MAX_IDS, MAX_MESSAGES, Body, ChatMessage, Listed, Sampling

SHORTEN = "shorten the prompt"


class PromptObject(Body):
    """A prompt as an object, which llama.cpp's server has for images."""

    foreign = foreign_fields.PROMPT_OBJECT
    prompt_string: str


Mixed = Annotated[Listed[int | str], Field(max_length=MAX_IDS)]


class NativeCompletionRequest(NativeFields):
    """`POST /completion`"""

    prompt: str | PromptObject | Annotated[Listed[int | str | Mixed | PromptObject], Field(max_length=MAX_IDS)] = Field(
        description="a text, ids, ids and texts mixed, or a list of several prompts"
    )


class TemplateRequest(Body):
    """`POST /apply-template`"""

    foreign = foreign_fields.CHAT
    model: str | None = None
    messages: Listed[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)


def prompt_parts(body: NativeCompletionRequest) -> list[Sequence[Any]]:
    """Each prompt as a list of ids and texts."""
    given = body.prompt
    if isinstance(given, (str, PromptObject)):
        return [[given]]
    if not given or any(isinstance(part, int) for part in given):
        if not all(isinstance(part, (int, str)) for part in given):
            raise UserError("prompt: an id next to a whole prompt; put the ids of each prompt in a list")
        return [given]
    if len(given) > MAX_PROMPTS:
        raise UserError(f"prompt: {len(given)} prompts; give 1 to {MAX_PROMPTS}")
    return [part if isinstance(part, list) else [part] for part in given]


def prompt_ids(parts: Sequence[int | str | PromptObject], model: ServedModel) -> list[int]:
    """Ids of a prompt. The ids that begin every prompt are put in front of a text only."""
    ids: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
            continue
        text = part.prompt_string if isinstance(part, PromptObject) else part
        if text or not ids:
            ids += model.encode(text, remedy=SHORTEN)[len(model.tokenizer.prefix) if ids else 0 :]
    return model.checked(ids, remedy=SHORTEN)


def completion_responder(body: NativeCompletionRequest, backend: Backend) -> NativeResponder:
    """Check a request. `UserError` and `ApiError` name the field."""
    model = served_model(body, backend)
    prompts = [prompt_ids(each, model) for each in prompt_parts(body)]
    room, wanted = model.context - min(map(len, prompts)), -1 if body.n_predict is None else body.n_predict
    plan = AnswerPlan(
        model,
        prompts,
        sampling(body, model, room if wanted < 0 else min(max(wanted, 1), room), None),
        body.n_cmpl or 1,
        through=lambda: Filters(*ends(body)),
        prompt_only=wanted == 0,
        indent=body.n_indent or 0,
    )
    return NativeResponder(body, plan, backend)


def _slot(number: int, answer: StreamedAnswer | None, backend: Backend) -> dict[str, Any]:
    """A slot, without what is computed in it, which may be another client's."""
    values = {"id": number, "n_ctx": backend.model.context, "speculative": backend.settings.speculate is not None}
    if answer is None:
        return {**values, "is_processing": False}
    count = answer.text.count
    token = {"has_next_token": not answer.ended, "n_remain": answer.settings.max_new_tokens - count, "n_decoded": count}
    return {**values, "id_task": answer.number, "is_processing": True, "next_token": token}


def router(backend: Backend) -> APIRouter:
    """The routes."""
    answers, routes = answering_routes(backend), APIRouter(tags=["llama.cpp"])

    @answers.post("/completion", response_model=NativeAnswer | list[NativeAnswer] | dict[str, Any])
    async def completion(body: NativeCompletionRequest, request: Request) -> Response:
        """Continue a prompt; a list of answers if there are several."""
        responder = await prepared(request, lambda: completion_responder(body, backend))
        return await respond(responder, Sampling(stream=body.stream), request)

    routes.include_router(answers)

    @routes.post("/apply-template")
    async def apply_template(body: TemplateRequest, request: Request) -> dict[str, str]:
        """The prompt of a conversation, for models that were tuned for conversations."""
        return {"prompt": chat_prompt(body.messages, chosen_model(backend, body.model))}

    @routes.get("/slots", responses={503: {"description": "no slot is free, with fail_on_no_slot=1"}})
    async def slots(fail_on_no_slot: bool = False) -> list[dict[str, Any]]:
        """What is computed at once: places in the order in which their answers began."""
        answers = [*backend.in_slots, *[None] * backend.slots][: backend.slots]
        if fail_on_no_slot and None not in answers:
            raise unavailable("no slot is free", "no_slot")
        return [_slot(number, answer, backend) for number, answer in enumerate(answers)]

    @routes.get("/props")
    async def props() -> dict[str, Any]:
        """Properties of the server, as clients of llama.cpp expect them."""
        model = backend.model
        usual = {LLAMA_CPP.get(each.name, each.name): each.option.in_requests for each in request_fields()}
        return {
            "default_generation_settings": {
                "n_ctx": model.context,
                "speculative": backend.settings.speculate is not None,
                "params": {**usual, "n_predict": -1, "seed": -1, "stop": [], "stream": False},
            },
            "total_slots": backend.slots,
            "model_alias": model.name,
            "model_path": model.name,  # not its path on this machine
            "chat_template": "",
            "chat_template_caps": {},
            "modalities": {"vision": False, "audio": False},
            "build_info": f"ms-codegeex {ms_codegeex.__version__}",
            "is_sleeping": False,
            "infill": model.infill,
        }

    return routes
