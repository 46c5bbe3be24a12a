"""Requests of the terminal to a model, on a server or in this process, and the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.server_answers import AnswerPart

TOO_LONG = {  # by the field that does not fit into the context: what to do
    "prompt": "shorten it, or give --cut-prompt to drop its start",
    "code": "give less of it",
    "messages": "begin a new conversation",
}
TASKS = ("explain", "comment", "document", "fix")  # in addition to "translate"


@dataclass(frozen=True)
class Prompt:
    """Text to continue.

    `language`: the language whose tag line precedes the text; empty for none. `suffix`: the text after the gap. `cut`:
    drop the start of a text that is too long instead of refusing it. `block`: end the answer with the block that the
    text began.
    """

    text: str
    language: str = ""
    suffix: str | None = None
    cut: bool = False
    block: bool = False


@dataclass(frozen=True)
class CodeTask:
    """A task on code: "translate" (into the language `target`) or one of `TASKS`."""

    name: str
    code: str
    language: str
    target: str = ""


class Model(Protocol):
    """A model that answers. `chat`: it is tuned for conversations; otherwise it only continues text. Closing the
    iterator of an answer cancels the answer."""

    name: str
    chat: bool

    def complete(self, prompt: Prompt, settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Continue a text."""

    def perform(self, task: CodeTask, settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Answer an assistant task."""

    def converse(self, messages: Sequence[tuple[str, str]], settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Answer the last of (role, content) messages. Only for a model with `chat`."""
