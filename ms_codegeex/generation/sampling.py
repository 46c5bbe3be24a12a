"""How the next token is chosen, as a user says it."""

from __future__ import annotations

from dataclasses import dataclass

from ms_codegeex.errors import UserError


@dataclass(frozen=True)
class SamplingSettings:
    """How to choose tokens. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; the same `seed` gives the same
    text."""

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name, wrong, expected in (
            ("max_new_tokens", self.max_new_tokens < 1, "1 or more"),
            ("temperature", not 0 <= self.temperature < 100, "0 (greedy) or more"),
            ("top_k", self.top_k < 0, "0 (off) or more"),
            ("top_p", not 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
        ):
            if wrong:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; give {expected}")
