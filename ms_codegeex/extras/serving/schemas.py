"""Bodies of requests and responses: those of OpenAI's API, with this server's extensions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ms_codegeex.base.options import DeclaredOption
from ms_codegeex.extras.serving.foreign_fields import fields_of
from ms_codegeex.generation.sampling import request_fields

Item = TypeVar("Item")


class FirstError(FailFast):
    """Stops at the first wrong item: reporting a million errors costs a thousand times as much as the items."""

    __hash__ = object.__hash__  # pydantic hashes the members of a union


Listed = Annotated[list[Item], FirstError()]
MAX_PROMPT_IDS = 1 << 17  # exceeds the context of every supported model
Ids = Annotated[Listed[int], Field(max_length=MAX_PROMPT_IDS)]
MAX_BIASES = 300
MAX_MESSAGES = 4096
MAX_TOKENS = AliasChoices("max_tokens", "n_predict")
Role = Literal["system", "developer", "user", "assistant"]
UNSUPPORTED = "unsupported_field"  # error type; its context has the `field`
SHOWN = 64  # characters of an unknown field's name that are shown
ID = re.compile("-?[0-9]+")  # an id as a key of a JSON object
NEVER = -1e5  # bias that forbids a token; small enough that a sum of several stays within the limit of a bias


def _biases(value: Any) -> Any:
    """Convert a logit bias to pairs of an id or text and a number. As in llama.cpp's server, it may be a list of pairs,
    a text stands for the ids of all its tokens, and false forbids a token."""
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, list) or len(pairs) > MAX_BIASES:
        raise PydanticCustomError("bias", f"expected an object or a list with {MAX_BIASES} entries at most")
    read = []
    for pair in pairs:
        token, bias = pair if isinstance(pair, (tuple, list)) and len(pair) == 2 else (None, None)
        if pairs is not value and ID.fullmatch(token):
            token = int(token[:10])  # ten digits are out of range already
        if type(token) not in (int, str) or (bias is not False and type(bias) not in (int, float)):
            what = "expected pairs of a token, its id or a text, and a number; false stands for never"
            raise PydanticCustomError("bias", what)
        read.append((token, NEVER if bias is False else bias))
    return read


def _texts(value: str | Sequence[str] | None) -> list[str]:
    return [text for text in ([value] if isinstance(value, str) else value or ()) if text]


Biases = Annotated[
    list[tuple[int | str, float]] | None,
    BeforeValidator(_biases, json_schema_input_type=dict[str, float | bool] | list[list[int | float | str | bool]]),
]
FUNCTION = r"^[A-Za-z0-9_./-]{1,128}$"  # valid names of functions
HALF = re.compile("[\ud800-\udfff]")


def whole_characters(value: Any) -> Any:
    """Remove halves of surrogate pairs from a text, if it is one: at its ends they are dropped, elsewhere replaced by
    U+FFFD. Editors that cut text in UTF-16 send such halves, which JSON can hold."""
    if not isinstance(value, str) or not HALF.search(value):
        return value
    begin, end = bool(HALF.match(value)), len(value) - bool(HALF.match(value[-1]))
    return HALF.sub("\ufffd", value[begin:end])


def _some(value: int) -> int:
    if not value:
        raise PydanticCustomError("room", "0 leaves no room for an answer; give 1 or more, or -1 for as many as fit")
    return value


ChatLength = Annotated[int, Field(ge=-1), AfterValidator(_some)]
Text = Annotated[str, BeforeValidator(whole_characters)]
Stops = Annotated[str | Listed[str] | None, AfterValidator(_texts)]


def _describe_foreign(schema: dict[str, Any], body: type[BaseModel]) -> None:
    assert issubclass(body, Body)
    schema["additionalProperties"] = False
    own, used = schema.setdefault("properties", {}), names_of(body)
    own.update(
        (name, {"description": one.description}) for name, one in fields_of(body.foreign).items() if name not in used
    )
    own.update((name, {"description": f"the same as {field}"}) for name, field in used.items() if name != field)


class Body(BaseModel):
    """A request's JSON object. Types are strict, null means that a field is absent, and unknown fields are refused,
    except those of other servers (table `foreign`) that have no effect. A field may have several names."""

    # any limit on the length makes pydantic refuse halves of surrogate pairs, which JSON can hold but UTF-8 cannot
    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        protected_namespaces=(),
        str_max_length=1 << 40,
        json_schema_extra=_describe_foreign,
    )
    foreign: ClassVar[str] = ""  # a table of `foreign_fields.yaml`
    form_field: ClassVar[str] = "json_schema"  # the field that asks for a form of the answer

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        names, foreign, used, left = names_of(cls), fields_of(cls.foreign), dict[str, str](), dict[str, Any]()
        for name, given in value.items():
            known, what = foreign.get(name), ""
            if isinstance(given, float) and given.is_integer():
                given = int(given)  # JSON does not distinguish 16.0 from 16
            ours_is_off = isinstance(given, (bool, list, dict)) and not given  # 0 and "" may be meaningful values
            idle = known and known.accepted(given, value) and (name not in names or (ours_is_off and not known.reason))
            if given is None or idle:
                continue
            if name in names:
                left[name], other = given, used.setdefault(names[name], name)
                if other != name and value[other] != given:
                    what = f"there is {other} too, which means the same; leave one of them out"
            elif known is not None:
                what = known.refusal(value)
            else:
                near = difflib.get_close_matches(str(name)[:SHOWN], names, 1)
                here = {names.get(each) for each in value}
                needed = [each for each, one in cls.model_fields.items() if one.is_required() and each not in here]
                remedy = f"did you mean {near[0]}?" if near else f"send {needed[0]}" if needed else "leave it out"
                what = f"not supported; {remedy}"
            if what:
                shown = str(name)[:SHOWN].encode("utf-8", "replace").decode()
                raise PydanticCustomError(UNSUPPORTED, "{what}", {"field": shown, "what": what})
        return left


@cache
def names_of(body: type[Body]) -> dict[str, str]:
    """Return a body's fields by each of their names."""
    aliases = {name: each.validation_alias for name, each in body.model_fields.items()}
    found = {name: one.choices if isinstance(one, AliasChoices) else (name,) for name, one in aliases.items()}
    return {str(known): name for name, choices in found.items() for known in choices}


