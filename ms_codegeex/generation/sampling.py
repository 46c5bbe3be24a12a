"""Sampling settings and answers. The command line, HTTP requests, the `/set` command of a conversation and evaluation
recipes all use the settings declared here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import DeclaredOption, Option, check_ranges, declared, option

MAX_TOP_K = 1 << 30  # the kernel's limit
MAX_ANSWERS_TO_A_PROMPT = 10_000
DEFAULT_ADAPTER = ""  # for requests that name no adapter; the bare model unless one was loaded under this name

TEMPERATURE = Option("divide the logits by T; 0 is greedy", "T", ge=0, lt=100, in_requests=1.0)
TOP_K = Option("only the K likeliest tokens", "K", ge=0, le=MAX_TOP_K, off=0, in_requests=0)
TOP_P = Option("only the likeliest tokens that make up probability P", "P", gt=0, le=1, off=1, in_requests=1.0)
MIN_P = Option("only tokens at least F times as probable as the likeliest", "F", ge=0, le=1, off=0, in_requests=0.0)


def _unescaped(text: str) -> str:
    known = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda match: known[match[1]], text)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Settings for drawing a token. The fields are the first columns of the choice operator, in this order
    (`kernels/choice.h`, `composite.py`). `SamplingSettings` has the same fields."""

    temperature: float = TEMPERATURE.field(0.0)
    top_k: int = TOP_K.field(0)
    top_p: float = TOP_P.field(1.0)
    min_p: float = MIN_P.field(0.0)


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Settings for answers. `temperature` 0 is greedy; `top_k` 0, `top_p` 1 and `min_p` 0 are off. Equal seeds give
    equal text.

    Logits are edited before a token is drawn. `repetition_penalty` divides positive logits of tokens in the prompt or
    the answer, and multiplies negative ones (1 is off). `presence_penalty` is subtracted once from each token in the
    answer, `frequency_penalty` once per occurrence. `logit_bias` maps ids to numbers that are added (-100 effectively
    forbids a token). The `log_probabilities` likeliest tokens are reported with each new token.

    `adapter` names the adapter that computes the answer. `json_schema` (the text of a JSON schema) or `grammar` (in
    llama.cpp's notation, GBNF) restricts the tokens that may follow (`constraints.py`). `calls` is an opening text, a
    schema and a closing text: instead of a value of `json_schema`, the answer may be a value of that schema enclosed
    by the texts. If `between` is set, it separates several values of `calls`, or of `json_schema` without `calls`.

    An answer ends before the first occurrence of a text in `stop`. The `n` answers have consecutive seeds. With `beams`
    above 1, the `n` best answers of a beam search are returned (`beams.py`) and nothing is drawn.
    """

    max_new_tokens: int = Option("maximum number of tokens", "N", ge=1).field(128, kw_only=False)
    temperature: float = TEMPERATURE.field(0.8)
    top_k: int = TOP_K.field(0)
    top_p: float = TOP_P.field(0.95)
    min_p: float = MIN_P.field(0.0)
    seed: int = option("the same seed gives the same text", "N", 0, ge=0, lt=2**64)
    repetition_penalty: float = option(
        "divide positive logits of tokens in prompt and answer by F, multiply negative ones",
        "F",
        1.0,
        ge=0.01,
        le=100,
        off=1,
        in_requests=1.0,
    )
    frequency_penalty: float = option(
        "subtract X from a token's logit for each time that it is in the answer",
        "X",
        0.0,
        ge=-100,
        le=100,
        off=0,
        in_requests=0.0,
    )
    presence_penalty: float = option(
        "subtract X from the logits of tokens in the answer", "X", 0.0, ge=-100, le=100, off=0, in_requests=0.0
    )
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    log_probabilities: int = option(
        "with --json: each token's log-probability and the K likeliest tokens with theirs", "K", 0, ge=0, le=256, off=0
    )
    stop: tuple[str, ...] = option(
        "end before this text; \\n, \\t and \\\\ stand for a line break, a tab, a backslash; may be repeated",
        "TEXT",
        (),
        repeated=True,
        convert=_unescaped,
    )
    n: int = option(
        "number of answers, with the seeds --seed, --seed + 1, ...", "N", 1, ge=1, le=MAX_ANSWERS_TO_A_PROMPT
    )
    beams: int = option(
        "beam search with N beams; temperature, top-k, top-p and seed have no effect", "N", 1, ge=1, le=64, off=1
    )
    length_penalty: float = option(
        "beams: the score is log-probability / length ** P, so a larger P favours longer answers",
        "P",
        1.0,
        ge=-10,
        le=10,
    )
    adapter: str = DEFAULT_ADAPTER
    json_schema: str = ""
    calls: tuple[str, str, str] | tuple[()] = ()
    between: str = ""
    grammar: str = ""

    def __post_init__(self) -> None:
        check_ranges(self)
        for number, bias in self.logit_bias.items():
            if number < 0 or not -1e6 <= bias <= 1e6:
                raise UserError(f"logit_bias: {number}={bias} is out of range; give an id and a number of at most 1e6")
        if "" in self.stop:
            raise UserError("stop: a text is empty; give one or more characters")
        if self.json_schema and self.grammar:
            raise UserError("grammar: there is a json_schema too; give one of them")
        if self.beams > 1:
            if self.formed:
                raise UserError("beams: a beam search takes no grammar and no schema; leave out one or the other")
            if self.n > self.beams:
                raise UserError(f"n: {self.n} answers of {self.beams} beams; give as many beams or more")
            if self.edited:
                raise UserError("beams: a beam search takes no penalties and no bias; leave out one or the other")

    @property
    def formed(self) -> bool:
        return bool(self.json_schema or self.grammar)

    @property
    def edited(self) -> bool:
        penalties = self.repetition_penalty - 1, self.frequency_penalty, self.presence_penalty
        return any(penalties) or bool(self.logit_bias)


def request_fields() -> list[DeclaredOption]:
    return [each for each in declared(SamplingSettings) if each.option.in_requests is not None]


def unusual(settings: Any) -> dict[str, float]:
    values = {each.name: getattr(settings, each.name, each.option.in_requests) for each in request_fields()}
    return {each.name: values[each.name] for each in request_fields() if values[each.name] != each.option.in_requests}


class ChosenToken(NamedTuple):
    """A token with its log-probability `score`, and in `best` as many of the likeliest (id, log-probability) pairs as
    were requested."""

    token: int
    score: float
    best: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """A complete answer. `text` ends before a stop text; `tokens` are all chosen tokens except eos. `finish` is "eos",
    "stop" or "length". `score` is that of a beam, otherwise None."""

    text: str
    tokens: Sequence[ChosenToken]
    finish: str
    score: float | None = None
