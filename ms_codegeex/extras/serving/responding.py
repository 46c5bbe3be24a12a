"""Shared code of the generating routes: converts a request's fields to settings of the engine, requests the answers,
and sends them complete or in pieces."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Send

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import languages
from ms_codegeex.extras.serving.answering import Piece, TextFilter
from ms_codegeex.extras.serving.backend import Backend, StreamedAnswer
from ms_codegeex.extras.serving.errors import ApiError, failed
from ms_codegeex.extras.serving.guards import record_of
from ms_codegeex.extras.serving.model import ServedModel
from ms_codegeex.extras.serving.schemas import MAX_BIASES, Sampling
from ms_codegeex.extras.serving.tools import ToolUse
from ms_codegeex.generation.blocks import block
from ms_codegeex.generation.grammars import prepared as prepared_grammar
from ms_codegeex.generation.sampling import SamplingSettings, request_fields
from ms_codegeex.generation.stopping import Rule

Result = TypeVar("Result")
SHORT_BODY = 16384  # bytes; shorter texts are encoded within milliseconds
MAX_STOPS = 64
SEEDS = 1 << 64
DONE = b"data: [DONE]\n\n"
ANY_OBJECT = {"type": "object"}
UNREAD = {"name", "description", "strict"}  # ignored fields next to a schema, which is always followed strictly


def answering_routes(backend: Backend, **options: Any) -> APIRouter:
    """Return a router for generating routes. If there is no room for even one answer of a caller, its request is
    refused before the body is parsed, so that floods cost little. The body is still read first: clients may not read a
    response before they have sent it all, and a just closed answer of the same caller is gone by then."""

    class AnsweringRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                try:
                    await request.body()
                except ClientDisconnect:
                    raise ApiError(400, "the client has gone before the end of its request") from None
                backend.check_room(record_of(request.scope).caller)
                return await handle(request)

            return checked

    return APIRouter(route_class=AnsweringRoute, **options)


def chosen_model(backend: Backend, name: str | None) -> ServedModel:
    """Return the model, or the model with an adapter, of that name; the model alone if the name is missing or empty,
    as some editors send it. Raises `ApiError` (404) for an unknown name."""
    if not name:
        return backend.model
    if name not in backend.models:
        known = ", ".join(map(repr, backend.models))
        raise ApiError(
            404, f"The model `{name}` does not exist; this server has {known}", param="model", code="model_not_found"
        )
    return backend.models[name]


async def prepared(request: Request, work: Callable[[], Result]) -> Result:
    """Run `work`, which encodes a request's text. It runs in a thread if the text is long, as it may take a second."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) < SHORT_BODY:
        return work()
    return await run_in_threadpool(work)


def logit_bias(given: Sequence[tuple[int | str, float]] | None, model: ServedModel) -> dict[int, float]:
    """Return the sum of the biases for each id; a text stands for the ids of its tokens. Raises `UserError` for an id
    without a token and for too many ids."""
    biases: dict[int, float] = {}
    for token, value in given or ():
        if isinstance(token, int) and not 0 <= token < model.allowed:
            raise UserError(f"logit_bias: {token} is not a token's id; ids are 0 to {model.allowed - 1}")
        ids = [token] if isinstance(token, int) else model.tokenizer.encode(token[: model.max_characters])
        for number in dict.fromkeys(ids):
            biases[number] = biases.get(number, 0.0) + value
    if len(biases) > MAX_BIASES:
        raise UserError(f"logit_bias: texts with {len(biases)} different tokens; give {MAX_BIASES} at most")
    return biases


def sampling_settings(
    body: Sampling, model: ServedModel, max_tokens: int, *, log_probabilities: int = 0, stop: Sequence[str] = ()
) -> SamplingSettings:
    """Return the settings of the first answer, which also ends at the texts in `stop`. Raises `UserError`, naming the
    field, for a value out of range."""
    given = {each.name: getattr(body, each.name) for each in request_fields()}
    usual = {each.name: each.option.in_requests for each in request_fields()}
    texts = body.stop or []
    if len(texts) > MAX_STOPS:
        raise UserError(f"stop: {len(texts)} texts; give {MAX_STOPS} at most")
    if given["top_k"] == -1:  # means all tokens in vLLM
        given["top_k"] = 0
    if given["top_p"] == 0:  # means the likeliest token alone in OpenAI's API
        given["top_p"] = 1e-9
    return SamplingSettings(
        **{name: usual[name] if value is None else value for name, value in given.items()},
        max_new_tokens=max_tokens,
        seed=secrets.randbits(63) if body.seed in (None, -1) else body.seed % SEEDS,
        logit_bias=logit_bias(body.logit_bias, model),
        log_probabilities=log_probabilities,
        adapter=model.adapter,
        stop=tuple(dict.fromkeys((*texts, *stop))),
        **requested_form(body),
    )


