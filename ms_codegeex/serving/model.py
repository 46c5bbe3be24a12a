"""The model that is served, as the HTTP process knows it: its tokenizer and sizes, not its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ms_codegeex.base.errors import PromptTooLong, UserError
from ms_codegeex.data.conversations import ChatTemplate
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.languages import languages, tag_line
from ms_codegeex.data.tokenizer.base import Tokenizer

STEP = 256  # tokens; about 1,000 characters
SHORTEN = 'shorten the prompt, or send "truncate_prompt": true to drop its start'
PREFIX_ONLY, TRAINED = "prefix-only", "trained"


@dataclass(frozen=True)
class ServedModel:
    """The model as the routes know it, or the model with an adapter of that name, whose `parent` is the model's name.
    `context` counts tokens of prompt and answer; ids are below `allowed`."""

    name: str
    family: str
    tokenizer: Tokenizer
    context: int
    allowed: int
    chat: ChatTemplate | None = None
    sentinels: Sentinels | None = None
    parent: str | None = None

    @property
    def adapter(self) -> str:
        """The adapter's name for the engine; empty for the model alone."""
        return self.name if self.parent is not None else ""

    @property
    def infill(self) -> str:
        """How a suffix is treated: "trained" or "prefix-only"."""
        return PREFIX_ONLY if self.sentinels is None else TRAINED

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the languages that requests may name: those of the family's tag lines, else CodeGeeX's."""
        return tuple(language.name for language in languages("codegeex2" if self.family == "codegeex2" else "codegeex"))

    def tagged(self, prompt: str, language: str | None) -> str:
        """The prompt after the family's tag line of a language, if it has one. `UserError` for an unknown language."""
        if language is None:
            return prompt
        try:
            return tag_line(self.family, language) + prompt
        except UserError as error:
            raise UserError(f"language: {error}") from None

    def encode(
        self, prompt: str, *, room: int | None = None, field: str = "prompt", remedy: str = SHORTEN
    ) -> list[int]:
        """Ids of a prompt. With `room`, the length of an answer in tokens, a long prompt loses its start. Without it,
        an error says that `field` is too long and gives the `remedy`."""
        maximum = self.max_characters
        if len(prompt) > maximum:
            if room is None:
                wrong = f"{len(prompt)} characters are more than the model's context of {self.context} tokens can hold"
                raise PromptTooLong(f"{field}: {wrong}; {remedy}")
            prompt = prompt[-anchored(len(prompt), maximum) :]  # encoding all of it would take seconds
        return self.checked(self.begun(self.tokenizer.encode_prompt(prompt)), room=room, field=field, remedy=remedy)

    def truncated(self, ids: Sequence[int], room: int) -> list[int]:
        """At most `room` ids of a text, without its start if that is necessary."""
        return self.tokenizer.truncate_text(ids, anchored(len(ids), room))

    def begun(self, ids: list[int]) -> list[int]:
        """Ids of a text; those of the start of a document if it is empty."""
        return ids or [self.tokenizer.eos_id]

    @cached_property
    def max_characters(self) -> int:
        """The length of the longest text that can fit into the context."""
        return self.context * _longest_token(self.tokenizer)

    def checked(
        self, ids: Sequence[int], *, room: int | None = None, field: str = "prompt", remedy: str = SHORTEN
    ) -> list[int]:
        """The same for ids that a client gave."""
        if not ids:
            raise UserError(f"{field}: empty; give some text, for example '# language: Python'")
        if wrong := [number for number in ids if not 0 <= number < self.allowed]:
            raise UserError(f"{field}: token id {wrong[0]} has no token; ids are 0 to {self.allowed - 1}")
        if room is not None:
            return self.truncated(ids, self.context - room)
        if len(ids) >= self.context:
            raise PromptTooLong(f"{field}: {len(ids)} tokens, the model's context is {self.context} tokens; {remedy}")
        return list(ids)


def step_of(room: int) -> int:
    """The step in which the start of a text moves that is longer than `room`."""
    return max(1, min(STEP, room // 8))


def anchored(length: int, room: int) -> int:
    """How much of the end of a text of this length is used where there is `room`. The start moves in steps, not with
    every token: what is computed already serves as long as it stays."""
    return length - max(0, -((room - length) // step_of(room))) * step_of(room)


@lru_cache(maxsize=4)
def _longest_token(tokenizer: Tokenizer) -> int:
    """Bytes of a tokenizer's longest token."""
    return max(len(tokenizer.token_bytes(number)) for number in range(tokenizer.vocab_size))