class StreamOptions(Body):
    """Options of a streamed answer."""

    foreign = "stream_options"
    include_usage: bool | None = Field(None, description="send a last event with the usage")


def _sampling_field(each: DeclaredOption) -> tuple[Any, Any]:
    default = each.option.default_in_words(each.option.in_requests)
    names = {"repetition_penalty": ("repeat_penalty",)}.get(each.name, ())
    return each.type | None, Field(
        None, validation_alias=AliasChoices(each.name, *names), description=f"{each.option.help}{default}"
    )


# Sampling settings that requests share with the command line.
SamplingFields = create_model(
    "SamplingFields", __base__=Body, **{each.name: _sampling_field(each) for each in request_fields()}
)


class Sampling(SamplingFields):
    """How an answer is chosen. All generating routes have these fields."""

    foreign = "generation"
    model: str | None = Field(None, description="the name in /v1/models; may be left out")
    n: int | None = Field(None, ge=1, le=128, description="number of answers (default 1)")
    stop: Stops = Field(None, description="texts before which an answer ends")
    seed: int | None = Field(
        None,
        validation_alias=AliasChoices("seed", "random_seed"),
        description="equal seeds give equal text (default, and -1: a different one each time)",
    )
    logit_bias: Biases = Field(None, description="numbers that are added to logits, by the token's id or text")
    stream: bool | None = Field(None, description="send the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = None
    user: str | None = None


class FormSampling(Sampling):
    """Fields of routes whose answers can be given a form."""

    form_field = "response_format"
    response_format: dict[str, Any] | None = Field(
        None, description='the form of the answer: a type "text", "json_object", or "json_schema" with such an object'
    )


class CompletionRequest(FormSampling):
    """The body of `POST /v1/completions`."""

    foreign = "completions"
    prompt: Text | Listed[Text] | Ids | Listed[Ids] | None = Field(
        None, description="text, ids, or a list of either (default: the start of a document)"
    )
    suffix: Text | None = Field(None, description="the text after the gap")
    max_tokens: int | None = Field(
        None, ge=-1, validation_alias=MAX_TOKENS, description="most new tokens (default 128; -1: as many as fit)"
    )
    best_of: int | None = Field(None, ge=1, le=128, description="draw this many, answer with the n likeliest")
    logprobs: int | None = Field(None, ge=0, le=256, description="report this many likeliest tokens with each token")
    echo: bool | None = Field(None, description="begin the text with the prompt")
    language: str | None = Field(None, description="put this language's tag line in front of the prompt")
    truncate_prompt: bool | None = Field(None, description="drop the start of a prompt that is too long")
    stop_at: Literal["block"] | None = Field(None, description="end with the block that the prompt began")


class ContentPart(Body):
    """A part of a message. Parts of type "text" have a text."""

    foreign = "content_part"
    type: str
    text: Text | None = None


class Function(Body):
    """A function that a model may call. `strict` has no effect: schemas are always followed strictly."""

    name: str = Field(pattern=FUNCTION)
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of the arguments, which are an object")
    strict: bool | None = None


class Tool(Body):
    """A tool of type function, the only type that is supported."""

    type: Literal["function"]
    function: Function


def _offered(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return None if isinstance(kind, str) and kind != "function" else tool


# a tool, or None in place of one of another type, which is ignored
Offered = Annotated[Item | None, BeforeValidator(_offered)]


class ChosenTool(Body):
    """The tool that an answer has to call. In `/v1/responses`, the name is next to the type."""

    type: Literal["function"]
    function: Function | None = None
    name: str | None = None

    @property
    def called(self) -> str:
        return self.function.name if self.function else self.name or ""


class CalledFunction(Body):
    """A function that was called, with its arguments as JSON."""

    name: str = Field(pattern=FUNCTION)
    arguments: Text


class ToolCall(Body):
    """A call of a tool in an answer of the assistant."""

    foreign = "tool_call"
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Body):
    """A message of a conversation."""

    foreign = "message"
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Listed[ContentPart | Text] | None = None
    name: str | None = None
    tool_calls: Listed[ToolCall] | None = Field(None, description="the assistant's calls of tools")
    tool_call_id: str | None = Field(None, description="the call whose result a message of a tool is")


class Conversing(Sampling):
    """Fields that all requests of a conversation share."""

    top_logprobs: int | None = Field(None, ge=0, le=20)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = Field(
        None, description="whether the answer has to call one, or which (default auto)"
    )
    parallel_tool_calls: bool | None = Field(None, description="whether there may be several calls (default true)")


class ChatRequest(FormSampling, Conversing):
    """The body of `POST /v1/chat/completions`."""

    foreign = "chat"
    messages: Listed[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: ChatLength | None = Field(
        None,
        validation_alias=AliasChoices(*MAX_TOKENS.choices, "max_completion_tokens"),
        description="most new tokens (default 512; -1: as many as fit)",
    )
    logprobs: bool | None = None
    tools: Listed[Offered[Tool]] | None = Field(
        None, description="functions that the answer may call; others are left out"
    )


class ErrorValues(BaseModel):
    """The message and the kind of an error."""

    message: str
    type: str
    param: str | None = Field(description="the field that is wrong, if it is one")
    code: str | None


class ErrorAnswer(BaseModel):
    """The body of every error response."""

    error: ErrorValues


class Usage(BaseModel):
    """The numbers of a request's tokens."""

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
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    max_tokens: int | None = Field(None, description="with the end: the limit, if the one requested does not fit")


class CompletionChoice(Choice):
    """One answer."""

    text: str
    logprobs: LogProbabilities | None = None


class GeneratedAnswer(BaseModel):
    """Fields that the responses of all generating routes share."""

    id: str
    created: int
    model: str
    usage: Usage | None = None


class Completion(GeneratedAnswer):
    """The response of `/v1/completions`, and each event of a streamed one."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[CompletionChoice]
    infill: str | None = None


class ChatAnswer(BaseModel):
    """The assistant's message."""

    role: Literal["assistant"]
    content: str | None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(Choice):
    """One answer."""

    message: ChatAnswer
    logprobs: dict[str, Any] | None = None


class ChatCompletion(GeneratedAnswer):
    """The response of `/v1/chat/completions`. The events of a streamed one have `delta` in place of `message`."""

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
    """The response of `/v1/models`."""

    object: Literal["list"] = "list"
    data: list[ServedModelObject]
