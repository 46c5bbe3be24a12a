"""The served model as the HTTP process knows it: its tokenizer, its sizes and the facts of its description, but not its
weights. An adapter may have its own description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ms_codegeex.base.errors import PromptTooLong, UserError, located
from ms_codegeex.data.conversations import ChatFormat
from ms_codegeex.data.description import Chat, bound
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.languages import languages, tag_line
from ms_codegeex.data.tokenizer.base import Tokenizer
from ms_codegeex.extras.serving.settings import ServeSettings
from ms_codegeex.generation.loading import LoadedModel, adapter_description, load_model

STEP = 256  # tokens by which a prompt is truncated at a time; about 1,000 characters
SHORTEN = 'or send "truncate_prompt": true to drop its start'
PREFIX_ONLY, TRAINED = "prefix-only", "trained"


@dataclass(frozen=True)
class ServedModel:
    """The model as the routes know it. For the model with an adapter, `name` is the adapter's and `parent` the model's.
    `context` is the maximum number of tokens of prompt and answer together; ids are below `allowed`. If
    `special_tokens`, names of special tokens in a user's text are encoded as these tokens, otherwise as text. `tags`
    names the scheme of the tag lines used in training; if empty, it is the family's."""

    name: str
    family: str
    tokenizer: Tokenizer
    context: int
    allowed: int
    chat: ChatFormat | None = None
    sentinels: Sentinels | None = None
    parent: str | None = None
    special_tokens: bool = False
    tags: str = ""

    @property
    def scheme(self) -> str:
        return self.tags or self.family

    @property
    def adapter(self) -> str:
        return self.name if self.parent is not None else ""

    @property
    def infill(self) -> str:
        return PREFIX_ONLY if self.sentinels is None else TRAINED

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(language.name for language in languages("codegeex2" if self.scheme == "codegeex2" else "codegeex"))

    def tagged(self, prompt: str, language: str | None) -> str:
        """Return the prompt after the tag line of a language, if it has one. Raises `UserError` for an unknown one."""
        if language is None:
            return prompt
        with located("language"):
            return tag_line(self.scheme, language) + prompt

    def encode(
        self,
        prompt: str,
        *,
        room: int | None = None,
        field: str = "prompt",
        remedy: str = SHORTEN,
        special: bool | None = None,
    ) -> list[int]:
        """Return the ids of a prompt. If `room`, the length of an answer in tokens, is given, a long prompt loses its
        start. Otherwise `PromptTooLong` names `field` and the `remedy`. `special` overrides `special_tokens`."""
        maximum = self.max_characters
        if len(prompt) > maximum:
            if room is None:
                raise self.too_long(field, f"at least {-(-len(prompt) // (maximum // self.context))}", remedy)
            prompt = prompt[-anchored(len(prompt), maximum) :]  # encoding a very long text takes seconds
        ids = self.tokenizer.encode_prompt(prompt, self.special_tokens if special is None else special)
        return self.checked(self.begun(ids), room=room, field=field, remedy=remedy)

    def truncated(self, ids: Sequence[int], room: int) -> list[int]:
        return self.tokenizer.truncate_text(ids, anchored(len(ids), room))

    def begun(self, ids: list[int]) -> list[int]:
        return ids or [self.tokenizer.eos_id]

    @cached_property
    def max_characters(self) -> int:
        return self.context * max(map(len, self.tokenizer.pieces))

    def checked(
        self, ids: Sequence[int], *, room: int | None = None, field: str = "prompt", remedy: str = SHORTEN
    ) -> list[int]:
        """Check ids from a client and truncate them as `encode` does. Raises `UserError` for ids without a token."""
        if not ids:
            raise UserError(f"{field}: empty; give some text, for example '# language: Python'")
        if wrong := [number for number in ids if not 0 <= number < self.allowed]:
            raise UserError(f"{field}: {wrong[0]} is not a token's id; ids are 0 to {self.allowed - 1}")
        if room is not None:
            return self.truncated(ids, self.context - room)
        if len(ids) >= self.context:
            raise self.too_long(field, str(len(ids)), remedy)
        return list(ids)

    def too_long(self, field: str, tokens: str, remedy: str, what: str = "") -> PromptTooLong:
        """Return the error for a text of that many tokens, in OpenAI's words, by which clients recognise it. It calls
        the text `what` or, if that is empty, `field`."""
        maximum = f"This model's maximum context length is {self.context} tokens"
        found = f"However, your {what or field} resulted in {tokens} tokens: the prompt is too long"
        return PromptTooLong(f"{field}: {maximum}. {found}. Please reduce the length of the {field}; {remedy}")


def step_of(room: int) -> int:
    return max(1, min(STEP, room // 8))


def anchored(length: int, room: int) -> int:
    return length - max(0, -((room - length) // step_of(room))) * step_of(room)


def open_models(settings: ServeSettings) -> tuple[LoadedModel, list[ServedModel]]:
    """Return the loaded model, whose weights are not verified yet, and the served models: the model alone, then with
    each adapter. Raises `UserError` if one of them cannot be opened."""
    loaded = load_model(settings.model, settings.bits)
    model = replace(described_model(loaded, settings.model, settings.name), special_tokens=settings.special_tokens)
    if model.name in (name for name, _ in settings.adapter):
        raise UserError(f"--adapter: {model.name} is the model's own name; choose another, or give --name")
    return loaded, [model, *(with_adapter(model, name, path) for name, path in settings.adapter)]


def described_model(model: LoadedModel, path: Path, name: str = "") -> ServedModel:
    return ServedModel(
        name or Path(path).resolve().name,
        model.family.name,
        model.tokenizer,
        model.config.max_position_embeddings,
        min(model.tokenizer.vocab_size, model.config.vocab_size),
        _chat(model.description.chat, model.tokenizer),
        model.sentinels,
        tags=model.description.tags or "",
    )


def with_adapter(model: ServedModel, name: str, path: Path) -> ServedModel:
    known = adapter_description(path)
    return replace(
        model,
        name=name,
        parent=model.name,
        chat=_chat(known.chat, model.tokenizer) or model.chat,
        sentinels=known.infill or model.sentinels,
        tags=known.tags or model.tags,
    )


def _chat(chat: Chat | None, tokenizer: Tokenizer) -> ChatFormat | None:
    return None if chat is None else bound(chat, tokenizer)
