"""Shared code for reading requests: their fields as settings of the engine."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import LANGUAGES
from ms_codegeex.generation.sampling import SamplingSettings, request_fields
from ms_codegeex.generation.stopping import Rule, block
from ms_codegeex.serving.model import ServedModel
from ms_codegeex.serving.schemas import Sampling

Result = TypeVar("Result")
SHORT_BODY = 16384  # bytes, which are encoded in milliseconds
MAX_STOPS = 64
SEEDS = 1 << 64


async def prepared(request: Request, work: Callable[[], Result]) -> Result:
    """The result of `work`, which encodes a request's text: in a thread if the text is long (up to a second)."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) < SHORT_BODY:
        return work()
    return await run_in_threadpool(work)


def stop_texts(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The field `stop`."""
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(texts) > MAX_STOPS:
        raise UserError(f"stop: {len(texts)} texts; give {MAX_STOPS} at most")
    return texts


def logit_bias(given: Mapping[str, float] | None, model: ServedModel) -> dict[int, float]:
    """The field `logit_bias`, whose keys are ids as text."""
    found = {}
    for text, value in (given or {}).items():
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < model.allowed):
            raise UserError(f"logit_bias: {text!r} is not a token's id; ids are 0 to {model.allowed - 1}")
        found[int(text)] = value
    return found


def sampling_settings(
    body: Sampling, model: ServedModel, max_tokens: int, *, log_probabilities: int = 0, stop: Sequence[str] = ()
) -> SamplingSettings:
    """Settings of the first answer; `UserError` names the field that is out of range. `stop` ends it too."""
    given = {each.name: getattr(body, each.name) for each in request_fields()}
    usual = {each.name: each.option.in_requests for each in request_fields()}
    return SamplingSettings(
        **{name: usual[name] if value is None else value for name, value in given.items()},
        max_new_tokens=max_tokens,
        seed=secrets.randbits(63) if body.seed is None else body.seed % SEEDS,
        logit_bias=logit_bias(body.logit_bias, model),
        log_probabilities=log_probabilities,
        adapter=model.adapter,
        stop=tuple(dict.fromkeys((*stop_texts(body.stop), *stop))),
    )


def seeded(settings: SamplingSettings, number: int) -> SamplingSettings:
    """The settings of answer `number`, from 0."""
    return replace(settings, seed=(settings.seed + number) % SEEDS)


def block_rule(prompt: str, language: str | None) -> Rule:
    """The rule of `stop_at: "block"` for a prompt; its tag line gives the language if nothing else does."""
    tag = prompt.partition("\n")[0]
    name = language or next((known.name for known in LANGUAGES if known.tag == tag), None)
    if name is None:
        raise UserError("stop_at: the prompt's language is unknown; name it with language")
    try:
        return block(name, prompt)
    except UserError as error:
        raise UserError(str(error).replace("--stop-at", "stop_at")) from None
