"""Requests and answers in the format of llama.cpp's server: what `/infill` and `/completion` share."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field

from ms_codegeex.base.errors import UserError
from ms_codegeex.generation.sampling import SamplingSettings, request_fields
from ms_codegeex.serving import foreign_fields
from ms_codegeex.serving.answering import Indented, Lasting, Piece, TextFilter
from ms_codegeex.serving.backend import Backend, StreamedAnswer
from ms_codegeex.serving.model import ServedModel
from ms_codegeex.serving.responding import AnswerPlan, Responder, chosen_model, event, merged, sampling_settings
from ms_codegeex.serving.schemas import Biases, Listed, SamplingFields, Stops

ANY_SEED = 2**32 - 1  # -1 in llama.cpp's type
LLAMA_CPP = {"repetition_penalty": "repeat_penalty"}  # our name: llama.cpp's


class NativeFields(SamplingFields):
    """Fields of all its generating routes."""

    foreign = foreign_fields.LLAMA_CPP
    model: str | None = Field(None, description="the name of an adapter or of the model")
    n_predict: int | None = Field(
        None,
        ge=-1,
        validation_alias=AliasChoices("n_predict", "max_tokens", "max_completion_tokens"),
        description="0: only read the prompt; -1: as many as fit (default -1, 128 for /infill)",
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
    """Durations and speeds of the prompt's tokens that were computed and of the answer's. `cache_n`: the prompt's other
    tokens, which were there already."""

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
    infill: str | None = None


def sampling(
    body: NativeFields, model: ServedModel, max_tokens: int, temperature: float | None, stop: Sequence[str] = ()
) -> SamplingSettings:
    """Sampling settings from llama.cpp's fields. `temperature`: if the request gives none."""
    given = {"temperature": temperature if body.temperature is None else max(body.temperature, 0.0)}
    if body.seed is not None and (body.seed < 0 or body.seed == ANY_SEED):
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


def ends(body: NativeFields) -> list[TextFilter]:
    """What ends an answer besides stop texts."""
    filters: list[TextFilter] = []
    if body.t_max_predict_ms is not None and body.t_max_predict_ms > 0:
        filters.append(Lasting(body.t_max_predict_ms))
    if body.n_indent:
        filters.append(Indented(body.n_indent))
    return filters


def served_model(body: NativeFields, backend: Backend) -> ServedModel:
    """The model of a request. Like llama.cpp's server, one with a single model takes any name."""
    return chosen_model(backend, body.model if len(backend.models) > 1 else None)


class NativeResponder(Responder):
    """Puts the answers of one request into llama.cpp's format."""

    def __init__(
        self,
        body: NativeFields,
        plan: AnswerPlan,
        backend: Backend,
        *,
        truncated: bool = False,
        infill: str | None = None,
    ):
        super().__init__(plan, backend, infill=infill)
        self.body, self._truncated = body, truncated

    async def whole(self, answers: Sequence[StreamedAnswer]) -> Any:
        """The answer, or a list of several."""
        results = []
        for number, answer in enumerate(answers):
            one = self._answer(number, [await answer.whole()], answer)
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
                yield event({**self._answer(number, pieces[number], answers[number]), "content": "", "tokens": []})

    def _answer(self, number: int, pieces: Sequence[Piece], answer: StreamedAnswer) -> dict[str, Any]:
        """One answer that has ended."""
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
            infill=self.head["infill"],
        )
        return whole.model_dump(exclude_none=True)

    def _timings(self, answer: StreamedAnswer, count: int) -> Timings:
        now = time.monotonic()
        first = answer.first_token_at or now
        timings: dict[str, float] = {"cache_n": answer.reused}
        computed = len(answer.ids) - answer.reused
        for name, number, seconds in (("prompt", computed, first - answer.began), ("predicted", count, now - first)):
            seconds = max(seconds, 1e-6)
            timings |= {f"{name}_n": number, f"{name}_ms": 1000 * seconds, f"{name}_per_second": number / seconds}
            timings[f"{name}_per_token_ms"] = 1000 * seconds / max(number, 1)
        return Timings(**timings)
