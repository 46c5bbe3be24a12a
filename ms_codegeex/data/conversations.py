"""Formats of conversations and translations, in which models are tuned and served.
`codegeex2` is the chat template of CodeGeeX2 and ChatGLM2, `plain` is ours, translations have CodeGeeX's prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import find_language


@dataclass(frozen=True)
class ChatTemplate:
    """The text of a conversation. Each part has `{content}`; `{round}` is the number of the user's message, from 1. The
    prompt ends with the assistant's part up to its content."""

    user: str
    assistant: str
    system: str = "{content}\n\n"
    stop: tuple[str, ...] = ()
    tools_text: ClassVar[str] = ""  # of a template that has a place for tools

    def prompt(self, messages: Iterable[tuple[str, str]]) -> str:
        """The text before the answer to (role, content) messages, which end with the user's."""
        *said, (begin, _, _) = self.parts([*messages, ("assistant", "")])
        return "".join(map("".join, said)) + begin

    def parts(self, messages: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
        """What is before each message's content, the content, and what is after it. Together they are the text."""
        rounds = 0
        for role, content in messages:
            rounds += role == "user"
            before, _, after = getattr(self, role).replace("{round}", str(rounds)).partition("{content}")
            if role == "system" and not (content or (before + after).strip()):
                before = after = ""  # the original chat of CodeGeeX2 adds nothing for an empty one
            yield before, content, after


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
    """CodeGeeX's translation prompt: the code below its language, and the other language."""
    return f"code translation\n{source_name}:\n{source.rstrip()}\n{target_name}:\n"
