"""Formats of conversations and translations, in which models are tuned and served.
`codegeex2` is the chat template of CodeGeeX2 and ChatGLM2, `plain` is ours, translations have CodeGeeX's prompt. A
model's own template, in Jinja, is a `ChatFormat` too: `data.jinja_templates`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import find_language

Message = tuple[str, str]  # role, content
# what a user does with a model that is tuned, and does not say so
STATE_CHAT = "`ms-codegeex inspect DIR --set chat=plain`, or the name or file of another template (docs/serve.md)"


@dataclass(frozen=True)
class LearntAnswer:
    """An answer of a conversation as a model learns it: after the first `size` bytes of `text` the assistant says
    `answer` and then `end`, the text that ends its turn. `marked`: names of special tokens in `text` and `end` are
    those tokens, as the template's author has it; in our formats they are text."""

    text: bytes
    size: int
    answer: str
    end: str = ""
    marked: bool = False


class ChatFormat(Protocol):
    """How conversations are written. `stop`: texts that end an answer besides the model's end token."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Texts that end an answer besides the model's end token."""

    @property
    def tools_text(self) -> str:
        """The text of the template for conversations with tools; empty if it has no place for them."""

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The text before the answer to the messages, which end with the user's."""

    def answers(self, messages: Sequence[Message]) -> list[LearntAnswer]:
        """Each message of the assistant, in their order."""


@dataclass(frozen=True)
class ChatTemplate:
    """The text of a conversation. Each part has `{content}`; `{round}` is the number of the user's message, from 1. The
    prompt ends with the assistant's part up to its content."""

    user: str
    assistant: str
    system: str = "{content}\n\n"
    stop: tuple[str, ...] = ()
    tools_text = ""

    def prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        *said, (begin, _, _) = self._parts([*messages, ("assistant", "")])
        return "".join(map("".join, said)) + begin

    def answers(self, messages: Sequence[Message]) -> list[LearntAnswer]:
        """See `ChatFormat.answers`. The model's end token ends an answer, and nothing before it."""
        text, answers = bytearray(), list[tuple[int, str]]()
        for (role, content), (before, said, after) in zip(messages, self._parts(messages), strict=True):
            text += before.encode()
            if role == "assistant":
                answers.append((len(text), content))
            text += (said + after).encode()
        whole = bytes(text)
        return [LearntAnswer(whole, size, content) for size, content in answers]

    def _parts(self, messages: Iterable[Message]) -> Iterator[tuple[str, str, str]]:
        rounds = 0
        for role, content in messages:
            rounds += role == "user"
            before, _, after = getattr(self, role).replace("{round}", str(rounds)).partition("{content}")
            if role == "system" and not (content or (before + after).strip()):
                before = after = ""  # the original chat of CodeGeeX2 adds nothing for an empty one
            yield before, content, after

    def jinja(self) -> str:
        """The same format as a chat template in Jinja. Where the conversation ends with an answer, the end token
        follows it, as in training."""
        roles, counts = [], any("{round}" in text for text in (self.user, self.assistant, self.system))
        for number, role in enumerate(("user", "assistant", "system")):
            before, _, after = getattr(self, role).partition("{content}")
            condition = f"{'elif' if number else 'if'} message['role'] == '{role}'"
            counted = "{%- set ns.round = ns.round + 1 -%}" if counts and role == "user" else ""
            end = f"({_quoted(after)} if not loop.last else eos_token)" if role == "assistant" else _quoted(after)
            text = f"{{{{- {_quoted(before)} ~ message['content'] ~ {end} -}}}}"
            if role == "system" and not (before + after).strip():
                text = f"{{%- if message['content'] -%}}{text}{{%- endif -%}}"
            roles.append(f"{{%- {condition} -%}}{counted}{text}")
        begin = self.assistant.partition("{content}")[0]
        first = ["{%- set ns = namespace(round=0) -%}"] if counts else []
        other = "{{- raise_exception('a message by ' ~ message['role'] ~ ' has no place') -}}"
        lines = [*first, "{%- for message in messages -%}", *roles, f"{{%- else -%}}{other}{{%- endif -%}}"]
        asks = f"{{%- if add_generation_prompt -%}}{{{{- {_quoted(begin)} -}}}}{{%- endif -%}}"
        return "\n".join([*lines, "{%- endfor -%}", asks])


def _quoted(text: str) -> str:
    return " ~ ns.round ~ ".join(json.dumps(part, ensure_ascii=False) for part in text.split("{round}"))


TEMPLATES = {
    "codegeex2": ChatTemplate("[Round {round}]\n\n问\uff1a{content}\n\n", "答\uff1a{content}\n\n"),  # full-width colons
    "plain": ChatTemplate("User:\n{content}\n\n", "Assistant:\n{content}\n\n", "System:\n{content}\n\n"),
}


def translation_name(language: str) -> str:
    """The name of a language in the translation prompt: `C++`, `JavaScript`, `Python`; unknown ones are capitalised."""
    try:
        return find_language(language).name
    except UserError:
        return language.strip()[:1].upper() + language.strip()[1:]


def translation_prompt(source_name: str, target_name: str, source: str) -> str:
    return f"code translation\n{source_name}:\n{source.rstrip()}\n{target_name}:\n"