def requested_form(body: Any) -> dict[str, str]:
    """Return the settings `json_schema` and `grammar` that a request's body asks for. Raises `UserError`, naming the
    field, for an invalid form."""
    requested, field = getattr(body, "response_format", None), body.form_field
    schema = getattr(body, "json_schema", None) if requested is None else _schema_of(requested, field)
    try:
        text = "" if schema is None else json.dumps(schema)
    except RecursionError:  # Python may fail to write JSON that it could just read
        raise UserError(f"{field}: nested too deep; give a schema of fewer levels") from None
    return {"json_schema": text, "grammar": getattr(body, "grammar", None) or ""}


def _schema_of(requested: Mapping[str, Any], field: str) -> Mapping[str, Any] | None:
    rest = {name: value for name, value in requested.items() if name != "type" and value is not None}
    match requested.get("type"):
        case "text" if not rest:
            return None
        case "json_object" if not rest:
            return ANY_OBJECT
        case "json_object" | "json_schema" if rest.keys() == {"schema"} and isinstance(rest["schema"], dict):
            return rest["schema"]  # the format of llama.cpp's server
        case "json_schema" if rest.keys() == {"json_schema"}:
            named = rest["json_schema"]
            if isinstance(named, dict) and named.keys() <= {"schema", *UNREAD}:
                schema = ANY_OBJECT if named.get("schema") is None else named["schema"]
                if isinstance(schema, dict):
                    return schema
    expected = 'a type "text", "json_object", or "json_schema" with json_schema, an object'
    raise UserError(f"{field}: expected {expected} of schema, {', '.join(sorted(UNREAD))}")


def block_rule(prompt: str, language: str | None) -> Rule:
    """Return the rule for `stop_at: "block"`. Without a `language`, the prompt's tag line determines it. Raises
    `UserError` if the language is unknown or unsupported."""
    tag = prompt.partition("\n")[0]
    name = language or next((known.name for known in languages("codegeex") if known.tag == tag), None)
    if name is None:
        raise UserError("stop_at: the prompt's language is unknown; name it with language")
    try:
        return block(name, prompt)
    except UserError as error:
        raise UserError(str(error).replace("--stop-at", "stop_at")) from None


@dataclass(frozen=True)
class AnswerPlan:
    """A checked request: `count` answers of `model` to each of `prompts`. `rules`, if any, has the stop rule for each
    prompt. `through` makes a filter for each answer's text. For `prompt_scores`, `prompt_only`, `indent` and
    `with_mean` see `StreamedAnswer`. `max_tokens` is the request's own number. `use` says how answers may use tools."""

    model: ServedModel
    prompts: Sequence[list[int]]
    settings: SamplingSettings
    count: int = 1
    rules: Sequence[Rule | None] = ()
    through: Callable[[], TextFilter] | None = None
    prompt_scores: bool = False
    prompt_only: bool = False
    max_tokens: int | None = None
    indent: int = 0
    with_mean: bool = False
    use: ToolUse | None = None

    @property
    def size(self) -> int:
        return len(self.prompts) * self.count


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"


class EventStream(StreamingResponse):
    """Sends events from a generator, closed when the client is gone. `failure` turns an error into the last event."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        failure: Callable[[ApiError], bytes] = lambda error: event(error.body()),
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        self.events, self.failure = events, failure

    async def stream_response(self, send: Send) -> None:
        """Send the events. Headers are sent with the first event, so that an earlier error can set its own status."""
        started = False
        try:
            async for data in self.events:
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    started = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as error:
            known = error if isinstance(error, ApiError) else failed()
            if known is not error:
                if not started:
                    raise  # the application answers with status 500
                logging.getLogger(__name__).exception("a stream has failed")
            response = known.response()
            if not started:
                await send({"type": "http.response.start", "status": known.status, "headers": response.raw_headers})
            data = self.failure(known) if started else response.body
            await send({"type": "http.response.body", "body": data, "more_body": True})
        finally:
            await self.events.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
    """Await `work` and return its result; cancel it when the client disconnects. The body must have been read."""
    gone = asyncio.ensure_future(_gone(request.receive))
    working = asyncio.ensure_future(work())
    try:
        await asyncio.wait({gone, working}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        working.cancel()
        await asyncio.wait({gone, working})
    if working.cancelled():
        raise ApiError(499, "the client has closed the connection")  # nobody reads the result
    return working.result()


@contextmanager
def begun(plan: AnswerPlan, backend: Backend, request: Request, counted: int = 1) -> Iterator[list[StreamedAnswer]]:
    """Begin all answers of a plan; answers to the same prompt are consecutive. On exit they are closed and added to the
    request's record. `counted` of them were already counted towards the limit per minute. Raises `ApiError`, without
    beginning any, if they are not admitted."""
    record, answers = record_of(request.scope), list[StreamedAnswer]()
    backend.admit(record.caller, plan.size, counted)
    try:
        for index, ids in enumerate(plan.prompts):
            for number in range(plan.count):
                answers.append(
                    backend.answer(
                        ids,
                        replace(plan.settings, seed=(plan.settings.seed + number) % SEEDS),
                        rule=plan.rules[index] if plan.rules else None,
                        client=record.caller.name,
                        through=plan.through() if plan.through else None,
                        prompt_scores=plan.prompt_scores,
                        prompt_only=plan.prompt_only,
                        weight=record.caller.weight,
                        indent=plan.indent,
                        with_mean=plan.with_mean,
                    )
                )
        yield answers
    finally:
        for answer in answers:
            answer.close()
        record.prompts = [*record.prompts, *plan.prompts]
        record.completion_tokens += sum(answer.text.count for answer in answers)
        times = [answer.first_token_at for answer in answers if answer.first_token_at]
        record.first_token = min(times, default=None) if record.first_token is None else record.first_token


async def merged(answers: Sequence[StreamedAnswer]) -> AsyncIterator[tuple[int, Piece]]:
    """Yield the pieces of several answers as they arrive, each with its answer's index."""
    changed, left = asyncio.Event(), dict(enumerate(answers))
    for answer in answers:
        answer.on_news = changed.set
    while left:
        changed.clear()
        ready = [(number, answer) for number, answer in left.items() if answer.news]
        for number, answer in ready:
            piece = answer.take()
            if piece.finish is not None:
                del left[number]
            yield number, piece
        if not ready:
            await changed.wait()


