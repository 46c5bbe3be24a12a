"""A user's settings for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ms_codegeex.base.errors import UserError

MAX_LOG_PROBABILITIES = 256
MAX_BEAMS = 64
MAX_TOP_K = 1 << 30  # the kernel takes no more
DEFAULT_ADAPTER = ""  # the adapter of requests that name none; the model alone, unless one was loaded by this name


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are chosen. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; equal seeds give equal
    text.

    Before that, logits are edited: those of tokens in the prompt or the answer are divided by `repetition_penalty`
    (multiplied if they are negative; 1 is off); those of tokens in the answer lose `presence_penalty`, and
    `frequency_penalty` for each time that they occur; `logit_bias` adds numbers to ids' logits (-100 effectively
    forbids). `log_probabilities` likeliest tokens are reported with each new one.

    `adapter` names the adapter that computes the answer.

    An answer ends before the first text of `stop`. The `n` answers have consecutive seeds. With `beams` above 1, the n
    best answers of a beam search are returned (`beams.py`) and nothing is drawn.
    """

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    log_probabilities: int = 0
    stop: tuple[str, ...] = ()
    n: int = 1
    beams: int = 1
    length_penalty: float = 1.0
    adapter: str = DEFAULT_ADAPTER

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature < 100, "0 (greedy) to less than 100"),
            ("top_k", 0 <= self.top_k <= MAX_TOP_K, "0 (off) to 2^30"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("seed", 0 <= self.seed < 2**64, "0 to 2^64 - 1"),
            ("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "0.01 to 100 (1: off)"),
            ("frequency_penalty", -100 <= self.frequency_penalty <= 100, "-100 to 100 (0: off)"),
            ("presence_penalty", -100 <= self.presence_penalty <= 100, "-100 to 100 (0: off)"),
            ("log_probabilities", 0 <= self.log_probabilities <= MAX_LOG_PROBABILITIES, "0 (off) to 256"),
            ("n", self.n >= 1, "1 or more"),
            ("beams", 1 <= self.beams <= MAX_BEAMS, f"1 (off) to {MAX_BEAMS}"),
            ("length_penalty", -10 <= self.length_penalty <= 10, "-10 to 10"),
        ):
            if not right:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; give {expected}")
        for number, bias in self.logit_bias.items():
            if number < 0 or not -1e6 <= bias <= 1e6:
                raise UserError(f"logit_bias: {number}={bias} is out of range; give an id and a number of at most 1e6")
        if "" in self.stop:
            raise UserError("stop: a text is empty; give one or more characters")
        if self.beams > 1:
            if self.n > self.beams:
                raise UserError(f"n: {self.n} answers of {self.beams} beams; give as many beams or more")
            if self.edited:
                raise UserError("beams: a beam search takes no penalties and no bias; leave out one or the other")

    @property
    def edited(self) -> bool:
        """Whether there is a penalty or a bias."""
        penalties = self.repetition_penalty - 1, self.frequency_penalty, self.presence_penalty
        return any(penalties) or bool(self.logit_bias)
