"""Bodies of requests and responses: those of OpenAI's API, with our extensions."""

from __future__ import annotations

import difflib
import json
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from ms_codegeex.base.options import Declared
from ms_codegeex.generation.sampling import request_fields
from ms_codegeex.serving import foreign_fields
from ms_codegeex.serving.foreign_fields import Neutral, WithoutEffect

Item = TypeVar("Item")


class First(FailFast):
    """Stop at the first wrong item: a million errors would cost a thousand times what the items cost."""

    __hash__ = object.__hash__  # members of a union have to have one


Listed = Annotated[list[Item], First()]
MAX_IDS = 1 << 17  # of a prompt; longer than the context of any model here
Ids = Annotated[Listed[int], Field(max_length=MAX_IDS)]
MAX_BIASES = 300
MAX_MESSAGES = 4096
UNSUPPORTED = "unsupported_field"  # type of the error; `field` in its context
SHOWN = 64  # characters of an unknown field's name


def _few(value: Any) -> Any:
    if isinstance(value, (dict, list)) and len(value) > MAX_BIASES:
        raise PydanticCustomError("too_long", f"{len(value)} entries; give {MAX_BIASES} at most")
    return value


Few = BeforeValidator(_few)  # for a logit bias, before anything looks at the entries


def _describe_foreign(schema: dict[str, Any], body: type[BaseModel]) -> None:
    """Add the fields of other servers to a body's JSON schema."""
    assert issubclass(body, Body)
    fields = foreign_fields.described(body.without_effect, body.neutral)
    schema["additionalProperties"] = False
    own = schema.setdefault("properties", {})
    own.update((name, values) for name, values in fields.items() if name not in own)


class Body(BaseModel):
    """A request's JSON object: types are exact, null stands for a field's absence, unknown fields are refused. Fields
    of other servers that change nothing are accepted: those in `without_effect`, and those with values in `neutral`."""

    # with a limit, whatever it is, pydantic refuses half of a surrogate pair, which JSON may hold and UTF-8 may not
    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        protected_namespaces=(),
        str_max_length=1 << 40,
        json_schema_extra=_describe_foreign,
    )
    without_effect: ClassVar[WithoutEffect] = {}
    neutral: ClassVar[Neutral] = {}

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name, given in value.items():
            if name in cls.model_fields or foreign_fields.accepted(name, given, cls.without_effect, cls.neutral):
                continue
            shown = str(name)[:SHOWN].encode("utf-8", "replace").decode()
            near = difflib.get_close_matches(shown, cls.model_fields, 1)
            remedy = f"did you mean {near[0]}?" if near else "leave it out"
            if name in cls.neutral:
                remedy = f"leave it out, or send {' or '.join(map(json.dumps, cls.neutral[name]))}"
            raise PydanticCustomError(UNSUPPORTED, "{what}", {"field": shown, "what": f"not supported; {remedy}"})
        return value


class StreamOptions(Body):
    """Options of a streamed answer."""

    without_effect = foreign_fields.STREAM_OPTIONS
    neutral: ClassVar[Neutral] = {"continuous_usage_stats": (False,)}
    include_usage: bool | None = Field(None, description="send a last event with the usage")


def _sampling_field(each: Declared) -> tuple[Any, Any]:
    default = each.option.default_in_words(each.option.in_requests)
    return each.type | None, Field(None, description=f"{each.option.help}{default}")


# What decides how tokens are chosen, as far as OpenAI's API has it or could have it.
SamplingFields = create_model(
    "SamplingFields", __base__=Body, **{each.name: _sampling_field(each) for each in request_fields()}
)


class Sampling(SamplingFields):
    """How an answer is chosen; shared by all routes that generate."""

    without_effect = foreign_fields.GENERATION
    neutral = foreign_fields.NEUTRAL
    model: str | None = Field(None, description="the name in /v1/models; may be left out")
    n: int | None = Field(None, ge=1, le=128, description="number of answers (default 1)")
    stop: str | Listed[str] | None = Field(None, description="texts before which an answer ends")
    seed: int | None = Field(None, description="equal seeds give equal text (default: a different one each time)")
    logit_bias: Annotated[dict[str, float] | None, Few] = Field(
        None, description="numbers that are added to the logits, by token id"
    )
    stream: bool | None = Field(None, description="send the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = None
    user: str | None = None


class Formed(Sampling):
    """Routes whose answers may have a form."""

    response_format: dict[str, Any] | None = Field(
        None, description='the form of the answer: a type "text", "json_object", or "json_schema" with such an object'
    )


class CompletionRequest(Formed):
    """`POST /v1/completions`"""

    prompt: str | Listed[str] | Ids | Listed[Ids] | None = Field(
        None, description="text, ids, or a list of either (default: the start of a document)"
    )
    suffix: str | None = Field(None, description="the text after the gap")
    max_tokens: int | None = Field(None, ge=0, description="most new tokens (default 128)")
    best_of: int | None = Field(None, ge=1, le=128, description="draw this many, answer with the n likeliest")
    logprobs: int | None = Field(None, ge=0, le=256, description="report this many likeliest tokens with each token")
    echo: bool | None = Field(None, description="begin the text with the prompt")
    language: str | None = Field(None, description="put this language's tag line in front of the prompt")
    truncate_prompt: bool | None = Field(None, description="drop the start of a prompt that is too long")
    stop_at: Literal["block"] | None = Field(None, description="end with the block that the prompt began")


class ContentPart(Body):
    """A part of a message; one of type "text" has a text."""

    without_effect = foreign_fields.CONTENT_PART
    type: str
    text: str | None = None


class ChatMessage(Body):
    """A message of a conversation."""

    without_effect = foreign_fields.MESSAGE
    neutral = foreign_fields.MESSAGE_NEUTRAL
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Listed[ContentPart] | None = None


class ChatRequest(Formed):
    """`POST /v1/chat/completions`"""

    messages: Listed[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, description="most new tokens (default 512)")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)


class ErrorValues(BaseModel):
    """The error."""

    message: str
    type: str
    param: str | None = Field(description="the field that is wrong, if it is one")
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every error response."""

    error: ErrorValues


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LogProbabilities(BaseModel):
    """Log-probabilities of a completion, in OpenAI's older format; the first token of an echoed prompt has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Choice(BaseModel):
    """One answer, or a piece of one."""

    index: int
    finish_reason: Literal["stop", "length"] | None = None
    max_tokens: int | None = Field(None, description="with the end: the limit, if the one requested does not fit")


class CompletionChoice(Choice):
    """One answer."""

    text: str
    logprobs: LogProbabilities | None = None


class Generated(BaseModel):
    """Fields that the answers of all generating routes have."""

    id: str
    created: int
    model: str
    usage: Usage | None = None


class Completion(Generated):
    """Answer of `/v1/completions`, and each event of a streamed one."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    infill: str | None = None


class ChatAnswer(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str


class ChatChoice(Choice):
    """One answer."""

    message: ChatAnswer
    logprobs: dict[str, Any] | None = None


class ChatCompletion(Generated):
    """Answer of `/v1/chat/completions`; a streamed one has `delta` in place of `message`."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]


class ServedModelObject(BaseModel):
    """An entry of `/v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ms-codegeex"
    family: str
    context_length: int
    infill: str
    chat: bool
    languages: list[str]
    parent: str | None = Field(None, description="the model to which an adapter belongs")


class ModelList(BaseModel):
    """Answer of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ServedModelObject]