class Responder:
    """Formats the answers of one request for its route; subclasses implement `choice`. `kind` is the value of the field
    `object`, `prefix` the start of the id, and `extra` are further fields of the response."""

    kind, event_kind, prefix = "", "", ""

    def __init__(self, plan: AnswerPlan, backend: Backend, **extra: Any):
        self.plan, self.backend = plan, backend
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.kind,
            "created": int(time.time()),
            "model": plan.model.name,
            **extra,
        }

    def choice(self, answer: StreamedAnswer, piece: Piece, number: int, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def delta(self, answer: StreamedAnswer, piece: Piece, number: int) -> dict[str, Any]:
        return self.choice(answer, piece, number, number)

    def opening(self, number: int) -> dict[str, Any] | None:
        """Return the choice of an event that precedes an answer's first piece, or None for no such event."""

    def selected(self, pieces: Sequence[Piece]) -> Sequence[int]:
        return range(len(pieces))

    def usage(self, completion: int) -> dict[str, int]:
        prompt = sum(map(len, self.plan.prompts))
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def limit(self, number: int) -> dict[str, int]:
        room = self.plan.model.context - len(self.plan.prompts[number // self.plan.count])
        return {"max_tokens": room} if room < (self.plan.max_tokens or 0) else {}

    async def whole(self, answers: Sequence[StreamedAnswer]) -> dict[str, Any]:
        """Return the body of a response that is not streamed."""
        pieces = [await answer.whole() for answer in answers]
        choices = [
            {**self.choice(answers[number], pieces[number], number, index), **self.limit(number)}
            for index, number in enumerate(self.selected(pieces))
        ]
        return {**self.head, "choices": choices, "usage": self.usage(sum(len(piece.tokens) for piece in pieces))}

    async def events(self, answers: Sequence[StreamedAnswer], with_usage: bool) -> AsyncGenerator[bytes, None]:
        """Yield the events of a streamed response."""
        head = {**self.head, "object": self.event_kind or self.kind}
        completion, tail, opened = 0, {"usage": None} if with_usage else {}, set[int]()
        async for number, piece in merged(answers):
            completion += len(piece.tokens)
            if number not in opened:
                opened.add(number)
                if (choice := self.opening(number)) is not None:
                    yield event({**head, "choices": [choice], **tail})
            limit = {} if piece.finish is None else self.limit(number)
            yield event({**head, "choices": [{**self.delta(answers[number], piece, number), **limit}], **tail})
        if with_usage:
            yield event({**head, "choices": [], "usage": self.usage(completion)})
        yield DONE

    def failure(self, error: ApiError) -> bytes:
        return event(error.body())


async def respond(responder: Responder, body: Sampling, request: Request) -> Response:
    """Begin the answers and send them, streamed or not. They are cancelled if the client disconnects."""
    plan, backend = responder.plan, responder.backend
    headers = plan.use.headers if plan.use else {}
    if plan.settings.formed:
        try:
            await run_in_threadpool(prepared_grammar, plan.settings)
        except UserError as error:
            field = "tools" if plan.use and plan.use.forced else body.form_field
            raise UserError(str(error).replace("json_schema:", f"{field}:", 1)) from None
    if not body.stream:

        async def work() -> dict[str, Any]:
            with begun(plan, backend, request) as answers:
                return await responder.whole(answers)

        return JSONResponse(await while_connected(request, work), headers=headers)
    with_usage = bool(body.stream_options and body.stream_options.include_usage)

    async def events() -> AsyncGenerator[bytes, None]:
        with begun(plan, backend, request) as answers:
            async for data in responder.events(answers, with_usage):
                yield data

    return EventStream(events(), responder.failure, headers)
