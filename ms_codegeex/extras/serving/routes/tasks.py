"""`POST /v1/code/...`: translation, explanation, comments, documentation, fixes, SQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from ms_codegeex.base.errors import located
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.serving import responding
from ms_codegeex.extras.serving.answering import Piece
from ms_codegeex.extras.serving.backend import Backend, StreamedAnswer
from ms_codegeex.extras.serving.prompts import TASKS, TaskPrompt, UserCode, translation
from ms_codegeex.extras.serving.schemas import Choice, GeneratedAnswer, Sampling, Text

MAX_TOKENS = 512
SHORTEN = "the task's prompt counts too"
SUMMARIES = {
    "explain": "What the code does, in words.",
    "comment": "The code with a comment on each line.",
    "document": "The code with a description of it: a docstring or a comment.",
    "fix": "The code without its mistake.",
}


class TaskFields(Sampling):
    """Fields of all tasks. Unlike completions, tasks are greedy by default."""

    code: Text = Field(description="the code; for SQL, a description of the statement in words")
    max_tokens: int | None = Field(None, ge=1, description=f"most new tokens (default {MAX_TOKENS}, or as many as fit)")


class SqlRequest(TaskFields):
    """The body of `POST /v1/code/sql`."""

    language: str | None = None
    locale: Literal["en", "zh"] | None = Field(None, description="the language of explanations (default en)")


class TaskRequest(SqlRequest):
    """The body of `POST /v1/code/explain`, `comment`, `document` and `fix`."""

    language: str = Field(description="the code's language")


class TranslationRequest(TaskFields):
    """The body of `POST /v1/code/translate`."""

    foreign = "translation"
    source_language: str = Field(description="the code's language")
    target_language: str = Field(description="the language of the answer")


class TaskChoice(Choice):
    """One answer."""

    text: str


class TaskAnswer(GeneratedAnswer):
    """The response, and each event of a streamed one."""

    object: str
    choices: list[TaskChoice]


class TaskResponder(responding.Responder):
    """Formats answers of the tasks."""

    prefix = "code"

    def __init__(self, kind: str, plan: responding.AnswerPlan, backend: Backend):
        self.kind = f"code.{kind}"
        super().__init__(plan, backend)

    def choice(self, answer: StreamedAnswer, piece: Piece, number: int, index: int) -> dict[str, Any]:
        return {"index": index, "text": piece.text, "finish_reason": piece.finish}


def _language(body: TaskFields, field: str) -> str:
    with located(field):
        return find_language(getattr(body, field)).name


def _prompt(task: str, body: TaskFields, family: str) -> TaskPrompt:
    if isinstance(body, TranslationRequest):
        return translation(_language(body, "source_language"), _language(body, "target_language"), body.code)
    language = find_language("SQL" if task == "sql" else _language(body, "language"))
    return TASKS[task][1](UserCode(body.code, language, family, body.locale or "en"))


async def answered(task: str, body: TaskFields, request: Request, backend: Backend) -> Response:
    """Return the response to a task. A long prompt is made in a thread, so that it does not delay other requests."""
    model = responding.chosen_model(backend, body.model)

    def work() -> responding.AnswerPlan:
        if len(body.code) > model.max_characters:
            model.encode(body.code, field="code", remedy=SHORTEN)  # raises early, as making the prompt takes longer
        prompt = _prompt(task, body, model.scheme)
        ids = model.encode(prompt.text, field="code", remedy=SHORTEN)
        greedy = body.model_copy(update={"temperature": body.temperature or 0.0})
        settings = responding.sampling_settings(greedy, model, body.max_tokens or MAX_TOKENS, stop=prompt.stop)
        how = {"through": prompt.text_filter, "max_tokens": body.max_tokens}
        return responding.AnswerPlan(model, [ids], settings, body.n or 1, [prompt.rule], **how)

    plan, kind = await responding.prepared(request, work), TASKS[task][0] if task in TASKS else "translation"
    return await responding.respond(TaskResponder(kind, plan, backend), body, request)


def router(backend: Backend) -> APIRouter:
    routes = responding.answering_routes(backend, prefix="/v1/code", tags=["tasks"])

    @routes.post("/translate", response_model=TaskAnswer)
    async def translate(body: TranslationRequest, request: Request) -> Response:
        """Translate code to another language."""
        return await answered("translate", body, request, backend)

    @routes.post("/sql", response_model=TaskAnswer)
    async def sql(body: SqlRequest, request: Request) -> Response:
        """Write an SQL statement."""
        return await answered("sql", body, request, backend)

    def of_code(task: str) -> Callable[[TaskRequest, Request], Awaitable[Response]]:
        async def endpoint(body: TaskRequest, request: Request) -> Response:
            return await answered(task, body, request, backend)

        return endpoint

    for name, summary in SUMMARIES.items():
        routes.post(f"/{name}", response_model=TaskAnswer, name=name, description=summary)(of_code(name))
    return routes
